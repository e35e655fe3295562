//! The nodes that a walk keeps: the nearest `width`, in order, each marked once it is expanded.
//!
//! One sorted array is both the result of the walk and, as far as entries are not marked, its frontier. New nodes
//! come in batches, one per hop, and each entry is moved at most once per batch.

use super::search::Key;

/// Flag of an entry whose node is expanded. Slots are below 2³⁰, and entries are compared without the flag.
const EXPANDED: u64 = 1 << 31;

/// A sorted, bounded list, reusable without allocation.
#[derive(Default)]
pub(super) struct Pool {
    entries: Vec<u64>,
    width: usize,
    /// All entries before this one are expanded.
    cursor: usize,
}

impl Pool {
    /// Forgets all entries, and keeps the nearest `width` from now on.
    pub(super) fn reset(&mut self, width: usize) {
        self.entries.clear();
        self.width = width;
        self.cursor = 0;
    }

    /// The kept nodes, nearest first.
    pub(super) fn keys(&self) -> impl ExactSizeIterator<Item = Key> {
        self.entries.iter().map(|&entry| Key::of_bits(entry & !EXPANDED))
    }

    /// The farthest kept node, once the pool is full: nodes farther than it are not kept. [`Key::MAX`] before that.
    #[inline]
    pub(super) fn bound(&self) -> Key {
        if self.entries.len() < self.width {
            return Key::MAX;
        }
        let last = self.entries.last().expect("a walk keeps something");
        Key::of_bits(last & !EXPANDED)
    }

    /// The nearest node that is not expanded.
    #[inline]
    pub(super) fn next(&self) -> Option<Key> {
        self.entries.get(self.cursor).map(|&entry| Key::of_bits(entry))
    }

    /// Marks the node that [`Pool::next`] gives as expanded.
    #[inline]
    pub(super) fn expand(&mut self) {
        self.entries[self.cursor] |= EXPANDED;
        self.cursor += 1;
        while self.entries.get(self.cursor).is_some_and(|entry| entry & EXPANDED != 0) {
            self.cursor += 1;
        }
    }

    /// Adds nodes that are not in the pool yet, in any order.
    pub(super) fn add(&mut self, newcomers: &mut [Key]) {
        newcomers.sort_unstable();
        let mut end = self.entries.len();
        self.entries.resize(end + newcomers.len(), 0);
        // From the farthest on, the entries behind a new node move by as many places as there are new nodes before
        // them.
        for (nearer, key) in newcomers.iter().enumerate().rev() {
            let key = key.bits();
            let place = self.entries[..end].partition_point(|&entry| entry & !EXPANDED < key);
            self.entries.copy_within(place..end, place + nearer + 1);
            self.entries[place + nearer] = key;
            end = place;
        }
        if !newcomers.is_empty() {
            self.cursor = self.cursor.min(end);
        }
        self.entries.truncate(self.width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Slot, mix};

    /// Compares with a sorted list of all nodes added, cut to the width.
    #[test]
    fn pool_keeps_the_nearest_and_their_expanded_marks() {
        for width in [1, 2, 7, 64, 1_000] {
            let mut pool = Pool::default();
            pool.reset(width);
            let mut all: Vec<Key> = Vec::new();
            let mut expanded: Vec<Key> = Vec::new();
            for round in 0..200_u64 {
                let count = mix(round) % 33;
                // Distances that are often equal.
                let key = |i: u64| {
                    let distance = (mix(round << 8 | i) % 50) as f32 - 25.0;
                    Key::new(distance, Slot((round << 8 | i) as u32))
                };
                let mut newcomers: Vec<Key> = (0..count).map(key).collect();
                all.extend(&newcomers);
                all.sort_unstable();
                all.truncate(width);
                pool.add(&mut newcomers);
                assert!(pool.keys().eq(all.iter().copied()), "width {width}, round {round}");
                let next = all.iter().copied().find(|key| !expanded.contains(key));
                assert_eq!(pool.next(), next);
                let bound = if all.len() == width { all[width - 1] } else { Key::MAX };
                assert_eq!(pool.bound(), bound);
                if let Some(next) = next {
                    pool.expand();
                    expanded.push(next);
                }
            }
            assert!(expanded.len() > 2, "{} expanded", expanded.len());
        }
    }
}

//! The set of slots that a walk has seen: one bit per slot, and a list of them.
//!
//! One bit per slot keeps the set of 100,000 documents within the first-level cache, where a stamp per slot would not
//! fit; the cost of clearing depends on the slots seen, never on the whole set.

use crate::types::Slot;

/// A set of slots, reusable without allocation.
#[derive(Default)]
pub(crate) struct Visited {
    words: Vec<u64>,
    /// Slots in the set, in the order in which they came; room for more behind `count`.
    seen: Vec<Slot>,
    count: usize,
    /// Index in `seen` at which the last batch begins.
    batch: usize,
}

impl Visited {
    /// Forgets all slots, and makes room for slots below `slot_count`.
    pub(crate) fn reset(&mut self, slot_count: u32) {
        for slot in &self.seen[..self.count] {
            self.words[slot.index() / 64] = 0;
        }
        self.count = 0;
        let words = (slot_count as usize).div_ceil(64);
        if self.words.len() < words {
            // Half as much again: a growing shard does not reallocate at every search.
            self.words.resize(words + words / 2, 0);
        }
    }

    /// Begins a batch of at most `slots_max` slots.
    #[inline]
    pub(crate) fn begin_batch(&mut self, slots_max: usize) {
        self.batch = self.count;
        if self.seen.len() < self.count + slots_max {
            self.seen.resize(2 * (self.count + slots_max), Slot(0));
        }
    }

    /// Adds `slot` to the batch, if it was not in the set. Slots published after the reset find room too.
    ///
    /// Which slots are new can't be predicted: the code has no branch on it.
    #[inline]
    pub(crate) fn add(&mut self, slot: Slot) {
        let index = slot.index() / 64;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let word = &mut self.words[index];
        let bit = 1 << (slot.0 % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.seen[self.count] = slot;
        self.count += usize::from(is_new);
    }

    /// The slots that the batch has added.
    #[inline]
    pub(crate) fn batch(&self) -> &[Slot] {
        &self.seen[self.batch..self.count]
    }

    /// Adds `slot`; true if it was not there.
    #[inline]
    pub(crate) fn insert(&mut self, slot: Slot) -> bool {
        self.begin_batch(1);
        self.add(slot);
        self.count > self.batch
    }

    /// True if `slot` was added.
    #[inline]
    pub(crate) fn contains(&self, slot: Slot) -> bool {
        self.words.get(slot.index() / 64).is_some_and(|word| word & (1 << (slot.0 % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_the_slots_that_were_new() {
        let mut visited = Visited::default();
        visited.reset(10);
        assert!(visited.insert(Slot(4)));
        for (batch, news) in [
            (vec![3, 4, 5, 3], vec![3, 5]),
            (vec![], vec![]),
            (vec![5, 4], vec![]),
            (vec![700, 1, 700], vec![700, 1]),
        ] {
            visited.begin_batch(batch.len());
            batch.into_iter().for_each(|slot| visited.add(Slot(slot)));
            assert_eq!(visited.batch(), news.into_iter().map(Slot).collect::<Vec<_>>());
        }
        let all: Vec<u32> = visited.seen[..visited.count].iter().map(|slot| slot.0).collect();
        assert_eq!(all, [4, 3, 5, 700, 1]);
        visited.reset(10);
        assert!([1, 3, 4, 5, 700].iter().all(|&slot| !visited.contains(Slot(slot))));
    }

    #[test]
    fn visited_slots_are_remembered_until_reset() {
        let mut visited = Visited::default();
        for round in 0..3 {
            visited.reset(100);
            for slot in [0, 63, 64, 99, 5_000] {
                assert!(visited.insert(Slot(slot)), "{slot} in round {round}");
                assert!(!visited.insert(Slot(slot)));
                assert!(visited.contains(Slot(slot)) && !visited.contains(Slot(slot + 1_000)));
            }
        }
    }
}

//! Which slots a walk has seen: one bit a slot, and a list of the words to clear afterwards.
//!
//! A bit a slot keeps the set of 100,000 documents within the first-level cache, where a stamp
//! a slot would not fit; clearing costs what the walk touched, never the whole set.

use crate::types::Slot;

/// A set of slots, reusable without allocation.
#[derive(Default)]
pub(crate) struct Visited {
    words: Vec<u64>,
    touched: Vec<u32>,
}

impl Visited {
    /// Forgets everything, and makes room for slots below `slot_count`.
    pub(crate) fn reset(&mut self, slot_count: u32) {
        for word in self.touched.drain(..) {
            self.words[word as usize] = 0;
        }
        let words = (slot_count as usize).div_ceil(64);
        if self.words.len() < words {
            // Half as much again: a growing shard does not reallocate at every search.
            self.words.resize(words + words / 2, 0);
        }
    }

    /// Adds `slot`; true if it was not there. Slots published after the reset find room too.
    #[inline]
    pub(crate) fn insert(&mut self, slot: Slot) -> bool {
        let index = slot.index() / 64;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let word = &mut self.words[index];
        let bit = 1 << (slot.0 % 64);
        if *word == 0 {
            self.touched.push(index as u32);
        }
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
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
    fn remembers_until_reset() {
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

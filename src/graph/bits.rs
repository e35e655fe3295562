//! A set of slots as a bit each.

use crate::types::Slot;

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// A set of slots; empty at first, and as long as its highest slot wants.
#[derive(Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// Empty, with room for slots below `slot_count`.
    pub(super) fn with_room(slot_count: u32) -> Self {
        Self(vec![0; (slot_count as usize).div_ceil(BITS)])
    }

    #[inline]
    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.0.get(slot.index() / BITS).is_some_and(|word| word >> (slot.index() % BITS) & 1 == 1)
    }

    /// Adds `slot`; true if it was not there.
    #[inline]
    pub(super) fn insert(&mut self, slot: Slot) -> bool {
        let index = slot.index() / BITS;
        if index >= self.0.len() {
            self.0.resize(index + 1, 0);
        }
        let bit = 1 << (slot.index() % BITS);
        let is_new = self.0[index] & bit == 0;
        self.0[index] |= bit;
        is_new
    }
}

//! Division of a partition's slots among its owners.
//!
//! The owners of a partition have its slots in turn, [`BLOCK_SLOTS`] at a time. The owner of a slot follows from its
//! index, an owner takes new slots without asking the others, and the slots in use lie close together as long as the
//! owners have about as many documents each, which the hash of the ids ensures.

use std::ops::Range;

use super::Slot;
pub use super::limits::OWNERS_MAX;
use super::limits::SLOTS_MAX;

/// Consecutive slots of one owner: a block of the parts that a snapshot stores by slot.
pub const BLOCK_SLOTS: u32 = 4_096;

/// Slot indexes use 30 bits; other data is packed beside them into the two upper bits of a `u32`.
const NAMES_MAX: u32 = 1 << 30;

/// The slots of one owner of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    owner: u32,
    owners: u32,
}

impl Default for Stripe {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl Stripe {
    /// All slots, of the only owner.
    pub const WHOLE: Self = Self { owner: 0, owners: 1 };

    /// The slots of owner number `owner` of `owners`.
    ///
    /// # Panics
    /// If there is no such owner, or there are more than [`OWNERS_MAX`].
    #[must_use]
    pub fn new(owner: u32, owners: u32) -> Self {
        assert!(owner < owners && owners <= OWNERS_MAX, "owner {owner} of {owners}");
        Self { owner, owners }
    }

    /// Number of this owner.
    #[inline]
    #[must_use]
    pub fn owner(self) -> u32 {
        self.owner
    }

    /// Number of owners of the partition.
    #[inline]
    #[must_use]
    pub fn owners(self) -> u32 {
        self.owners
    }

    /// Most slots that this owner can have.
    #[must_use]
    pub fn slots_max(self) -> usize {
        let fair = NAMES_MAX / self.owners / BLOCK_SLOTS * BLOCK_SLOTS;
        SLOTS_MAX.min(fair as usize)
    }

    /// Exclusive upper bound of the slots of all owners.
    #[must_use]
    pub fn names_max(self) -> usize {
        self.slots_max() * self.owners as usize
    }

    /// The global slot of this owner's local slot `number`.
    #[inline]
    #[must_use]
    pub fn slot(self, number: u32) -> Slot {
        if self.owners == 1 {
            return Slot(number);
        }
        let block = number / BLOCK_SLOTS * self.owners + self.owner;
        Slot(block * BLOCK_SLOTS + number % BLOCK_SLOTS)
    }

    /// The local number of `slot` among its owner's slots.
    #[inline]
    #[must_use]
    pub fn number(self, slot: Slot) -> u32 {
        if self.owners == 1 {
            return slot.0;
        }
        slot.0 / BLOCK_SLOTS / self.owners * BLOCK_SLOTS + slot.0 % BLOCK_SLOTS
    }

    /// The owner of `slot`.
    #[inline]
    #[must_use]
    pub fn owner_of(self, slot: Slot) -> u32 {
        if self.owners == 1 { 0 } else { slot.0 / BLOCK_SLOTS % self.owners }
    }

    /// True if `slot` belongs to this owner.
    #[inline]
    #[must_use]
    pub fn owns(self, slot: Slot) -> bool {
        self.owner_of(slot) == self.owner
    }

    /// The owner's first `count` slots, in the order of their numbers.
    pub fn slots(self, count: u32) -> impl Iterator<Item = Slot> {
        (0..count).map(move |number| self.slot(number))
    }

    /// The global slots of these local numbers, in runs of consecutive ones.
    pub fn runs(self, numbers: Range<u32>) -> impl Iterator<Item = Range<u32>> {
        let mut next = numbers.start;
        std::iter::from_fn(move || {
            if next >= numbers.end {
                return None;
            }
            let block_end = match self.owners {
                1 => numbers.end,
                _ => numbers.end.min((next / BLOCK_SLOTS + 1) * BLOCK_SLOTS),
            };
            let (start, length) = (self.slot(next).0, block_end - next);
            next = block_end;
            Some(start..start + length)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_one_owner_and_one_number() {
        for owners in [1, 2, 3, 7, OWNERS_MAX] {
            let stripes: Vec<Stripe> =
                (0..owners).map(|owner| Stripe::new(owner, owners)).collect();
            let end = stripes[0].names_max() as u32;
            for slot in (0..70_000).chain(end - 10..end).map(Slot) {
                let mut owning = stripes.iter().filter(|stripe| stripe.owns(slot));
                let owner = owning.next().unwrap();
                assert!(owning.next().is_none());
                assert_eq!(owner.slot(owner.number(slot)), slot);
                assert_eq!(owner.owner_of(slot), owner.owner());
            }
            let last = stripes[owners as usize - 1];
            let last = last.slot(last.slots_max() as u32 - 1);
            assert!(last.0 < NAMES_MAX && last.0 + 1 == end, "{owners} owners name {}", last.0);
            for stripe in stripes {
                let slots: Vec<Slot> = stripe.slots(10_000).collect();
                assert!(slots.is_sorted() && slots.iter().all(|&slot| stripe.owns(slot)));
                let runs: Vec<u32> = stripe.runs(100..9_000).flatten().collect();
                assert!(runs.into_iter().map(Slot).eq(slots[100..9_000].iter().copied()));
            }
        }
    }
}

//! A set of slots that costs little while it is small: most values of a key such as a title or an id have one
//! document.

use roaring::RoaringBitmap;

/// Most slots in a list; a larger set is a bitmap. A bitmap costs some 50 bytes for each of its chunks of 65,536
/// slots: spread over a large shard, a list of 4 bytes a slot is less.
pub(super) const LIST_MAX: usize = 256;

/// A set of slots.
#[derive(Debug)]
pub(super) enum SlotSet {
    /// One slot, without memory of its own.
    One(u32),
    /// Up to [`LIST_MAX`] slots, sorted.
    List(Vec<u32>),
    /// More slots.
    Bitmap(Box<RoaringBitmap>),
}

/// State of a set after the removal of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The slot was not in it.
    Unchanged,
    /// Other slots are left.
    Some,
    /// No slot is left: the set must be dropped, and its contents are unchanged until then.
    Nothing,
}

impl SlotSet {
    pub(super) fn insert(&mut self, slot: u32) {
        match self {
            Self::One(present) if *present == slot => {}
            Self::One(present) => {
                let mut slots = Vec::with_capacity(2);
                slots.extend([slot.min(*present), slot.max(*present)]);
                *self = Self::List(slots);
            }
            Self::List(slots) => {
                let Err(place) = slots.binary_search(&slot) else { return };
                if slots.len() < LIST_MAX {
                    slots.insert(place, slot);
                } else {
                    let mut bitmap: RoaringBitmap = slots.iter().copied().collect();
                    bitmap.insert(slot);
                    *self = Self::Bitmap(Box::new(bitmap));
                }
            }
            Self::Bitmap(slots) => {
                slots.insert(slot);
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32) -> Left {
        match self {
            Self::One(present) if *present == slot => Left::Nothing,
            Self::One(_) => Left::Unchanged,
            Self::List(slots) => {
                let Ok(place) = slots.binary_search(&slot) else { return Left::Unchanged };
                slots.remove(place);
                if let [last] = slots[..] {
                    *self = Self::One(last);
                }
                Left::Some
            }
            Self::Bitmap(slots) => {
                if !slots.remove(slot) {
                    return Left::Unchanged;
                }
                // Half the limit, so that a set at the limit does not change its form to and fro.
                if slots.len() <= LIST_MAX as u64 / 2 {
                    *self = Self::List(slots.iter().collect());
                }
                Left::Some
            }
        }
    }

    /// True if the slot is in the set.
    pub(super) fn contains(&self, slot: u32) -> bool {
        match self {
            Self::One(present) => *present == slot,
            Self::List(slots) => slots.binary_search(&slot).is_ok(),
            Self::Bitmap(slots) => slots.contains(slot),
        }
    }

    /// Adds all slots to `target`.
    pub(super) fn add_to(&self, target: &mut RoaringBitmap) {
        match self {
            Self::One(slot) => {
                target.insert(*slot);
            }
            Self::List(slots) => target.extend(slots.iter().copied()),
            Self::Bitmap(slots) => *target |= &**slots,
        }
    }

    /// Cost of joining the set with another, in units of one value lookup.
    pub(super) fn cost(&self) -> u64 {
        /// A list of a chunk's slots is gone through, a chunk's bitmap is joined by words.
        const SLOTS_PER_UNIT: u64 = 8;
        match self {
            Self::One(_) => 1,
            Self::List(slots) => 1 + slots.len() as u64 / 2,
            Self::Bitmap(slots) => {
                1 + (slots.len() / SLOTS_PER_UNIT).min(CHUNK_COST * chunks(slots))
            }
        }
    }

    /// Bytes of memory beside the set itself.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::List(slots) => slots.capacity() * size_of::<u32>(),
            Self::Bitmap(slots) => size_of::<RoaringBitmap>() + bitmap_bytes(slots),
        }
    }
}

/// Most that it costs to join a chunk of 65,536 slots with another, in units of one value lookup.
pub(super) const CHUNK_COST: u64 = 256;

/// Number of chunks up to the last slot.
pub(super) fn chunks(bitmap: &RoaringBitmap) -> u64 {
    bitmap.max().map_or(0, |slot| u64::from(slot >> 16) + 1)
}

/// Bytes of memory of a bitmap's containers.
pub(super) fn bitmap_bytes(bitmap: &RoaringBitmap) -> usize {
    /// Bytes of a container beside its values: its place in the list of containers, half of which may be room, and
    /// the header of an allocation.
    const CONTAINER_BYTES: u64 = 56;
    /// A bit for each of 65,536 slots.
    const BITSET_BYTES: u64 = 8 << 10;
    let of = bitmap.statistics();
    // The byte counts that it gives for these two kinds are wrong: they are bits, and of values twice as wide.
    let arrays = u64::from(of.n_values_array_containers) * size_of::<u16>() as u64;
    let bitsets = u64::from(of.n_bitset_containers) * BITSET_BYTES;
    let containers = CONTAINER_BYTES * u64::from(of.n_containers);
    (arrays + bitsets + of.n_bytes_run_containers + containers) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_bitmap_takes_two_bytes_a_slot_or_a_bit_for_each_there_is() {
        for (slots, bytes) in [(0, 0), (100, 200), (4_000, 8_000), (60_000, 8_192)] {
            let mut bitmap = RoaringBitmap::new();
            for slot in 0..slots {
                bitmap.insert(slot);
            }
            let containers = 56 * usize::from(slots > 0);
            assert_eq!(bitmap_bytes(&bitmap), bytes + containers, "{slots} slots");
        }
    }

    /// Compares with a plain set, through every form and back.
    #[test]
    fn a_slot_set_holds_its_slots_in_every_form() {
        let (mut set, mut model) = (SlotSet::One(7), BTreeSet::from([7]));
        let slot = |step: u64| (crate::types::mix(step) % 700) as u32;
        for step in 0..6_000 {
            // Mostly inserts, then mostly removals.
            if crate::types::mix(step ^ 99) % 10 < if step < 3_000 { 8 } else { 1 } {
                set.insert(slot(step));
                model.insert(slot(step));
            } else if model.len() > 1 {
                let left = set.remove(slot(step));
                let was_there = model.remove(&slot(step));
                assert_eq!(left, if was_there { Left::Some } else { Left::Unchanged });
            }
            let mut found = RoaringBitmap::new();
            set.add_to(&mut found);
            assert!(found.iter().eq(model.iter().copied()), "step {step}");
            if step == 2_999 {
                assert!(matches!(set, SlotSet::Bitmap(_)));
            }
        }
        for last in model.iter().skip(1) {
            assert_eq!(set.remove(*last), Left::Some);
        }
        assert!(matches!(set, SlotSet::One(_)) && set.heap_bytes() == 0);
        assert_eq!(set.remove(model.pop_first().unwrap()), Left::Nothing);
    }
}

//! Union of many sets of slots: the values of a range, or of a list.
//!
//! Most values have few slots, and inserting into a bitmap takes tens of nanoseconds. So slots are set as plain bits,
//! which become a bitmap at the end.

use crate::pieces::in_pieces;
use roaring::RoaringBitmap;

use super::slots::SlotSet;

/// Most slots inserted into the bitmap one by one; the rest become plain bits. A few values are not worth a bit for
/// every slot there is.
fn single_max() -> usize {
    in_pieces(64, 2)
}

/// The union so far.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    set: RoaringBitmap,
    /// Number of slots inserted one by one.
    singles: usize,
    /// A bit for every slot there is; empty until there are many.
    bits: Vec<u8>,
}

impl Gathered {
    /// Adds the slots of a value; all of them are below `extent`.
    pub(super) fn add(&mut self, set: &SlotSet, extent: u32) {
        match set {
            SlotSet::One(slot) => self.add_slots(&[*slot], extent),
            SlotSet::List(slots) => self.add_slots(slots, extent),
            SlotSet::Bitmap(bitmap) => self.join(bitmap),
        }
    }

    /// Adds a set.
    pub(super) fn join(&mut self, set: &RoaringBitmap) {
        self.set |= set;
    }

    fn add_slots(&mut self, slots: &[u32], extent: u32) {
        if self.bits.is_empty() && self.singles + slots.len() <= single_max() {
            self.singles += slots.len();
            self.set.extend(slots.iter().copied());
            return;
        }
        // The number of slots may have grown since the last value.
        let bytes = (extent as usize).div_ceil(8);
        if self.bits.len() < bytes {
            self.bits.resize(bytes, 0);
        }
        for slot in slots {
            self.bits[(slot / 8) as usize] |= 1 << (slot % 8);
        }
    }

    /// True if there are plain bits, for all slots.
    pub(super) fn is_flat(&self) -> bool {
        !self.bits.is_empty()
    }

    /// The union of all sets added.
    pub(super) fn finish(mut self) -> RoaringBitmap {
        if !self.bits.is_empty() {
            self.set |= RoaringBitmap::from_lsb0_bytes(0, &self.bits);
        }
        self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_all_kinds_are_joined() {
        let (mut gathered, mut wanted) = (Gathered::default(), RoaringBitmap::new());
        let extent = 200_001;
        for step in [1_000_u32, 70_000, 3, 500, 100, 199_999] {
            let mut set = SlotSet::One(step);
            (0..extent).step_by(step as usize).for_each(|slot| set.insert(slot));
            let mut slots = RoaringBitmap::new();
            set.add_to(&mut slots);
            wanted |= slots;
            gathered.add(&set, extent);
        }
        gathered.add(&SlotSet::One(300_000), 300_001);
        wanted.insert(300_000);
        assert_eq!(gathered.finish(), wanted);
        assert!(Gathered::default().finish().is_empty());
    }
}

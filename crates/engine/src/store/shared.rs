//! Data that the owners of a partition share: all that a search reads, on any core.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::arena::Arena;
use super::chain::Chains;
use super::codes::Codes;
use super::life::{self, Life};
use super::member::Member;
use super::places::Places;
use super::vectors::Vectors;
use crate::types::payload::Payload;
use crate::types::stripe::Stripe;
use crate::types::{DocId, Lsn, Slot};

/// Documents by slot, of all owners of a partition.
pub struct Shared {
    pub(super) vectors: Vectors,
    pub(super) codes: Option<Codes>,
    /// Locations of vectors, if they are not all in `vectors`.
    pub(super) places: Option<Places>,
    doc_ids: Arena<AtomicU64>,
    lives: Arena<Life>,
    payloads: Arena<AtomicPtr<Payload>>,
    /// Slots that wait to be linked.
    pub(super) chains: Chains,
    pub(super) members: Box<[Member]>,
}

impl Shared {
    /// No documents yet, each to have a vector of `dimension` values, and a code beside it if `codes` is given: the
    /// flag tells whether all vectors will have length 1. With `are_on_disk` vectors stay in memory only until a
    /// snapshot on disk has them.
    ///
    /// # Panics
    /// If vectors are on disk, and there are no codes.
    #[must_use]
    pub fn new(dimension: usize, codes: Option<bool>, are_on_disk: bool, owners: u32) -> Self {
        assert!(codes.is_some() || !are_on_disk, "walks need codes where vectors are on disk");
        let slots_max = Stripe::new(0, owners).names_max();
        Self {
            vectors: Vectors::with_room(dimension, slots_max),
            codes: codes.map(|are_unit| Codes::with_room(dimension, are_unit, slots_max)),
            places: are_on_disk.then(|| Places::new(dimension, owners)),
            doc_ids: Arena::per_slot(slots_max),
            lives: Arena::per_slot(slots_max),
            payloads: Arena::per_slot(slots_max),
            chains: Chains::new(owners, slots_max),
            members: (0..owners).map(|_| Member::new(owners)).collect(),
        }
    }

    /// The owners, by number.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The vectors.
    #[must_use]
    pub fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    /// Exclusive upper bound of the slots that hold or held a vector, in memory or on disk.
    #[inline]
    pub(super) fn extent(&self) -> u32 {
        match (&self.places, &self.codes) {
            (Some(_), Some(codes)) => codes.extent(),
            _ => self.vectors.extent(),
        }
    }

    /// The slots that wait to be linked.
    #[must_use]
    pub fn chains(&self) -> &Chains {
        &self.chains
    }

    /// Number of owners.
    #[must_use]
    pub fn owners(&self) -> u32 {
        u32::try_from(self.members.len()).expect("at most OWNERS_MAX")
    }

    /// Makes room for `slot`. Called before its row is written: a reader of all rows that exist asks for the lives of
    /// their slots.
    pub(super) fn reserve(&self, slot: Slot) {
        self.doc_ids.reserve(slot.index());
        self.lives.reserve(slot.index());
        self.payloads.reserve(slot.index());
        self.chains.reserve(slot);
        if let Some(places) = &self.places {
            places.reserve(slot);
        }
    }

    #[inline]
    pub(super) fn doc_id(&self, slot: Slot) -> DocId {
        DocId(self.doc_ids.get(slot.index()).load(Ordering::Acquire))
    }

    pub(super) fn set_doc_id(&self, slot: Slot, id: DocId) {
        self.doc_ids.get(slot.index()).store(id.0, Ordering::Release);
    }

    /// LSNs of birth and death of the version in `slot`.
    #[inline]
    pub(super) fn life(&self, slot: Slot) -> [u64; 2] {
        life::read(self.lives.get(slot.index()))
    }

    /// True if the version in `slot` was alive at `snapshot`.
    #[inline]
    pub(super) fn is_visible(&self, slot: Slot, snapshot: Lsn) -> bool {
        life::is_visible(self.lives.get(slot.index()), snapshot)
    }

    #[inline]
    pub(super) fn prefetch_life(&self, slot: Slot) {
        crate::kernels::simd::prefetch(self.lives.row(slot.index()));
    }

    #[inline]
    pub(super) fn is_live(&self, slot: Slot) -> bool {
        life::is_live(self.lives.get(slot.index()))
    }

    pub(super) fn set_life(&self, slot: Slot, life: [u64; 2]) {
        life::write(self.lives.get(slot.index()), life);
    }

    pub(super) fn set_died(&self, slot: Slot, died: Lsn) {
        life::end(self.lives.get(slot.index()), died);
    }

    /// The metadata of the version in `slot`, if it has not been dropped: for its owner, or for a reader that sees
    /// the version in an open view.
    #[inline]
    pub(super) fn payload(&self, slot: Slot) -> Option<&Payload> {
        let payload = self.payloads.get(slot.index()).load(Ordering::Acquire);
        #[expect(unsafe_code, reason = "metadata is reached through an atomic pointer")]
        // SAFETY: the pointer is null or came from a box in `swap_payload`, which is not dropped while it may be
        // read: the owner calls `swap_payload` below an exclusive borrow of its store, and keeps metadata that others
        // may see until their views are closed.
        unsafe {
            payload.as_ref()
        }
    }

    /// Replaces the metadata of `slot`, and returns the former, which others may still be reading. For the owner
    /// alone.
    pub(super) fn swap_payload(
        &self,
        slot: Slot,
        payload: Option<Box<Payload>>,
    ) -> Option<Box<Payload>> {
        let payload = payload.map_or(std::ptr::null_mut(), Box::into_raw);
        let before = self.payloads.get(slot.index()).swap(payload, Ordering::SeqCst);
        if before.is_null() {
            return None;
        }
        #[expect(unsafe_code, reason = "metadata is reached through an atomic pointer")]
        // SAFETY: the pointer came from a box here, and the caller that swaps it out has it alone.
        unsafe {
            Some(Box::from_raw(before))
        }
    }

    /// Clears all slots of an owner, which no thread reads.
    pub(super) fn clear(&self, stripe: Stripe) {
        self.chains.clear(stripe);
        if let Some(places) = &self.places {
            places.clear(stripe);
        }
        for slot in (0..self.reserved()).map(Slot).filter(|&slot| stripe.owns(slot)) {
            // Lives that were never written stay without memory of their own.
            if self.life(slot) != [0, 0] {
                self.set_life(slot, [0, 0]);
            }
            self.drop_payload(slot);
        }
    }

    fn drop_payload(&self, slot: Slot) {
        if self.payload(slot).is_some() {
            drop(self.swap_payload(slot, None));
        }
    }

    /// Exclusive upper bound of the slots for which there is room.
    fn reserved(&self) -> u32 {
        self.lives.reserved().min(self.payloads.reserved()) as u32
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        (0..self.reserved()).map(Slot).for_each(|slot| self.drop_payload(slot));
    }
}

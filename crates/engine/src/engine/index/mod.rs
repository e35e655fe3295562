//! Inverted index of a shard's metadata: for each key and value the slots that have it, so that a filter is answered
//! without looking at documents.
//!
//! An entry of a slot is of its present metadata. The answer to a search is a set of *candidates* (`evaluate`): all
//! documents that pass, and perhaps others. The search looks at a candidate's own metadata and lifetime before it
//! becomes a hit, so that an index with too many entries costs time and nothing else.
//!
//! - Each slot has the pairs of the metadata in it, and no others: NOT, and ranges read from their other side, take
//!   the remaining slots for those without the pair, so that a pair of a document that is gone would hide another
//!   document. `check` verifies this.
//! - A dead version stays in it until its metadata is dropped: searches that began before its death still see it.
//! - Replaced metadata is removed at once. A search that began before asks the store which slots have been changed
//!   since, and takes them as candidates.
//! - Slots from `indexed_to` on, after a restart, wait to be read in, in steps. Until then all of them are
//!   candidates.
//! - Memory is bounded: a slot costs at most `BYTES_PER_SLOT` for texts and trees. Values, and keys, for which there
//!   is no room get no set: documents that have them are candidates for every condition on that key, or on any key.

mod check;
pub(super) mod evaluate;
mod gather;
mod key;
mod program;
mod slots;

use crate::pieces::in_pieces;
use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use self::key::Key;
use self::slots::bitmap_bytes;
use crate::store::Store;
use crate::types::Slot;
use crate::types::payload::Payload;
use crate::types::stripe::Stripe;

/// Room for texts of keys and values, and for the trees that hold them: `BYTES_MIN`, and for each slot indexed
/// `BYTES_PER_SLOT` more. Values that many documents share use nearly nothing of it; an id per document takes some
/// 100 bytes. Beside it each pair of a document takes 2 to 12 bytes in sets.
const BYTES_MIN: usize = 1 << 20;
const BYTES_PER_SLOT: usize = 256;

/// Bytes of a key beside its text: its place in a tree whose nodes are two thirds full, and its sets.
const KEY_BYTES: usize = size_of::<(Box<str>, Key)>() * 3 / 2 + 64;

/// Most slots, and most bytes of metadata, that are read in a step.
fn step_slots() -> u32 {
    in_pieces(128, 8)
}
const STEP_BYTES: usize = 16 << 10;

/// The index of one shard.
#[derive(Debug, Default)]
pub struct MetadataIndex {
    keys: BTreeMap<Box<str>, Key>,
    /// All slots that are indexed.
    slots: RoaringBitmap,
    /// Slots with a key that has no sets.
    untracked: RoaringBitmap,
    /// Local slots below this one are indexed, if they hold metadata.
    indexed_to: u32,
    /// The slots of the shard.
    stripe: Stripe,
    room: Room,
    /// Bytes of the metadata of all slots indexed.
    payload_bytes: usize,
}

/// Bytes of texts and trees, and their limit.
#[derive(Debug, Default)]
struct Room {
    used: usize,
    max: usize,
}

impl Room {
    /// Takes some bytes; false if that would pass the limit.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.used + bytes <= self.max;
        self.used += if fits { bytes } else { 0 };
        fits
    }

    fn give(&mut self, bytes: usize) {
        self.used -= bytes;
    }
}

impl MetadataIndex {
    /// An empty index.
    #[must_use]
    pub(super) fn new(stripe: Stripe) -> Self {
        let room = Room { used: 0, max: BYTES_MIN };
        Self { room, stripe, ..Self::default() }
    }

    /// Local slots below this one are indexed.
    #[cfg(test)]
    pub(super) fn indexed_to(&self) -> u32 {
        self.indexed_to
    }

    /// Indexes a version with this metadata in `slot`.
    ///
    /// # Panics
    /// If the index still has a version there: its pairs would be left.
    pub(super) fn insert(&mut self, slot: Slot, payload: &Payload) {
        let number = self.stripe.number(slot);
        if number > self.indexed_to {
            // The slot is read when its turn comes.
            return;
        }
        self.indexed_to = self.indexed_to.max(number + 1);
        self.add(slot, payload);
    }

    /// Replaces the metadata of the version in `slot`.
    pub(super) fn replace(&mut self, slot: Slot, before: &Payload, after: &Payload) {
        if self.stripe.number(slot) < self.indexed_to {
            self.take(slot, before);
            self.add(slot, after);
        }
    }

    /// Removes the version in `slot`, which no search sees any more and which had this metadata.
    pub(super) fn remove(&mut self, slot: Slot, payload: &Payload) {
        if self.stripe.number(slot) < self.indexed_to {
            self.take(slot, payload);
        }
    }

    /// Reads some slots that are not indexed yet. False if there was nothing to do.
    pub(super) fn read_some(&mut self, store: &Store) -> bool {
        let start = self.indexed_to;
        let mut bytes = 0;
        while self.indexed_to < store.slot_count().min(start.saturating_add(step_slots()))
            && bytes < STEP_BYTES
        {
            let slot = self.stripe.slot(self.indexed_to);
            self.indexed_to += 1;
            if let Some(payload) = store.stored_payload(slot) {
                bytes += payload.bytes().len();
                self.add(slot, payload);
            }
        }
        self.indexed_to > start
    }

    /// Bytes of memory, by a count that goes through all of it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let keys = self.keys.iter().map(|(text, key)| KEY_BYTES + text.len() + key.bytes());
        keys.sum::<usize>() + bitmap_bytes(&self.slots) + bitmap_bytes(&self.untracked)
    }

    /// Approximate bytes of memory, without a look at every value.
    #[must_use]
    pub(super) fn estimated_bytes(&self) -> usize {
        let sets = self.keys.values().map(Key::estimated_set_bytes).sum::<usize>();
        self.room.used + sets + bitmap_bytes(&self.slots) + bitmap_bytes(&self.untracked)
    }

    /// Number of slots indexed.
    #[must_use]
    pub(super) fn payloads(&self) -> usize {
        self.slots.len() as usize
    }

    /// Bytes of the metadata of the indexed slots.
    #[must_use]
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Takes this many bytes of room away.
    #[cfg(test)]
    pub(super) fn occupy(&mut self, bytes: usize) {
        self.room.used += bytes;
    }

    fn add(&mut self, slot: Slot, payload: &Payload) {
        let Self { keys, slots, untracked, room, payload_bytes, .. } = self;
        let is_new = slots.insert(slot.0);
        assert!(is_new, "slot {} is indexed already", slot.0);
        room.max += BYTES_PER_SLOT;
        *payload_bytes += payload.bytes().len();
        for (text, value) in payload.pairs() {
            if let Some(key) = keys.get_mut(text) {
                key.insert(value, slot.0, room);
            } else if room.take(KEY_BYTES + text.len()) {
                keys.entry(text.into()).or_default().insert(value, slot.0, room);
            } else {
                untracked.insert(slot.0);
            }
        }
    }

    fn take(&mut self, slot: Slot, payload: &Payload) {
        let Self { keys, slots, untracked, room, payload_bytes, .. } = self;
        if !slots.remove(slot.0) {
            return;
        }
        // The bytes in use may be more than the limit from now on, and stay.
        room.max -= BYTES_PER_SLOT;
        *payload_bytes -= payload.bytes().len();
        untracked.remove(slot.0);
        for (text, value) in payload.pairs() {
            let Some(key) = keys.get_mut(text) else { continue };
            key.remove(value, slot.0, room);
            if key.is_empty() {
                keys.remove(text);
                room.give(KEY_BYTES + text.len());
            }
        }
    }
}

//! The documents of one shard: vector, id, metadata and lifetime, by slot.
//!
//! A slot holds one version of one document. A write never changes a version (its metadata excepted): an upsert fills
//! another slot, and the former version dies. Each slot has the LSNs at which its version was born and died, so a
//! search that runs in slices between writes sees one state of the shard, that of the LSN at which it began: no
//! document twice, none missing, none that was deleted before.
//!
//! Versions that a running search may still look at are kept: [`Store::open_view`] and [`Store::close_view`] bracket
//! the search. After that a dead version's metadata is dropped, and its slot is used again, once nothing in the graph
//! leads to it any more.
//!
//! All data that a search reads is [`Shared`] among the shards that own one graph, each of which writes to its own
//! slots alone ([`stripe`](crate::types::stripe)). The id index, and replaced metadata, belong to the owner alone.

pub mod arena;
pub mod chain;
mod codes;
mod ids;
mod life;
pub mod member;
mod memory;
mod pin;
pub mod places;
mod readers;
mod replaced;
mod rows;
mod saved;
mod secret;
mod shared;
mod slabs;
pub mod slices;
mod unsaved;
mod vectors;
pub mod view;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

pub use self::codes::{Codes, OwnCode};
pub use self::ids::Index;
use self::ids::{Ids, Slots};
use self::life::ALIVE;
use self::replaced::Replaced;
pub use self::saved::{Changed, Restored, payloads, values};
pub use self::shared::Shared;
pub use self::unsaved::SavedVectors;
use self::unsaved::Unsaved;
pub use self::vectors::Vectors;
use self::view::Views;
use crate::types::payload::Payload;
use crate::types::stripe::{BLOCK_SLOTS, Stripe};
use crate::types::{DocId, Lsn, Slot};

/// The documents of one shard.
pub struct Store {
    shared: Arc<Shared>,
    /// The slots of this shard, and the number of them ever used.
    stripe: Stripe,
    count: u32,
    /// LSN of the last write applied in full.
    applied: Lsn,
    ids: Ids,
    /// Slots that hold no version, and that nothing refers to.
    free: Vec<Slot>,
    /// Dead versions that a running search may still see, oldest death first.
    retired: VecDeque<(Lsn, Slot)>,
    /// Slots that nothing leads to any more, with the LSN applied then: a search that began by that LSN may still be
    /// at one of them. In order of that LSN.
    left: VecDeque<(Lsn, Slot)>,
    replaced: Replaced,
    /// The LSN of each running search of this shard.
    snapshots: Vec<Lsn>,
    /// The open views of this shard on other owners.
    views: Views,
    /// Blocks changed since the last snapshot on disk.
    changed: Changed,
    /// Vectors in memory that are not on disk yet.
    unsaved: Unsaved,
}

/// The slots, as the id index reads them.
struct Lookup<'a>(&'a Shared);

impl Slots for Lookup<'_> {
    #[inline]
    fn id(&self, slot: Slot) -> DocId {
        self.0.doc_id(slot)
    }

    #[inline]
    fn is_live(&self, slot: Slot) -> bool {
        self.0.is_live(slot)
    }
}

impl Store {
    /// A store without documents, each to have a vector of `dimension` values.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self::join(Arc::new(Shared::new(dimension, None, false, 1)), Stripe::WHOLE)
    }

    /// A store of one of the owners of `shared`, without documents: the data that this owner had in it is forgotten.
    /// No thread may be reading that data.
    #[must_use]
    pub fn join(shared: Arc<Shared>, stripe: Stripe) -> Self {
        assert_eq!(stripe.owners(), shared.owners());
        shared.clear(stripe);
        let store = Self {
            shared,
            stripe,
            count: 0,
            applied: Lsn(0),
            ids: Ids::default(),
            free: Vec::new(),
            retired: VecDeque::new(),
            left: VecDeque::new(),
            replaced: Replaced::default(),
            snapshots: Vec::new(),
            views: Views::default(),
            changed: Changed::default(),
            unsaved: Unsaved::default(),
        };
        store.member().set_applied(Lsn(0));
        store.member().set_fenced(false);
        store.note_counts();
        store
    }

    /// The data that all owners share.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// A reference-counted handle of the shared data, for use while the store is borrowed.
    #[must_use]
    pub fn shared_handle(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// This owner as others see it.
    #[must_use]
    pub fn member(&self) -> &member::Member {
        &self.shared.members[self.stripe.owner() as usize]
    }

    /// The slots of this shard.
    #[inline]
    #[must_use]
    pub fn stripe(&self) -> Stripe {
        self.stripe
    }

    /// The vectors, by slot, of all owners.
    #[inline]
    #[must_use]
    pub fn vectors(&self) -> &Vectors {
        &self.shared.vectors
    }

    /// The codes of the vectors, by slot, if they are kept.
    #[inline]
    #[must_use]
    pub fn codes(&self) -> Option<&Codes> {
        self.shared.codes.as_ref()
    }

    /// The slots that wait to be linked.
    #[inline]
    #[must_use]
    pub fn chains(&self) -> &chain::Chains {
        &self.shared.chains
    }

    /// Publishes that all records up to `lsn` are applied.
    pub fn set_applied(&mut self, lsn: Lsn) {
        self.applied = lsn;
        self.note_counts();
        self.member().set_applied(lsn);
    }

    fn note_counts(&self) {
        self.member().set_counts(self.ids.count(), self.count);
    }

    /// Live documents of this shard.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.ids.count()
    }

    /// Live documents of all owners; approximate while others write.
    #[must_use]
    pub fn live_of_all(&self) -> usize {
        match self.stripe.owners() {
            1 => self.ids.count(),
            _ => self.shared.members.iter().map(member::Member::live).sum(),
        }
    }

    /// Number of slots of this shard ever used: local slots below it are or were in use.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.count
    }

    /// The slots of this shard ever used.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        self.stripe.slots(self.count)
    }

    /// Exclusive upper bound of the slots ever used, of all owners.
    #[inline]
    #[must_use]
    pub fn extent(&self) -> u32 {
        if self.stripe.owners() == 1 { self.count } else { self.shared.extent() }
    }

    /// Number of slots ever used, of all owners; approximate while others write.
    #[must_use]
    pub fn slots_of_all(&self) -> usize {
        match self.stripe.owners() {
            1 => self.count as usize,
            _ => self.shared.members.iter().map(|member| member.slots() as usize).sum(),
        }
    }

    /// The run of used slots from `name` on, of any owner; and the first slot after it at which another owner's may
    /// begin.
    pub(crate) fn used_from(&self, name: u32) -> (Range<u32>, u32) {
        if self.stripe.owners() == 1 {
            return (name..self.count, self.count);
        }
        let slot = Slot(name);
        let owner = self.stripe.owner_of(slot);
        let number = Stripe::new(owner, self.stripe.owners()).number(slot);
        let used = self.shared.members[owner as usize].slots().saturating_sub(number);
        let next = (name / BLOCK_SLOTS + 1) * BLOCK_SLOTS;
        (name..next.min(name + used), next)
    }

    /// The id of the document that a slot holds or held.
    #[inline]
    #[must_use]
    pub fn doc_id(&self, slot: Slot) -> DocId {
        self.shared.doc_id(slot)
    }

    /// The LSN of the write that filled a slot.
    #[inline]
    #[must_use]
    pub fn born(&self, slot: Slot) -> Lsn {
        Lsn(self.shared.life(slot)[0])
    }

    /// The slot of the live version of `id`.
    #[must_use]
    pub fn find(&self, id: DocId) -> Option<Slot> {
        self.ids.get(id, &Lookup(&self.shared))
    }

    /// True if the version in `slot` is alive now.
    #[inline]
    #[must_use]
    pub fn is_live(&self, slot: Slot) -> bool {
        self.shared.is_live(slot)
    }

    /// True if the version in `slot` was alive at `snapshot`, an LSN of its owner.
    #[inline]
    #[must_use]
    pub fn is_visible(&self, slot: Slot, snapshot: Lsn) -> bool {
        self.shared.is_visible(slot, snapshot)
    }

    /// Current metadata of a version that is alive.
    ///
    /// # Panics
    /// If nothing is alive there.
    #[must_use]
    pub fn payload(&self, slot: Slot) -> &Payload {
        self.shared.payload(slot).expect("a live version has metadata")
    }

    /// Metadata of the version in `slot`, dead or alive, if it has not been dropped.
    #[must_use]
    pub fn stored_payload(&self, slot: Slot) -> Option<&Payload> {
        self.shared.payload(slot)
    }

    /// Slots whose metadata has been replaced since `snapshot`, which has to be open.
    pub fn changed_since(&self, snapshot: Lsn) -> impl Iterator<Item = Slot> {
        let order = &self.replaced.order;
        let first = order.partition_point(|&(at, _)| at <= snapshot);
        order.range(first..).map(|&(_, slot)| slot)
    }

    /// Metadata that the version in `slot` had at `snapshot`, at which it was alive. For a slot of another owner,
    /// which an open view sees, it is the present metadata: the owner alone knows the former.
    #[must_use]
    pub fn payload_at(&self, slot: Slot, snapshot: Lsn) -> &Payload {
        self.replaced.at(slot, snapshot).unwrap_or_else(|| self.payload(slot))
    }

    /// Stores a version of `id`; a former one dies. Returns the slot, and that of the former version.
    ///
    /// # Panics
    /// If there is no [`Store::room`], or the slot still has metadata, which
    /// [`Store::take_stale`] takes: the caller checks.
    pub fn put(
        &mut self,
        lsn: Lsn,
        id: DocId,
        vector: &[f32],
        payload: Payload,
    ) -> (Slot, Option<Slot>) {
        let former = self.retire(lsn, id);
        let slot = self.free.pop().unwrap_or_else(|| self.new_slot());
        self.write_row(slot, vector);
        self.put_unsaved(lsn, slot, vector);
        self.shared.set_doc_id(slot, id);
        let before = self.shared.swap_payload(slot, Some(Box::new(payload)));
        assert!(before.is_none(), "slot {} still has metadata of another document", slot.0);
        self.shared.set_life(slot, [lsn.0, ALIVE]);
        self.ids.insert(id, slot, &Lookup(&self.shared));
        let number = self.stripe.number(slot);
        self.changed.note_vector(number, self.shared.vectors.row_bytes());
        self.changed.note_payload(number);
        (slot, former)
    }

    /// The slot that the next version will be in.
    #[must_use]
    pub fn next_slot(&self) -> Slot {
        self.free.last().copied().unwrap_or_else(|| self.stripe.slot(self.count))
    }

    /// A slot that has never been used.
    fn new_slot(&mut self) -> Slot {
        assert!((self.count as usize) < self.stripe.slots_max(), "the caller checks the bound");
        let slot = self.stripe.slot(self.count);
        self.count += 1;
        self.shared.reserve(slot);
        slot
    }

    /// Writes a vector, unless vectors are kept elsewhere, and its code into a slot that is new, or was in `free`.
    fn write_row(&mut self, slot: Slot, vector: &[f32]) {
        debug_assert!(self.stripe.owns(slot), "each owner writes to its own slots");
        if let Some(codes) = &self.shared.codes {
            #[expect(unsafe_code, reason = "only the store knows that nobody can reach the slot")]
            // SAFETY: the slot is this owner's, and is new, or nothing has led to it since before
            // the oldest open view was opened. It is published below the new LSN, by its life.
            unsafe {
                codes.put(slot, vector);
            }
        }
        if self.shared.places.is_some() {
            return;
        }
        #[expect(unsafe_code, reason = "only the store knows that nobody can reach the slot")]
        // SAFETY: as above.
        unsafe {
            self.shared.vectors.put(slot, vector);
        }
    }

    /// Ends the live version of `id`; returns its slot.
    pub fn delete(&mut self, lsn: Lsn, id: DocId) -> Option<Slot> {
        self.retire(lsn, id)
    }

    /// Replaces the metadata of the live version of `id`. False if there is none.
    pub fn set_payload(&mut self, lsn: Lsn, id: DocId, payload: Payload) -> bool {
        let Some(slot) = self.find(id) else {
            return false;
        };
        self.changed.note_payload(self.stripe.number(slot));
        let before = self.shared.swap_payload(slot, Some(Box::new(payload)));
        // Asked after the old metadata was put out of reach: a later view finds the new metadata.
        if self.oldest_snapshot() != Lsn(member::NEVER) {
            self.replaced.keep(slot, lsn, before.expect("a live version has metadata"));
        }
        true
    }

    /// Keeps versions visible at `lsn` until [`Store::close_snapshot`].
    pub fn open_snapshot(&mut self, lsn: Lsn) {
        self.snapshots.push(lsn);
    }

    /// Ends what [`Store::open_snapshot`] began.
    ///
    /// # Panics
    /// If no such snapshot is open.
    pub fn close_snapshot(&mut self, lsn: Lsn) {
        let index = self.snapshots.iter().position(|&s| s == lsn).expect("an open snapshot");
        self.snapshots.swap_remove(index);
        if !self.replaced.order.is_empty() {
            self.replaced.forget_before(self.oldest_snapshot());
        }
    }

    /// Drops data that neither a running search nor one that begins now can see: metadata of dead versions, which is
    /// passed to `dropped`, and their slots, unless `dropped` returns that they are still needed; then
    /// [`Store::release`] follows. Slots that nothing leads to any more are passed to `freed`, which returns whether
    /// they may be freed. At most `versions_max` of each, so that the work fits into a slice. Returns how many it
    /// dropped.
    pub fn reclaim(
        &mut self,
        versions_max: usize,
        mut dropped: impl FnMut(Slot, Option<&Payload>) -> bool,
        mut freed: impl FnMut(Slot) -> bool,
    ) -> usize {
        if self.retired.is_empty() && self.left.is_empty() {
            return 0;
        }
        let oldest = self.oldest_snapshot();
        if !self.replaced.order.is_empty() {
            self.replaced.forget_before(oldest);
        }
        // A search at `snapshot` sees a version that died later than it.
        let seen_from = oldest.min(self.applied);
        let mut reclaimed = 0;
        while reclaimed < versions_max
            && let Some(&(died, slot)) = self.retired.front()
            && died <= seen_from
        {
            self.retired.pop_front();
            let payload = self.shared.swap_payload(slot, None);
            if !dropped(slot, payload.as_deref()) {
                // A search may be at this slot on its way through the slots that wait to be linked.
                self.left.push_back((self.applied, slot));
            }
            reclaimed += 1;
        }
        let mut released = 0;
        while released < versions_max
            && let Some(&(left, slot)) = self.left.front()
            && left < oldest
            && freed(slot)
        {
            self.left.pop_front();
            self.free.push(slot);
            released += 1;
        }
        reclaimed.max(released)
    }

    /// Releases slots of dropped versions to which nothing leads any more: they may be used again once the searches
    /// are over that have begun by now, and may be at one of them.
    pub fn release(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let applied = self.applied;
        self.left.extend(slots.into_iter().map(|slot| (applied, slot)));
    }

    /// Dead versions that wait for [`Store::reclaim`].
    #[must_use]
    pub fn retired_count(&self) -> usize {
        self.retired.len()
    }

    /// Dead versions that wait for [`Store::reclaim`], and slots that wait for searches to end.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.retired.len() + self.left.len()
    }

    /// Takes metadata of a document that is gone out of a free slot, so that it can be removed from the metadata
    /// index before the slot is filled. There should be none.
    pub fn take_stale(&mut self, slot: Slot) -> Option<Box<Payload>> {
        // A slot that has never been used has no pointer to metadata yet.
        if self.stripe.number(slot) >= self.count || self.shared.payload(slot).is_none() {
            return None;
        }
        self.shared.swap_payload(slot, None)
    }

    fn retire(&mut self, lsn: Lsn, id: DocId) -> Option<Slot> {
        let slot = self.ids.remove(id, &Lookup(&self.shared))?;
        self.shared.set_died(slot, lsn);
        // The next snapshot has no metadata there, and may not keep the former block, which has.
        self.changed.note_payload(self.stripe.number(slot));
        self.retired.push_back((lsn, slot));
        Some(slot)
    }
}

impl Drop for Store {
    /// The other owners go on without the documents of this owner, and stop waiting for its views.
    fn drop(&mut self) {
        if self.stripe.owners() > 1 {
            self.member().set_fenced(true);
            self.abandon_views();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(value: &str) -> Payload {
        Payload::new([("v", value)], "").unwrap()
    }

    #[test]
    fn a_snapshot_sees_one_state() {
        let mut store = Store::new(2);
        let (first, _) = store.put(Lsn(1), DocId(9), &[1.0, 0.0], payload("one"));
        store.open_snapshot(Lsn(1));
        assert!(store.set_payload(Lsn(2), DocId(9), payload("two")));
        assert!(store.set_payload(Lsn(3), DocId(9), payload("three")));
        let (second, former) = store.put(Lsn(4), DocId(9), &[0.0, 1.0], payload("four"));
        assert_eq!(former, Some(first));
        assert_ne!(first, second);
        let at = |lsn| (store.is_visible(first, Lsn(lsn)), store.is_visible(second, Lsn(lsn)));
        assert_eq!(
            [at(0), at(1), at(3), at(4)],
            [(false, false), (true, false), (true, false), (false, true)]
        );
        assert_eq!(store.payload_at(first, Lsn(1)).get("v"), Some("one"));
        assert_eq!(store.payload_at(first, Lsn(2)).get("v"), Some("two"));
        assert_eq!(store.payload_at(first, Lsn(3)).get("v"), Some("three"));
        assert_eq!(store.vectors().values(first), [1.0, 0.0]);
        assert_eq!(store.find(DocId(9)), Some(second));
    }

    #[test]
    fn a_slot_is_used_again_only_after_its_readers_have_ended() {
        let mut store = Store::new(1);
        let put = |store: &mut Store, lsn: u64, id: u64| {
            let slot = store.put(Lsn(lsn), DocId(id), &[id as f32], payload("")).0;
            store.set_applied(Lsn(lsn));
            slot
        };
        let slot = put(&mut store, 1, 1);
        store.open_snapshot(Lsn(1));
        assert_eq!(store.delete(Lsn(2), DocId(1)), Some(slot));
        store.set_applied(Lsn(2));
        assert_eq!(store.reclaim(9, |_, _| false, |_| true), 0);
        assert_ne!(put(&mut store, 3, 2), slot);
        store.close_snapshot(Lsn(1));
        // Not before the record that ended the version is applied in full.
        store.delete(Lsn(4), DocId(2));
        assert_eq!(store.reclaim(9, |_, _| false, |_| false), 1, "it may not go yet");
        assert_eq!(store.reclaim(9, |_, _| false, |_| true), 1);
        assert_eq!(store.reclaim(9, |_, _| false, |_| true), 0);
        store.set_applied(Lsn(4));
        assert_eq!(put(&mut store, 5, 3), slot);
        assert_eq!(store.vectors().values(slot), [3.0]);
        assert_eq!((store.live_count(), store.slot_count()), (1, 2));
        assert_eq!(store.reclaim(9, |_, _| false, |_| true), 1);
        // A slot that the graph walks through stays.
        store.delete(Lsn(6), DocId(3));
        store.set_applied(Lsn(6));
        assert_eq!(store.reclaim(9, |_, _| true, |_| true), 1);
        assert_ne!(put(&mut store, 7, 4), slot);
        // Once it has left the graph, it waits for searches that may be there.
        store.open_snapshot(Lsn(7));
        store.release([slot]);
        assert_eq!(store.reclaim(9, |_, _| true, |_| true), 0);
        assert_ne!(put(&mut store, 8, 5), slot);
        store.open_snapshot(Lsn(8));
        store.close_snapshot(Lsn(7));
        assert_eq!(store.reclaim(9, |_, _| true, |_| true), 1);
        assert_eq!(put(&mut store, 9, 6), slot);
    }
}

//! The documents of one shard: vector, id, metadata and lifetime, by slot.
//!
//! A slot holds one version of one document. A write never changes a version (metadata alone
//! excepted): an upsert fills another slot, and the former version dies. Each slot knows the
//! LSN at which its version was born and died, so a search that runs in slices between writes
//! sees one state of the shard, that of the LSN it began at: no document twice, none missing,
//! none that was deleted before.
//!
//! What a running search may still look at is kept: [`Store::open_snapshot`] and
//! [`Store::close_snapshot`] bracket it. After that a dead version's metadata goes, and its slot
//! is used again, once nothing in the graph leads to it any more.
//!
//! Vectors, their codes, ids and lifetimes lie in arenas that other threads may read. Metadata
//! and the id index belong to the owner alone.

pub mod arena;
mod codes;
mod ids;
mod memory;
pub mod payload;
mod rows;
mod saved;
mod vectors;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use self::arena::{Arena, SLOTS_MAX};
pub use self::codes::{Codes, OwnCode};
pub use self::ids::Index;
use self::ids::{Ids, Slots};
use self::payload::Payload;
pub use self::saved::{Changed, payloads, values};
pub use self::vectors::{LINE_VALUES, Vectors};
use crate::types::{DocId, Lsn, Slot};

/// `[born, died]` as LSNs. `died` is 0 in a slot never used, [`ALIVE`] while alive.
type Life = [AtomicU64; 2];

const ALIVE: u64 = u64::MAX;

/// Metadata cells in a chunk.
const PAYLOAD_CHUNK: usize = 1 << 12;

/// Metadata that a running search may still have to see, by slot and by the LSN at which it was
/// replaced.
#[derive(Default)]
struct Replaced {
    payloads: BTreeMap<(Slot, Lsn), Payload>,
    /// The same keys, oldest replacement first.
    order: VecDeque<(Lsn, Slot)>,
}

impl Replaced {
    fn keep(&mut self, slot: Slot, at: Lsn, payload: Payload) {
        self.payloads.insert((slot, at), payload);
        self.order.push_back((at, slot));
    }

    /// The metadata of `slot` at `snapshot`, if it was replaced since.
    fn at(&self, slot: Slot, snapshot: Lsn) -> Option<&Payload> {
        let after = (slot, snapshot.next())..=(slot, Lsn(u64::MAX));
        self.payloads.range(after).next().map(|(_, payload)| payload)
    }

    /// Forgets what no search from `oldest` on can see.
    fn forget_before(&mut self, oldest: Lsn) {
        while let Some(&(at, slot)) = self.order.front()
            && at <= oldest
        {
            self.order.pop_front();
            self.payloads.remove(&(slot, at));
        }
    }
}

/// The documents of one shard.
pub struct Store {
    vectors: Vectors,
    codes: Option<Codes>,
    doc_ids: Arena<AtomicU64>,
    lives: Arena<Life>,
    payloads: Vec<Box<[Option<Payload>]>>,
    ids: Ids,
    /// Slots that nothing refers to.
    free: Vec<Slot>,
    /// Dead versions that a running search may still see, oldest death first.
    retired: VecDeque<(Lsn, Slot)>,
    /// Slots that left the graph, where a search that began by then may still be, in this order.
    left: VecDeque<(Lsn, Slot)>,
    replaced: Replaced,
    /// The LSN of each running search.
    snapshots: Vec<Lsn>,
    /// Since the last snapshot on disk.
    changed: Changed,
}

/// What the id index asks of the slots.
struct Lookup<'a>(&'a Arena<AtomicU64>, &'a Arena<Life>);

impl Slots for Lookup<'_> {
    #[inline]
    fn id(&self, slot: Slot) -> DocId {
        DocId(self.0.get(slot.index()).load(Ordering::Relaxed))
    }

    #[inline]
    fn is_live(&self, slot: Slot) -> bool {
        self.1.get(slot.index())[1].load(Ordering::Relaxed) == ALIVE
    }
}

impl Store {
    /// No documents yet, each to have a vector of `dimension` values.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self {
            vectors: Vectors::new(dimension),
            codes: None,
            doc_ids: Arena::per_slot(),
            lives: Arena::per_slot(),
            payloads: Vec::new(),
            ids: Ids::default(),
            free: Vec::new(),
            retired: VecDeque::new(),
            left: VecDeque::new(),
            replaced: Replaced::default(),
            snapshots: Vec::new(),
            changed: Changed::default(),
        }
    }

    /// The vectors, by slot.
    #[inline]
    #[must_use]
    pub fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    /// The same with codes beside the vectors; `are_unit` if all vectors will have length 1.
    #[must_use]
    pub fn with_codes(dimension: usize, are_unit: bool) -> Self {
        Self { codes: Some(Codes::new(dimension, are_unit)), ..Self::new(dimension) }
    }

    /// The codes of the vectors, by slot, if they are kept.
    #[inline]
    #[must_use]
    pub fn codes(&self) -> Option<&Codes> {
        self.codes.as_ref()
    }

    /// Documents alive now.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.ids.count()
    }

    /// Slots ever used: every slot below this one exists.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.vectors.count()
    }

    /// How many more versions can be stored.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len() + SLOTS_MAX - self.vectors.count() as usize
    }

    /// The document that a slot holds or held.
    #[inline]
    #[must_use]
    pub fn doc_id(&self, slot: Slot) -> DocId {
        DocId(self.doc_ids.get(slot.index()).load(Ordering::Acquire))
    }

    /// The LSN of the write that filled a slot.
    #[inline]
    #[must_use]
    pub fn born(&self, slot: Slot) -> Lsn {
        Lsn(self.lives.get(slot.index())[0].load(Ordering::Acquire))
    }

    /// Where `id` is alive.
    #[must_use]
    pub fn find(&self, id: DocId) -> Option<Slot> {
        self.ids.get(id, &Lookup(&self.doc_ids, &self.lives))
    }

    /// True if the version in `slot` is alive now.
    #[inline]
    #[must_use]
    pub fn is_live(&self, slot: Slot) -> bool {
        self.lives.get(slot.index())[1].load(Ordering::Acquire) == ALIVE
    }

    /// True if the version in `slot` was alive at `snapshot`.
    #[inline]
    #[must_use]
    pub fn is_visible(&self, slot: Slot, snapshot: Lsn) -> bool {
        let life = self.lives.get(slot.index());
        let born = life[0].load(Ordering::Acquire);
        born <= snapshot.0 && snapshot.0 < life[1].load(Ordering::Acquire)
    }

    /// Current metadata of a version that is alive.
    ///
    /// # Panics
    /// If nothing is alive there.
    #[must_use]
    pub fn payload(&self, slot: Slot) -> &Payload {
        self.payload_cell(slot).as_ref().expect("a live version has metadata")
    }

    /// Metadata of the version in `slot`, dead or alive, that has not been dropped.
    #[must_use]
    pub fn stored_payload(&self, slot: Slot) -> Option<&Payload> {
        self.payload_cell(slot).as_ref()
    }

    /// Slots whose metadata has been replaced since `snapshot`, which has to be an open one.
    pub fn changed_since(&self, snapshot: Lsn) -> impl Iterator<Item = Slot> {
        let order = &self.replaced.order;
        let first = order.partition_point(|&(at, _)| at <= snapshot);
        order.range(first..).map(|&(_, slot)| slot)
    }

    /// Metadata that the version in `slot` had at `snapshot`, at which it was alive.
    #[must_use]
    pub fn payload_at(&self, slot: Slot, snapshot: Lsn) -> &Payload {
        self.replaced.at(slot, snapshot).unwrap_or_else(|| self.payload(slot))
    }

    /// Stores a version of `id`; a former one dies. Returns the slot, and the former one.
    ///
    /// # Panics
    /// If there is no [`Store::room`]: the caller checks.
    pub fn put(
        &mut self,
        lsn: Lsn,
        id: DocId,
        vector: &[f32],
        payload: Payload,
    ) -> (Slot, Option<Slot>) {
        let former = self.retire(lsn, id);
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(codes) = &mut self.codes {
                    codes.put(slot, vector);
                }
                self.vectors.replace(slot, vector);
                slot
            }
            None => {
                let coded = self.codes.as_ref().map(|codes| codes.append(vector));
                let slot = self.vectors.append(vector);
                assert!(coded.is_none_or(|coded| coded == slot), "a code for each vector");
                self.doc_ids.reserve(slot.index());
                self.lives.reserve(slot.index());
                self.reserve_payload(slot);
                slot
            }
        };
        self.doc_ids.get(slot.index()).store(id.0, Ordering::Release);
        *self.payload_cell_mut(slot) = Some(payload);
        let life = self.lives.get(slot.index());
        life[0].store(lsn.0, Ordering::Release);
        life[1].store(ALIVE, Ordering::Release);
        let Self { ids, doc_ids, lives, .. } = self;
        ids.insert(id, slot, &Lookup(doc_ids, lives));
        self.changed.note_vector(slot, self.vectors.row_bytes());
        self.changed.note_payload(slot);
        (slot, former)
    }

    /// Ends the version of `id` that is alive; returns where it was.
    pub fn delete(&mut self, lsn: Lsn, id: DocId) -> Option<Slot> {
        self.retire(lsn, id)
    }

    /// Gives the live version of `id` other metadata. False if there is none.
    pub fn set_payload(&mut self, lsn: Lsn, id: DocId, payload: Payload) -> bool {
        let Some(slot) = self.find(id) else {
            return false;
        };
        self.changed.note_payload(slot);
        let before = self.payload_cell_mut(slot).replace(payload);
        if !self.snapshots.is_empty() {
            let payload = before.expect("a live version has metadata");
            self.replaced.keep(slot, lsn, payload);
        }
        true
    }

    /// Keeps what is visible at `lsn` until [`Store::close_snapshot`].
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
        self.replaced.forget_before(self.oldest_snapshot());
    }

    /// Drops what neither a running search nor one that begins at `applied` can see any more:
    /// metadata of dead versions, which goes to `dropped`, and their slots, unless `dropped` says
    /// that they are still needed; then [`Store::release`] follows. At most `versions_max`, so
    /// that it fits into a slice. Returns how many it dropped.
    pub fn reclaim(
        &mut self,
        versions_max: usize,
        applied: Lsn,
        mut dropped: impl FnMut(Slot, Option<&Payload>) -> bool,
    ) -> usize {
        // A search at `snapshot` sees a version that died later than it.
        let oldest = self.oldest_snapshot().min(applied);
        let mut reclaimed = 0;
        while reclaimed < versions_max
            && let Some(&(died, slot)) = self.retired.front()
            && died <= oldest
        {
            self.retired.pop_front();
            let payload = self.payload_cell_mut(slot).take();
            if !dropped(slot, payload.as_ref()) {
                self.free.push(slot);
            }
            reclaimed += 1;
        }
        let oldest = self.oldest_snapshot();
        while reclaimed < versions_max
            && let Some(&(left, slot)) = self.left.front()
            && left < oldest
        {
            self.left.pop_front();
            self.free.push(slot);
            reclaimed += 1;
        }
        reclaimed
    }

    /// Nothing leads to these slots of dropped versions since `applied`: they may be used again
    /// once the searches are over that have begun by then, and may stand at one of them.
    pub fn release(&mut self, applied: Lsn, slots: impl IntoIterator<Item = Slot>) {
        self.left.extend(slots.into_iter().map(|slot| (applied, slot)));
    }

    /// Dead versions that wait for [`Store::reclaim`].
    #[must_use]
    pub fn retired_count(&self) -> usize {
        self.retired.len()
    }

    /// The same, and slots that wait for searches to end.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.retired.len() + self.left.len()
    }

    /// The oldest state that a running search sees; the end of time if none runs.
    fn oldest_snapshot(&self) -> Lsn {
        self.snapshots.iter().copied().min().unwrap_or(Lsn(u64::MAX))
    }

    fn retire(&mut self, lsn: Lsn, id: DocId) -> Option<Slot> {
        let Self { ids, doc_ids, lives, retired, .. } = self;
        let slot = ids.remove(id, &Lookup(doc_ids, lives))?;
        lives.get(slot.index())[1].store(lsn.0, Ordering::Release);
        retired.push_back((lsn, slot));
        Some(slot)
    }

    fn payload_cell(&self, slot: Slot) -> &Option<Payload> {
        &self.payloads[slot.index() / PAYLOAD_CHUNK][slot.index() % PAYLOAD_CHUNK]
    }

    fn payload_cell_mut(&mut self, slot: Slot) -> &mut Option<Payload> {
        &mut self.payloads[slot.index() / PAYLOAD_CHUNK][slot.index() % PAYLOAD_CHUNK]
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
    fn slots_are_used_again_only_when_nobody_looks() {
        let mut store = Store::new(1);
        let (slot, _) = store.put(Lsn(1), DocId(1), &[1.0], payload(""));
        store.open_snapshot(Lsn(1));
        assert_eq!(store.delete(Lsn(2), DocId(1)), Some(slot));
        assert_eq!(store.reclaim(9, Lsn(2), |_, _| false), 0);
        assert_ne!(store.put(Lsn(3), DocId(2), &[2.0], payload("")).0, slot);
        store.close_snapshot(Lsn(1));
        assert_eq!(store.reclaim(9, Lsn(1), |_, _| false), 0);
        assert_eq!(store.reclaim(9, Lsn(3), |_, _| false), 1);
        assert_eq!(store.put(Lsn(4), DocId(3), &[3.0], payload("")).0, slot);
        assert_eq!(store.vectors().values(slot), [3.0]);
        assert_eq!((store.live_count(), store.slot_count()), (2, 2));
        // A slot that the graph walks through stays.
        store.delete(Lsn(5), DocId(3));
        assert_eq!(store.reclaim(9, Lsn(5), |_, _| true), 1);
        assert_ne!(store.put(Lsn(6), DocId(4), &[4.0], payload("")).0, slot);
        // Once it has left the graph, it waits for those who may stand there.
        store.open_snapshot(Lsn(6));
        store.release(Lsn(6), [slot]);
        assert_eq!(store.reclaim(9, Lsn(6), |_, _| true), 0);
        assert_ne!(store.put(Lsn(7), DocId(5), &[5.0], payload("")).0, slot);
        store.open_snapshot(Lsn(7));
        store.close_snapshot(Lsn(6));
        assert_eq!(store.reclaim(9, Lsn(7), |_, _| true), 1);
        assert_eq!(store.put(Lsn(8), DocId(6), &[6.0], payload("")).0, slot);
    }
}

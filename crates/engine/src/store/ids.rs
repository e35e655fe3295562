//! Index from document id to slot.
//!
//! It stores the slot alone (the id is read back through the slot). Entries of a snapshot are in one immutable
//! [`Index`], as it was read; documents stored since are in many small tables rather than one large one: a table that
//! doubles moves all its entries at once, and with 256 tables that pause stays under a millisecond at ten million
//! documents.
//!
//! Clients choose ids. So the tables hash them with a [secret](crate::secret); and the index, whose hash is known to
//! all who know the format, is given up when ids crowd in it: then all of them are in the tables.

use hashbrown::HashTable;

use super::secret;
use super::slices::slots_at_once;
use crate::types::{DocId, Slot, mix};

const TABLES: usize = 256;

/// Most places that are probed for an id in an index. Of ids that are not constructed, the farthest is some 230
/// places from its own, among 16 million.
pub(super) const PROBES_MAX: usize = 512;

/// Most places that the ids of a piece of a snapshot may probe, per id on average: some 3 would be usual.
pub(super) const PROBES_MAX_EACH: u64 = 64;

/// Finds the slot of a live document.
pub(super) struct Ids {
    /// The entries of a snapshot. Dead documents stay in it: a lookup has to check the slot as well.
    index: Index,
    tables: Box<[HashTable<u32>]>,
    count: usize,
    key: [u64; 2],
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(Index::default(), 0)
    }
}

/// The documents in slots, by which the index checks an entry.
pub(super) trait Slots {
    /// The id of the document that a slot holds or held.
    fn id(&self, slot: Slot) -> DocId;
    /// True if the version in the slot is alive.
    fn is_live(&self, slot: Slot) -> bool;
}

impl Ids {
    /// Ids of which `index` has `count` live documents, with empty tables.
    #[must_use]
    pub(super) fn new(index: Index, count: usize) -> Self {
        let tables = (0..TABLES).map(|_| HashTable::new()).collect();
        Self { index, tables, count, key: secret::key() }
    }

    /// Number of live documents.
    #[must_use]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of memory of the index and the tables.
    pub(super) fn bytes(&self) -> usize {
        let tables = self.tables.iter().map(HashTable::allocation_size);
        size_of_val(self.index.entries()) + tables.sum::<usize>()
    }

    /// The slot of `id`, if it is alive.
    pub(super) fn get(&self, id: DocId, slots: &impl Slots) -> Option<Slot> {
        let hash = hash(self.key, id);
        let since = self.tables[table(hash)].find(hash, |&slot| slots.id(Slot(slot)) == id);
        since.map(|&slot| Slot(slot)).or_else(|| self.index.get(id, slots))
    }

    /// Points `id` at `slot`. The slot must already hold the id.
    ///
    /// # Panics
    /// If the id is present: the caller removes the former slot first.
    pub(super) fn insert(&mut self, id: DocId, slot: Slot, slots: &impl Slots) {
        let is_new = self.try_insert(id, slot, slots);
        assert!(is_new, "document {} is present", id.0);
    }

    /// Points `id` at `slot`, as [`Ids::insert`] does; false if the id is present in the tables.
    pub(super) fn try_insert(&mut self, id: DocId, slot: Slot, slots: &impl Slots) -> bool {
        let (key, hash) = (self.key, hash(self.key, id));
        let table = &mut self.tables[table(hash)];
        if table.find(hash, |&s| slots.id(Slot(s)) == id).is_some() {
            return false;
        }
        table.insert_unique(hash, slot.0, |&s| self::hash(key, slots.id(Slot(s))));
        self.count += 1;
        true
    }

    /// Forgets `id`, and returns its slot. The caller ends the version there.
    pub(super) fn remove(&mut self, id: DocId, slots: &impl Slots) -> Option<Slot> {
        let hash = hash(self.key, id);
        let entry = self.tables[table(hash)].find_entry(hash, |&s| slots.id(Slot(s)) == id);
        let slot = match entry {
            Ok(entry) => Slot(entry.remove().0),
            Err(_) => self.index.get(id, slots)?,
        };
        self.count -= 1;
        Some(slot)
    }
}

/// Hash of an id in the tables, which can't be computed without the key.
#[inline]
fn hash([first, second]: [u64; 2], id: DocId) -> u64 {
    mix(mix(id.0 ^ first) ^ second)
}

/// The table of a hash, by bits that the table's own buckets (bottom, and the top seven) do not use.
fn table(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

/// A table by open addressing: slot + 1 at, or after, the place that the id's hash gives; 0 is empty, and at least a
/// third of the entries are.
///
/// An index has no entries at all if ids crowd so densely that one would be far from its place.
#[derive(Default)]
pub struct Index {
    entries: Vec<u32>,
    /// Largest distance of an id from its place.
    farthest: usize,
    /// Places probed so far to insert ids.
    probes: u64,
    is_given_up: bool,
}

impl Index {
    /// An empty index with room for `count` documents.
    #[must_use]
    pub fn with_room(count: usize) -> Self {
        let entries = vec![0; (count + count / 2 + 1).next_power_of_two()];
        Self { entries, ..Self::default() }
    }

    /// The index of which [`Index::entries`] gave the entries; given up if there are none.
    ///
    /// # Errors
    /// If it is no index of at most `count` documents in `slots` slots.
    pub fn restore(entries: Vec<u32>, count: usize, slots: u32) -> Result<Self, String> {
        if entries.is_empty() {
            return Ok(Self { is_given_up: true, ..Self::default() });
        }
        let look = |(used, last): (usize, u32), &entry: &u32| {
            (used + usize::from(entry != 0), last.max(entry))
        };
        let (used, last) = entries.iter().fold((0, 0), look);
        let is_whole = entries.len().is_power_of_two() && used < entries.len() && used == count;
        if !is_whole || last > slots {
            return Err(format!("an index of {used} documents for {count}"));
        }
        // An upper bound, until `settle` has found the value.
        let farthest = entries.len();
        Ok(Self { entries, farthest, ..Self::default() })
    }

    /// All entries, in their order.
    #[must_use]
    pub fn entries(&self) -> &[u32] {
        &self.entries
    }

    /// True if ids crowd in it, and it has no entries any more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// Places probed so far to insert ids.
    pub(super) fn probes(&self) -> u64 {
        self.probes
    }

    /// Gives the index up: removes all entries, and ignores later ones.
    pub(super) fn give_up(&mut self) {
        *self = Self { is_given_up: true, ..Self::default() };
    }

    /// Adds a document that is not in it, unless the index is given up.
    pub fn insert(&mut self, id: DocId, slot: Slot) {
        if self.is_given_up {
            return;
        }
        let mask = self.entries.len() - 1;
        let first = mix(id.0) as usize;
        for distance in 0..PROBES_MAX {
            let place = (first + distance) & mask;
            if self.entries[place] == 0 {
                self.entries[place] = slot.0 + 1;
                self.farthest = self.farthest.max(distance);
                self.probes += distance as u64 + 1;
                return;
            }
        }
        self.give_up();
    }

    /// Renames each slot, in slices, after which `id` gives the document of a slot; and finds the distance of the
    /// farthest id from its place. If that is too far, an earlier version of this program has written the index: it
    /// is given up.
    pub(super) async fn settle(
        &mut self,
        name: impl Fn(Slot) -> Slot,
        id: impl Fn(Slot) -> DocId,
        rest: &impl AsyncFn(),
    ) {
        let mask = self.entries.len().wrapping_sub(1);
        self.farthest = 0;
        let mut first = 0_usize;
        for some in self.entries.chunks_mut(slots_at_once() as usize) {
            for (place, entry) in (first..).zip(some.iter_mut()) {
                let Some(slot) = entry.checked_sub(1) else { continue };
                let slot = name(Slot(slot));
                *entry = slot.0 + 1;
                let distance = place.wrapping_sub(mix(id(slot).0) as usize) & mask;
                self.farthest = self.farthest.max(distance);
            }
            first += some.len();
            rest().await;
        }
        if self.farthest >= PROBES_MAX {
            self.give_up();
        }
    }

    fn get(&self, id: DocId, slots: &impl Slots) -> Option<Slot> {
        let mask = self.entries.len().checked_sub(1)?;
        let first = mix(id.0) as usize;
        for distance in 0..=self.farthest.min(mask) {
            let slot = Slot(self.entries[(first + distance) & mask].checked_sub(1)?);
            if slots.id(slot) == id && slots.is_live(slot) {
                return Some(slot);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::slices::at_once;

    struct Held(Vec<(DocId, bool)>);

    impl Slots for Held {
        fn id(&self, slot: Slot) -> DocId {
            self.0[slot.index()].0
        }

        fn is_live(&self, slot: Slot) -> bool {
            self.0[slot.index()].1
        }
    }

    #[test]
    fn lookup_finds_inserted_ids_and_no_others() {
        let mut held = Held((0..20_000_u64).map(|i| (DocId(mix(i)), true)).collect());
        let of = |held: &Held, slot: usize| held.0[slot].0;
        // The first half comes from a snapshot.
        let mut index = Index::with_room(10_000);
        for slot in 0..10_000 {
            index.insert(of(&held, slot), Slot(slot as u32));
        }
        let mut index = Index::restore(index.entries().to_vec(), 10_000, 10_000).unwrap();
        at_once(index.settle(|slot| slot, |slot| of(&held, slot.index()), &async || ()));
        assert!(!index.is_given_up() && index.farthest < 100);
        let mut ids = Ids::new(index, 10_000);
        for slot in 10_000..held.0.len() {
            ids.insert(of(&held, slot), Slot(slot as u32), &held);
        }
        assert_eq!(ids.count(), held.0.len());
        for slot in 0..held.0.len() {
            assert_eq!(ids.get(of(&held, slot), &held), Some(Slot(slot as u32)));
        }
        assert_eq!(ids.get(DocId(5), &held), None);
        for slot in [7, 13_000] {
            let id = of(&held, slot);
            assert_eq!(ids.remove(id, &held), Some(Slot(slot as u32)));
            held.0[slot].1 = false;
            assert_eq!((ids.get(id, &held), ids.remove(id, &held)), (None, None));
            // Stored again, in another slot.
            held.0.push((id, true));
            let again = Slot(held.0.len() as u32 - 1);
            ids.insert(id, again, &held);
            assert_eq!(ids.get(id, &held), Some(again));
        }
        assert_eq!(ids.count(), 20_000);
    }

    /// The id that [`mix`] takes to `hash`.
    fn unmix(hash: u64) -> u64 {
        let inverse = |odd: u64| {
            (0..6).fold(odd, |found, _| {
                found.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(found)))
            })
        };
        let unshift = |value: u64, bits: u32| value ^ value >> bits ^ value >> (2 * bits);
        let z = unshift(hash, 31).wrapping_mul(inverse(0x94d0_49bb_1331_11eb));
        let z = unshift(z, 27).wrapping_mul(inverse(0xbf58_476d_1ce4_e5b9));
        unshift(z, 30).wrapping_sub(0x9e37_79b9_7f4a_7c15)
    }

    /// Counts the slots that are read.
    struct Counted<'a>(&'a [DocId], std::cell::Cell<u64>);

    impl Slots for Counted<'_> {
        fn id(&self, slot: Slot) -> DocId {
            self.1.set(self.1.get() + 1);
            self.0[slot.index()]
        }

        fn is_live(&self, _: Slot) -> bool {
            true
        }
    }

    /// Ids that all have one place by the public hash, and one table.
    fn crowd(count: u64) -> Vec<DocId> {
        let hash = |i: u64| (i & 0xffff) << 48 | 0x5a << 40 | (i >> 16) << 24 | 0x12_3456;
        let ids: Vec<DocId> = (0..count).map(|i| DocId(unmix(hash(i)))).collect();
        assert!(ids.iter().all(|id| mix(id.0) & 0xff_ffff == 0x12_3456));
        ids
    }

    #[test]
    fn ids_made_up_to_crowd_cost_no_more_than_others() {
        const COUNT: u64 = 200_000;
        let per_id = |ids: &[DocId]| {
            let counted = Counted(ids, std::cell::Cell::new(0));
            let mut table = Ids::default();
            for (slot, &id) in (0..).zip(ids) {
                table.insert(id, Slot(slot), &counted);
            }
            for (slot, &id) in (0..).zip(ids) {
                assert_eq!(table.get(id, &counted), Some(Slot(slot)));
            }
            counted.1.get() / ids.len() as u64
        };
        let usual: Vec<DocId> = (1..=COUNT).map(DocId).collect();
        let (usual, crowded) = (per_id(&usual), per_id(&crowd(COUNT)));
        assert!(crowded <= usual + 1 && usual < 10, "{crowded} slots an id, usually {usual}");
    }

    #[test]
    fn an_index_in_which_ids_crowd_is_given_up_early() {
        let ids = crowd(200_000);
        let mut index = Index::with_room(ids.len());
        for (slot, &id) in (0..).zip(&ids) {
            let before = index.probes();
            index.insert(id, Slot(slot));
            assert!(index.is_given_up() || index.probes() - before <= PROBES_MAX as u64);
        }
        assert!(index.is_given_up() && index.entries().is_empty());
        // An index of an earlier version, in which ids are as far from their places as they came.
        let mut entries = vec![0; 1 << 14];
        let mask = entries.len() - 1;
        for slot in 0..2_000 {
            entries[(mix(ids[slot].0) as usize + slot) & mask] = slot as u32 + 1;
        }
        let mut index = Index::restore(entries, 2_000, 2_000).unwrap();
        at_once(index.settle(|slot| slot, |slot| ids[slot.index()], &async || ()));
        assert!(index.is_given_up());
        let again = Index::restore(index.entries().to_vec(), 2_000, 2_000).unwrap();
        assert!(again.is_given_up());
    }

    /// Neighbouring ids, each in its own place: a lookup of another id does not probe all of them.
    #[test]
    fn a_lookup_does_not_probe_a_long_run_of_ids() {
        let ids: Vec<DocId> = (0..100_000).map(|hash| DocId(unmix(hash << 32 | hash))).collect();
        let mut index = Index::with_room(ids.len());
        (0..).zip(&ids).for_each(|(slot, &id)| index.insert(id, Slot(slot)));
        let counted = Counted(&ids, std::cell::Cell::new(0));
        assert_eq!(index.get(ids[70_000], &counted), Some(Slot(70_000)));
        for hash in 0..1_000 {
            assert_eq!(index.get(DocId(unmix(1 << 63 | hash)), &counted), None);
        }
        let looked = counted.1.get();
        assert!(looked <= 1_001 * PROBES_MAX as u64, "{looked} slots for 1,001 ids");
    }

    #[test]
    fn malformed_index_entries_are_refused() {
        assert!(Index::restore(vec![0; 4], 0, 9).is_ok());
        assert!(Index::restore(vec![1, 0, 0], 1, 9).is_err(), "not a power of two");
        assert!(Index::restore(vec![1, 2], 2, 9).is_err(), "a search would not end");
        assert!(Index::restore(vec![1, 0], 2, 9).is_err());
        assert!(Index::restore(vec![10, 0], 1, 9).is_err());
    }
}

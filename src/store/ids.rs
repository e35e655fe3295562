//! Document id → slot.
//!
//! Stores the slot alone (the id is read back through it). What a snapshot knew is in one
//! immutable [`Index`], as it was read; what has been stored since is in many small tables rather
//! than one large one: a table that doubles moves all it holds at once, and with 256 of them that
//! pause stays under a millisecond at ten million documents.

use hashbrown::HashTable;

use crate::types::{DocId, Slot, mix};

const TABLES: usize = 256;

/// Finds the slot of a document that is alive.
pub(super) struct Ids {
    /// Dead documents stay in it: whoever looks has to look at the slot as well.
    index: Index,
    tables: Box<[HashTable<u32>]>,
    count: usize,
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(Index::default(), 0)
    }
}

/// What the slots say that an id leads to.
pub(super) trait Slots {
    /// The id that a slot holds or held.
    fn id(&self, slot: Slot) -> DocId;
    /// True if what it holds is alive.
    fn is_live(&self, slot: Slot) -> bool;
}

impl Ids {
    /// `count` documents are alive and in `index`.
    #[must_use]
    pub(super) fn new(index: Index, count: usize) -> Self {
        Self { index, tables: (0..TABLES).map(|_| HashTable::new()).collect(), count }
    }

    /// Documents in the index.
    #[must_use]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let tables = self.tables.iter().map(HashTable::allocation_size);
        size_of_val(self.index.entries()) + tables.sum::<usize>()
    }

    /// The slot of `id`.
    pub(super) fn get(&self, id: DocId, slots: &impl Slots) -> Option<Slot> {
        let hash = mix(id.0);
        let since = self.tables[table(hash)].find(hash, |&slot| slots.id(Slot(slot)) == id);
        since.map(|&slot| Slot(slot)).or_else(|| self.index.get(id, slots))
    }

    /// Points `id` at `slot`. The slot must already hold the id.
    ///
    /// # Panics
    /// If the id is present: the caller removes the former slot first.
    pub(super) fn insert(&mut self, id: DocId, slot: Slot, slots: &impl Slots) {
        let hash = mix(id.0);
        let present = self.tables[table(hash)].find(hash, |&s| slots.id(Slot(s)) == id);
        assert!(present.is_none(), "document {} is present", id.0);
        self.tables[table(hash)].insert_unique(hash, slot.0, |&s| mix(slots.id(Slot(s)).0));
        self.count += 1;
    }

    /// Forgets `id`, and returns where it was. The caller ends the version there.
    pub(super) fn remove(&mut self, id: DocId, slots: &impl Slots) -> Option<Slot> {
        let hash = mix(id.0);
        let entry = self.tables[table(hash)].find_entry(hash, |&s| slots.id(Slot(s)) == id);
        let slot = match entry {
            Ok(entry) => Slot(entry.remove().0),
            Err(_) => self.index.get(id, slots)?,
        };
        self.count -= 1;
        Some(slot)
    }
}

/// Bits that neither the shard placement (top) nor the table's own buckets (bottom) use much.
fn table(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

/// A table by open addressing: slot + 1 at, or after, the place that the id's hash says; 0 is
/// empty, and at least a third of the entries are.
#[derive(Default)]
pub struct Index(Vec<u32>);

impl Index {
    /// An empty index with room for `count` documents.
    #[must_use]
    pub fn with_room(count: usize) -> Self {
        Self(vec![0; (count + count / 2 + 1).next_power_of_two()])
    }

    /// What [`Index::entries`] gave.
    ///
    /// # Errors
    /// If it is no index of at most `count` documents in `slots` slots.
    pub fn restore(entries: Vec<u32>, count: usize, slots: u32) -> Result<Self, String> {
        let used = entries.iter().filter(|&&entry| entry != 0).count();
        let is_whole = entries.len().is_power_of_two() && used < entries.len() && used == count;
        if !is_whole || entries.iter().any(|&entry| entry > slots) {
            return Err(format!("an index of {used} documents for {count}"));
        }
        Ok(Self(entries))
    }

    /// All entries, in their order.
    #[must_use]
    pub fn entries(&self) -> &[u32] {
        &self.0
    }

    /// Adds a document that is not in it.
    pub fn insert(&mut self, id: DocId, slot: Slot) {
        let mask = self.0.len() - 1;
        let mut place = mix(id.0) as usize & mask;
        while self.0[place] != 0 {
            place = (place + 1) & mask;
        }
        self.0[place] = slot.0 + 1;
    }

    /// Gives each slot another name.
    pub(super) fn rename(&mut self, name: impl Fn(Slot) -> Slot) {
        for entry in &mut self.0 {
            *entry = entry.checked_sub(1).map_or(0, |slot| name(Slot(slot)).0 + 1);
        }
    }

    fn get(&self, id: DocId, slots: &impl Slots) -> Option<Slot> {
        let mask = self.0.len().checked_sub(1)?;
        let mut place = mix(id.0) as usize & mask;
        loop {
            let slot = Slot(self.0[place].checked_sub(1)?);
            if slots.id(slot) == id && slots.is_live(slot) {
                return Some(slot);
            }
            place = (place + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn finds_what_was_put_and_nothing_else() {
        let mut held = Held((0..20_000_u64).map(|i| (DocId(mix(i)), true)).collect());
        let of = |held: &Held, slot: usize| held.0[slot].0;
        // The first half comes from a snapshot.
        let mut index = Index::with_room(10_000);
        for slot in 0..10_000 {
            index.insert(of(&held, slot), Slot(slot as u32));
        }
        let index = Index::restore(index.entries().to_vec(), 10_000, 10_000).unwrap();
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
            // Stored again, elsewhere.
            held.0.push((id, true));
            let again = Slot(held.0.len() as u32 - 1);
            ids.insert(id, again, &held);
            assert_eq!(ids.get(id, &held), Some(again));
        }
        assert_eq!(ids.count(), 20_000);
    }

    #[test]
    fn an_index_that_is_none_is_refused() {
        assert!(Index::restore(vec![0; 4], 0, 9).is_ok());
        assert!(Index::restore(vec![1, 0, 0], 1, 9).is_err(), "not a power of two");
        assert!(Index::restore(vec![1, 2], 2, 9).is_err(), "a search would not end");
        assert!(Index::restore(vec![1, 0], 2, 9).is_err());
        assert!(Index::restore(vec![10, 0], 1, 9).is_err());
    }
}

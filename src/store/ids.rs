//! Document id → slot.
//!
//! Stores the slot alone (the id is read back through it), in many small tables rather than one
//! large one: a table that doubles moves all it holds at once, and with 256 of them that pause
//! stays under a millisecond at ten million documents.

use hashbrown::HashTable;

use crate::types::{DocId, Slot, mix};

const TABLES: usize = 256;

/// Finds the slot of a document that is alive.
pub(super) struct Ids {
    tables: Box<[HashTable<u32>]>,
    count: usize,
}

impl Default for Ids {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| HashTable::new()).collect(), count: 0 }
    }
}

impl Ids {
    /// Documents in the index.
    #[must_use]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The slot of `id`; `id_of` reads the id that a slot holds.
    pub(super) fn get(&self, id: DocId, id_of: impl Fn(Slot) -> DocId) -> Option<Slot> {
        let hash = mix(id.0);
        self.tables[table(hash)].find(hash, |&slot| id_of(Slot(slot)) == id).map(|&s| Slot(s))
    }

    /// Points `id` at `slot`. The slot must already hold the id.
    ///
    /// # Panics
    /// If the id is present: the caller removes the former slot first.
    pub(super) fn insert(&mut self, id: DocId, slot: Slot, id_of: impl Fn(Slot) -> DocId) {
        assert!(self.get(id, &id_of).is_none(), "document {} is present", id.0);
        let hash = mix(id.0);
        self.tables[table(hash)].insert_unique(hash, slot.0, |&s| mix(id_of(Slot(s)).0));
        self.count += 1;
    }

    /// Forgets `id`, and returns where it was.
    pub(super) fn remove(&mut self, id: DocId, id_of: impl Fn(Slot) -> DocId) -> Option<Slot> {
        let hash = mix(id.0);
        let entry = self.tables[table(hash)].find_entry(hash, |&s| id_of(Slot(s)) == id).ok()?;
        self.count -= 1;
        Some(Slot(entry.remove().0))
    }
}

/// Bits that neither the shard placement (top) nor the table's own buckets (bottom) use much.
fn table(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_and_nothing_else() {
        let held: Vec<DocId> = (0..20_000_u64).map(|i| DocId(mix(i))).collect();
        let id_of = |slot: Slot| held[slot.index()];
        let mut ids = Ids::default();
        for (slot, &id) in held.iter().enumerate() {
            ids.insert(id, Slot(slot as u32), id_of);
        }
        assert_eq!(ids.count(), held.len());
        for (slot, &id) in held.iter().enumerate() {
            assert_eq!(ids.get(id, id_of), Some(Slot(slot as u32)));
        }
        assert_eq!(ids.get(DocId(5), id_of), None);
        assert_eq!(ids.remove(held[7], id_of), Some(Slot(7)));
        assert_eq!((ids.get(held[7], id_of), ids.remove(held[7], id_of)), (None, None));
        assert_eq!(ids.count(), held.len() - 1);
    }
}

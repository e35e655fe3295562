//! Operations that a repair may do to a shard but recovery must not: leaving out lost records, inserting documents
//! that were found elsewhere, giving away all documents.

use super::Engine;
use crate::types::payload::Payload;
use crate::types::record::Record;
use crate::types::{DocId, Lsn, Slot};

/// A document and its data, from any source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Version<'a> {
    /// Id of the document.
    pub id: DocId,
    /// LSN of the write that made this version.
    pub born: Lsn,
    /// Its vector, of the shard's dimension.
    pub vector: &'a [f32],
    /// Its metadata.
    pub payload: &'a Payload,
}

impl Engine {
    /// Applies one record to its end.
    pub fn apply_all(&mut self, lsn: Lsn, record: Record) {
        let mut done = self.apply(lsn, record);
        while !done {
            done = self.apply_more();
        }
        self.drop_dead();
    }

    /// Continues as if all records before `next` had been applied. A batch that is not complete is forgotten, as at
    /// the end of a log.
    ///
    /// # Panics
    /// If `next` is in the past.
    pub fn skip_to(&mut self, next: Lsn) {
        assert!(next >= self.applied.next());
        if next > self.applied.next() {
            self.batch.clear();
            self.set_applied(Lsn(next.0 - 1));
        }
    }

    /// All documents, by slot.
    pub fn versions(&self) -> impl Iterator<Item = Version<'_>> {
        let store = &self.store;
        store.slots().filter(|&slot| store.is_live(slot)).map(|slot| Version {
            id: store.doc_id(slot),
            born: store.born(slot),
            vector: store.vectors().values(slot),
            payload: store.payload(slot),
        })
    }

    /// The document `id`.
    #[must_use]
    pub fn version(&self, id: DocId) -> Option<Version<'_>> {
        let (store, slot) = (&self.store, self.store.find(id)?);
        let (born, vector) = (store.born(slot), store.vectors().values(slot));
        Some(Version { id, born, vector, payload: store.payload(slot) })
    }

    /// Documents that no search can find: neither linked nor scanned.
    pub fn unfound(&self) -> impl Iterator<Item = DocId> {
        let is_found =
            |&slot: &Slot| self.graph.level(slot).is_some() || self.store.chains().holds(slot);
        let live = self.store.slots().filter(|&slot| self.store.is_live(slot));
        live.filter(move |slot| !is_found(slot)).map(|slot| self.store.doc_id(slot))
    }

    /// Inserts a document in place of any other version of its id. It must have been born before the next record.
    ///
    /// # Panics
    /// If it was not, or there is no room for it.
    pub fn adopt(&mut self, version: Version<'_>) {
        let Version { id, born, vector, payload } = version;
        assert!(born <= self.applied && self.store.room() > 0);
        let (slot, former) = self.fill(born, id, vector, payload.clone());
        self.hot.push(&self.store, slot);
        self.count_dead(former);
        self.drop_dead();
    }

    /// Removes a document. False if there is none.
    pub fn evict(&mut self, id: DocId) -> bool {
        let former = self.store.delete(self.applied, id);
        self.count_dead(former);
        self.drop_dead();
        former.is_some()
    }
}

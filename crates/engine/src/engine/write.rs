//! Writes: checked against all that was staged before, turned into records, applied in order.

use super::filter::Filter;
use super::{Engine, VectorStorage};
use crate::error::{Error, Result};
use crate::types::payload::{Payload, PayloadError, TENANT_INDEX_KEY};
use crate::types::realm::Realm;
use crate::types::record::Record;
use crate::types::{DocId, Lsn, Slot};

/// Documents of a batch delete that are deleted in one slice.
const APPLY_IDS: usize = 128;

/// Reason for the refusal of a put whose id belongs to a document that is not of the same tenant.
const OF_ANOTHER_TENANT: &str = "the document with this id was stored while auth.enabled was other \
     than now, and is of no tenant, or of one; it is not replaced. Take another id, or have it moved: \
     kyrodb_ctl dump with auth.enabled as it was, then delete it there, and kyrodb_ctl load as it is now";

/// A change that a client asks for. Validated: ids are not 0, vectors are finite, of the collection's dimension and
/// in the form in which they are stored.
#[derive(Clone, Debug)]
pub enum Write {
    /// Store a document, replacing a former version.
    Put {
        /// Id of the document.
        id: DocId,
        /// Its vector.
        vector: Box<[f32]>,
        /// Its metadata, with the pairs of its realm.
        payload: Payload,
        /// Most documents of its tenant; any number if `None`.
        tenant_documents_max: Option<u64>,
    },
    /// Delete a document if it is in the realm.
    Delete {
        /// Id of the document.
        id: DocId,
        /// Only in this realm.
        realm: Realm,
    },
    /// Change the metadata of a document if it is in the realm.
    Update {
        /// Id of the document.
        id: DocId,
        /// Only in this realm.
        realm: Realm,
        /// The metadata to set.
        payload: Payload,
        /// True if the metadata is merged into the present, rather than put in its place.
        merge: bool,
    },
}

/// Result of a write, once it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Documents that existed in scope: replaced, updated or deleted.
    pub existed: u64,
}

/// A write that passed every check.
#[derive(Debug)]
pub struct Staged {
    /// Records to log, and then to apply; empty if the write changes nothing.
    pub records: Vec<Record>,
    /// Answer to the client once the records are durable.
    pub outcome: Outcome,
}

impl Staged {
    /// A write that found nothing to change.
    #[must_use]
    pub fn nothing() -> Self {
        Self { records: Vec::new(), outcome: Outcome { existed: 0 } }
    }
}

/// State of a document after its staged writes.
pub(super) struct StagedDocument {
    /// Number of its staged writes that have not been applied.
    writes: usize,
    /// Its metadata afterwards; `None` if it will not exist.
    payload: Option<Payload>,
}

impl Engine {
    /// Checks a write against the state of the shard after everything staged before is applied, and stages it.
    ///
    /// # Errors
    /// If it must be refused; then it has changed nothing.
    pub fn stage(&mut self, write: Write) -> Result<Staged> {
        match write {
            Write::Put { id, vector, payload, tenant_documents_max } => {
                self.stage_put(id, vector, payload, tenant_documents_max)
            }
            Write::Delete { id, realm } => {
                let existed = self.planned(id, &realm).is_some();
                let records = existed.then(|| {
                    self.plan(id, None);
                    Record::Delete { id }
                });
                let outcome = Outcome { existed: u64::from(existed) };
                Ok(Staged { records: records.into_iter().collect(), outcome })
            }
            Write::Update { id, realm, payload, merge } => {
                let Some(before) = self.planned(id, &realm) else {
                    return Ok(Staged::nothing());
                };
                let after =
                    if merge { before.merged(&payload) } else { Ok(before.replaced(&payload)) };
                let payload = after.map_err(|why: PayloadError| {
                    Error::invalid("metadata", format!("{why} (after the merge)"))
                })?;
                let (now, then) = (before.bytes().len(), payload.bytes().len());
                let memory = self.check_memory(false, then.saturating_sub(now))?;
                self.take_memory(memory);
                self.stage_payload(then);
                self.plan(id, Some(payload.clone()));
                let records = vec![Record::SetPayload { id, payload }];
                Ok(Staged { records, outcome: Outcome { existed: 1 } })
            }
        }
    }

    /// The gateway checks lengths, but does not know the dimension until the first document has set it.
    pub(super) fn check_dimension(&self, field: &'static str, length: usize) -> Result<()> {
        if length == self.params.dimension {
            return Ok(());
        }
        let why = format!("{length} values; this collection has {}", self.params.dimension);
        Err(Error::invalid(field, why))
    }

    fn stage_put(
        &mut self,
        id: DocId,
        vector: Box<[f32]>,
        payload: Payload,
        tenant_documents_max: Option<u64>,
    ) -> Result<Staged> {
        self.check_dimension("embedding", vector.len())?;
        let former = self.planned(id, &Realm::default());
        let existed = former.is_some();
        let is_other =
            |former: &Payload| former.get(TENANT_INDEX_KEY) != payload.get(TENANT_INDEX_KEY);
        if former.as_ref().is_some_and(is_other) {
            return Err(Error::Denied(OF_ANOTHER_TENANT));
        }
        if self.unlinked_count() >= self.params.hot_documents_max {
            return Err(Error::busy(format!(
                "{} documents wait to be linked into the graph",
                self.params.hot_documents_max
            )));
        }
        if let VectorStorage::Disk { unsaved_bytes_max } = self.params.vectors
            && self.row_bytes_with_staged() >= unsaved_bytes_max
        {
            let mib = unsaved_bytes_max >> 20;
            return Err(Error::busy(format!(
                "{mib} MiB of vectors wait for a snapshot; where none succeeds, the log of the server \
                 says why: a document whose vector is lost has to be deleted first"
            )));
        }
        if self.store.room() <= self.staged_puts {
            return Err(Error::busy("the shard has no slot left; use more shards"));
        }
        let memory = self.check_memory(true, payload.bytes().len())?;
        let max = tenant_documents_max.unwrap_or(u64::MAX);
        if !existed && !self.ledger.take(id, max) {
            return Err(Error::Quota(format!(
                "the tenant has the {max} documents that its quota allows (max_vectors): delete some, \
                 or have the quota raised"
            )));
        }
        if !existed && !self.params.capacity.take() {
            self.ledger.give_back(id);
            return Err(Error::busy(format!(
                "the index is full: hnsw.max_elements allows {} documents",
                self.params.capacity.max()
            )));
        }
        self.take_memory(memory);
        self.live_after_staged += usize::from(!existed);
        self.plan(id, Some(payload.clone()));
        self.staged_puts += 1;
        self.stage_payload(payload.bytes().len());
        Ok(Staged {
            records: vec![Record::Put { id, vector, payload }],
            outcome: Outcome { existed: u64::from(existed) },
        })
    }

    /// Stages the deletion of those of `ids` that exist and pass, a part of a batch delete; returns them.
    /// [`delete_batch`](crate::types::record::delete_batch) makes the records of all parts. Nothing else may be
    /// staged between the parts of a batch.
    pub fn stage_deletes(&mut self, ids: &[DocId], filter: &Filter) -> Vec<DocId> {
        let exists = |engine: &Self, id| {
            let planned = engine.planned(id, &Realm::default());
            planned.is_some_and(|payload| filter.matches(&payload))
        };
        let mut planned = Vec::with_capacity(ids.len());
        for &id in ids {
            // A document named twice is planned as gone by the first mention.
            if exists(self, id) {
                self.plan(id, None);
                planned.push(id);
            }
        }
        planned
    }

    /// True if writes are staged that have not been applied: the answer to a write that changes nothing may depend on
    /// them, and has to wait until they are durable.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Documents written since the start that wait to be linked, or will once they are durable. Documents read from
    /// the log are not counted: they are not refused for their number, and do not keep new documents out.
    #[must_use]
    pub fn unlinked_count(&self) -> usize {
        self.debt() + self.staged_puts
    }

    /// Documents written since the start that wait to be linked.
    #[must_use]
    pub fn debt(&self) -> usize {
        self.hot.len() - self.hot.backlog()
    }

    /// The metadata that `id` will have after everything staged, if the document is in the realm then.
    fn planned(&self, id: DocId, realm: &Realm) -> Option<Payload> {
        let payload = match self.staged.get(&id) {
            Some(staged) => staged.payload.clone()?,
            None => self.store.payload(self.store.find(id)?).clone(),
        };
        realm.admits(&payload).then_some(payload)
    }

    /// Notes the state of `id` after a staged write. The document exists and is changed, or is new and its put has
    /// taken a place in the capacity already.
    fn plan(&mut self, id: DocId, payload: Option<Payload>) {
        if payload.is_none() {
            self.set_live_after_staged(self.live_after_staged - 1);
            self.ledger.give_back(id);
        }
        let staged = self.staged.entry(id).or_insert(StagedDocument { writes: 0, payload: None });
        staged.writes += 1;
        staged.payload = payload;
    }

    fn unplan(&mut self, id: DocId) {
        // Nothing is staged while a log is replayed.
        if let Some(staged) = self.staged.get_mut(&id) {
            staged.writes -= 1;
            if staged.writes == 0 {
                self.staged.remove(&id);
            }
        }
    }

    /// Forgets everything staged, because it could not be made durable.
    pub fn abandon_staged(&mut self) {
        self.staged.clear();
        self.staged_puts = 0;
        self.staged_payload_bytes = 0;
        self.set_live_after_staged(self.store.live_count());
        self.ledger.abandon_staged();
        self.batch.clear();
    }

    pub(super) fn set_live_after_staged(&mut self, count: usize) {
        self.params.capacity.shift(self.live_after_staged, count);
        self.live_after_staged = count;
    }

    /// Applies the next record of the log, which is durable. True when it is applied in full; else
    /// [`Engine::apply_more`] has to be called until it is.
    ///
    /// # Panics
    /// If `lsn` is not the next one.
    pub fn apply(&mut self, lsn: Lsn, record: Record) -> bool {
        assert_eq!(lsn, self.applied.next(), "records are applied in the order of the log");
        if !matches!(record, Record::DeleteBatch { part: 1.., .. }) {
            self.batch.clear();
        }
        match record {
            Record::Put { id, vector, payload } => {
                let payload_bytes = payload.bytes().len();
                self.touch(id);
                self.listings.touch(id);
                self.changing.touch(&payload);
                let (slot, former) = self.fill(lsn, id, &vector, payload);
                self.note_payload(payload_bytes);
                self.hot.push(&self.store, slot);
                if former.is_none() {
                    self.ledger.note_new(id);
                }
                self.count_dead(former);
                self.staged_puts = self.staged_puts.saturating_sub(1);
                self.unplan(id);
            }
            Record::Delete { id } => {
                self.end(lsn, id);
            }
            Record::SetPayload { id, payload } => {
                let payload_bytes = payload.bytes().len();
                self.touch(id);
                self.listings.touch(id);
                if let Some(slot) = self.store.find(id) {
                    self.index.replace(slot, self.store.payload(slot), &payload);
                    self.store.set_payload(lsn, id, payload);
                }
                self.note_payload(payload_bytes);
                self.unplan(id);
            }
            Record::DeleteBatch { ids, more, part: _ } => {
                self.batch.push_back(ids.into_iter());
                if !more {
                    self.draining = (lsn, std::mem::take(&mut self.batch));
                    return self.apply_more();
                }
            }
        }
        self.finish_apply(lsn);
        true
    }

    /// Puts a version into the store and the index. Returns its slot, and that of the former version.
    ///
    /// The index holds pairs of the metadata in a slot and no others: metadata that the slot still has is removed
    /// from both before.
    pub(super) fn fill(
        &mut self,
        lsn: Lsn,
        id: DocId,
        vector: &[f32],
        payload: Payload,
    ) -> (Slot, Option<Slot>) {
        let next = self.store.next_slot();
        // Other owners look up the node of every slot there is.
        self.graph.reserve(next);
        if let Some(stale) = self.store.take_stale(next) {
            self.stale_postings += stale.pairs().count() as u64;
            self.index.remove(next, &stale);
        }
        let (slot, former) = self.store.put(lsn, id, vector, payload);
        debug_assert_eq!(slot, next);
        self.index.insert(slot, self.store.payload(slot));
        (slot, former)
    }

    /// Continues a batch delete for one slice. True when it is applied in full. Until then searches see the shard as
    /// it was before the batch.
    pub fn apply_more(&mut self) -> bool {
        let lsn = self.draining.0;
        for _ in 0..APPLY_IDS {
            let Some(ids) = self.draining.1.front_mut() else {
                self.finish_apply(lsn);
                return true;
            };
            match ids.next() {
                Some(id) => self.end(lsn, id),
                None => drop(self.draining.1.pop_front()),
            }
        }
        false
    }

    /// Ends a document.
    fn end(&mut self, lsn: Lsn, id: DocId) {
        self.touch(id);
        let former = self.store.delete(lsn, id);
        if former.is_some() {
            self.ledger.note_gone(id);
        }
        self.count_dead(former);
        self.unplan(id);
    }

    /// Announces that a document, if it exists, is about to be replaced, changed or deleted: moves the write versions
    /// of its realms before the change can be seen.
    fn touch(&mut self, id: DocId) {
        if let Some(slot) = self.store.find(id) {
            self.changing.touch(self.store.payload(slot));
        }
    }

    /// Publishes that all records up to `lsn` are applied.
    pub(super) fn set_applied(&mut self, lsn: Lsn) {
        self.applied = lsn;
        self.store.set_applied(lsn);
    }

    fn finish_apply(&mut self, lsn: Lsn) {
        self.set_applied(lsn);
        // All changes are visible, and no client has heard of them yet.
        self.changing.settle();
        if self.staged.is_empty() {
            self.set_live_after_staged(self.store.live_count());
        }
    }

    pub(super) fn count_dead(&mut self, former: Option<Slot>) {
        let Some(slot) = former else { return };
        if self.graph.level(slot).is_some() {
            self.add_dead(1);
        }
        if self.store.chains().holds(slot) {
            self.hot.note_dead();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Pair;
    use crate::types::realm::TenantMark;

    /// The directory was written without keys, and keys are asked for now; or the other way round.
    #[test]
    fn a_document_of_another_tenant_is_not_replaced() {
        let mut pair = Pair::new(77);
        let vector = pair.random.vector();
        let realm = |index: Option<&str>| {
            let mark = |index: &str| TenantMark { id: format!("t{index}"), index: index.into() };
            Realm {
                tenant: index.map(|index| std::sync::Arc::new(mark(index))),
                ..Realm::default()
            }
        };
        let realms = [realm(None), realm(Some("0")), realm(Some("1"))];
        for (id, before) in (1..).zip(&realms) {
            for after in &realms {
                let put = |realm| Write::Put {
                    id: DocId(id),
                    vector: vector.clone(),
                    payload: Payload::within([("k", "v")], realm).unwrap(),
                    tenant_documents_max: None,
                };
                pair.write(put(before));
                match pair.engine.stage(put(after)) {
                    Ok(staged) => {
                        assert_eq!(before, after);
                        pair.apply(staged.records);
                    }
                    Err(error) => {
                        assert_ne!(before, after);
                        assert!(matches!(error, Error::Denied(_)), "{error}");
                    }
                }
                assert!(!pair.engine.has_staged());
                let found = pair.engine.get(DocId(id), before, false);
                assert!(found.is_some(), "{before:?}, then {after:?}");
            }
        }
        assert_eq!(pair.engine.live_count(), realms.len());
    }
}

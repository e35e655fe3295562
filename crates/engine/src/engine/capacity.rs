//! Limits that all shards of a server share: documents, documents per tenant, memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Engine;
use super::accounts::Accounts;
use crate::error::{Error, Result};
use crate::types::headroom::Headroom;

/// Delay before a write refused for lack of memory may be worth another try.
const MEMORY_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// The number of documents that all shards of a server may hold, and that they hold; and the memory limit.
#[derive(Debug)]
pub struct Capacity {
    max: usize,
    used: AtomicUsize,
    pub(super) accounts: Option<Arc<Accounts>>,
    memory: Arc<Headroom>,
}

impl Capacity {
    /// Capacity for `max` documents.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, used: AtomicUsize::new(0), accounts: None, memory: Arc::default() }
    }

    /// Adds counts of each tenant's documents.
    #[must_use]
    pub fn with_accounts(self, accounts: Option<Arc<Accounts>>) -> Self {
        Self { accounts, ..self }
    }

    /// Adds a memory limit.
    #[must_use]
    pub fn with_memory(self, memory: Arc<Headroom>) -> Self {
        Self { memory, ..self }
    }

    /// Most documents of all shards.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Documents counted now.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Counts one more document; false if there is no room.
    pub(super) fn take(&self) -> bool {
        let is_free = |used| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, is_free).is_ok()
    }

    /// Changes the count of one shard from `from` to `to`, whatever the limit.
    pub(super) fn shift(&self, from: usize, to: usize) {
        if to >= from {
            self.used.fetch_add(to - from, Ordering::AcqRel);
        } else {
            self.used.fetch_sub(from - to, Ordering::AcqRel);
        }
    }
}

impl Engine {
    /// The bytes of memory that a write needs beyond the memory already in use: a free slot that held a document
    /// before costs nothing, nor does metadata in place of dropped metadata, whose memory the allocator keeps. To be
    /// taken by [`Engine::take_memory`] once nothing else refuses the write.
    ///
    /// # Errors
    /// If the memory limit is reached.
    pub(super) fn check_memory(&self, needs_slot: bool, more_payload: usize) -> Result<usize> {
        let is_slot_new = needs_slot && self.store.free_count() <= self.staged_puts;
        let slot_bytes = if is_slot_new { self.slot_bytes } else { 0 };
        let payload = self.index.payload_bytes() + self.staged_payload_bytes + more_payload;
        let is_more = payload.saturating_sub(self.payload_peak_bytes).min(more_payload);
        // The index has a copy of about as many bytes.
        let bytes = slot_bytes + 2 * is_more;
        let memory = &self.params.capacity.memory;
        if bytes > 0 && !memory.has_room(bytes) {
            let what = format!(
                "the server uses {} of the {} MiB of memory that it may (memory.max_bytes): \
                 delete documents, or give it more memory",
                memory.used() >> 20,
                memory.max() >> 20
            );
            return Err(Error::Busy { what, retry_after: MEMORY_RETRY });
        }
        Ok(bytes)
    }

    /// Counts the bytes that [`Engine::check_memory`] has returned.
    pub(super) fn take_memory(&self, bytes: usize) {
        // All cores share one counter, so cores with nothing to count leave it alone.
        if bytes > 0 {
            self.params.capacity.memory.admit(bytes);
        }
    }

    /// Counts this many bytes of metadata as staged.
    pub(super) fn stage_payload(&mut self, bytes: usize) {
        self.staged_payload_bytes += bytes;
    }

    /// Counts this many bytes of metadata as stored; they were staged, unless they were read from the log.
    pub(super) fn note_payload(&mut self, bytes: usize) {
        self.staged_payload_bytes = self.staged_payload_bytes.saturating_sub(bytes);
        self.payload_peak_bytes = self.payload_peak_bytes.max(self.index.payload_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{Pair, Random, payload};
    use crate::engine::{LinkProgress, Write};
    use crate::types::DocId;
    use crate::types::payload::Payload;
    use crate::types::realm::Realm;

    const MAX_BYTES: u64 = 1 << 20;

    fn put(id: u64, payload: Payload) -> Write {
        let vector = Random(id).vector();
        Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None }
    }

    #[test]
    fn writes_stop_at_the_memory_limit_and_go_on_in_freed_slots() {
        let headroom = Arc::new(Headroom::default());
        let mut pair = Pair::new(10);
        let capacity = Capacity::new(usize::MAX).with_memory(headroom.clone());
        pair.engine.params.capacity = Arc::new(capacity);
        headroom.set_max(MAX_BYTES);
        headroom.measure(MAX_BYTES / 2);
        let mut stored = 0;
        let refusal = loop {
            match pair.engine.stage(put(stored + 1, payload(1, "a"))) {
                Ok(staged) => pair.apply(staged.records),
                Err(error) => break error,
            }
            stored += 1;
            assert!(stored < 10_000, "there is no bound");
        };
        assert!(matches!(&refusal, Error::Busy { what, .. } if what.contains("memory.max_bytes")));
        let each = (MAX_BYTES / 2) as usize / stored as usize;
        let counted = pair.engine.memory();
        assert!(each > counted.sum() / stored as usize, "{each} {counted:?}");
        // Memory measured from now on stays in use: the system gets nothing back.
        headroom.measure(MAX_BYTES);
        assert!(pair.engine.stage(put(1, payload(2, "a"))).is_err(), "a version is a slot");
        let update = |text: &str| Write::Update {
            id: DocId(1),
            realm: Realm::default(),
            payload: Payload::new([("colour", text)], "a").unwrap(),
            merge: false,
        };
        assert!(pair.engine.stage(update(&"x".repeat(900))).is_err());
        let smaller = pair.engine.stage(update("")).unwrap();
        pair.apply(smaller.records);
        for id in 1..=stored / 2 {
            let delete = Write::Delete { id: DocId(id), realm: Realm::default() };
            let staged = pair.engine.stage(delete).unwrap();
            pair.apply(staged.records);
        }
        while pair.engine.link_step() == LinkProgress::More {}
        let free = pair.engine.store.free_count() as u64;
        assert!(free > stored / 4, "{free} of {stored}");
        for id in 1..=free {
            let staged = pair.engine.stage(put(id, payload(1, "a"))).unwrap();
            pair.apply(staged.records);
        }
        assert!(pair.engine.stage(put(free + 1, payload(1, "a"))).is_err(), "no slot is free");
        headroom.measure(MAX_BYTES / 2);
        assert!(pair.engine.stage(put(free + 1, payload(1, "a"))).is_ok());
    }

    #[test]
    fn a_write_refused_for_another_reason_takes_no_memory() {
        let headroom = Arc::new(Headroom::default());
        let mut pair = Pair::new(10);
        let capacity = Capacity::new(1).with_memory(headroom.clone());
        pair.engine.params.capacity = Arc::new(capacity);
        assert!(pair.engine.stage(put(1, payload(1, "a"))).is_ok());
        let used = headroom.used();
        assert!(used > 0);
        for _ in 0..100 {
            let refused = pair.engine.stage(put(2, payload(1, "a"))).unwrap_err();
            assert!(refused.to_string().contains("hnsw.max_elements"), "{refused}");
        }
        assert_eq!(headroom.used(), used);
    }
}

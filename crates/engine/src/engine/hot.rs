//! The hot tier: documents that are acknowledged but not yet linked into the graph, in the order of their writes.
//! Every search scans it, so a document is found from its ack on.
//!
//! The documents are a [chain](crate::store::chain) of slots that the other owners of the graph can follow too; this
//! module is the owner's own state of it.

use crate::store::Store;
use crate::types::Slot;

/// With fewer entries, dead ones may stay until they reach the front.
const DEAD_MIN: usize = 64;

/// A queue whose entries keep their positions while others leave, so that a caller can wait for all that are in it.
#[derive(Default)]
pub(super) struct HotTier {
    last: Option<Slot>,
    len: usize,
    /// Entries whose documents are dead.
    dead: usize,
    first: u64,
    /// Position after the entries that were read from the log at the start.
    backlog_end: u64,
}

impl HotTier {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Marks the present entries as read from the log.
    pub(super) fn set_backlog(&mut self) {
        self.backlog_end = self.end();
    }

    /// Entries read from the log that are still in the queue.
    pub(super) fn backlog(&self) -> usize {
        self.backlog_end.saturating_sub(self.first) as usize
    }

    /// Position of the oldest entry.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Position that the next entry will have.
    pub(super) fn end(&self) -> u64 {
        self.first + self.len as u64
    }

    pub(super) fn push(&mut self, store: &Store, slot: Slot) {
        store.chains().push(store.stripe().owner(), self.last, slot);
        self.last = Some(slot);
        self.len += 1;
    }

    /// Notes that the document of an entry has died.
    pub(super) fn note_dead(&mut self) {
        self.dead += 1;
    }

    /// The oldest entry.
    pub(super) fn front(store: &Store) -> Option<Slot> {
        store.chains().first(store.stripe().owner())
    }

    /// Takes the oldest entry out.
    pub(super) fn pop(&mut self, store: &Store) -> Option<Slot> {
        let slot = store.chains().pop(store.stripe().owner())?;
        self.len -= 1;
        self.dead -= usize::from(!store.is_live(slot));
        self.first += 1;
        if self.len == 0 {
            self.last = None;
        }
        Some(slot)
    }

    /// Takes out all dead entries, wherever they are, once they are at least half of all; returns them. Positions
    /// move: no caller may be waiting for one.
    pub(super) fn drop_dead(&mut self, store: &Store) -> Vec<Slot> {
        let is_due = self.dead >= DEAD_MIN.max(self.len / 2);
        let (mut dropped, mut before, owner) = (Vec::new(), None, store.stripe().owner());
        let mut next = if is_due { Self::front(store) } else { None };
        while let Some(slot) = next {
            next = store.chains().after(slot);
            if store.is_live(slot) {
                before = Some(slot);
            } else {
                store.chains().take_out(owner, before, slot);
                dropped.push(slot);
            }
        }
        if is_due {
            self.last = before;
            self.len -= dropped.len();
            self.dead = 0;
            self.first += dropped.len() as u64;
        }
        dropped
    }
}

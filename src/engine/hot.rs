//! The hot tier: documents that are acknowledged but not yet linked into the graph, in the
//! order of their writes. Every search scans it, so a document is found from its ack on.

use std::collections::VecDeque;

use crate::types::{Lsn, Slot};

/// A document waiting to be linked. The LSN tells whether the slot still holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    pub(super) born: Lsn,
}

/// A queue whose entries have a position that stays the same while others leave, so that a scan
/// can go on after a pause.
#[derive(Default)]
pub(super) struct HotTier {
    queue: VecDeque<Entry>,
    first: u64,
    /// Position behind what was read from the log at start.
    backlog_end: u64,
}

impl HotTier {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.queue.capacity() * size_of::<Entry>()
    }

    /// What is in it now was read from the log.
    pub(super) fn set_backlog(&mut self) {
        self.backlog_end = self.end();
    }

    /// Entries read from the log that are still there.
    pub(super) fn backlog(&self) -> usize {
        self.backlog_end.saturating_sub(self.first) as usize
    }

    /// Position of the oldest entry.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Position that the next entry will have.
    pub(super) fn end(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    pub(super) fn push(&mut self, slot: Slot, born: Lsn) {
        self.queue.push_back(Entry { slot, born });
    }

    /// Where its documents are, and when they were written.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Slot, Lsn)> {
        self.queue.iter().map(|entry| (entry.slot, entry.born))
    }

    pub(super) fn front(&self) -> Option<Entry> {
        self.queue.front().copied()
    }

    pub(super) fn pop(&mut self) {
        if self.queue.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// The entry at `position`, which must not be below [`HotTier::first`].
    pub(super) fn get(&self, position: u64) -> Option<Entry> {
        self.queue.get(usize::try_from(position - self.first).ok()?).copied()
    }
}

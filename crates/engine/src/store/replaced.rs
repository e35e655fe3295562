//! Replaced metadata, kept for searches that began before it was replaced.

use std::collections::{BTreeMap, VecDeque};

use crate::types::payload::Payload;
use crate::types::{Lsn, Slot};

/// Metadata that a running search may still have to see, by slot and by the LSN at which it was replaced.
#[derive(Default)]
pub(super) struct Replaced {
    payloads: BTreeMap<(Slot, Lsn), Box<Payload>>,
    /// The keys of `payloads`, oldest replacement first.
    pub(super) order: VecDeque<(Lsn, Slot)>,
}

impl Replaced {
    pub(super) fn keep(&mut self, slot: Slot, at: Lsn, payload: Box<Payload>) {
        self.payloads.insert((slot, at), payload);
        self.order.push_back((at, slot));
    }

    /// The metadata of `slot` at `snapshot`, if it was replaced since.
    pub(super) fn at(&self, slot: Slot, snapshot: Lsn) -> Option<&Payload> {
        let after = (slot, snapshot.next())..=(slot, Lsn(u64::MAX));
        self.payloads.range(after).next().map(|(_, payload)| &**payload)
    }

    /// Forgets metadata that no search from `oldest` on can see.
    pub(super) fn forget_before(&mut self, oldest: Lsn) {
        while let Some(&(at, slot)) = self.order.front()
            && at <= oldest
        {
            self.order.pop_front();
            self.payloads.remove(&(slot, at));
        }
    }
}

//! The lock of a node's lists, which one thread at a time holds: the owners of a partition link to each other's
//! nodes.
//!
//! Taking hold never waits. A thread that finds a node held goes on with other work and comes back, so a thread that
//! has lost its processor while it held a node keeps no other from serving. Walks take no hold: they read lists while
//! these change.

use super::Graph;
use crate::sync::atomic::Ordering;
use crate::types::Slot;

/// Flag in a node's level: the node is held.
pub(super) const HELD: u8 = 1 << 7;

/// Flag in a node's level: nothing leads to the node any more; only walks that are under way may be at it.
pub(super) const LEFT: u8 = 1 << 6;

/// Flag in a dead node's level, set while the lists that lead to it are being mended, and from then on.
pub(super) const DOOMED: u8 = 1 << 5;

/// Mask of a node's level + 1.
pub(super) const LEVEL: u8 = DOOMED - 1;

/// A node whose lists no other thread changes.
pub(super) struct Held<'a> {
    graph: &'a Graph,
    slot: Slot,
}

impl Held<'_> {
    /// The node.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.graph.levels.get(self.slot.index()).fetch_and(!HELD, Ordering::Release);
    }
}

impl Graph {
    /// Takes hold of the lists of `slot`; `None` if another thread holds them, or is keeping the frozen state of the
    /// lists around them.
    pub(super) fn hold(&self, slot: Slot) -> Option<Held<'_>> {
        self.hold_still(slot).filter(|_| self.keep_frozen(slot))
    }

    /// Takes hold of the lists of `slot` to read them while no other thread changes them. [`Graph::keep_frozen`] has
    /// to come before a change.
    pub(super) fn hold_still(&self, slot: Slot) -> Option<Held<'_>> {
        let level = self.levels.get(slot.index());
        let is_held = level.fetch_or(HELD, Ordering::Acquire) & HELD != 0;
        // Made only by the thread that has the hold: dropping it lets go.
        (!is_held).then(|| Held { graph: self, slot })
    }
}

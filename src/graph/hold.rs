//! The right to change the lists of a node, which one at a time has: the owners of a partition link
//! to each other's nodes.
//!
//! Taking hold never waits. Whoever finds a node held goes on with other work and comes back, so a
//! thread that has lost its processor while it held a node keeps nobody from serving. Walks do not
//! look: they read lists while these change.

use super::Graph;
use crate::sync::atomic::Ordering;
use crate::types::Slot;

/// Set in a node's level while it is held.
pub(super) const HELD: u8 = 1 << 7;

/// Set in a node's level once nothing leads to it any more: only walks that are under way may stand
/// at it.
pub(super) const LEFT: u8 = 1 << 6;

/// Set in a dead node's level while the lists that lead to it are being mended, and from then on.
pub(super) const DOOMED: u8 = 1 << 5;

/// A node's level + 1.
pub(super) const LEVEL: u8 = DOOMED - 1;

/// A node whose lists nobody else changes.
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
    /// Takes hold of the lists of `slot`; `None` if somebody else has them, or is just keeping what
    /// lies around them as it was.
    pub(super) fn hold(&self, slot: Slot) -> Option<Held<'_>> {
        self.hold_still(slot).filter(|_| self.keep_frozen(slot))
    }

    /// The same to look at the lists while nobody changes them. [`Graph::keep_frozen`] has to come
    /// before they are.
    pub(super) fn hold_still(&self, slot: Slot) -> Option<Held<'_>> {
        let level = self.levels.get(slot.index());
        let is_held = level.fetch_or(HELD, Ordering::Acquire) & HELD != 0;
        // Made only by who has it: to drop it lets go.
        (!is_held).then(|| Held { graph: self, slot })
    }
}

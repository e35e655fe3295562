//! Keeps nodes in the graph while a node that was linked after all lists had been looked through may lead to them.
//!
//! A linker links to dead nodes if it finds no live ones, and announces it before ([`DeadLinks::begin`]) and after.
//! Nodes leave at a moment when no linker is doing so, and when all nodes linked so have been looked through
//! ([`LastLook`]). One owner at a time takes that on itself, for the nodes of all owners: a node linked so may lead
//! to nodes of other owners, which do not know of it. So until that owner is done, no others may let their nodes
//! leave; and if it gives up, it hands back the nodes that it has not looked at.

use crate::sync::SegQueue;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::types::Slot;

/// Links to dead nodes, made by linkers that found no live ones. Nodes leave the graph at a moment when no linker is
/// making such links, and when all nodes linked so have been looked through.
#[derive(Default)]
pub(super) struct DeadLinks {
    /// Number of linkers that are making such links, or [`CLOSED`] while nodes are leaving.
    linkers: AtomicU32,
    /// Nodes linked to dead nodes since the last look.
    linked: SegQueue<Slot>,
}

/// Value of `linkers` while no linker may begin to link to dead nodes.
const CLOSED: u32 = 1 << 31;

impl DeadLinks {
    /// Lets a linker link to dead nodes. False if nodes are leaving at this moment; else [`DeadLinks::end`] must
    /// follow.
    pub(super) fn begin(&self) -> bool {
        let more = |linkers| (linkers & CLOSED == 0).then_some(linkers + 1);
        self.linkers.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Notes that the linker has linked `slot`.
    pub(super) fn end(&self, slot: Slot) {
        self.linked.push(slot);
        self.linkers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Keeps linkers out until [`DeadLinks::open`]. False if a linker is linking to dead nodes.
    fn close(&self) -> bool {
        self.linkers.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn open(&self) {
        self.linkers.store(0, Ordering::Release);
    }

    /// Takes the nodes linked to dead nodes since the last call.
    fn take(&self) -> Vec<Slot> {
        std::iter::from_fn(|| self.linked.pop()).collect()
    }
}

/// The last look of an owner that removes nodes: at the nodes that were linked to dead nodes meanwhile. While it
/// lasts, no linker links to dead nodes, and no other owner removes nodes.
#[derive(Default)]
pub(super) struct LastLook {
    has_begun: bool,
    /// Nodes that may link to nodes being removed, and are still to be looked at.
    ahead: Vec<Slot>,
}

impl LastLook {
    /// Begins, if no linker is linking to dead nodes and no other owner has begun. All lists have been looked through
    /// by then.
    pub(super) fn begin(&mut self, dead_links: &DeadLinks) {
        if !self.has_begun && dead_links.close() {
            self.has_begun = true;
            self.ahead = dead_links.take();
        }
    }

    /// True if it has begun, and keeps others waiting: [`LastLook::end`] or [`LastLook::give_up`] must follow.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// True if all nodes have been looked at: nothing leads to the nodes being removed.
    pub(super) fn is_done(&self) -> bool {
        self.has_begun && self.ahead.is_empty()
    }

    /// The next node to look at.
    pub(super) fn next(&mut self) -> Option<Slot> {
        self.ahead.pop()
    }

    /// Puts back `slot`, which can't be looked at now.
    pub(super) fn put_back(&mut self, slot: Slot) {
        self.ahead.push(slot);
    }

    /// Ends, when the removed nodes have left.
    pub(super) fn end(&self, dead_links: &DeadLinks) {
        dead_links.open();
    }

    /// Gives up. Nodes not looked at are left to other owners, to whose nodes they may lead.
    pub(super) fn give_up(&self, dead_links: &DeadLinks) {
        if self.has_begun {
            self.ahead.iter().for_each(|&slot| dead_links.linked.push(slot));
            dead_links.open();
        }
    }
}

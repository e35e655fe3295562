//! Keeps nodes from leaving the graph while something may still lead to them that was linked after
//! all lists had been looked through.
//!
//! A linker links to dead nodes where it finds no others, and says so before ([`DeadLinks::begin`])
//! and after. Nodes leave at a moment when no linker is at that, and when all that was linked so has
//! been looked through ([`LastLook`]). One owner at a time takes that on itself, for the nodes of
//! all: what was linked may lead to those of others, who do not know of it. So until that owner is
//! done, no others may let theirs go; and if it gives up, it hands back what it has not seen to.

use crate::sync::SegQueue;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::types::Slot;

/// Linkers that found none but dead nodes and link to those. Nodes leave the graph at a moment when
/// there are none of them, and when what they have linked has been looked through.
#[derive(Default)]
pub(super) struct DeadLinks {
    /// How many are at it, or [`CLOSED`] while nodes are leaving.
    linkers: AtomicU32,
    /// Nodes linked like that since somebody looked.
    linked: SegQueue<Slot>,
}

/// No linker may begin to link to dead nodes.
const CLOSED: u32 = 1 << 31;

impl DeadLinks {
    /// A linker wants to link to dead nodes. False if nodes are leaving just now; else
    /// [`DeadLinks::end`] must follow.
    pub(super) fn begin(&self) -> bool {
        let more = |linkers| (linkers & CLOSED == 0).then_some(linkers + 1);
        self.linkers.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// It has linked `slot`.
    pub(super) fn end(&self, slot: Slot) {
        self.linked.push(slot);
        self.linkers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Keeps linkers out until [`DeadLinks::open`]. False if there are some.
    fn close(&self) -> bool {
        self.linkers.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn open(&self) {
        self.linkers.store(0, Ordering::Release);
    }

    /// What has been linked to dead nodes since this was last asked.
    fn take(&self) -> Vec<Slot> {
        std::iter::from_fn(|| self.linked.pop()).collect()
    }
}

/// The last look of one who takes nodes out: at what was linked to dead nodes meanwhile. While it
/// lasts, nobody links to dead nodes, and no others let theirs go.
#[derive(Default)]
pub(super) struct LastLook {
    has_begun: bool,
    /// Nodes that may lead to some that go, and are still to be looked at.
    ahead: Vec<Slot>,
}

impl LastLook {
    /// Begins, if nobody links to dead nodes and no other is at it. All lists have been looked
    /// through by then.
    pub(super) fn begin(&mut self, dead_links: &DeadLinks) {
        if !self.has_begun && dead_links.close() {
            self.has_begun = true;
            self.ahead = dead_links.take();
        }
    }

    /// It has begun, and keeps others waiting: [`LastLook::end`] or [`LastLook::give_up`] must
    /// follow.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// True if all has been looked at: nothing leads to the nodes that go.
    pub(super) fn is_done(&self) -> bool {
        self.has_begun && self.ahead.is_empty()
    }

    /// A node to look at.
    pub(super) fn next(&mut self) -> Option<Slot> {
        self.ahead.pop()
    }

    /// `slot` can't be looked at now.
    pub(super) fn put_back(&mut self, slot: Slot) {
        self.ahead.push(slot);
    }

    /// Ends, when the nodes that go have left.
    pub(super) fn end(&self, dead_links: &DeadLinks) {
        dead_links.open();
    }

    /// Gives up. What has not been looked at is left to others, to whose nodes it may lead.
    pub(super) fn give_up(&self, dead_links: &DeadLinks) {
        if self.has_begun {
            self.ahead.iter().for_each(|&slot| dead_links.linked.push(slot));
            dead_links.open();
        }
    }
}

//! Neighbour lists in cache lines: one fixed row a node on level 0, and for the one node in M
//! that reaches higher, a row a level elsewhere.
//!
//! A link is stored as slot + 1, so that zeroed memory is an empty list, and a list ends at its
//! first zero.

use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::Zeroable;

use crate::store::arena::{Arena, SLOTS_MAX};
use crate::types::Slot;

/// Links in a cache line.
const LINE_LINKS: usize = 16;

/// Lists above level 0: expected one for every M − 1 slots, and M is at least 5.
const UPPER_LISTS_MAX: usize = SLOTS_MAX / 2;

/// A cache line of links.
#[derive(Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [AtomicU32; LINE_LINKS]);

/// Neighbour lists of every level.
pub(super) struct Layers {
    base: Arena<Line>,
    upper: Arena<Line>,
    /// Number of a node's first list in `upper`, + 1; 0 for a node that has none.
    upper_starts: Arena<AtomicU32>,
    upper_count: AtomicU32,
}

impl Layers {
    pub(super) fn new(base_links_max: usize, upper_links_max: usize) -> Self {
        Self {
            base: Arena::new(base_links_max.div_ceil(LINE_LINKS), SLOTS_MAX),
            upper: Arena::new(upper_links_max.div_ceil(LINE_LINKS), UPPER_LISTS_MAX),
            upper_starts: Arena::per_slot(),
            upper_count: AtomicU32::new(0),
        }
    }

    pub(super) fn reserve(&self, slot: Slot) {
        self.base.reserve(slot.index());
        self.upper_starts.reserve(slot.index());
    }

    /// Gives `slot` empty lists for the levels 1 to `level`, once a slot, and returns `level`;
    /// 0 if there is no room, which takes ids chosen to be high.
    pub(super) fn allocate_upper(&self, slot: Slot, level: u8) -> u8 {
        let start = self.upper_count.load(Ordering::Relaxed);
        let end = start + u32::from(level);
        if level == 0 || end as usize > UPPER_LISTS_MAX {
            return 0;
        }
        for list in start..end {
            self.upper.reserve(list as usize);
        }
        self.upper_count.store(end, Ordering::Relaxed);
        self.upper_starts.get(slot.index()).store(start + 1, Ordering::Release);
        level
    }

    /// The list of a node on `level`, which it must reach.
    #[inline]
    pub(super) fn links(&self, slot: Slot, level: u8) -> &[Line] {
        if level == 0 {
            return self.base.row(slot.index());
        }
        let start = self.upper_starts.get(slot.index()).load(Ordering::Acquire);
        let first = start.checked_sub(1).expect("the node reaches this level");
        self.upper.row((first + u32::from(level) - 1) as usize)
    }
}

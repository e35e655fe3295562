//! Neighbour lists in cache lines: one fixed row a node on level 0, and for the one node in M
//! that reaches higher, a row a level elsewhere.
//!
//! A link is stored as slot + 1, so that zeroed memory is an empty list, and a list ends at its
//! first zero.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::Zeroable;

use crate::store::arena::{Arena, SLOTS_MAX};
use crate::types::Slot;

/// Links in a cache line.
pub(super) const LINE_LINKS: usize = 16;

/// Lists above level 0: expected one for every M − 1 slots, and M is at least 5.
const UPPER_LISTS_MAX: usize = SLOTS_MAX / 2;

/// A cache line of links.
#[derive(Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [AtomicU32; LINE_LINKS]);

/// Lists of equal length, by row.
pub(super) struct Lists(Arena<Line>);

impl Lists {
    fn new(links_max: usize, rows_max: usize) -> Self {
        Self(Arena::new(links_max.div_ceil(LINE_LINKS), rows_max))
    }

    /// The links of these rows, one after the other, ends included.
    pub(super) fn values(&self, rows: Range<usize>) -> Vec<u32> {
        let links = rows.flat_map(|row| self.0.row(row)).flat_map(|line| &line.0);
        links.map(|link| link.load(Ordering::Acquire)).collect()
    }

    /// Puts back what [`Lists::values`] gave, from row `start` on.
    pub(super) fn restore(&mut self, start: usize, row_values: usize, values: &[u32]) {
        for (row, values) in (start..).zip(values.chunks(row_values)) {
            self.0.reserve(row);
            let lines = self.0.row_mut(row).iter_mut().zip(values.chunks(LINE_LINKS));
            for (line, values) in lines {
                for (link, value) in line.0.iter_mut().zip(values) {
                    *link.get_mut() = *value;
                }
            }
        }
    }
}

/// Neighbour lists of every level.
pub(super) struct Layers {
    pub(super) base: Lists,
    pub(super) upper: Lists,
    /// Number of a node's first list in `upper`, + 1; 0 for a node that has none.
    upper_starts: Arena<AtomicU32>,
    upper_count: AtomicU32,
}

impl Layers {
    pub(super) fn new(base_links_max: usize, upper_links_max: usize) -> Self {
        Self {
            base: Lists::new(base_links_max, SLOTS_MAX),
            upper: Lists::new(upper_links_max, UPPER_LISTS_MAX),
            upper_starts: Arena::per_slot(),
            upper_count: AtomicU32::new(0),
        }
    }

    pub(super) fn reserve(&self, slot: Slot) {
        self.base.0.reserve(slot.index());
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
            self.upper.0.reserve(list as usize);
        }
        self.upper_count.store(end, Ordering::Relaxed);
        self.upper_starts.get(slot.index()).store(start + 1, Ordering::Release);
        level
    }

    /// Lists above level 0 that nodes have.
    pub(super) fn upper_count(&self) -> u32 {
        self.upper_count.load(Ordering::Relaxed)
    }

    /// Number of a node's first list above level 0, + 1; 0 if it has none.
    pub(super) fn upper_start(&self, slot: Slot) -> u32 {
        self.upper_starts.get(slot.index()).load(Ordering::Acquire)
    }

    /// Puts back where the upper lists of a node are.
    pub(super) fn restore_upper_start(&mut self, slot: Slot, start: u32) {
        self.upper_starts.get(slot.index()).store(start, Ordering::Relaxed);
    }

    /// Puts back how many upper lists there are.
    pub(super) fn restore_upper_count(&mut self, count: u32) {
        *self.upper_count.get_mut() = count;
    }

    /// The list of a node on `level`, which it must reach.
    #[inline]
    pub(super) fn links(&self, slot: Slot, level: u8) -> &[Line] {
        match level {
            0 => self.base.0.row(slot.index()),
            _ => self.upper.0.row(self.row(slot, level)),
        }
    }

    /// Number of that list among those of its kind.
    #[inline]
    pub(super) fn row(&self, slot: Slot, level: u8) -> usize {
        if level == 0 {
            return slot.index();
        }
        let first = self.upper_start(slot).checked_sub(1).expect("the node reaches this level");
        (first + u32::from(level) - 1) as usize
    }
}

//! Neighbour lists in cache lines: one fixed row a node on level 0, and for the one node in M
//! that reaches higher, a row a level elsewhere.
//!
//! A link is stored as slot + 1, so that zeroed memory is an empty list, and a list ends at its
//! first zero.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::Zeroable;

use super::LEVEL_MAX;
use crate::store::arena::{Arena, SLOTS_MAX};
use crate::types::Slot;

/// Links in a cache line.
pub(super) const LINE_LINKS: usize = 16;

/// Lists above level 0: expected one for every M − 1 slots, and M is at least 5.
const UPPER_LISTS_MAX: usize = SLOTS_MAX / 2;

/// Lists that follow one another are kept as free up to so many.
const RUN_MAX: usize = LEVEL_MAX as usize;

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
    /// First of some lists above level 0 that no node has, by how many follow one another. Only
    /// the owner looks, at an insert; a walk does not.
    upper_free: Mutex<[Vec<u32>; RUN_MAX + 1]>,
}

impl Layers {
    pub(super) fn new(base_links_max: usize, upper_links_max: usize) -> Self {
        Self {
            base: Lists::new(base_links_max, SLOTS_MAX),
            upper: Lists::new(upper_links_max, UPPER_LISTS_MAX),
            upper_starts: Arena::per_slot(),
            upper_count: AtomicU32::new(0),
            upper_free: Mutex::default(),
        }
    }

    pub(super) fn reserve(&self, slot: Slot) {
        self.base.0.reserve(slot.index());
        self.upper_starts.reserve(slot.index());
    }

    /// Gives `slot` lists for the levels 1 to `level`, which may hold anything, and returns
    /// `level`; 0 if there is no room, which takes ids chosen to be high.
    pub(super) fn allocate_upper(&self, slot: Slot, level: u8) -> u8 {
        if level > 0
            && let Some(start) = self.take_free(usize::from(level))
        {
            self.upper_starts.get(slot.index()).store(start + 1, Ordering::Release);
            return level;
        }
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

    /// `slot`, which was on `level`, needs its lists above level 0 no more.
    pub(super) fn release_upper(&self, slot: Slot, level: u8) {
        let start = self.upper_starts.get(slot.index()).swap(0, Ordering::AcqRel);
        if level > 0 && start > 0 {
            self.free()[usize::from(level)].push(start - 1);
        }
    }

    /// Takes `lists` that follow one another from what is free, of the shortest run that has them.
    fn take_free(&self, lists: usize) -> Option<u32> {
        let mut free = self.free();
        let run = (lists..=RUN_MAX).find(|&run| !free[run].is_empty())?;
        let start = free[run].pop()?;
        if run > lists {
            free[run - lists].push(start + lists as u32);
        }
        Some(start)
    }

    /// Nodes have these lists above level 0 and no others, sorted by where they begin: what lies
    /// between is free.
    pub(super) fn restore_free(&mut self, used: &[Range<u32>]) {
        let mut free: [Vec<u32>; RUN_MAX + 1] = Default::default();
        let mut end = 0;
        let last = self.upper_count()..self.upper_count();
        for next in used.iter().chain([&last]) {
            while end < next.start {
                let run = ((next.start - end) as usize).min(RUN_MAX);
                free[run].push(end);
                end += run as u32;
            }
            end = end.max(next.end);
        }
        *self.free() = free;
    }

    fn free(&self) -> MutexGuard<'_, [Vec<u32>; RUN_MAX + 1]> {
        self.upper_free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists above level 0 that nodes have or had.
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

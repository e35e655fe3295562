//! Neighbour lists in cache lines: one fixed row per node on level 0, and for the one node in M that reaches higher,
//! a row per level elsewhere.
//!
//! A link is stored as slot + 1, so that zeroed memory is an empty list, and a list ends at its
//! first zero.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::Zeroable;

use super::LEVEL_MAX;
use crate::store::arena::Arena;
use crate::types::Slot;
use crate::types::stripe::{BLOCK_SLOTS, Stripe};

/// Links in a cache line.
pub(super) const LINE_LINKS: usize = 16;

/// Longest run of consecutive lists that is kept as free.
const RUN_MAX: usize = LEVEL_MAX as usize;

/// A cache line of links.
#[derive(Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [AtomicU32; LINE_LINKS]);

/// Lists of equal length, by row. Rows are divided among the owners as slots are.
pub(super) struct Lists(Arena<Line>);

impl Lists {
    fn new(links_max: usize, rows_max: usize) -> Self {
        Self(Arena::new(links_max.div_ceil(LINE_LINKS), rows_max))
    }

    /// The links of these local rows of an owner, one after the other, ends included.
    pub(super) fn values(&self, stripe: Stripe, numbers: Range<usize>) -> Vec<u32> {
        let rows = numbers.map(|number| stripe.slot(number as u32).index());
        let links = rows.flat_map(|row| self.0.row(row)).flat_map(|line| &line.0);
        links.map(|link| link.load(Ordering::Acquire)).collect()
    }

    /// Restores the values that [`Lists::values`] gave, from local row `start` on.
    pub(super) fn restore(&self, stripe: Stripe, start: u32, row_values: usize, values: &[u32]) {
        for (number, values) in (start..).zip(values.chunks(row_values)) {
            let row = stripe.slot(number).index();
            self.0.reserve(row);
            let links = self.0.row(row).iter().flat_map(|line| &line.0);
            for (link, value) in links.zip(values) {
                link.store(*value, Ordering::Relaxed);
            }
        }
    }
}

/// The lists of one owner above level 0.
#[derive(Default)]
struct Upper {
    count: AtomicU32,
    /// Local numbers of the first list of each free run, by the length of the run. Locked when a node comes or goes;
    /// a walk does not lock it.
    free: Mutex<[Vec<u32>; RUN_MAX + 1]>,
}

/// Neighbour lists of every level.
pub(super) struct Layers {
    pub(super) base: Lists,
    pub(super) upper: Lists,
    /// Row of a node's first list in `upper`, + 1; 0 for a node that has none.
    upper_starts: Arena<AtomicU32>,
    /// Lists above level 0, by owner.
    uppers: Box<[Upper]>,
}

impl Layers {
    pub(super) fn new(base_links_max: usize, upper_links_max: usize, owners: u32) -> Self {
        let names_max = Stripe::new(0, owners).names_max();
        Self {
            base: Lists::new(base_links_max, names_max),
            upper: Lists::new(upper_links_max, names_max),
            upper_starts: Arena::per_slot(names_max),
            uppers: (0..owners).map(|_| Upper::default()).collect(),
        }
    }

    pub(super) fn reserve(&self, slot: Slot) {
        self.base.0.reserve(slot.index());
        self.upper_starts.reserve(slot.index());
    }

    /// Gives `slot`, of the owner `stripe`, lists for the levels 1 to `level`, with arbitrary contents, and returns
    /// `level`; 0 if there is no room, which happens only with ids chosen to be high.
    pub(super) fn allocate_upper(&self, stripe: Stripe, slot: Slot, level: u8) -> u8 {
        if level == 0 {
            return 0;
        }
        let lists = u32::from(level);
        let Some(start) = self.take_free(stripe, lists).or_else(|| self.take_new(stripe, lists))
        else {
            return 0;
        };
        let row = stripe.slot(start).0;
        self.upper_starts.get(slot.index()).store(row + 1, Ordering::Release);
        level
    }

    /// A run of lists that have never been used. They all lie in one block: the rows of an owner have gaps between
    /// blocks.
    fn take_new(&self, stripe: Stripe, lists: u32) -> Option<u32> {
        let count = &self.uppers[stripe.owner() as usize].count;
        let mut start = count.load(Ordering::Relaxed);
        let left = BLOCK_SLOTS - start % BLOCK_SLOTS;
        if left < lists {
            self.free(stripe)[left as usize].push(start);
            start += left;
        }
        let end = start + lists;
        if end as usize > stripe.slots_max() {
            return None;
        }
        self.upper.0.reserve(stripe.slot(end - 1).index());
        count.store(end, Ordering::Relaxed);
        Some(start)
    }

    /// Frees the lists above level 0 of `slot`, which was on `level`.
    pub(super) fn release_upper(&self, stripe: Stripe, slot: Slot, level: u8) {
        let start = self.upper_starts.get(slot.index()).swap(0, Ordering::AcqRel);
        if level > 0 && start > 0 {
            self.free(stripe)[usize::from(level)].push(stripe.number(Slot(start - 1)));
        }
    }

    /// Takes a run of `lists` free lists, from the shortest free run that has as many.
    fn take_free(&self, stripe: Stripe, lists: u32) -> Option<u32> {
        let mut free = self.free(stripe);
        let lists = lists as usize;
        let run = (lists..=RUN_MAX).find(|&run| !free[run].is_empty())?;
        let start = free[run].pop()?;
        if run > lists {
            free[run - lists].push(start + lists as u32);
        }
        Some(start)
    }

    /// Restores the free lists: nodes of the owner use exactly these runs of local lists above level 0, sorted by
    /// start; all lists between them are free.
    pub(super) fn restore_upper(&self, stripe: Stripe, count: u32, used: &[Range<u32>]) {
        let mut free: [Vec<u32>; RUN_MAX + 1] = Default::default();
        let mut end = 0;
        for next in used.iter().chain([&(count..count)]) {
            while end < next.start {
                let in_block = BLOCK_SLOTS - end % BLOCK_SLOTS;
                let run = (next.start - end).min(RUN_MAX as u32).min(in_block);
                free[run as usize].push(end);
                end += run;
            }
            end = end.max(next.end);
        }
        *self.free(stripe) = free;
        self.uppers[stripe.owner() as usize].count.store(count, Ordering::Relaxed);
    }

    /// Frees all lists of an owner, none of whose nodes is in the graph. Their contents are cleared when they are
    /// given to a node.
    pub(super) fn clear(&self, stripe: Stripe) {
        let slots = (0..self.upper_starts.reserved() as u32).map(Slot);
        for slot in slots.filter(|&slot| stripe.owns(slot)) {
            let start = self.upper_starts.get(slot.index());
            if start.load(Ordering::Relaxed) != 0 {
                start.store(0, Ordering::Relaxed);
            }
        }
        self.restore_upper(stripe, 0, &[]);
    }

    fn free(&self, stripe: Stripe) -> MutexGuard<'_, [Vec<u32>; RUN_MAX + 1]> {
        let free = &self.uppers[stripe.owner() as usize].free;
        free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of lists above level 0 that nodes of an owner have or had.
    pub(super) fn upper_count(&self, stripe: Stripe) -> u32 {
        self.uppers[stripe.owner() as usize].count.load(Ordering::Relaxed)
    }

    /// Row of a node's first list above level 0, + 1; 0 if it has none.
    pub(super) fn upper_start(&self, slot: Slot) -> u32 {
        self.upper_starts.get(slot.index()).load(Ordering::Acquire)
    }

    /// Restores the position of the upper lists of a node.
    pub(super) fn restore_upper_start(&self, slot: Slot, start: u32) {
        self.upper_starts.get(slot.index()).store(start, Ordering::Relaxed);
    }

    /// The list of a node on `level`, which it must reach.
    #[inline]
    pub(super) fn links(&self, slot: Slot, level: u8) -> &[Line] {
        match level {
            0 => self.base.0.row(slot.index()),
            _ => self.upper.0.row(self.row(slot, level)),
        }
    }

    /// Row of the list of a node on `level`, among the lists of its kind.
    #[inline]
    pub(super) fn row(&self, slot: Slot, level: u8) -> usize {
        if level == 0 {
            return slot.index();
        }
        let first = self.upper_start(slot).checked_sub(1).expect("the node reaches this level");
        (first + u32::from(level) - 1) as usize
    }
}

//! Rows of numbers in chunks that never move, each row padded with zeros to whole cache lines:
//! what [`Vectors`](super::Vectors) and [`Codes`](super::Codes) are made of.
//!
//! Appending takes `&self`, so that other threads may walk the rows that exist while the owner
//! adds more. Two rules make that sound, and both are kept here, not by callers:
//! - a row below `count` is never written through `&self`;
//! - `count` moves, with release, only after the row is complete, and readers check it with
//!   acquire.
//!
//! Re-using a row needs `&mut self`: nobody else can be reading then.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytemuck::{Pod, Zeroable};

use super::arena::{Arena, SLOTS_MAX};
use crate::types::Slot;

/// Bytes in a cache line.
const LINE_BYTES: usize = 64;

#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

#[derive(Zeroable)]
#[repr(transparent)]
struct LineCell(UnsafeCell<Line>);

#[expect(unsafe_code, reason = "rows are shared between threads under the rules above")]
// SAFETY: a line is written only below an exclusive borrow of `Rows`, or above `count`, where no
// reader looks and `appending` admits one writer.
unsafe impl Sync for LineCell {}

/// Rows of equal length, by slot.
pub(super) struct Rows<T> {
    width: usize,
    row_lines: usize,
    lines: Arena<LineCell>,
    count: AtomicU32,
    appending: AtomicBool,
    of: PhantomData<T>,
}

impl<T: Pod> Rows<T> {
    /// Values in a cache line.
    pub(super) const LINE_VALUES: usize = LINE_BYTES / size_of::<T>();

    /// No rows yet, each to be of `width` values.
    pub(super) fn new(width: usize) -> Self {
        const { assert!(LINE_BYTES.is_multiple_of(size_of::<T>())) };
        const { assert!(align_of::<T>() <= LINE_BYTES) };
        assert!(width > 0);
        let row_lines = width.div_ceil(Self::LINE_VALUES);
        Self {
            width,
            row_lines,
            lines: Arena::new(row_lines, SLOTS_MAX),
            count: AtomicU32::new(0),
            appending: AtomicBool::new(false),
            of: PhantomData,
        }
    }

    /// Values in a row, without padding.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Values in a row, padding included.
    pub(super) fn row_values(&self) -> usize {
        self.row_lines * Self::LINE_VALUES
    }

    /// Rows that exist.
    #[inline]
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Row `slot`, padding included.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub(super) fn row(&self, slot: Slot) -> &[T] {
        assert!(slot.0 < self.count(), "row {} of {}", slot.0, self.count());
        let lines = self.lines.row(slot.index());
        #[expect(unsafe_code, reason = "a row is lines behind UnsafeCell")]
        // SAFETY: the lines lie side by side in one chunk (`repr(transparent)` over 64 bytes each),
        // are aligned for `T`, and any bytes are a `T`. The row is below `count`, so it was
        // complete before the acquire load above and is not written while `self` is borrowed.
        unsafe {
            std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * Self::LINE_VALUES)
        }
    }

    /// Adds a row and returns its slot. `fill` is given the row, padding included, all zeros
    /// unless an earlier `fill` has panicked, and must leave the padding as it is.
    ///
    /// # Panics
    /// If [`SLOTS_MAX`] rows exist, or if another thread is appending: a shard has one owner.
    pub(super) fn append(&self, fill: impl FnOnce(&mut [T])) -> Slot {
        assert!(!self.appending.swap(true, Ordering::Acquire), "a shard has one owner");
        let slot = Slot(self.count.load(Ordering::Relaxed));
        assert!(slot.index() < SLOTS_MAX, "the caller checks the bound");
        self.lines.reserve(slot.index());
        let lines = self.lines.row(slot.index());
        #[expect(unsafe_code, reason = "writes the row before anyone may see it")]
        // SAFETY: the lines lie side by side behind `UnsafeCell`, are aligned for `T`, and any
        // bytes are a `T`. The row is not below `count`, so no reader has a reference to it, and
        // `appending` keeps other writers out until `fill` is done.
        let row = unsafe {
            let start = lines.as_ptr().cast::<T>().cast_mut();
            std::slice::from_raw_parts_mut(start, lines.len() * Self::LINE_VALUES)
        };
        fill(row);
        self.count.store(slot.0 + 1, Ordering::Release);
        self.appending.store(false, Ordering::Release);
        slot
    }

    /// Row `slot`, padding included, for an owner whom nobody else is reading. It exists from now
    /// on, and so do all before it.
    pub(super) fn row_mut(&mut self, slot: Slot) -> &mut [T] {
        let count = self.count.get_mut();
        for index in *count..=slot.0 {
            self.lines.reserve(index as usize);
        }
        *count = (*count).max(slot.0 + 1);
        let lines = self.lines.row_mut(slot.index());
        #[expect(unsafe_code, reason = "a row is lines behind UnsafeCell")]
        // SAFETY: as in `row`, and `self` is borrowed for nobody else.
        unsafe {
            std::slice::from_raw_parts_mut(
                lines.as_mut_ptr().cast(),
                lines.len() * Self::LINE_VALUES,
            )
        }
    }
}

//! Rows of numbers in chunks that never move, each row padded with zeros to whole cache lines: the storage of
//! [`Vectors`](super::Vectors) and [`Codes`](super::Codes).
//!
//! Other threads walk the rows that exist while their owner adds more, and refills those that no thread can reach.
//! Two rules make that sound:
//! - a row is written by one thread alone, its owner, and only while no other can come upon its name: before the name
//!   is first published, or after everything that led to the row is gone and every reader that may have seen that has
//!   ended ([`crate::store::view`] counts them). [`Rows::write`] is `unsafe` for that reason, and
//!   [`Store::put`](super::Store::put) is the one that calls it;
//! - a name is published, with release, only after its row is complete, and taken with acquire.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::{Pod, Zeroable};

use super::arena::Arena;
use crate::types::Slot;
use crate::types::stripe::BLOCK_SLOTS;

/// Bytes in a cache line.
const LINE_BYTES: usize = 64;

#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

#[derive(Zeroable)]
#[repr(transparent)]
struct LineCell(UnsafeCell<Line>);

#[expect(unsafe_code, reason = "rows are shared between threads under the rules above")]
// SAFETY: a line is written only by `Rows::write`, whose caller guarantees that no other thread reads or writes it.
unsafe impl Sync for LineCell {}

/// Rows of equal length, by slot.
pub(super) struct Rows<T> {
    width: usize,
    row_lines: usize,
    lines: Arena<LineCell>,
    /// Exclusive upper bound of the rows that have been written. Raised by whole blocks: every walk reads it.
    extent: AtomicU32,
    of: PhantomData<T>,
}

impl<T: Pod> Rows<T> {
    /// Values in a cache line.
    pub(super) const LINE_VALUES: usize = LINE_BYTES / size_of::<T>();

    /// No rows yet, each to be of `width` values, of slots below `slots_max`.
    pub(super) fn new(width: usize, slots_max: usize) -> Self {
        const { assert!(LINE_BYTES.is_multiple_of(size_of::<T>())) };
        const { assert!(align_of::<T>() <= LINE_BYTES) };
        assert!(width > 0);
        let row_lines = Self::padded(width) / Self::LINE_VALUES;
        Self {
            width,
            row_lines,
            lines: Arena::new(row_lines, slots_max),
            extent: AtomicU32::new(0),
            of: PhantomData,
        }
    }

    /// Values in a row of `width`, padding included.
    pub(super) const fn padded(width: usize) -> usize {
        width.next_multiple_of(Self::LINE_VALUES)
    }

    /// Values in a row, without padding.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Values in a row, padding included.
    pub(super) fn row_values(&self) -> usize {
        self.row_lines * Self::LINE_VALUES
    }

    /// Exclusive upper bound of the slots whose rows have been written.
    #[inline]
    pub(super) fn extent(&self) -> u32 {
        self.extent.load(Ordering::Acquire)
    }

    /// Row `slot`, padding included: zeros if it was never written.
    ///
    /// # Panics
    /// If it is not below the extent.
    #[inline]
    pub(super) fn row(&self, slot: Slot) -> &[T] {
        assert!(slot.0 < self.extent(), "row {} of {}", slot.0, self.extent());
        let lines = self.lines.row(slot.index());
        #[expect(unsafe_code, reason = "a row is lines behind UnsafeCell")]
        // SAFETY: the lines lie side by side in one chunk (`repr(transparent)` over 64 bytes each), are aligned for
        // `T`, and any bytes are a `T`. A thread that has the name of a row has it from where it was published after
        // the row was complete, and while the row may be reached from there it is not written: the callers of `write`
        // guarantee that.
        unsafe {
            std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * Self::LINE_VALUES)
        }
    }

    /// Fills the row of `slot`, which exists from then on. `fill` is given the row, padding included, with its last
    /// contents, and must leave the padding zeros.
    ///
    /// # Safety
    /// No other thread reads or writes this row, or comes upon its name, before the contents written here are
    /// published with release.
    #[expect(unsafe_code, reason = "who may reach a row is not seen from here")]
    pub(super) unsafe fn write(&self, slot: Slot, fill: impl FnOnce(&mut [T])) {
        let extent = (slot.0 / BLOCK_SLOTS + 1) * BLOCK_SLOTS;
        if self.extent() < extent {
            self.lines.reserve(extent as usize - 1);
            self.extent.fetch_max(extent, Ordering::AcqRel);
        }
        let lines = self.lines.row(slot.index());
        // SAFETY: the lines lie side by side behind `UnsafeCell`, are aligned for `T`, and any bytes are a `T`. No
        // other thread has a reference to the row, as the caller guarantees.
        let row = unsafe {
            let start = lines.as_ptr().cast::<T>().cast_mut();
            std::slice::from_raw_parts_mut(start, lines.len() * Self::LINE_VALUES)
        };
        fill(row);
    }
}

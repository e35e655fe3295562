//! Vectors: rows of `f32` in chunks that never move, each row padded to whole cache lines.
//!
//! Appending takes `&self`, so that other threads may walk the rows that exist while the owner
//! adds more. Two rules make that sound, and both are kept here, not by callers:
//! - a row below `count` is never written through `&self`;
//! - `count` moves, with release, only after the row is complete, and readers check it with
//!   acquire.
//!
//! Re-using a row needs `&mut self`: nobody else can be reading then.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytemuck::{Pod, Zeroable};

use super::arena::{Arena, SLOTS_MAX};
use crate::types::Slot;

/// Values in a cache line.
pub const LINE_VALUES: usize = 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE_VALUES]);

#[derive(Zeroable)]
#[repr(transparent)]
struct LineCell(UnsafeCell<Line>);

#[expect(unsafe_code, reason = "rows are shared between threads under the rules above")]
// SAFETY: a line is written only below an exclusive borrow of `Vectors`, or above `count`, where
// no reader looks and `appending` admits one writer.
unsafe impl Sync for LineCell {}

/// The vectors of one shard, by slot.
pub struct Vectors {
    dimension: usize,
    row_values: usize,
    lines: Arena<LineCell>,
    count: AtomicU32,
    appending: AtomicBool,
}

impl Vectors {
    /// No vectors yet, each to be of `dimension` values.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        assert!(dimension > 0);
        let row_lines = dimension.div_ceil(LINE_VALUES);
        Self {
            dimension,
            row_values: row_lines * LINE_VALUES,
            lines: Arena::new(row_lines, SLOTS_MAX),
            count: AtomicU32::new(0),
            appending: AtomicBool::new(false),
        }
    }

    /// Values in a vector, without padding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Bytes of a row, padding included.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_values * size_of::<f32>()
    }

    /// Rows that exist.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// `vector` padded with zeros to the length of a row, which changes none of the distances.
    #[must_use]
    pub fn pad(&self, vector: &[f32]) -> Vec<f32> {
        let mut padded = Vec::new();
        self.pad_into(vector, &mut padded);
        padded
    }

    /// The same, in the place of what `padded` holds.
    pub fn pad_into(&self, vector: &[f32], padded: &mut Vec<f32>) {
        assert_eq!(vector.len(), self.dimension);
        padded.clear();
        padded.reserve_exact(self.row_values);
        padded.extend_from_slice(vector);
        padded.resize(self.row_values, 0.0);
    }

    /// Row `slot`, padding included.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    #[must_use]
    pub fn row(&self, slot: Slot) -> &[f32] {
        assert!(slot.0 < self.count(), "row {} of {}", slot.0, self.count());
        let lines = self.lines.row(slot.index());
        #[expect(unsafe_code, reason = "a row is lines behind UnsafeCell")]
        // SAFETY: the lines lie side by side in one chunk (`repr(transparent)` over a `repr(C)`
        // array of f32, 64 bytes each). The row is below `count`, so it was complete before the
        // acquire load above and is not written while `self` is borrowed.
        unsafe {
            std::slice::from_raw_parts(lines.as_ptr().cast::<f32>(), lines.len() * LINE_VALUES)
        }
    }

    /// Row `slot` without padding.
    #[must_use]
    pub fn values(&self, slot: Slot) -> &[f32] {
        &self.row(slot)[..self.dimension]
    }

    /// Adds a row and returns its slot.
    ///
    /// # Panics
    /// If the length is not the dimension, if [`SLOTS_MAX`] rows exist, or if another thread is
    /// appending: a shard has one owner.
    pub fn append(&self, vector: &[f32]) -> Slot {
        assert_eq!(vector.len(), self.dimension);
        assert!(!self.appending.swap(true, Ordering::Acquire), "a shard has one owner");
        let slot = Slot(self.count.load(Ordering::Relaxed));
        assert!(slot.index() < SLOTS_MAX, "the caller checks the bound");
        self.lines.reserve(slot.index());
        let lines = self.lines.row(slot.index());
        for (cell, values) in lines.iter().zip(vector.chunks(LINE_VALUES)) {
            let mut line = Line::zeroed();
            line.0[..values.len()].copy_from_slice(values);
            #[expect(unsafe_code, reason = "writes the row before anyone may see it")]
            // SAFETY: the row is not below `count`, so no reader has a reference to it, and
            // `appending` keeps other writers out.
            unsafe {
                *cell.0.get() = line;
            }
        }
        self.count.store(slot.0 + 1, Ordering::Release);
        self.appending.store(false, Ordering::Release);
        slot
    }

    /// Puts rows back, padding included, from `start` on. They count as existing from now on, and
    /// so do all before them.
    ///
    /// # Panics
    /// If `values` are not whole rows.
    pub fn restore(&mut self, start: u32, values: &[f32]) {
        assert_eq!(values.len() % self.row_values, 0);
        let mut index = start as usize;
        for row in values.chunks(self.row_values) {
            self.lines.reserve(index);
            let (lines, _) = row.as_chunks();
            for (cell, line) in self.lines.row_mut(index).iter_mut().zip(lines) {
                cell.0.get_mut().0 = *line;
            }
            index += 1;
        }
        *self.count.get_mut() = (*self.count.get_mut()).max(index as u32);
    }

    /// Replaces row `slot`, whose former document nobody can reach any more.
    pub fn replace(&mut self, slot: Slot, vector: &[f32]) {
        assert_eq!(vector.len(), self.dimension);
        assert!(slot.0 < self.count());
        let lines = self.lines.row_mut(slot.index());
        for (cell, values) in lines.iter_mut().zip(vector.chunks(LINE_VALUES)) {
            cell.0.get_mut().0[..values.len()].copy_from_slice(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_aligned_and_replaceable() {
        let mut vectors = Vectors::new(20);
        let row = |seed: u32| -> Vec<f32> { (0..20).map(|i| (seed * 100 + i) as f32).collect() };
        for seed in 0..40_000 {
            assert_eq!(vectors.append(&row(seed)), Slot(seed));
        }
        assert_eq!(vectors.row(Slot(3)).len(), 32);
        assert_eq!(vectors.row(Slot(39_999)).as_ptr() as usize % 64, 0);
        assert_eq!(vectors.values(Slot(17_000)), row(17_000));
        vectors.replace(Slot(17_000), &row(1));
        assert_eq!(vectors.row(Slot(17_000)), vectors.pad(&row(1)));
        assert_eq!(vectors.values(Slot(17_001)), row(17_001));
    }

    #[test]
    fn readers_see_whole_rows_while_the_owner_appends() {
        let vectors = Vectors::new(33);
        let count = 20_000_u32;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < count {
                        seen = vectors.count();
                        if let Some(last) = seen.checked_sub(1) {
                            assert!(vectors.values(Slot(last)).iter().all(|&x| x == last as f32));
                        }
                    }
                });
            }
            for slot in 0..count {
                vectors.append(&[slot as f32; 33]);
            }
        });
    }

    #[test]
    #[should_panic(expected = "row 0 of 0")]
    fn a_row_that_does_not_exist_is_a_bug() {
        let _ = Vectors::new(4).row(Slot(0));
    }
}

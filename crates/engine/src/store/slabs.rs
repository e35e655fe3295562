//! Memory of rows that are freed in about the order in which they were made: vectors that no snapshot on disk has
//! yet.
//!
//! Rows lie side by side in slabs that are mapped from the system, and a slab is unmapped with the last of its rows.
//! On the heap they would lie between unrelated allocations, and the gaps that they leave would stay with the
//! process.

use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

use super::vectors::LINE_VALUES;

/// Bytes of a slab; of one row if that is more.
const SLAB_BYTES: usize = 1 << 20;

/// The unit of rows: a cache line of values.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; LINE_VALUES]);

const _: () = assert!(size_of::<Line>() >= size_of::<*const Slab>(), "a line leads to the slab");

/// Mapped memory: for each row a line that points here, and then the lines of the row.
struct Slab {
    memory: MmapMut,
}

/// A vector, padded with zeros to whole lines. It keeps its slab alive.
pub(super) struct Row {
    start: NonNull<Line>,
}

#[expect(unsafe_code, reason = "a row is a part of memory that several have parts of")]
// SAFETY: a row has its lines alone, as a box would, and the slab's count of rows is atomic.
unsafe impl Send for Row {}

impl Row {
    /// Passes ownership to the holder of the pointer.
    pub(super) fn into_raw(self) -> *mut Line {
        std::mem::ManuallyDrop::new(self).start.as_ptr()
    }

    /// The row at a pointer; `None` for null.
    ///
    /// # Safety
    /// The pointer comes from [`Row::into_raw`], and was not made a row again since.
    #[expect(unsafe_code, reason = "the caller vouches for the pointer")]
    pub(super) unsafe fn from_raw(start: *mut Line) -> Option<Self> {
        NonNull::new(start).map(|start| Self { start })
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let leading = self.start.as_ptr().wrapping_sub(1).cast::<*const Slab>();
        #[expect(unsafe_code, reason = "the line before a row leads to its slab")]
        // SAFETY: `Slabs::row` has left a pointer in the line before, which is there as long as the row.
        let slab = unsafe { leading.read() };
        #[expect(unsafe_code, reason = "the line before a row keeps its slab")]
        // SAFETY: that pointer came from a count of the slab for this row, and only the row's end takes
        // it back.
        drop(unsafe { Arc::from_raw(slab) });
    }
}

/// Position of the next row.
#[derive(Default)]
pub(super) struct Slabs {
    /// The slab that is being filled.
    slab: Option<Arc<Slab>>,
    /// Lines of this slab in use.
    lines: usize,
}

impl Slabs {
    /// A row of `row_lines` lines that begins with this vector.
    ///
    /// # Panics
    /// If the system has no memory, or the vector is longer than the row.
    pub(super) fn row(&mut self, row_lines: usize, vector: &[f32]) -> Row {
        let lines = row_lines + 1;
        let is_full =
            |slab: &Arc<Slab>| (self.lines + lines) * size_of::<Line>() > slab.memory.len();
        if self.slab.as_ref().is_none_or(is_full) {
            let bytes = SLAB_BYTES.max(lines * size_of::<Line>());
            let memory = MmapMut::map_anon(bytes).expect("the system has memory");
            (self.slab, self.lines) = (Some(Arc::new(Slab { memory })), 0);
        }
        let slab = self.slab.clone().expect("it was made above");
        let leading = slab.memory.as_ptr().cast::<Line>().cast_mut().wrapping_add(self.lines);
        let start = leading.wrapping_add(1);
        self.lines += lines;
        #[expect(unsafe_code, reason = "the line before a row leads to its slab")]
        // SAFETY: this line is within the mapping, which is aligned to pages, and no row has it.
        unsafe {
            leading.cast::<*const Slab>().write(Arc::into_raw(slab));
        }
        #[expect(unsafe_code, reason = "rows are parts of mapped bytes")]
        // SAFETY: these lines are within the mapping, and no row has had them; all bytes are values, and
        // are zeros. The count of the slab in the line before keeps the mapping until the row ends.
        let row = unsafe { std::slice::from_raw_parts_mut(start, row_lines) };
        bytemuck::cast_slice_mut(row)[..vector.len()].copy_from_slice(vector);
        Row { start: NonNull::new(start).expect("a mapping is not at null") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Row {
        /// Values of the row, which has `lines` lines.
        pub(in crate::store) fn values_mut(&mut self, lines: usize) -> &mut [f32] {
            #[expect(unsafe_code, reason = "as whoever finds a row reads it")]
            // SAFETY: the row is there, and nothing else leads to it.
            let lines = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), lines) };
            bytemuck::cast_slice_mut(lines)
        }
    }

    #[test]
    fn rows_are_apart_and_a_slab_goes_with_its_last_row() {
        let mut slabs = Slabs::default();
        let mut rows: Vec<Row> = (0..5_000).map(|row| slabs.row(3, &[row as f32; 40])).collect();
        for (index, row) in rows.iter_mut().enumerate() {
            let (given, padding) = row.values_mut(3).split_at(40);
            assert!(given.iter().all(|&value| value == index as f32));
            assert_eq!(padding, [0.0; 8]);
        }
        let last = Arc::downgrade(slabs.slab.as_ref().unwrap());
        let in_slab = SLAB_BYTES / (4 * size_of::<Line>());
        assert_eq!(last.strong_count(), 1 + 5_000 % in_slab);
        drop(slabs);
        let kept = rows.pop();
        drop(rows);
        assert_eq!(last.strong_count(), 1);
        drop(kept);
        assert_eq!(last.strong_count(), 0);
    }

    #[test]
    fn a_row_may_be_longer_than_a_slab_is_otherwise() {
        let mut slabs = Slabs::default();
        let long = vec![1.5; 400_000];
        let (mut one, mut two) = (slabs.row(25_000, &long), slabs.row(25_000, &long));
        assert_eq!(one.values_mut(25_000), long);
        drop(one);
        assert_eq!(two.values_mut(25_000), long);
    }
}

//! Vectors: rows of `f32` by slot in [`Rows`]: they never move, are padded to whole cache lines, and other threads
//! may read them while their owners add more.

use super::arena::SLOTS_MAX;
use super::rows::Rows;
use crate::types::Slot;

/// Values in a cache line.
pub(super) const LINE_VALUES: usize = Rows::<f32>::LINE_VALUES;

/// Vectors by slot.
pub struct Vectors(Rows<f32>);

impl Vectors {
    /// No vectors yet, each to be of `dimension` values.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self::with_room(dimension, SLOTS_MAX)
    }

    /// No vectors yet, for slots below `slots_max`; see [`Vectors::new`].
    #[must_use]
    pub fn with_room(dimension: usize, slots_max: usize) -> Self {
        Self(Rows::new(dimension, slots_max))
    }

    /// Values in a vector, without padding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.0.width()
    }

    /// Values in a row of vectors of `dimension` values, padding included.
    #[must_use]
    pub const fn row_values(dimension: usize) -> usize {
        Rows::<f32>::padded(dimension)
    }

    /// Bytes of a row, padding included.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.0.row_values() * size_of::<f32>()
    }

    /// Exclusive upper bound of the slots that hold or held a vector.
    #[inline]
    #[must_use]
    pub fn extent(&self) -> u32 {
        self.0.extent()
    }

    /// `vector` padded with zeros to the length of a row, which changes none of the distances.
    #[must_use]
    pub fn pad(&self, vector: &[f32]) -> Vec<f32> {
        let mut padded = Vec::new();
        self.pad_into(vector, &mut padded);
        padded
    }

    /// Writes `vector`, padded as by [`Vectors::pad`], to `padded`, whose contents are replaced.
    pub fn pad_into(&self, vector: &[f32], padded: &mut Vec<f32>) {
        assert_eq!(vector.len(), self.dimension());
        padded.clear();
        padded.reserve_exact(self.0.row_values());
        padded.extend_from_slice(vector);
        padded.resize(self.0.row_values(), 0.0);
    }

    /// Row `slot`, padding included.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    #[must_use]
    pub fn row(&self, slot: Slot) -> &[f32] {
        self.0.row(slot)
    }

    /// Row `slot` without padding.
    #[must_use]
    pub fn values(&self, slot: Slot) -> &[f32] {
        &self.row(slot)[..self.dimension()]
    }

    /// Writes `vector` to the row of `slot`.
    ///
    /// # Panics
    /// If the length is not the dimension.
    ///
    /// # Safety
    /// No other thread reads or writes this row, or comes upon its name, before the contents written here are
    /// published with release.
    #[expect(unsafe_code, reason = "see `Rows::write`")]
    pub unsafe fn put(&self, slot: Slot, vector: &[f32]) {
        assert_eq!(vector.len(), self.dimension());
        // SAFETY: as the caller guarantees.
        unsafe { self.0.write(slot, |row| row[..vector.len()].copy_from_slice(vector)) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn rows_are_padded_aligned_and_replaceable() {
        let vectors = Vectors::new(20);
        let row = |seed: u32| -> Vec<f32> { (0..20).map(|i| (seed * 100 + i) as f32).collect() };
        for seed in 0..40_000 {
            put(&vectors, seed, &row(seed));
        }
        assert_eq!(vectors.row(Slot(3)).len(), 32);
        assert_eq!(vectors.row(Slot(39_999)).as_ptr() as usize % 64, 0);
        assert_eq!(vectors.values(Slot(17_000)), row(17_000));
        put(&vectors, 17_000, &row(1));
        assert_eq!(vectors.row(Slot(17_000)), vectors.pad(&row(1)));
        assert_eq!(vectors.values(Slot(17_001)), row(17_001));
    }

    #[test]
    fn readers_see_whole_rows_while_owners_add_more() {
        let vectors = Vectors::new(33);
        let (count, owners) = (20_000_u32, 2);
        let published: Vec<AtomicU32> = (0..owners).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for (owner, published) in published.iter().enumerate() {
                let slot = move |number: u32| number * owners + owner as u32;
                let vectors = &vectors;
                scope.spawn(move || {
                    let mut seen = 0;
                    while seen < count {
                        seen = published.load(Ordering::Acquire);
                        if let Some(last) = seen.checked_sub(1).map(slot) {
                            assert!(vectors.values(Slot(last)).iter().all(|&x| x == last as f32));
                        }
                    }
                });
                scope.spawn(move || {
                    for number in 0..count {
                        put(vectors, slot(number), &[slot(number) as f32; 33]);
                        published.store(number + 1, Ordering::Release);
                    }
                });
            }
        });
    }

    #[test]
    #[should_panic(expected = "row 0 of 0")]
    fn reading_a_row_that_does_not_exist_panics() {
        let _ = Vectors::new(4).row(Slot(0));
    }

    fn put(vectors: &Vectors, slot: u32, vector: &[f32]) {
        #[expect(unsafe_code, reason = "the only writer of the row")]
        // SAFETY: no thread reads the row before its name is published.
        unsafe {
            vectors.put(Slot(slot), vector);
        }
    }
}

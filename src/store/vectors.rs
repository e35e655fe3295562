//! Vectors: rows of `f32` by slot, as [`Rows`] keeps them: in place for good, padded to whole
//! cache lines, and readable by other threads while the owner appends.

use super::rows::Rows;
use crate::types::Slot;

/// Values in a cache line.
pub const LINE_VALUES: usize = Rows::<f32>::LINE_VALUES;

/// The vectors of one shard, by slot.
pub struct Vectors(Rows<f32>);

impl Vectors {
    /// No vectors yet, each to be of `dimension` values.
    #[must_use]
    pub fn new(dimension: usize) -> Self {
        Self(Rows::new(dimension))
    }

    /// Values in a vector, without padding.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.0.width()
    }

    /// Bytes of a row, padding included.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.0.row_values() * size_of::<f32>()
    }

    /// Rows that exist.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count()
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

    /// Adds a row and returns its slot.
    ///
    /// # Panics
    /// If the length is not the dimension, if [`SLOTS_MAX`](super::arena::SLOTS_MAX) rows exist,
    /// or if another thread is appending: a shard has one owner.
    pub fn append(&self, vector: &[f32]) -> Slot {
        assert_eq!(vector.len(), self.dimension());
        self.0.append(|row| row[..vector.len()].copy_from_slice(vector))
    }

    /// Puts rows back, padding included, from `start` on. They count as existing from now on, and
    /// so do all before them.
    ///
    /// # Panics
    /// If `values` are not whole rows.
    pub fn restore(&mut self, start: u32, values: &[f32]) {
        assert_eq!(values.len() % self.0.row_values(), 0);
        for (slot, row) in (start..).zip(values.chunks(self.0.row_values())) {
            self.0.row_mut(Slot(slot)).copy_from_slice(row);
        }
    }

    /// Replaces row `slot`, whose former document nobody can reach any more.
    pub fn replace(&mut self, slot: Slot, vector: &[f32]) {
        assert_eq!(vector.len(), self.dimension());
        assert!(slot.0 < self.count());
        self.0.row_mut(slot)[..vector.len()].copy_from_slice(vector);
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

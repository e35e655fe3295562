//! 8-bit codes beside the vectors: what a walk reads in their place, at a quarter of the bytes.
//!
//! A vector x is coded as `scale · c`, with c of whole numbers in −127..=127 and a scale of its
//! own, its largest value / 127. A code follows from its vector alone: nothing is trained,
//! nothing drifts, and a replay of the log or a snapshot restored gives the same codes. They are
//! never stored.
//!
//! Rows lie in [`Rows`], as vectors do, and may be read by other threads in the same way. Scales
//! and squares are atomics, written before the row is published.

use std::sync::atomic::{AtomicU32, Ordering};

use super::arena::Arena;
use super::rows::Rows;
use crate::kernels::codes::{Code, encode};
use crate::kernels::simd;
use crate::types::Slot;

/// The codes of one shard, by slot.
pub struct Codes {
    rows: Rows<i8>,
    scales: Arena<AtomicU32>,
    /// |x|², where lengths differ.
    squares: Option<Arena<AtomicU32>>,
}

/// A code in memory of its own, reusable: that of a query.
#[derive(Default)]
pub struct OwnCode {
    values: Vec<i8>,
    scale: f32,
    square: f32,
}

impl OwnCode {
    /// The code itself.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Code<'_> {
        Code { values: &self.values, scale: self.scale, square: self.square }
    }
}

impl Codes {
    /// No codes yet, each of a vector of `dimension` values; `are_unit` if all those have length 1.
    #[must_use]
    pub fn new(dimension: usize, are_unit: bool) -> Self {
        Self {
            rows: Rows::new(dimension),
            scales: Arena::per_slot(),
            squares: (!are_unit).then(Arena::per_slot),
        }
    }

    /// Bytes of a document's code, padding included.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.rows.row_values() + size_of::<f32>() * (1 + usize::from(self.squares.is_some()))
    }

    /// Codes that exist.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u32 {
        self.rows.count()
    }

    /// The values of the code of `slot`, padding included.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    #[must_use]
    pub fn row(&self, slot: Slot) -> &[i8] {
        self.rows.row(slot)
    }

    /// Asks for all that [`Codes::get`] will read of `slot`.
    #[inline]
    pub fn prefetch(&self, slot: Slot) {
        simd::prefetch(self.row(slot));
        simd::prefetch(self.scales.row(slot.index()));
        if let Some(squares) = &self.squares {
            simd::prefetch(squares.row(slot.index()));
        }
    }

    /// What a code of 1 in `slot` stands for.
    #[inline]
    #[must_use]
    pub fn scale(&self, slot: Slot) -> f32 {
        f32::from_bits(self.scales.get(slot.index()).load(Ordering::Relaxed))
    }

    /// The square of the length of the vector in `slot`.
    #[inline]
    #[must_use]
    pub fn square(&self, slot: Slot) -> f32 {
        match &self.squares {
            Some(squares) => f32::from_bits(squares.get(slot.index()).load(Ordering::Relaxed)),
            None => 1.0,
        }
    }

    /// The code of `slot`.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Code<'_> {
        Code { values: self.row(slot), scale: self.scale(slot), square: self.square(slot) }
    }

    /// Codes a query, in the place of what `code` holds.
    pub fn encode_into(&self, vector: &[f32], code: &mut OwnCode) {
        assert_eq!(vector.len(), self.rows.width());
        code.values.clear();
        code.values.resize(self.rows.row_values(), 0);
        code.scale = encode(vector, &mut code.values[..vector.len()]);
        code.square = square(vector);
    }

    /// Adds the code of `vector` and returns its slot.
    ///
    /// # Panics
    /// As [`Vectors::append`](super::Vectors::append).
    pub fn append(&self, vector: &[f32]) -> Slot {
        assert_eq!(vector.len(), self.rows.width());
        let next = Slot(self.count());
        self.rows.append(|row| {
            let scale = encode(vector, &mut row[..vector.len()]);
            self.note(next, vector, scale);
        })
    }

    /// Codes `vector` as that of `slot`, which nobody can reach; it exists from now on.
    pub fn put(&mut self, slot: Slot, vector: &[f32]) {
        assert_eq!(vector.len(), self.rows.width());
        let scale = encode(vector, &mut self.rows.row_mut(slot)[..vector.len()]);
        self.note(slot, vector, scale);
    }

    fn note(&self, slot: Slot, vector: &[f32], scale: f32) {
        let set = |arena: &Arena<AtomicU32>, value: f32| {
            arena.reserve(slot.index());
            arena.get(slot.index()).store(value.to_bits(), Ordering::Relaxed);
        };
        set(&self.scales, scale);
        if let Some(squares) = &self.squares {
            set(squares, square(vector));
        }
    }
}

/// |x|².
fn square(vector: &[f32]) -> f32 {
    simd::dot(vector, vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_follows_from_its_vector_alone() {
        let vector = |seed: u32| -> Vec<f32> {
            (0..70).map(|i| ((seed * 31 + i * 17) % 101) as f32 / 50.0 - 1.0).collect()
        };
        let mut codes = Codes::new(70, false);
        for seed in 0..300 {
            assert_eq!(codes.append(&vector(seed)), Slot(seed));
        }
        // As a reused slot, and as a snapshot in any order, would have it.
        let mut other = Codes::new(70, false);
        for seed in [7, 299, 12, 0].into_iter().chain(0..300) {
            other.put(Slot(seed), &vector(seed));
        }
        codes.put(Slot(12), &vector(0));
        codes.put(Slot(12), &vector(12));
        let mut own = OwnCode::default();
        for slot in (0..300).map(Slot) {
            let (a, b) = (codes.get(slot), other.get(slot));
            codes.encode_into(&vector(slot.0), &mut own);
            for other in [b, own.get()] {
                assert_eq!(a.values, other.values);
                assert_eq!([a.scale, a.square], [other.scale, other.square]);
            }
            assert_eq!(a.values.len(), 128);
            assert!(a.values[70..].iter().all(|&padding| padding == 0));
            assert_eq!(a.values.as_ptr() as usize % 64, 0);
        }
        assert_eq!(codes.row_bytes(), 128 + 8);
    }
}

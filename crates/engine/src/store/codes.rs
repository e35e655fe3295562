//! 8-bit codes beside the vectors, read by a walk in place of the vectors, at a quarter of the bytes.
//!
//! A vector x is coded as `scale · c`, with c of whole numbers in −127..=127 and a scale of its own, its largest
//! value divided by 127. A code follows from its vector alone: nothing is trained, nothing drifts, and a replay of
//! the log or a restored snapshot gives equal codes. They are never stored.
//!
//! Rows lie in [`Rows`], as vectors do, and other threads may read them in the same way. Scales and squares are
//! atomics, written before the row is published.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::arena::{Arena, SLOTS_MAX};
use super::rows::Rows;
use crate::kernels::codes::{Code, encode};
use crate::kernels::simd;
use crate::types::Slot;

/// Agreement, 0 to 1, below which walks stop using codes, as they do not tell neighbours apart, and above which walks
/// use them again. On cones walks by codes lose 0.03 of recall@10 at ef 50 at some 0.82: see `graph/agreement`.
const AGREEMENT_MIN: f32 = 0.85;
const AGREEMENT_AGAIN: f32 = 0.92;

/// Samples in the running mean of the agreement, and the least number by which it is judged.
const SAMPLES_MEAN: u32 = 64;
const SAMPLES_MIN: u32 = 16;

/// How well codes told neighbours apart in recent samples. Concurrent writers may lose a sample.
#[derive(Default)]
struct Agreement {
    samples: AtomicU32,
    /// The mean share, as the bits of an `f32`.
    mean: AtomicU32,
    is_lacking: AtomicBool,
}

/// Codes by slot.
pub struct Codes {
    agreement: Agreement,
    rows: Rows<i8>,
    scales: Arena<AtomicU32>,
    /// |x|² of each slot; `None` if all vectors have length 1.
    squares: Option<Arena<AtomicU32>>,
}

/// A code in reusable memory of its own: that of a query.
#[derive(Default)]
pub struct OwnCode {
    values: Vec<i8>,
    scale: f32,
    square: f32,
}

impl OwnCode {
    /// A reference to the code.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Code<'_> {
        Code { values: &self.values, scale: self.scale, square: self.square }
    }
}

impl Codes {
    /// No codes yet, each of a vector of `dimension` values; `are_unit` if all vectors have length 1.
    #[must_use]
    pub fn new(dimension: usize, are_unit: bool) -> Self {
        Self::with_room(dimension, are_unit, SLOTS_MAX)
    }

    /// No codes yet, for slots below `slots_max`; see [`Codes::new`].
    #[must_use]
    pub fn with_room(dimension: usize, are_unit: bool, slots_max: usize) -> Self {
        Self {
            agreement: Agreement::default(),
            rows: Rows::new(dimension, slots_max),
            scales: Arena::per_slot(slots_max),
            squares: (!are_unit).then(|| Arena::per_slot(slots_max)),
        }
    }

    /// Adds a sample of the agreement of a node: the share, 0 to 1, of its nearest neighbours that are also the
    /// nearest by codes.
    pub fn note_agreement(&self, share: f32) {
        let Agreement { samples, mean, is_lacking } = &self.agreement;
        let count = samples.load(Ordering::Relaxed).saturating_add(1);
        let before = f32::from_bits(mean.load(Ordering::Relaxed));
        let now = before + (share - before) / count.min(SAMPLES_MEAN) as f32;
        mean.store(now.to_bits(), Ordering::Relaxed);
        samples.store(count, Ordering::Relaxed);
        let is_lacking_now = is_lacking.load(Ordering::Relaxed);
        let bound = if is_lacking_now { AGREEMENT_AGAIN } else { AGREEMENT_MIN };
        if count >= SAMPLES_MIN && is_lacking_now != (now < bound) {
            is_lacking.store(!is_lacking_now, Ordering::Relaxed);
        }
    }

    /// False if codes are known not to tell neighbours apart: walks by codes would lose neighbours.
    #[inline]
    #[must_use]
    pub fn tell_apart(&self) -> bool {
        !self.agreement.is_lacking.load(Ordering::Relaxed)
    }

    /// The share of the nearest, 0 to 1, that were not among the nearest by codes, in recent samples; 0 without
    /// samples.
    #[must_use]
    pub fn indistinct(&self) -> f32 {
        match self.agreement.samples.load(Ordering::Relaxed) {
            0 => 0.0,
            _ => 1.0 - f32::from_bits(self.agreement.mean.load(Ordering::Relaxed)),
        }
    }

    /// True until there are enough samples of the agreement.
    #[must_use]
    pub fn want_samples(&self) -> bool {
        self.agreement.samples.load(Ordering::Relaxed) < SAMPLES_MEAN
    }

    /// Forgets the samples.
    #[cfg(any(test, feature = "testing"))]
    pub fn forget_agreement(&self) {
        self.agreement.samples.store(0, Ordering::Relaxed);
        self.agreement.is_lacking.store(false, Ordering::Relaxed);
    }

    /// Bytes of a document's code, padding included.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        Self::bytes_of_row(self.rows.width(), self.squares.is_none())
    }

    /// Bytes of the code of a vector of `dimension` values, padding included.
    #[must_use]
    pub fn bytes_of_row(dimension: usize, are_unit: bool) -> usize {
        Rows::<i8>::padded(dimension) + size_of::<f32>() * (1 + usize::from(!are_unit))
    }

    /// Exclusive upper bound of the slots that have or had a code.
    #[inline]
    #[must_use]
    pub fn extent(&self) -> u32 {
        self.rows.extent()
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

    /// Prefetches all that [`Codes::get`] reads of `slot`.
    #[inline]
    pub fn prefetch(&self, slot: Slot) {
        simd::prefetch(self.row(slot));
        simd::prefetch(self.scales.row(slot.index()));
        if let Some(squares) = &self.squares {
            simd::prefetch(squares.row(slot.index()));
        }
    }

    /// Value of the vector that 1 in the code of `slot` stands for.
    #[inline]
    #[must_use]
    pub fn scale(&self, slot: Slot) -> f32 {
        f32::from_bits(self.scales.get(slot.index()).load(Ordering::Relaxed))
    }

    /// Squared length of the vector in `slot`.
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

    /// Encodes a query into `code`, whose contents are replaced.
    pub fn encode_into(&self, vector: &[f32], code: &mut OwnCode) {
        assert_eq!(vector.len(), self.rows.width());
        code.values.clear();
        code.values.resize(self.rows.row_values(), 0);
        code.scale = encode(vector, &mut code.values[..vector.len()]);
        code.square = square(vector);
    }

    /// Encodes `vector` into the row of `slot`.
    ///
    /// # Panics
    /// If its length is not the dimension.
    ///
    /// # Safety
    /// As [`Vectors::put`](super::Vectors::put).
    #[expect(unsafe_code, reason = "see `Rows::write`")]
    pub unsafe fn put(&self, slot: Slot, vector: &[f32]) {
        assert_eq!(vector.len(), self.rows.width());
        let write = |row: &mut [i8]| {
            let scale = encode(vector, &mut row[..vector.len()]);
            self.note(slot, vector, scale);
        };
        // SAFETY: the caller ensures the conditions of `Rows::write`.
        unsafe { self.rows.write(slot, write) };
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
    fn agreement_is_judged_by_many_samples_and_with_hysteresis() {
        let codes = Codes::new(8, true);
        assert_eq!((codes.indistinct(), codes.tell_apart()), (0.0, true));
        let note = |share: f32, count: u32| (0..count).for_each(|_| codes.note_agreement(share));
        note(0.3, SAMPLES_MIN - 1);
        assert!(codes.tell_apart() && codes.want_samples());
        note(0.3, 1);
        assert!(!codes.tell_apart());
        note(0.3, SAMPLES_MEAN);
        assert!(!codes.want_samples() && (codes.indistinct() - 0.7).abs() < 1e-3);
        note(0.9, 2_000);
        assert!(!codes.tell_apart(), "between the bounds it stays");
        note(1.0, 100);
        assert!(codes.tell_apart());
        note(0.9, 2_000);
        assert!(codes.tell_apart());
        note(0.8, 2_000);
        assert!(!codes.tell_apart());
    }

    #[test]
    fn a_code_follows_from_its_vector_alone() {
        let vector = |seed: u32| -> Vec<f32> {
            (0..70).map(|i| ((seed * 31 + i * 17) % 101) as f32 / 50.0 - 1.0).collect()
        };
        let put = |codes: &Codes, slot: u32, seed: u32| {
            #[expect(unsafe_code, reason = "there is one thread")]
            // SAFETY: no other thread reads or writes.
            unsafe {
                codes.put(Slot(slot), &vector(seed));
            }
        };
        let codes = Codes::new(70, false);
        for seed in 0..300 {
            put(&codes, seed, seed);
        }
        // In other orders, as when slots are reused, or restored from a snapshot.
        let other = Codes::new(70, false);
        for seed in [7, 299, 12, 0].into_iter().chain(0..300) {
            put(&other, seed, seed);
        }
        put(&codes, 12, 0);
        put(&codes, 12, 12);
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

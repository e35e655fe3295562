//! Where a walk takes its distances from: the vectors themselves ([`Exact`]), or the codes beside
//! them ([`Coded`]), which say nearly the same and are a quarter as long.

use std::marker::PhantomData;

use super::search::{Key, Work};
use crate::kernels::codes::{CODE_ROWS, Code, Origin};
use crate::kernels::{Distance, simd};
use crate::store::{Codes, Vectors};
use crate::types::Slot;

/// How many rows ahead of the distance being computed are fetched into the cache.
const ROWS_AHEAD: usize = 6;

/// The same of codes, which are short: all that a hop finds at M = 16.
const CODES_AHEAD: usize = 32;

/// Distances from one point, the query, to slots.
pub trait Space: Copy {
    /// All slots are below this.
    fn extent(self) -> u32;

    /// Calls `each` with the key of each slot, in order. Counts into `work`.
    fn each_key(self, slots: &[Slot], work: &mut Work, each: impl FnMut(Key));

    /// The key of one slot.
    fn key(self, slot: Slot, work: &mut Work) -> Key {
        let mut only = None;
        self.each_key(&[slot], work, |key| only = Some(key));
        only.expect("one slot has one key")
    }
}

/// Asks for a row that is needed soon, and counts it: every prefetch of a row is here.
#[inline]
fn fetch(ask: impl FnOnce(), fetched: &mut u64) {
    ask();
    *fetched += 1;
}

/// The rows of `slots` in order, each asked for some rows before its turn.
#[inline]
fn rows_ahead<'s, 'r: 's, T: 'r>(
    slots: &'s [Slot],
    row: impl Fn(Slot) -> &'r [T] + 's,
    fetched: &'s mut u64,
) -> impl Iterator<Item = &'r [T]> + 's {
    for &slot in slots.iter().take(ROWS_AHEAD) {
        fetch(|| simd::prefetch(row(slot)), fetched);
    }
    slots.iter().enumerate().map(move |(index, &slot)| {
        if let Some(&ahead) = slots.get(index + ROWS_AHEAD) {
            fetch(|| simd::prefetch(row(ahead)), fetched);
        }
        row(slot)
    })
}

/// Distances by the vectors.
#[derive(Clone, Copy)]
pub struct Exact<'a, D> {
    query: &'a [f32],
    vectors: &'a Vectors,
    distance: PhantomData<D>,
}

impl<'a, D> Exact<'a, D> {
    /// Distances from `query`, padded to the length of a row.
    #[must_use]
    pub fn new(query: &'a [f32], vectors: &'a Vectors) -> Self {
        Self { query, vectors, distance: PhantomData }
    }
}

impl<D: Distance> Space for Exact<'_, D> {
    fn extent(self) -> u32 {
        self.vectors.extent()
    }

    #[inline]
    fn each_key(self, slots: &[Slot], work: &mut Work, mut each: impl FnMut(Key)) {
        let rows = rows_ahead(slots, |slot| self.vectors.row(slot), &mut work.prefetched);
        for (row, &slot) in rows.zip(slots) {
            each(Key::new(D::between(self.query, row), slot));
        }
        work.count_full(slots.len() as u64);
    }
}

/// Distances by the codes.
#[derive(Clone, Copy)]
pub struct Coded<'a, D> {
    origin: Origin<'a>,
    codes: &'a Codes,
    distance: PhantomData<D>,
}

impl<'a, D: Distance> Coded<'a, D> {
    /// Distances from a vector with this code.
    #[must_use]
    pub fn new(query: Code<'a>, codes: &'a Codes) -> Self {
        Self { origin: Origin::new(query), codes, distance: PhantomData }
    }

    /// The least that the distance of the vector in the key's slot may be, by this key.
    #[must_use]
    pub fn least(self, key: Key) -> f32 {
        let slot = key.slot();
        key.distance() - self.origin.error::<D>(self.codes.scale(slot), self.codes.square(slot))
    }
}

impl<D: Distance> Space for Coded<'_, D> {
    fn extent(self) -> u32 {
        self.codes.extent()
    }

    #[inline]
    fn each_key(self, slots: &[Slot], work: &mut Work, mut each: impl FnMut(Key)) {
        for slots in slots.chunks(CODES_AHEAD) {
            for &slot in slots {
                fetch(|| self.codes.prefetch(slot), &mut work.prefetched);
            }
            for group in slots.chunks(CODE_ROWS) {
                // The last one fills up what a short group lacks.
                let row = |index: usize| self.codes.row(group[index.min(group.len() - 1)]);
                let products = self.origin.products(std::array::from_fn(row));
                for (&slot, product) in group.iter().zip(products) {
                    let (scale, square) = (self.codes.scale(slot), self.codes.square(slot));
                    each(Key::new(self.origin.distance::<D>(product, scale, square), slot));
                }
            }
        }
        work.distances += slots.len() as u64;
    }
}

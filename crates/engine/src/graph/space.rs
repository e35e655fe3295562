//! The source of a walk's distances: the vectors themselves ([`Exact`]), or the codes beside them ([`Coded`]), which
//! give nearly equal distances and are a quarter as long.

use std::marker::PhantomData;

use super::agreement;
use super::search::{Key, Scratch, Work};
use crate::kernels::codes::{CODE_ROWS, Code, Origin};
use crate::kernels::{Distance, simd};
use crate::store::{Codes, Vectors};
use crate::types::Slot;

/// Number of vector rows that are prefetched ahead of the distance being computed.
const ROWS_AHEAD: usize = 6;

/// Number of codes that are prefetched ahead: they are short, and this is all that a hop finds at M = 16.
const CODES_AHEAD: usize = 32;

/// Distances from one point, the query, to slots.
pub trait Space: Copy {
    /// Exclusive upper bound of all slots.
    fn extent(self) -> u32;

    /// Calls `each` with the key of each slot, in order. Counts the distances into `work`.
    fn each_key(self, slots: &[Slot], work: &mut Work, each: impl FnMut(Key));

    /// The key of one slot.
    fn key(self, slot: Slot, work: &mut Work) -> Key {
        let mut only = None;
        self.each_key(&[slot], work, |key| only = Some(key));
        only.expect("one slot has one key")
    }
}

/// Prefetches a row, and counts it: every prefetch of a row is here.
#[inline]
fn fetch(ask: impl FnOnce(), fetched: &mut u64) {
    ask();
    *fetched += 1;
}

/// The rows of `slots` in order, each prefetched some rows before its turn.
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

    /// Least possible distance of the vector in the key's slot, given the key's distance by codes.
    #[must_use]
    pub fn least(self, key: Key) -> f32 {
        key.distance() - self.error(key.slot())
    }

    /// Largest possible distance of the vector in the key's slot, given the key's distance by codes.
    #[must_use]
    pub fn most(self, key: Key) -> f32 {
        key.distance() + self.error(key.slot())
    }

    fn error(self, slot: Slot) -> f32 {
        self.origin.error::<D>(self.codes.scale(slot), self.codes.square(slot))
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
                // The last row fills the places that a short group lacks.
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

/// Distances between nodes, for the choice among a node's neighbours.
pub(super) trait Between: Copy {
    /// A node that others are compared with.
    type Origin: Copy;

    /// The node in `slot`.
    fn origin(self, slot: Slot) -> Self::Origin;

    /// Distance of `slot` from `origin`. Not counted.
    fn between(self, origin: Self::Origin, slot: Slot) -> f32;

    /// The key of `slot`, by its distance from `origin`. Not counted.
    fn key(self, origin: Self::Origin, slot: Slot) -> Key {
        Key::new(self.between(origin, slot), slot)
    }

    /// True if all of `others` are at least `distance` away from `origin`. Counts the distances computed.
    fn are_beyond(
        self,
        origin: Self::Origin,
        others: &[Slot],
        distance: f32,
        work: &mut Work,
    ) -> bool;

    /// Counts this number of distances.
    fn count(work: &mut Work, distances: usize);

    /// The nodes that a walk has found, by codes or, without codes, by vectors, with distances of this source; sorted
    /// ascending.
    fn found(self, origin: Self::Origin, has_codes: bool, scratch: &mut Scratch) -> Vec<Key>;

    /// Notes how well the codes, by which a walk from `slot` has found these nodes, agree with the vectors.
    fn note_found(self, slot: Slot, codes: &Codes, scratch: &Scratch, found: &[Key]);
}

/// Distances by the vectors.
pub(super) struct ByVectors<'a, D>(&'a Vectors, PhantomData<D>);

/// Distances by the codes, if vectors are not all in memory.
pub(super) struct ByCodes<'a, D>(&'a Codes, PhantomData<D>);

impl<D> Clone for ByVectors<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for ByVectors<'_, D> {}

impl<D> Clone for ByCodes<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for ByCodes<'_, D> {}

impl<'a, D> ByVectors<'a, D> {
    pub(super) fn new(vectors: &'a Vectors) -> Self {
        Self(vectors, PhantomData)
    }
}

impl<'a, D> ByCodes<'a, D> {
    pub(super) fn new(codes: &'a Codes) -> Self {
        Self(codes, PhantomData)
    }
}

impl<'a, D: Distance> Between for ByVectors<'a, D> {
    type Origin = &'a [f32];

    #[inline]
    fn origin(self, slot: Slot) -> &'a [f32] {
        self.0.row(slot)
    }

    #[inline]
    fn between(self, origin: &'a [f32], slot: Slot) -> f32 {
        D::between(origin, self.0.row(slot))
    }

    #[inline]
    fn are_beyond(
        self,
        origin: &'a [f32],
        others: &[Slot],
        distance: f32,
        work: &mut Work,
    ) -> bool {
        others.iter().all(|&other| {
            work.count_full(1);
            self.between(origin, other) >= distance
        })
    }

    fn count(work: &mut Work, distances: usize) {
        work.count_full(distances as u64);
    }

    fn found(self, origin: &'a [f32], has_codes: bool, scratch: &mut Scratch) -> Vec<Key> {
        match has_codes {
            true => scratch.nearest_by(Exact::<D>::new(origin, self.0)),
            false => scratch.nearest().collect(),
        }
    }

    fn note_found(self, _: Slot, codes: &Codes, scratch: &Scratch, found: &[Key]) {
        agreement::note_found(codes, scratch, found);
    }
}

impl<'a, D: Distance> Between for ByCodes<'a, D> {
    type Origin = Coded<'a, D>;

    fn origin(self, slot: Slot) -> Coded<'a, D> {
        Coded::new(self.0.get(slot), self.0)
    }

    fn between(self, origin: Coded<'a, D>, slot: Slot) -> f32 {
        Space::key(origin, slot, &mut Work::default()).distance()
    }

    fn are_beyond(
        self,
        origin: Coded<'a, D>,
        others: &[Slot],
        distance: f32,
        work: &mut Work,
    ) -> bool {
        others.chunks(CODE_ROWS).all(|others| {
            let mut are_beyond = true;
            origin.each_key(others, work, |other| are_beyond &= other.distance() >= distance);
            are_beyond
        })
    }

    fn count(work: &mut Work, distances: usize) {
        work.distances += distances as u64;
    }

    fn found(self, _: Coded<'a, D>, _: bool, scratch: &mut Scratch) -> Vec<Key> {
        scratch.nearest().collect()
    }

    fn note_found(self, slot: Slot, codes: &Codes, scratch: &Scratch, _: &[Key]) {
        agreement::note_codes_alone::<D>(slot, codes, scratch);
    }
}

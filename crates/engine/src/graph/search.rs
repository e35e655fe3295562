//! The walk: greedy descent through the upper levels, then a beam on one level.
//!
//! A beam runs in slices: [`Beam::advance`] does at most the stated number of hops, and the state between slices lies
//! in a [`Scratch`], which is reused without allocation. Inserts between two slices change lists that the walk has
//! not read yet, which costs nothing but a different, equally valid path.
//!
//! A hop reads one list, computes the distances of the neighbours not seen before, and adds those near enough to the
//! kept nodes, all at once: while rows and lists are on their way from memory there is other work to do.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Graph;
use super::pool::Pool;
use super::space::Space;
use super::visited::Visited;
use crate::kernels::{sortable, unsortable};
use crate::types::Slot;

/// A distance and a slot as one integer that sorts by distance, then slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
    /// Sorts behind every other key.
    pub(super) const MAX: Self = Self(u64::MAX);

    /// The key of `slot` at `distance`.
    #[inline]
    #[must_use]
    pub fn new(distance: f32, slot: Slot) -> Self {
        Self(u64::from(sortable(distance)) << 32 | u64::from(slot.0))
    }

    /// The slot.
    #[inline]
    #[must_use]
    pub fn slot(self) -> Slot {
        Slot(self.0 as u32)
    }

    /// The distance.
    #[inline]
    #[must_use]
    pub fn distance(self) -> f32 {
        unsortable((self.0 >> 32) as u32)
    }

    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub(super) fn of_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// Counts of the work of walks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Distances computed, by codes or by vectors.
    pub distances: u64,
    /// Distances among them for which a whole vector was read.
    pub full_distances: u64,
    /// Rows that were prefetched before their distance was computed.
    pub prefetched: u64,
    /// Nodes whose neighbours were read.
    pub hops: u64,
}

impl Work {
    /// Counts distances of whole vectors.
    #[inline]
    pub(crate) fn count_full(&mut self, distances: u64) {
        self.distances += distances;
        self.full_distances += distances;
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.distances += other.distances;
        self.full_distances += other.full_distances;
        self.prefetched += other.prefetched;
        self.hops += other.hops;
    }
}

/// The state of one walk, reusable for the next.
#[derive(Default)]
pub struct Scratch {
    visited: Visited,
    pool: Pool,
    /// Nodes that are walked through, but not kept.
    passed: BinaryHeap<Reverse<Key>>,
    unseen: Vec<Slot>,
    newcomers: Vec<Key>,
    /// Work done since the owner last reset it.
    pub work: Work,
}

impl Scratch {
    /// The accepted nodes found so far, nearest first.
    pub fn nearest(&self) -> impl ExactSizeIterator<Item = Key> {
        self.pool.keys()
    }

    /// The accepted nodes found so far, nearest first, by their distances in `space`, which may be another than the
    /// walk's.
    #[must_use]
    pub fn nearest_by<S: Space>(&mut self, space: S) -> Vec<Key> {
        let Self { pool, unseen, work, .. } = self;
        unseen.clear();
        unseen.extend(pool.keys().map(Key::slot));
        let mut keys = Vec::with_capacity(unseen.len());
        space.each_key(unseen, work, |key| keys.push(key));
        keys.sort_unstable();
        keys
    }

    /// The nearest node that is not expanded and not farther than every node kept; it counts as expanded from now on.
    #[inline]
    fn take_closest(&mut self) -> Option<Key> {
        let kept = self.pool.next();
        if let Some(&Reverse(passed)) = self.passed.peek()
            && passed < self.pool.bound()
            && kept.is_none_or(|kept| passed < kept)
        {
            self.passed.pop();
            return Some(passed);
        }
        if kept.is_some() {
            self.pool.expand();
        }
        kept
    }
}

/// One beam search on one level.
#[derive(Clone, Copy)]
pub struct Beam<'a, S> {
    /// The graph that is walked.
    pub graph: &'a Graph,
    /// Distances from the query.
    pub space: S,
    /// The level walked.
    pub level: u8,
    /// Number of accepted nodes that are kept: ef.
    pub width: usize,
}

impl<S: Space> Beam<'_, S> {
    /// Walks greedily from `from` on level `top` down to the level above this beam's; returns the best node found, a
    /// good start of the beam.
    pub fn descend(&self, from: Slot, top: u8, scratch: &mut Scratch) -> Slot {
        let Scratch { unseen, work, .. } = scratch;
        let mut best = self.space.key(from, work);
        for level in (self.level + 1..=top).rev() {
            loop {
                let mut better = best;
                work.hops += 1;
                unseen.clear();
                self.graph.for_each_neighbour(best.slot(), level, |slot| unseen.push(slot));
                self.space.each_key(unseen, work, |key| better = better.min(key));
                if better == best {
                    break;
                }
                best = better;
            }
        }
        best.slot()
    }

    /// Starts the beam at these nodes of its level, all of them different.
    pub fn begin(&self, scratch: &mut Scratch, entries: &[Slot], accept: impl Fn(Slot) -> bool) {
        let Scratch { visited, pool, passed, newcomers, work, .. } = scratch;
        visited.reset(self.space.extent());
        pool.reset(self.width);
        passed.clear();
        newcomers.clear();
        for &entry in entries {
            visited.insert(entry);
        }
        self.space.each_key(entries, work, |key| match accept(key.slot()) {
            true => newcomers.push(key),
            false => passed.push(Reverse(key)),
        });
        pool.add(newcomers);
    }

    /// Descends from `from` on level `top`, and starts the beam at the node found, which is returned.
    pub fn enter(
        &self,
        scratch: &mut Scratch,
        from: Slot,
        top: u8,
        accept: impl Fn(Slot) -> bool,
    ) -> Slot {
        let entry = self.descend(from, top, scratch);
        self.begin(scratch, &[entry], accept);
        entry
    }

    /// Continues for at most `hops_max` hops. True when the walk is complete: the nearest node not yet expanded is
    /// farther than every node kept.
    ///
    /// `accept` decides which nodes are kept; the walk goes through the others all the same.
    pub fn advance(
        &self,
        scratch: &mut Scratch,
        hops_max: u32,
        accept: impl Fn(Slot) -> bool,
    ) -> bool {
        for _ in 0..hops_max {
            let Some(closest) = scratch.take_closest() else {
                return true;
            };
            let Scratch { visited, pool, passed, newcomers, work, .. } = &mut *scratch;
            let next = pool.next();
            if let Some(next) = next {
                self.graph.prefetch_links(next.slot(), self.level);
            }
            visited.begin_batch(self.graph.links_max(self.level));
            let add = |neighbour| visited.add(neighbour);
            self.graph.for_each_neighbour(closest.slot(), self.level, add);
            newcomers.clear();
            let bound = pool.bound();
            let mut best = next.unwrap_or(Key::MAX);
            self.space.each_key(visited.batch(), work, |key| {
                if key < bound {
                    if accept(key.slot()) {
                        newcomers.push(key);
                        best = best.min(key);
                    } else {
                        passed.push(Reverse(key));
                    }
                }
            });
            if Some(best) != next && best != Key::MAX {
                self.graph.prefetch_links(best.slot(), self.level);
            }
            pool.add(newcomers);
            work.hops += 1;
        }
        false
    }
}

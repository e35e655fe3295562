//! The walk: greedy descent through the upper levels, then a beam on one level.
//!
//! A beam runs in slices: [`Beam::advance`] does at most the stated number of hops, and all that
//! has to survive until the next slice lies in a [`Scratch`], which is reused without
//! allocation. Inserts between two slices change lists that the walk has not read yet, which
//! costs nothing but a different, equally valid path.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Graph;
use super::visited::Visited;
use crate::kernels::{Distance, simd, sortable, unsortable};
use crate::store::Vectors;
use crate::types::Slot;

/// How many rows ahead of the distance being computed are fetched into the cache.
const PREFETCH_AHEAD: usize = 4;

/// A distance and a slot as one integer that sorts by distance, then slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(u64);

impl Key {
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
}

/// What walks have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Distances computed.
    pub distances: u64,
    /// Nodes whose neighbours were read.
    pub hops: u64,
}

/// The state of one walk, reusable for the next.
#[derive(Default)]
pub struct Scratch {
    visited: Visited,
    frontier: BinaryHeap<Reverse<Key>>,
    nearest: BinaryHeap<Key>,
    unseen: Vec<Slot>,
    /// Work done since the owner last reset it.
    pub work: Work,
}

impl Scratch {
    /// The accepted nodes found so far, in no order.
    #[must_use]
    pub fn nearest(&self) -> &[Key] {
        self.nearest.as_slice()
    }

    /// Takes the accepted nodes, nearest first.
    #[must_use]
    pub fn take_nearest_sorted(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.nearest).into_sorted_vec()
    }
}

/// One beam search on one level.
#[derive(Clone, Copy)]
pub struct Beam<'a> {
    /// The graph that is walked.
    pub graph: &'a Graph,
    /// The vectors of its slots.
    pub vectors: &'a Vectors,
    /// What is looked for, padded to the length of a row.
    pub query: &'a [f32],
    /// The level walked.
    pub level: u8,
    /// How many accepted nodes are kept: ef.
    pub width: usize,
}

impl Beam<'_> {
    /// Walks greedily from `from` on level `top` down to the level above this beam's; returns
    /// the best node found, a good place to begin.
    pub fn descend<D: Distance>(&self, from: Slot, top: u8, work: &mut Work) -> Slot {
        let mut best = Key::new(D::between(self.query, self.vectors.row(from)), from);
        work.distances += 1;
        for level in (self.level + 1..=top).rev() {
            loop {
                let mut better = best;
                work.hops += 1;
                self.graph.for_each_neighbour(best.slot(), level, |neighbour| {
                    let distance = D::between(self.query, self.vectors.row(neighbour));
                    work.distances += 1;
                    better = better.min(Key::new(distance, neighbour));
                });
                if better == best {
                    break;
                }
                best = better;
            }
        }
        best.slot()
    }

    /// Starts the beam at `entry`.
    pub fn begin<D: Distance>(
        &self,
        scratch: &mut Scratch,
        entry: Slot,
        accept: impl Fn(Slot) -> bool,
    ) {
        scratch.visited.reset(self.vectors.count());
        scratch.frontier.clear();
        scratch.nearest.clear();
        scratch.visited.insert(entry);
        let key = Key::new(D::between(self.query, self.vectors.row(entry)), entry);
        scratch.work.distances += 1;
        scratch.frontier.push(Reverse(key));
        if accept(entry) {
            scratch.nearest.push(key);
        }
    }

    /// Goes on for at most `hops_max` hops. True when the walk is complete: the nearest node
    /// not yet expanded is farther than everything kept.
    ///
    /// `accept` decides what is kept; the walk goes through the others all the same.
    pub fn advance<D: Distance>(
        &self,
        scratch: &mut Scratch,
        hops_max: u32,
        accept: impl Fn(Slot) -> bool,
    ) -> bool {
        let Scratch { visited, frontier, nearest, unseen, work } = scratch;
        for _ in 0..hops_max {
            let Some(Reverse(closest)) = frontier.pop() else {
                return true;
            };
            if nearest.len() >= self.width && nearest.peek().is_some_and(|&worst| closest > worst) {
                frontier.push(Reverse(closest));
                return true;
            }
            unseen.clear();
            self.graph.for_each_neighbour(closest.slot(), self.level, |neighbour| {
                if visited.insert(neighbour) {
                    unseen.push(neighbour);
                }
            });
            for &slot in unseen.iter().take(PREFETCH_AHEAD) {
                simd::prefetch(self.vectors.row(slot));
            }
            for (index, &slot) in unseen.iter().enumerate() {
                if let Some(&ahead) = unseen.get(index + PREFETCH_AHEAD) {
                    simd::prefetch(self.vectors.row(ahead));
                }
                let key = Key::new(D::between(self.query, self.vectors.row(slot)), slot);
                let full = nearest.len() >= self.width;
                if full && nearest.peek().is_some_and(|&worst| key > worst) {
                    continue;
                }
                frontier.push(Reverse(key));
                if accept(slot) {
                    nearest.push(key);
                    if full {
                        nearest.pop();
                    }
                }
            }
            work.hops += 1;
            work.distances += unseen.len() as u64;
        }
        false
    }
}

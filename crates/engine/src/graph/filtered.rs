//! A walk among the nodes that pass a filter ("wanted" nodes): no distance is computed to any other.
//!
//! Where few neighbours of a node are wanted, the neighbours of the others are taken in their place, as if the wanted
//! nodes had a graph of their own ("ACORN: Performant and Predicate-Agnostic Search Over Vector Embeddings and
//! Structured Data", Patel et al., 2024). Wanted nodes may lie in several places between which no such path leads:
//! the walk begins at several nodes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Graph;
use super::search::{Key, Work};
use super::space::Space;
use super::visited::Visited;
use crate::types::Slot;

/// Most unwanted nodes whose neighbours are read in a hop. Each list costs two to four times as much as a distance,
/// as each of its neighbours is looked up; where one node in a hundred is wanted, this many lists lead to some five.
const LISTS_MAX: usize = 24;

/// The state of one walk, reusable for the next.
#[derive(Default)]
pub struct Trail {
    /// Wanted nodes whose distance is known, and others whose neighbours have been read.
    visited: Visited,
    frontier: BinaryHeap<Reverse<Key>>,
    nearest: BinaryHeap<Key>,
    unseen: Vec<Slot>,
    unwanted: Vec<Slot>,
    /// Work done since the walk began.
    pub work: Work,
}

impl Trail {
    /// The wanted nodes found so far, in no order.
    pub fn nearest(&self) -> impl ExactSizeIterator<Item = Key> {
        self.nearest.iter().copied()
    }
}

/// One walk on level 0.
#[derive(Clone, Copy)]
pub struct FilteredWalk<'a, S> {
    /// The graph that is walked.
    pub graph: &'a Graph,
    /// Distances from the query.
    pub space: S,
    /// Number of wanted nodes that are kept: ef.
    pub width: usize,
}

impl<S: Space> FilteredWalk<'_, S> {
    /// Starts at `entry`, wanted or not, and at `seeds`, which are wanted.
    pub fn begin(
        &self,
        trail: &mut Trail,
        entry: Slot,
        seeds: impl Iterator<Item = Slot>,
        is_wanted: impl Fn(Slot) -> bool,
    ) {
        trail.visited.reset(self.space.extent());
        trail.frontier.clear();
        trail.nearest.clear();
        trail.work = Work::default();
        trail.unseen.clear();
        trail.unseen.extend(seeds.filter(|&seed| seed != entry));
        trail.unseen.dedup();
        for index in 0..trail.unseen.len() {
            trail.visited.insert(trail.unseen[index]);
        }
        self.look(trail);
        trail.visited.insert(entry);
        let key = self.space.key(entry, &mut trail.work);
        trail.frontier.push(Reverse(key));
        if is_wanted(entry) {
            trail.nearest.push(key);
        }
    }

    /// Continues for at most `hops_max` hops. True when the walk is complete: the nearest node not yet expanded is
    /// farther than every node kept.
    pub fn advance(
        &self,
        trail: &mut Trail,
        hops_max: u32,
        is_wanted: impl Fn(Slot) -> bool,
    ) -> bool {
        for _ in 0..hops_max {
            let Some(Reverse(closest)) = trail.frontier.pop() else {
                return true;
            };
            let is_full = trail.nearest.len() >= self.width;
            if is_full && trail.nearest.peek().is_some_and(|&worst| closest > worst) {
                trail.frontier.push(Reverse(closest));
                return true;
            }
            self.gather(trail, closest.slot(), &is_wanted);
            self.look(trail);
        }
        false
    }

    /// Collects the wanted nodes around `node` that have not been visited: among its neighbours,
    /// and, while those are few, among the neighbours of the others, and theirs.
    fn gather(&self, trail: &mut Trail, node: Slot, is_wanted: impl Fn(Slot) -> bool) {
        let Trail { visited, unseen, unwanted, work, .. } = trail;
        unseen.clear();
        unwanted.clear();
        let enough = self.graph.params().m;
        let (mut reading, mut next) = (node, 0);
        for _ in 0..=LISTS_MAX {
            work.hops += 1;
            self.graph.for_each_neighbour(reading, 0, |neighbour| {
                if visited.contains(neighbour) {
                    return;
                }
                if is_wanted(neighbour) {
                    visited.insert(neighbour);
                    unseen.push(neighbour);
                } else {
                    unwanted.push(neighbour);
                }
            });
            if unseen.len() >= enough {
                return;
            }
            // A node may have been met more than once.
            let Some(skipped) = unwanted[next..].iter().position(|&slot| visited.insert(slot))
            else {
                return;
            };
            next += skipped + 1;
            reading = unwanted[next - 1];
        }
    }

    /// Computes the distances of the collected nodes.
    fn look(&self, trail: &mut Trail) {
        let Trail { frontier, nearest, unseen, work, .. } = trail;
        self.space.each_key(unseen, work, |key| {
            let is_full = nearest.len() >= self.width;
            if is_full && nearest.peek().is_some_and(|&worst| key > worst) {
                return;
            }
            frontier.push(Reverse(key));
            nearest.push(key);
            if is_full {
                nearest.pop();
            }
        });
    }
}

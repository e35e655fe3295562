//! The best k of a stream of candidates, ties broken by document id.

use std::collections::BinaryHeap;

use crate::kernels::{sortable, unsortable};
use crate::types::{DocId, Slot};

/// Sorts by distance, then document id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    key: u32,
    pub(super) id: DocId,
    pub(super) slot: Slot,
}

impl Candidate {
    pub(super) fn distance(self) -> f32 {
        unsortable(self.key)
    }
}

/// Keeps the best `capacity` candidates.
pub(super) struct Top {
    capacity: usize,
    heap: BinaryHeap<Candidate>,
}

impl Top {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, heap: BinaryHeap::with_capacity(capacity + 1) }
    }

    pub(super) fn push(&mut self, distance: f32, id: DocId, slot: Slot) {
        let candidate = Candidate { key: sortable(distance), id, slot };
        if self.heap.len() < self.capacity {
            self.heap.push(candidate);
        } else if self.heap.peek().is_some_and(|worst| candidate < *worst) {
            self.heap.pop();
            self.heap.push(candidate);
        }
    }

    /// The candidates kept, best first.
    pub(super) fn into_sorted(self) -> Vec<Candidate> {
        self.heap.into_sorted_vec()
    }
}

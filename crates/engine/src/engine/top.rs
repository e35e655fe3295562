//! The best k of a stream of candidates, ties broken by document id.

use std::collections::BinaryHeap;

use crate::kernels::{sortable, unsortable};
use crate::types::{DocId, Slot};

/// A candidate; sorts by distance, then document id.
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

/// Keeps the best `capacity` candidates. Reusable without allocation.
#[derive(Default)]
pub(super) struct Top {
    capacity: usize,
    heap: BinaryHeap<Candidate>,
}

impl Top {
    /// Forgets all candidates, and keeps the best `capacity` from now on.
    pub(super) fn reset(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.heap.clear();
        self.heap.reserve(capacity);
    }

    /// True if a candidate would be kept.
    pub(super) fn takes(&self, distance: f32, id: DocId, slot: Slot) -> bool {
        let candidate = Candidate { key: sortable(distance), id, slot };
        self.heap.len() < self.capacity || self.heap.peek().is_some_and(|worst| candidate < *worst)
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

    /// Slots of the kept candidates, in no order.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.heap.iter().map(|candidate| candidate.slot)
    }

    /// The distance that a candidate must not exceed to be kept.
    pub(super) fn bound(&self) -> f32 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() == self.capacity => worst.distance(),
            _ => f32::INFINITY,
        }
    }

    /// Takes the kept candidates, best first, each as converted by `make`.
    pub(super) fn take_sorted<T>(&mut self, make: impl FnMut(Candidate) -> T) -> Vec<T> {
        let mut sorted = std::mem::take(&mut self.heap).into_sorted_vec();
        let made = sorted.drain(..).map(make).collect();
        self.heap = sorted.into();
        made
    }
}

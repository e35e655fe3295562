//! Finding every document that passes a filter, in steps: the first half of a delete by filter, and of
//! listing documents, where it is those with the smallest ids behind one.

use std::collections::BinaryHeap;

use super::Engine;
use super::filter::Filter;
use super::index::evaluate::{Candidates, Evaluation};
use super::read::{STEP_DOCUMENTS, STEP_FILTER_BYTES};
use crate::types::{DocId, Lsn, Slot};

/// A search for every document that passes.
pub struct Sweep {
    filter: Filter,
    snapshot: Lsn,
    state: State,
    found: Found,
}

/// Documents found.
enum Found {
    All(Vec<DocId>),
    /// The smallest ids behind one, the largest of them on top.
    Page {
        after: DocId,
        max: usize,
        ids: BinaryHeap<DocId>,
    },
}

impl Found {
    /// This document might be wanted.
    fn wants(&self, id: DocId) -> bool {
        match self {
            Self::All(_) => true,
            Self::Page { after, max, ids } => {
                id > *after && (ids.len() < *max || ids.peek().is_some_and(|&top| id < top))
            }
        }
    }

    fn add(&mut self, id: DocId) {
        match self {
            Self::All(ids) => ids.push(id),
            Self::Page { max, ids, .. } => {
                ids.push(id);
                if ids.len() > *max {
                    ids.pop();
                }
            }
        }
    }
}

enum State {
    /// The index is asked.
    Asking(Box<Evaluation>),
    /// Its candidates are looked at, from this slot on.
    Looking(Candidates, u32),
}

impl Sweep {
    /// Looks at some hundreds of documents. True when all have been seen.
    pub fn step(&mut self, engine: &Engine) -> bool {
        let Self { filter, snapshot, state, found } = self;
        let (candidates, next) = match state {
            State::Asking(evaluation) => {
                let step = evaluation.step(filter, &engine.index, &engine.store, *snapshot);
                if let Some(candidates) = step {
                    *state = State::Looking(candidates, 0);
                }
                return false;
            }
            State::Looking(candidates, next) => (candidates, next),
        };
        let conditions = filter.conditions();
        let mut budget = STEP_FILTER_BYTES;
        let mut slots = candidates.slots.iter();
        slots.advance_to(*next);
        for slot in slots.by_ref().take(STEP_DOCUMENTS as usize) {
            *next = slot + 1;
            let slot = Slot(slot);
            let id = engine.store.doc_id(slot);
            if !found.wants(id) || !engine.store.is_visible(slot, *snapshot) {
                continue;
            }
            let payload = engine.store.payload_at(slot, *snapshot);
            if filter.matches(payload) {
                found.add(id);
            }
            budget = budget.saturating_sub(conditions * payload.bytes().len());
            if budget == 0 {
                return false;
            }
        }
        slots.next().is_none()
    }
}

impl Engine {
    /// Begins to look for every document that passes `filter`. [`Engine::finish_sweep`] must
    /// follow.
    pub fn begin_sweep(&mut self, filter: Filter) -> Sweep {
        self.begin(filter, Found::All(Vec::new()))
    }

    /// Begins to look for the `max` documents with the smallest ids behind `after` that pass.
    /// [`Engine::finish_sweep`] must follow.
    pub fn begin_page(&mut self, filter: Filter, after: DocId, max: usize) -> Sweep {
        self.begin(filter, Found::Page { after, max, ids: BinaryHeap::new() })
    }

    fn begin(&mut self, filter: Filter, found: Found) -> Sweep {
        self.store.open_snapshot(self.applied);
        let state = State::Asking(Box::new(Evaluation::new(&self.index, &filter)));
        Sweep { filter, snapshot: self.applied, state, found }
    }

    /// Ends a sweep; returns its filter and the documents found, of a page in the order of their ids.
    /// Some may have changed since.
    pub fn finish_sweep(&mut self, sweep: Sweep) -> (Filter, Vec<DocId>) {
        self.store.close_snapshot(sweep.snapshot);
        let ids = match sweep.found {
            Found::All(ids) => ids,
            Found::Page { ids, .. } => ids.into_sorted_vec(),
        };
        (sweep.filter, ids)
    }
}

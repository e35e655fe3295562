//! Finding every document that passes a filter, in steps: the first half of a delete by filter.

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
    ids: Vec<DocId>,
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
        let Self { filter, snapshot, state, ids } = self;
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
            if !engine.store.is_visible(slot, *snapshot) {
                continue;
            }
            let payload = engine.store.payload_at(slot, *snapshot);
            if filter.matches(payload) {
                ids.push(engine.store.doc_id(slot));
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
        self.store.open_snapshot(self.applied);
        let state = State::Asking(Box::new(Evaluation::new(&self.index, &filter)));
        Sweep { filter, snapshot: self.applied, state, ids: Vec::new() }
    }

    /// Ends a sweep; returns its filter and the documents found. Some may have changed since.
    pub fn finish_sweep(&mut self, sweep: Sweep) -> (Filter, Vec<DocId>) {
        self.store.close_snapshot(sweep.snapshot);
        (sweep.filter, sweep.ids)
    }
}

//! Sweep: finds every document that passes a filter, in steps. First half of a delete by filter, and of listing
//! documents ([`super::listing`]).

use super::Engine;
use super::filter::Filter;
use super::index::evaluate::{Candidates, Evaluation};
use super::read::{STEP_DOCUMENTS, STEP_FILTER_BYTES};
use crate::pieces::in_pieces;
use crate::types::{DocId, Lsn, Slot};

/// Ids in a piece of the result: nothing that grows is copied as a whole.
#[must_use]
pub fn piece_ids() -> usize {
    in_pieces(4_096, 64)
}

/// A sweep in progress.
pub struct Sweep {
    pub(super) filter: Filter,
    snapshot: Lsn,
    state: State,
    pub(super) found: Found,
    pub(super) looked: u64,
}

enum State {
    /// Evaluating the filter in the index.
    Asking(Box<Evaluation>),
    /// Looking at the candidates, from this slot on.
    Looking(Candidates, u32),
}

/// Ids of documents found.
pub(super) struct Found {
    /// Exclusive lower bound of the ids.
    pub(super) after: DocId,
    /// Inclusive upper bound of the ids: those beyond were too many.
    pub(super) through: DocId,
    /// Most ids kept, about; the smallest ones.
    max: usize,
    count: usize,
    /// Pieces of ids; each but the last is full, and sorted.
    pub(super) pieces: Vec<Vec<DocId>>,
}

impl Found {
    fn new(after: DocId, max: usize) -> Self {
        Self { after, through: DocId(u64::MAX), max, count: 0, pieces: Vec::new() }
    }

    /// True if this id is within the bounds.
    fn wants(&self, id: DocId) -> bool {
        id > self.after && id <= self.through
    }

    fn add(&mut self, id: DocId) {
        match self.pieces.last_mut().filter(|piece| piece.len() < piece.capacity()) {
            Some(piece) => piece.push(id),
            None => {
                let mut piece = Vec::with_capacity(piece_ids());
                piece.push(id);
                self.pieces.push(piece);
            }
        }
        self.count += 1;
        if let Some(piece) = self.pieces.last_mut().filter(|piece| piece.len() == piece.capacity())
        {
            piece.sort_unstable();
            if self.count > self.max {
                self.halve();
            }
        }
    }

    /// Drops the larger ids, about half of them. All pieces are full, and so sorted.
    fn halve(&mut self) {
        let middle = |piece: &Vec<DocId>| piece[piece.len() / 2];
        let mut middles: Vec<DocId> = self.pieces.iter().map(middle).collect();
        middles.sort_unstable();
        self.through = middles[(middles.len() - 1) / 2];
        self.count = 0;
        self.pieces.retain_mut(|piece| {
            piece.truncate(piece.partition_point(|&id| id <= self.through));
            piece.shrink_to_fit();
            self.count += piece.len();
            !piece.is_empty()
        });
    }
}

impl Sweep {
    /// Looks at some hundreds of documents. True when all have been seen.
    pub fn step(&mut self, engine: &Engine) -> bool {
        let Self { filter, snapshot, state, found, looked } = self;
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
            *looked += 1;
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

    /// Number of slots looked at so far.
    #[must_use]
    pub fn looked(&self) -> u64 {
        self.looked
    }
}

impl Engine {
    /// Begins to look for every document that passes `filter`. [`Engine::finish_sweep`] must follow.
    pub fn begin_sweep(&mut self, filter: Filter) -> Sweep {
        self.sweep_behind(filter, DocId(0), usize::MAX)
    }

    /// Begins to look for documents that pass `filter`, with larger ids than `after`; about the `max` smallest.
    pub(super) fn sweep_behind(&mut self, filter: Filter, after: DocId, max: usize) -> Sweep {
        self.store.open_snapshot(self.applied);
        let state = State::Asking(Box::new(Evaluation::new(&self.index, &filter)));
        let found = Found::new(after, max);
        Sweep { filter, snapshot: self.applied, state, found, looked: 0 }
    }

    /// Ends a sweep; returns its filter and the documents found, in pieces. Some may have changed since.
    pub fn finish_sweep(&mut self, sweep: Sweep) -> (Filter, Vec<Vec<DocId>>) {
        let (filter, found) = self.end_sweep(sweep);
        (filter, found.pieces)
    }

    pub(super) fn end_sweep(&mut self, sweep: Sweep) -> (Filter, Found) {
        self.store.close_snapshot(sweep.snapshot);
        (sweep.filter, sweep.found)
    }
}

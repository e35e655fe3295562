//! A search with a filter. First the index is asked which documents may pass
//! ([`index::evaluate`](super::index::evaluate)), then [`plan`](super::plan) chooses:
//! - **scan**: look at all of them. Exact.
//! - **walk among them**: no distance to any other document is computed
//!   ([`crate::graph::filtered`]).
//! - **walk**, as without a filter, and keep those that pass.
//!
//! A walk that finds fewer than k, or has cost more than a scan would have, is followed by a scan.
//! Whatever the way, a hit was visible when the search began, and its metadata of then passes.

use super::Engine;
use super::filter::Filter;
use super::index::MetadataIndex;
use super::index::evaluate::{Candidates, Evaluation};
use super::plan::{Way, way};
use super::read::{Phase, Reused, STEP_DOCUMENTS, STEP_FILTER_BYTES, Scope, Search};
use crate::graph::space::{Exact, Space};
use crate::graph::visited::Visited;
use crate::kernels::Distance;
use crate::types::{Lsn, Slot};

/// Documents, spread evenly over those that may pass, at which a walk among them begins, beside
/// the nearest node of the whole graph.
const SEEDS: u64 = 16;

/// Candidates up to which a walk has them as plain bits. Sets as sparse as these are lists in their
/// bitmap, which take ten times as long to look into as a bit, thousands of times a walk; setting a
/// bit takes some two nanoseconds.
const FLAT_MAX: u64 = 1 << 14;

/// What the filter of a search selects, and what is made of it.
pub(super) struct Filtered {
    evaluation: Evaluation,
    candidates: Candidates,
    /// Conditions that it may take to decide about a document.
    conditions: usize,
    way: Way,
    /// Only a scan will do.
    is_exact: bool,
    /// The walk has cost more than a scan would have.
    is_given_up: bool,
}

/// What decides, beside the candidates, whether a walk wants a slot.
pub(super) struct Conditions<'a> {
    pub(super) filter: Option<&'a Filter>,
    pub(super) snapshot: Lsn,
    pub(super) flat: &'a Visited,
}

impl Filtered {
    pub(super) fn new(index: &MetadataIndex, filter: &Filter, is_exact: bool) -> Self {
        let evaluation = Evaluation::new(index, filter);
        Self {
            evaluation,
            candidates: Candidates::default(),
            conditions: filter.conditions(),
            way: Way::Scan,
            is_exact,
            is_given_up: false,
        }
    }

    /// Documents that may pass.
    pub(super) fn count(&self) -> u64 {
        self.candidates.slots.len()
    }

    pub(super) fn walks_among(&self) -> bool {
        self.way == Way::Among
    }

    /// The candidates are plain bits too.
    fn is_flat(&self) -> bool {
        self.walks_among() && self.count() <= FLAT_MAX
    }

    /// Sets the bits in `flat` by which a walk tells the candidates, if it does.
    pub(super) fn lay_out(&self, flat: &mut Visited, engine: &Engine) {
        if self.is_flat() {
            flat.reset(engine.store.extent());
            for slot in &self.candidates.slots {
                flat.insert(Slot(slot));
            }
        }
    }

    /// Where a walk among them begins, beside the nearest node of the whole graph.
    pub(super) fn seeds(&self) -> impl Iterator<Item = Slot> {
        let slots = &self.candidates.slots;
        let seed = |number| slots.select((number * slots.len() / SEEDS) as u32).map(Slot);
        (0..SEEDS).filter_map(seed)
    }

    /// Gives up a walk that has computed more distances than a scan would have; true if so.
    pub(super) fn give_up(&mut self, distances: u64) -> bool {
        self.is_given_up = distances > self.count();
        self.is_given_up
    }

    /// Whether a scan has to follow, whatever the walk found.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// True if `slot` is worth keeping for a walk: it may hold a document that passes, and, unless
    /// that is as good as certain, does.
    #[inline]
    pub(super) fn wants(&self, engine: &Engine, conditions: &Conditions<'_>, slot: Slot) -> bool {
        let Conditions { filter, snapshot, flat } = *conditions;
        let store = &engine.store;
        let is_candidate = match self.is_flat() {
            true => flat.contains(slot),
            false => self.candidates.slots.contains(slot.0),
        };
        is_candidate
            && match self.candidates.unsure {
                // What died lately is still among the candidates.
                0 => store.retired_count() == 0 || store.is_visible(slot, snapshot),
                _ => {
                    let passes = |filter: &Filter| filter.matches(store.payload_at(slot, snapshot));
                    store.is_visible(slot, snapshot) && filter.is_none_or(passes)
                }
            }
    }
}

impl Search {
    /// Asks the index on, and decides when it has answered.
    pub(super) fn plan(&mut self, engine: &Engine) {
        let Self { query, snapshot, filtered, phase, .. } = self;
        let (Some(filtered), Some(filter)) = (filtered, &query.filter) else {
            unreachable!("only a search with a filter is planned");
        };
        let step = filtered.evaluation.step(filter, &engine.index, &engine.store, *snapshot);
        let Some(candidates) = step else { return };
        let ef = query.ef as u64;
        let live = engine.store.live_of_all() as u64;
        filtered.way = match filtered.is_exact {
            true => Way::Scan,
            false => match way(candidates.slots.len(), candidates.unsure, live, ef) {
                // Of the nodes that a plain walk keeps, most would be of other owners.
                Way::Plain if engine.store.stripe().owners() > 1 => Way::Among,
                way => way,
            },
        };
        filtered.candidates = candidates;
        *phase = match filtered.way {
            Way::Scan => Phase::Scan(0),
            Way::Among | Way::Plain => engine.hot_start(Scope::Shard),
        };
    }

    /// True if a visible document passes the filter, as far as a walk has to know.
    pub(super) fn passes(&self, engine: &Engine, slot: Slot) -> bool {
        self.filtered.as_ref().is_none_or(|filtered| {
            filtered.candidates.slots.contains(slot.0) && self.matches(engine, slot)
        })
    }

    /// Looks at some of the candidates, from slot `start` on.
    pub(super) fn scan_candidates<D: Distance>(&mut self, engine: &Engine, start: u32) {
        let Some(filtered) = &self.filtered else { return };
        let is_sure = filtered.candidates.unsure == 0;
        let mut batch = std::mem::take(&mut self.reused.batch);
        batch.clear();
        let (mut budget, mut next) = (STEP_FILTER_BYTES, None);
        let mut slots = filtered.candidates.slots.iter();
        slots.advance_to(start);
        for (count, slot) in slots.map(Slot).enumerate() {
            if count == STEP_DOCUMENTS as usize || budget == 0 {
                next = Some(slot.0);
                break;
            }
            let is_new = !self.reused.scanned.contains(slot);
            if !is_new || !engine.store.is_visible(slot, self.snapshot) {
                continue;
            }
            if !is_sure {
                let bytes = engine.store.payload_at(slot, self.snapshot).bytes().len();
                budget = budget.saturating_sub(filtered.conditions * bytes);
                if !self.matches(engine, slot) {
                    continue;
                }
            }
            batch.push(slot);
        }
        self.look::<D>(engine, &batch, is_sure);
        self.reused.batch = batch;
        self.phase = next.map_or(Phase::Done, Phase::Scan);
    }

    /// Considers documents that are visible and pass; if that is only what the index says, those
    /// that would be hits are asked themselves.
    fn look<D: Distance>(&mut self, engine: &Engine, batch: &[Slot], is_from_index: bool) {
        let Reused { vector, keys, .. } = &mut *self.reused;
        keys.clear();
        let space = Exact::<D>::new(vector, engine.store.vectors());
        space.each_key(batch, &mut self.work, |key| keys.push(key));
        for index in 0..self.reused.keys.len() {
            let (slot, distance) =
                (self.reused.keys[index].slot(), self.reused.keys[index].distance());
            let passes = |search: &Self| !is_from_index || search.matches(engine, slot);
            self.admit_if(engine, slot, distance, passes);
        }
    }
}

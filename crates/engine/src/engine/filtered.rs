//! Search with a filter. First the index gives the documents that may pass
//! ([`index::evaluate`](super::index::evaluate)), then [`plan`](super::plan) chooses:
//! - **scan**: look at all of them. Exact.
//! - **walk among them**: no distance to any other document is computed ([`crate::graph::filtered`]).
//! - **walk**, as without a filter, and keep those that pass.
//!
//! A walk that finds fewer than k, or has cost more than a scan would have, is followed by a scan. In each case, a
//! hit was visible when the search began, and its metadata at that time passes.

use std::sync::Arc;

use super::Engine;
use super::filter::Filter;
use super::index::MetadataIndex;
use super::index::evaluate::{Candidates, Evaluation};
use super::plan::{Way, way};
use super::read::{Phase, Query, Reused, STEP_DOCUMENTS, STEP_FILTER_BYTES, Scope, Search};
use crate::error::Result;
use crate::graph::space::{Exact, Space};
use crate::graph::visited::Visited;
use crate::kernels::Distance;
use crate::store::view::View;
use crate::types::{Lsn, Slot};

/// Documents, spread evenly over those that may pass, at which a walk among them begins, beside the nearest node of
/// the whole graph.
const SEEDS: u64 = 16;

/// Most candidates that are laid out as plain bits for a walk. Sets as sparse as these are lists in their bitmap, in
/// which a lookup takes ten times as long as of a bit, thousands of times per walk; setting a bit takes some two
/// nanoseconds.
const FLAT_MAX: u64 = 1 << 14;

/// The candidates of a search's filter, and the strategy chosen for them.
pub(super) struct Filtered {
    evaluation: Evaluation,
    candidates: Candidates,
    /// Most conditions that have to be evaluated for one document.
    conditions: usize,
    way: Way,
    /// True if only a scan will do.
    is_exact: bool,
    /// True if the walk has cost more than a scan would have.
    is_given_up: bool,
    /// True if the candidates are those of several owners.
    is_borrowed: bool,
    /// True if the documents that pass are not looked at here, but lent to a search of the partition.
    is_lent: bool,
}

/// The conditions, beside the candidates, on which a walk wants a slot.
pub(super) struct Conditions<'a> {
    pub(super) filter: Option<&'a Filter>,
    pub(super) view: &'a View,
    pub(super) flat: &'a Visited,
}

/// The documents of one shard, at one of its states, that pass a filter: shared with a search of the whole partition
/// on the core of another shard. While a reference to it exists, that state is kept.
#[derive(Debug)]
pub struct Lent {
    owner: u32,
    snapshot: Lsn,
    candidates: Candidates,
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
            is_borrowed: false,
            is_lent: false,
        }
    }

    /// The candidates that several owners have lent, for a beam of `ef` in `live` documents.
    fn borrowed(
        index: &MetadataIndex,
        filter: &Filter,
        lent: &[Arc<Lent>],
        live: u64,
        ef: u64,
    ) -> Self {
        let mut candidates = Candidates::default();
        for lent in lent {
            candidates.slots |= &lent.candidates.slots;
            candidates.unsure += lent.candidates.unsure;
        }
        let way = way(candidates.slots.len(), candidates.unsure, live, ef);
        Self { candidates, way, is_borrowed: true, ..Self::new(index, filter, false) }
    }

    /// Number of documents that may pass.
    pub(super) fn count(&self) -> u64 {
        self.candidates.slots.len()
    }

    pub(super) fn walks_among(&self) -> bool {
        self.way == Way::Among
    }

    /// True if the candidates are laid out as plain bits too.
    fn is_flat(&self) -> bool {
        self.walks_among() && self.count() <= FLAT_MAX
    }

    /// Sets the bits of the candidates in `flat`, if a walk uses them.
    pub(super) fn lay_out(&self, flat: &mut Visited, engine: &Engine) {
        if self.is_flat() {
            flat.reset(engine.store.extent());
            for slot in &self.candidates.slots {
                flat.insert(Slot(slot));
            }
        }
    }

    /// Seeds of a walk among the candidates, beside the nearest node of the whole graph.
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

    /// True if a scan has to follow, whatever the walk found.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up
    }

    /// True if a walk should keep `slot`: the slot may hold a document that passes, and, unless the index is certain,
    /// the document does pass.
    #[inline]
    pub(super) fn wants(&self, engine: &Engine, conditions: &Conditions<'_>, slot: Slot) -> bool {
        let Conditions { filter, view, flat } = *conditions;
        let store = &engine.store;
        let is_candidate = match self.is_flat() {
            true => flat.contains(slot),
            false => self.candidates.slots.contains(slot.0),
        };
        is_candidate
            && match self.candidates.unsure {
                // Versions that died recently are still among the candidates.
                0 if self.is_borrowed => engine.ward.dead() == 0 || store.sees(view, slot),
                0 => store.retired_count() == 0 || store.sees(view, slot),
                _ => {
                    let payload = || store.payload_at(slot, view.own());
                    store.sees(view, slot) && filter.is_none_or(|filter| filter.matches(payload()))
                }
            }
    }
}

impl Search {
    /// Continues the evaluation in the index, and chooses the strategy once it has ended.
    pub(super) fn plan(&mut self, engine: &Engine) {
        let Self { query, scope, snapshot, filtered, phase, .. } = self;
        let (Some(filtered), Some(filter)) = (filtered, &query.filter) else {
            unreachable!("only a search with a filter is planned");
        };
        let step = filtered.evaluation.step(filter, &engine.index, &engine.store, *snapshot);
        let Some(candidates) = step else { return };
        let ef = query.ef as u64;
        let live = engine.store.live_of_all() as u64;
        // If several owners share the graph, each has about as many documents that pass.
        let owners = u64::from(engine.store.stripe().owners());
        let (matching, unsure) = (candidates.slots.len() * owners, candidates.unsure * owners);
        filtered.way = match filtered.is_exact {
            true => Way::Scan,
            false => way(matching, unsure, live, ef),
        };
        if *scope == Scope::Lending && filtered.way != Way::Scan {
            filtered.candidates = candidates;
            filtered.is_lent = true;
            *phase = Phase::Done;
            return;
        }
        // Of the nodes that a plain walk keeps, most would be those of other owners.
        if filtered.way == Way::Plain && owners > 1 {
            filtered.way = Way::Among;
        }
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
            if !is_new || !engine.store.sees(&self.reused.view, slot) {
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
        batch.clear();
        self.reused.batch = batch;
        self.phase = next.map_or(Phase::Done, Phase::Scan);
    }

    /// Considers visible documents that pass. If only the index says that they pass, the metadata of those that would
    /// be hits is checked.
    fn look<D: Distance>(&mut self, engine: &Engine, batch: &[Slot], is_from_index: bool) {
        if let Some(places) = engine.store.places() {
            // Documents that can't be among the best are dropped by bounds that only passing documents may set.
            let passing = batch.iter().copied();
            let passing = passing.filter(|&slot| !is_from_index || self.matches(engine, slot));
            self.reused.batch = passing.collect();
            return self.look_on_disk::<D>(engine, places);
        }
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

impl Engine {
    /// Begins a search with a filter over the documents that all shards have lent, at the states of the loans.
    /// [`Engine::finish_search`] must follow.
    ///
    /// # Errors
    /// If the vector is not of the collection's dimension.
    ///
    /// # Panics
    /// If the query has no filter.
    pub fn begin_borrowed(&mut self, query: Arc<Query>, lent: &[Arc<Lent>]) -> Result<Search> {
        self.check_dimension("query_embedding", query.vector.len())?;
        let mut reused = self.take_reused();
        self.store.open_view(&mut reused.view, false);
        let states = lent.iter().map(|lent| (lent.owner, lent.snapshot));
        self.store.look_back(&mut reused.view, states);
        let mut search = self.scan_in(query.clone(), Scope::Partition, reused);
        let own = lent.iter().find(|lent| lent.owner == self.store.stripe().owner());
        search.snapshot = own.map_or(search.snapshot, |own| own.snapshot);
        let filter = query.filter.as_ref().expect("what passes a filter was lent");
        let (live, ef) = (self.store.live_of_all() as u64, query.ef as u64);
        let filtered = Filtered::borrowed(&self.index, filter, lent, live, ef);
        search.phase = match filtered.way {
            Way::Scan => Phase::Scan(0),
            Way::Among | Way::Plain => self.hot_start(Scope::Partition),
        };
        search.filtered = Some(Box::new(filtered));
        Ok(search)
    }

    /// Lends the documents that pass, if the search is one that lends, and keeps the state of `snapshot`, which is
    /// open, until no reference to the loan is left.
    pub(super) fn lend(&mut self, filtered: Filtered, snapshot: Lsn) -> Option<Arc<Lent>> {
        if !filtered.is_lent {
            return None;
        }
        self.end_loans();
        self.store.open_snapshot(snapshot);
        let owner = self.store.stripe().owner();
        let lent = Arc::new(Lent { owner, snapshot, candidates: filtered.candidates });
        self.loans.push(lent.clone());
        Some(lent)
    }

    /// Closes the snapshots of loans to which no other reference is left.
    pub(super) fn end_loans(&mut self) {
        let Self { store, loans, .. } = self;
        loans.retain_mut(|lent| {
            // Others have read all that they read of that state before this is true.
            let is_back = Arc::get_mut(lent).is_some();
            if is_back {
                store.close_snapshot(lent.snapshot);
            }
            !is_back
        });
    }
}

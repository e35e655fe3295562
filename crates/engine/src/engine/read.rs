//! Reads: a document by id, and the search.
//!
//! A search has one of two forms:
//! - **walk**: scan the hot tier, then walk the graph. The hot tier goes first: a document that is linked in between
//!   has been seen there, and otherwise is found in the graph.
//! - **scan**: look at every document. Exact; for small shards, where it is cheaper than the walk, for walks that
//!   found fewer documents than k and their beam allow though there are more, and for clients that ask for the exact
//!   answer.
//!
//! With a filter, the index first gives the documents that may pass: see `engine::filtered`.

pub mod disk;
mod finish;
mod outcome;
pub mod recall;
mod rerank;
mod walk;

use std::sync::Arc;

use self::disk::OnDisk;
pub use self::outcome::{Document, Hit, SearchOutcome};
use self::walk::Walk;
use super::filter::Filter;
use super::filtered::Filtered;
pub use super::filtered::Lent;
use super::top::{Candidate, Top};
use super::{Engine, SCRATCHES_MAX, walk_codes};
use crate::error::Result;
use crate::graph::filtered::Trail;
use crate::graph::search::{Key, Scratch, Work};
use crate::graph::space::{Coded, Exact};
use crate::graph::visited::Visited;
use crate::kernels::Distance;
use crate::store::OwnCode;
use crate::store::view::View;
use crate::types::stripe::Stripe;
use crate::types::{DocId, Lsn, Slot};
use crate::with_distance;

/// Slots for each unit of ef below which looking at all of them costs less than a walk, whose distances come from all
/// over memory and whose heaps take time too.
const SCAN_SLOTS_PER_EF: usize = 16;

/// Hops of a walk, and documents of a scan, between two looks at the clock.
pub(super) const STEP_HOPS: u32 = 32;
pub(super) const STEP_DOCUMENTS: u32 = 512;

/// Bytes of metadata that filters read between two looks at the clock.
pub(super) const STEP_FILTER_BYTES: usize = 64 << 10;

/// Dead slots that a scan skips in the time in which it looks at one document.
const SKIPS_PER_DOCUMENT: usize = 16;

/// A search query. Validated: the vector is finite, of the collection's dimension and scaled as the metric requires;
/// k is not 0.
#[derive(Clone, Debug)]
pub struct Query {
    /// The query vector.
    pub vector: Vec<f32>,
    /// Number of documents wanted.
    pub k: usize,
    /// Beam width, at least 1. A walk finds at most this many: a width below k is for one of several shards that
    /// together find k.
    pub ef: usize,
    /// Least score of a result, if it is above 0.
    pub min_score: f32,
    /// Condition that results have to pass.
    pub filter: Option<Filter>,
    /// True if the vectors are returned too.
    pub include_embeddings: bool,
    /// True if every document in scope is to be looked at, so that the answer is exact.
    pub is_exact: bool,
}

/// The documents that a search of a shard covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The documents of the shard.
    Shard,
    /// The documents of the shard, if few pass the filter; else none, and the documents that pass are lent to a
    /// search of the partition ([`Lent`]).
    Lending,
    /// The documents of all shards whose graph the shard has a part of.
    Partition,
}

/// Phase of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Evaluating the filter in the index.
    Plan,
    /// Scanning the hot tier from here on.
    Hot(HotPlace),
    /// About to enter the graph.
    Enter,
    /// Walking.
    Walk,
    /// Comparing the nodes that the walk found as vectors, from this one on.
    Rerank(usize),
    /// Waiting for vectors that are on disk.
    Fetch,
    /// Scanning all slots from this one.
    Scan(u32),
    /// The end.
    Done,
}

/// A place in the hot tiers of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotPlace {
    /// The owner of the hot tier.
    owner: u32,
    /// The next document; `None` at the start.
    next: Option<Slot>,
}

/// A search of one shard, or of its partition, in progress.
pub struct Search {
    pub(super) query: Arc<Query>,
    pub(super) scope: Scope,
    /// LSN of the shard's state that is searched.
    pub(super) snapshot: Lsn,
    pub(super) phase: Phase,
    /// Candidates of the filter, if there is one.
    pub(super) filtered: Option<Box<Filtered>>,
    /// Documents in scope that were seen, at any score, and those with at least the score asked for.
    seen: u64,
    found: u64,
    pub(super) work: Work,
    hot_scanned: u64,
    hot_cut: bool,
    /// True if it was wound up before it had looked at everything: see [`Search::wind_up`].
    was_cut: bool,
    /// True if it walks by codes.
    is_by_codes: bool,
    /// See [`Search::region`].
    region: u32,
    pub(super) reused: Box<Reused>,
}

/// The memory of a search, reused by the next one.
#[derive(Default)]
pub(super) struct Reused {
    /// The view that is searched: open until the search has ended.
    pub(super) view: View,
    /// The query vector, padded to the length of a row.
    pub(super) vector: Vec<f32>,
    /// The code of the query, if there are codes.
    code: OwnCode,
    top: Top,
    /// Documents considered: a scan after a walk does not look at them again.
    pub(super) scanned: Visited,
    scratch: Scratch,
    trail: Trail,
    /// Nodes at which a walk begins, if it does not come through the upper levels.
    starts: Vec<Slot>,
    /// The candidates of a filter as bits, if a walk looks them up faster so.
    wanted: Visited,
    /// The nodes that the walk found, nearest first by its own distances; those that a step compares as vectors, and
    /// the results.
    candidates: Vec<Key>,
    pub(super) batch: Vec<Slot>,
    pub(super) keys: Vec<Key>,
    /// Reads of vectors on disk, if vectors are not all in memory.
    disk: OnDisk,
}

impl Search {
    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The region of the graph that it searches: the node to which the descent through the upper levels led, + 1; 0
    /// before that, and if it began elsewhere. `None` if it looks at every document: its reads say nothing of what
    /// later searches will want.
    #[must_use]
    pub fn region(&self) -> Option<u32> {
        (!self.query.is_exact).then_some(self.region)
    }

    /// Distances computed so far, except those of a walk that is still going on.
    #[must_use]
    pub fn considered(&self) -> u64 {
        self.work.distances
    }

    /// Gives up the rest of the hot tier, and marks the outcome as cut.
    pub fn cut_hot_scan(&mut self) {
        if matches!(self.phase, Phase::Hot(_)) {
            self.phase = Phase::Enter;
            self.hot_cut = true;
        }
    }

    /// Does some tens of microseconds of work. True when the search is done.
    pub fn step(&mut self, engine: &Engine) -> bool {
        with_distance!(engine.params.metric, D => {
            match self.phase {
                Phase::Plan => self.plan(engine),
                Phase::Hot(place) => self.scan_hot::<D>(engine, place),
                Phase::Enter => self.enter::<D>(engine),
                Phase::Walk => self.walk::<D>(engine),
                Phase::Rerank(first) => self.rerank::<D>(engine, first),
                Phase::Fetch => self.take_rows::<D>(engine),
                Phase::Scan(slot) if self.filtered.is_some() => {
                    self.scan_candidates::<D>(engine, slot);
                }
                Phase::Scan(slot) => self.scan::<D>(engine, slot),
                Phase::Done => {}
            }
        });
        if let Some(places) = engine.store.places() {
            self.hold_for_rows(engine, places);
        }
        self.phase == Phase::Done
    }

    /// Continues the scan of the hot tiers. Documents leave them at the front meanwhile: these are in the graph by
    /// then, or dead.
    fn scan_hot<D: Distance>(&mut self, engine: &Engine, place: HotPlace) {
        let chains = engine.store.chains();
        let HotPlace { owner, next } = place;
        let mut next = next.or_else(|| chains.first(owner));
        for _ in 0..STEP_DOCUMENTS {
            let Some(slot) = next else { break };
            let is_visible = engine.store.sees(&self.reused.view, slot);
            if is_visible && self.passes(engine, slot) && self.reused.scanned.insert(slot) {
                self.hot_scanned += 1;
                self.consider::<D>(engine, slot);
            }
            next = chains.after(slot);
        }
        if let Some(places) = engine.store.places() {
            self.look_on_disk::<D>(engine, places);
        }
        let is_last = self.scope != Scope::Partition || owner + 1 == engine.store.stripe().owners();
        self.phase = match next {
            Some(_) => Phase::Hot(HotPlace { owner, next }),
            None if is_last => Phase::Enter,
            None => Phase::Hot(HotPlace { owner: owner + 1, next: None }),
        };
    }

    fn enter<D: Distance>(&mut self, engine: &Engine) {
        let Some((entry, top)) = engine.graph.entry() else {
            return match engine.store.places() {
                Some(_) => self.phase = Phase::Rerank(0),
                None => self.finish_walk(engine),
            };
        };
        if let Some(filtered) = &self.filtered {
            filtered.lay_out(&mut self.reused.wanted, engine);
        }
        let Reused { view, vector, code, scratch, trail, wanted, starts, .. } = &mut *self.reused;
        let filtered = self.filtered.as_deref().map(|filtered| (filtered, &*wanted));
        let is_among = filtered.is_some_and(|(filtered, _)| filtered.walks_among());
        starts.retain(|slot| !is_among && engine.graph.level(*slot).is_some());
        let walk = Walk::of(engine, &self.query, view, filtered);
        scratch.work = Work::default();
        let codes = walk_codes(&engine.store);
        self.is_by_codes = codes.is_some();
        let from = if let Some(codes) = codes {
            codes.encode_into(&self.query.vector, code);
            let space = Coded::<D>::new(code.get(), codes);
            walk.enter_from(space, scratch, trail, starts, entry, top)
        } else {
            let space = Exact::<D>::new(vector, engine.store.vectors());
            walk.enter_from(space, scratch, trail, starts, entry, top)
        };
        self.region = from.map_or(0, |from| from.0.saturating_add(1));
        self.phase = Phase::Walk;
    }

    fn walk<D: Distance>(&mut self, engine: &Engine) {
        let Reused { view, vector, code, scratch, trail, wanted, .. } = &mut *self.reused;
        let filtered = self.filtered.as_deref().map(|filtered| (filtered, &*wanted));
        let walk = Walk::of(engine, &self.query, view, filtered);
        let codes = engine.store.codes().filter(|_| self.is_by_codes);
        let is_done = if let Some(codes) = codes {
            walk.advance(Coded::<D>::new(code.get(), codes), scratch, trail)
        } else {
            walk.advance(Exact::<D>::new(vector, engine.store.vectors()), scratch, trail)
        };
        let is_dear = self.filtered.as_mut().is_some_and(|filtered| {
            let work = if filtered.walks_among() { trail.work } else { scratch.work };
            !is_done && filtered.give_up(work.distances)
        });
        if is_done || is_dear {
            self.collect_walk(engine);
        }
    }

    /// Takes over the nodes found by the walk so far: with its distances if it used vectors, else to be reranked.
    fn collect_walk(&mut self, engine: &Engine) {
        let Reused { scratch, trail, candidates, .. } = &mut *self.reused;
        self.work += std::mem::take(&mut scratch.work);
        candidates.clear();
        if self.filtered.as_ref().is_some_and(|filtered| filtered.walks_among()) {
            self.work += std::mem::take(&mut trail.work);
            candidates.extend(trail.nearest());
            candidates.sort_unstable();
        } else {
            candidates.extend(scratch.nearest());
        }
        if self.is_by_codes {
            self.phase = Phase::Rerank(0);
            return;
        }
        let is_as_before = self.is_as_before(engine);
        for index in 0..self.reused.candidates.len() {
            let key = self.reused.candidates[index];
            if self.is_news(engine, key.slot(), is_as_before) {
                self.admit(engine, key.slot(), key.distance());
            }
        }
        self.finish_walk(engine);
    }

    /// True if all nodes that the walk has found so far are visible: nothing has changed, and nothing linked is dead.
    /// Then no lifetime has to be fetched.
    fn is_as_before(&self, engine: &Engine) -> bool {
        engine.ward.dead() == 0 && engine.store.is_as_in(&self.reused.view)
    }

    /// True if a node that the walk found is visible, passes the filter and was not seen before: a document of the
    /// hot tier may have been linked, in whole or in part, since.
    fn is_news(&mut self, engine: &Engine, slot: Slot, is_as_before: bool) -> bool {
        (is_as_before || engine.store.sees(&self.reused.view, slot))
            && self.matches(engine, slot)
            && self.reused.scanned.insert(slot)
    }

    fn finish_walk(&mut self, engine: &Engine) {
        let candidates = self.filtered.as_ref().map(|filtered| filtered.count());
        let there = candidates.unwrap_or_else(|| engine.live_in(self.scope) as u64);
        let wanted = there.min(self.query.k.min(self.query.ef) as u64);
        let is_short = self.seen < wanted && !self.hot_cut;
        let is_given_up = self.filtered.as_ref().is_some_and(|filtered| filtered.is_given_up());
        self.phase = if is_short || is_given_up { Phase::Scan(0) } else { Phase::Done };
    }

    /// Continues a scan from slot `start`: a global slot, or, in one shard alone, a local one.
    fn scan<D: Distance>(&mut self, engine: &Engine, start: u32) {
        let store = &engine.store;
        let ((numbers, next), stripe) = match self.scope {
            Scope::Partition => (store.used_from(start), Stripe::WHOLE),
            _ => ((start..store.slot_count(), store.slot_count()), store.stripe()),
        };
        let end = numbers.end.min(start.saturating_add(STEP_DOCUMENTS));
        for slot in (start..end).map(|number| stripe.slot(number)) {
            let is_new = !self.reused.scanned.contains(slot);
            let is_visible = is_new && store.sees(&self.reused.view, slot);
            if is_visible && self.matches(engine, slot) {
                self.consider::<D>(engine, slot);
            }
        }
        if let Some(places) = engine.store.places() {
            self.look_on_disk::<D>(engine, places);
        }
        let next = if end < numbers.end { end } else { next };
        let last = match self.scope {
            Scope::Partition => store.extent(),
            _ => store.slot_count(),
        };
        self.phase = if next >= last { Phase::Done } else { Phase::Scan(next) };
    }

    /// True if the metadata of a visible document passes the filter.
    pub(super) fn matches(&self, engine: &Engine, slot: Slot) -> bool {
        let payload = || engine.store.payload_at(slot, self.snapshot);
        self.query.filter.as_ref().is_none_or(|filter| filter.matches(payload()))
    }

    pub(super) fn consider<D: Distance>(&mut self, engine: &Engine, slot: Slot) {
        if engine.store.places().is_some() {
            return self.reused.batch.push(slot);
        }
        let distance = D::between(&self.reused.vector, engine.store.vectors().row(slot));
        self.work.count_full(1);
        self.admit(engine, slot, distance);
    }

    fn admit(&mut self, engine: &Engine, slot: Slot, distance: f32) {
        self.admit_if(engine, slot, distance, |_| true);
    }

    /// Counts a document that should pass. Its metadata is checked only if it would be a hit.
    pub(super) fn admit_if(
        &mut self,
        engine: &Engine,
        slot: Slot,
        distance: f32,
        passes: impl FnOnce(&Self) -> bool,
    ) {
        let (min_score, id) = (self.query.min_score, engine.store.doc_id(slot));
        let is_near = min_score <= 0.0 || engine.params.metric.score(distance) >= min_score;
        if is_near && self.reused.top.takes(distance, id, slot) && !passes(self) {
            return;
        }
        self.seen += 1;
        if is_near {
            self.found += 1;
            self.reused.top.push(distance, id, slot);
        }
    }
}

impl Engine {
    /// Begins a search of the shard in its present state. [`Engine::finish_search`] must follow.
    ///
    /// # Errors
    /// If the vector is not of the collection's dimension.
    pub fn begin_search(&mut self, query: Arc<Query>) -> Result<Search> {
        self.begin_search_in(query, Scope::Shard)
    }

    /// Begins a search of the shard, or of all shards that share its graph, in their present state.
    /// [`Engine::finish_search`] must follow.
    ///
    /// # Errors
    /// If the vector is not of the collection's dimension.
    ///
    /// # Panics
    /// If the query has a filter, and more than the shard is to be searched: each shard can evaluate a filter for its
    /// own documents alone.
    pub fn begin_search_in(&mut self, query: Arc<Query>, scope: Scope) -> Result<Search> {
        let mut search = self.begin_scan_in(query, scope)?;
        if let Some(filter) = &search.query.filter {
            assert_ne!(scope, Scope::Partition, "each shard knows what passes a filter");
            let is_exact = search.query.is_exact;
            search.filtered = Some(Box::new(Filtered::new(&self.index, filter, is_exact)));
            search.phase = Phase::Plan;
        } else if !search.query.is_exact && !self.is_small(search.query.ef, scope) {
            search.phase = self.hot_start(scope);
        }
        Ok(search)
    }

    /// Sets the start of a walk to those of these documents, said to be near, that are linked and belong to the
    /// shard. If there are none, or the walk is among documents that pass a filter, the walk begins as usual.
    pub fn start_near(&self, search: &mut Search, documents: &[DocId]) {
        let starts = &mut search.reused.starts;
        for slot in documents.iter().filter_map(|&id| self.store.find(id)) {
            if !starts.contains(&slot) {
                starts.push(slot);
            }
        }
    }

    /// The start of the scan of the hot tiers.
    pub(super) fn hot_start(&self, scope: Scope) -> Phase {
        let owner = if scope == Scope::Partition { 0 } else { self.store.stripe().owner() };
        Phase::Hot(HotPlace { owner, next: None })
    }

    /// Begins a search that looks at every document of the shard, even if a walk is cheaper.
    /// [`Engine::finish_search`] must follow.
    ///
    /// # Errors
    /// If the vector is not of the collection's dimension.
    pub fn begin_scan(&mut self, query: Arc<Query>) -> Result<Search> {
        self.begin_scan_in(query, Scope::Shard)
    }

    fn begin_scan_in(&mut self, query: Arc<Query>, scope: Scope) -> Result<Search> {
        self.check_dimension("query_embedding", query.vector.len())?;
        let mut reused = self.take_reused();
        self.store.open_view(&mut reused.view, scope != Scope::Partition);
        Ok(self.scan_in(query, scope, reused))
    }

    pub(super) fn take_reused(&mut self) -> Box<Reused> {
        self.scratches.pop().unwrap_or_default()
    }

    /// Begins a scan of the documents that the view in `reused` sees; the view is open, and the scan closes it.
    pub(super) fn scan_in(
        &mut self,
        query: Arc<Query>,
        scope: Scope,
        mut reused: Box<Reused>,
    ) -> Search {
        reused.scanned.reset(self.store.extent());
        reused.top.reset(query.k);
        reused.starts.clear();
        self.store.vectors().pad_into(&query.vector, &mut reused.vector);
        if let (Some(_), Some(codes)) = (self.store.places(), self.store.codes()) {
            codes.encode_into(&query.vector, &mut reused.code);
            reused.batch.clear();
            reused.candidates.clear();
            reused.disk.reset();
        }
        Search {
            scope,
            snapshot: reused.view.own(),
            phase: Phase::Scan(0),
            filtered: None,
            seen: 0,
            found: 0,
            work: Work::default(),
            hot_scanned: 0,
            hot_cut: false,
            was_cut: false,
            is_by_codes: false,
            region: 0,
            reused,
            query,
        }
    }

    /// Number of live documents; approximate while others write.
    pub(super) fn live_in(&self, scope: Scope) -> usize {
        match scope {
            Scope::Partition => self.store.live_of_all(),
            _ => self.store.live_count(),
        }
    }

    /// True if looking at every document costs less than a walk with this beam, which passes more dead nodes for each
    /// live one the more of the slots are dead.
    fn is_small(&self, ef: usize, scope: Scope) -> bool {
        let live = self.live_in(scope);
        let slots = match scope {
            Scope::Partition => self.store.slots_of_all(),
            _ => self.store.slot_count() as usize,
        };
        let scan = live + slots / SKIPS_PER_DOCUMENT;
        scan <= SCAN_SLOTS_PER_EF * ef * (slots / live.max(1)).max(1)
    }

    /// True if a walk may keep `slot`. While nothing in the graph is dead, every node may be kept, and no lifetime
    /// has to be fetched from memory: versions born or dead since the search began are sorted out at its end.
    #[inline]
    fn accepts(&self, slot: Slot, view: &View) -> bool {
        view.is_whole() && self.ward.dead() == 0 || self.store.sees(view, slot)
    }

    fn is_hot(&self, slot: Slot) -> bool {
        self.graph.level(slot).is_none()
    }
}

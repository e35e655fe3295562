//! Execution of a search on its core, in slices.
//!
//! A search runs in the task that received it if it is done within [`SLICE`], as nearly all are; otherwise it continues
//! as a task of its own, and other work gets its turn between its slices. At its deadline, or when it is cancelled, it
//! stops.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::doing::Doing;
use super::reply::Reply;
use super::request::{SearchAnswer, SearchRequest};
use super::serve::contained;
use super::state::Shard;
use super::task::{Counted, spawn};
use crate::engine::read::{Phase, Search, SearchOutcome};
use crate::engine::{Engine, Scope};
use crate::error::{Error, Result};
use crate::observe::trace::{CoreState, Span, nanos};
use crate::types::Slot;

/// Longest time of a search on its core before other work gets its turn.
const SLICE: Duration = Duration::from_micros(250);

impl Core {
    /// Begins a search, and ends it if it is done within a slice. `taken` is the time at which it was taken from the
    /// mailbox.
    pub(super) fn search(self: &Rc<Self>, request: SearchRequest, taken: Instant) {
        if request.reply.is_cancelled() {
            return;
        }
        let now = Instant::now();
        self.observed.stages.queue.record(now.saturating_duration_since(request.sent));
        let Some(shard) = self.shard(request.shard) else {
            return;
        };
        let _piece = self.heart.doing.begin(Doing::Search);
        self.search_cost.note_asked(now);
        let span = Span::new(taken, now);
        let in_time = shard.check_readable().and_then(|()| match now >= request.deadline {
            true => Err(Error::Expired("in the queue of a core")),
            false => Ok(()),
        });
        if let Err(error) = in_time {
            return request.answer(Err(error), span);
        }
        shard.counters.searches.add(1);
        let search = contained(&shard, "beginning a search", || {
            let mut engine = shard.engine.borrow_mut();
            let begin = |engine: &mut Engine| {
                let query = request.query.clone();
                let mut search = match &request.lent[..] {
                    [] => engine.begin_search_in(query, request.scope)?,
                    lent => engine.begin_borrowed(query, lent)?,
                };
                if let Some(starts) = &request.starts {
                    engine.start_near(&mut search, starts);
                }
                Ok(search)
            };
            engine.as_mut().map(begin).transpose()
        });
        let search = match search.and_then(|search| search) {
            Ok(Some(search)) => search,
            // The shard never had a document.
            Ok(None) => {
                let outcome = SearchOutcome { complete: true, ..SearchOutcome::default() };
                return request.answer(Ok(outcome), span);
            }
            Err(error) => return request.answer(Err(error), span),
        };
        let missing = Vec::new();
        let running = Running { shard, request, search, missing, begun: now, paused: now, span };
        if let Some(running) = running.slice(self) {
            let core = self.clone();
            let counted = Counted::begin(&core, |core| &core.long_searches);
            spawn(self.queues.serve, async move {
                let _counted = counted;
                let mut next = Some(running);
                while let Some(mut running) = next {
                    if running.missing.is_empty() {
                        glommio::executor().yield_now().await;
                        glommio::executor().yield_if_needed().await;
                    } else if !running.fetch(&core).await {
                        return running.finish(&core);
                    }
                    let _piece = core.heart.doing.begin(Doing::Search);
                    next = running.slice(&core);
                }
            });
        }
    }
}

impl SearchRequest {
    fn answer(self, outcome: Result<SearchOutcome>, span: Span) {
        let span = self.is_traced.then_some(span);
        let scope = self.scope;
        self.reply.send(SearchAnswer { shard: self.shard, scope, outcome, span });
    }
}

/// A search in progress.
struct Running {
    shard: Rc<Shard>,
    request: SearchRequest,
    search: Search,
    /// Vectors that the search waits for and that have to be read, by index and slot.
    missing: Vec<(usize, Slot)>,
    begun: Instant,
    /// End of its last slice.
    paused: Instant,
    span: Span,
}

/// End of a slice.
enum Sliced {
    /// The search is complete.
    Done,
    /// The search needs more slices.
    More,
    /// The search has to answer with what was found so far.
    Stop,
}

impl Running {
    /// Works on the search for at most [`SLICE`]. Answers if it is done or must stop; returns the search if it needs
    /// more slices.
    fn slice(mut self, core: &Core) -> Option<Self> {
        if self.request.reply.is_cancelled() || self.shard.check_readable().is_err() {
            self.abandon();
            return None;
        }
        let shard = self.shard.clone();
        match contained(&shard, "a search", || self.work(core)) {
            Ok(Sliced::More) => Some(self),
            Ok(Sliced::Done | Sliced::Stop) => {
                self.finish(core);
                None
            }
            Err(error) => {
                let (shard, scope) = (self.request.shard, self.request.scope);
                let reply = self.abandon();
                reply.send(SearchAnswer { shard, scope, outcome: Err(error), span: None });
                None
            }
        }
    }

    fn work(&mut self, core: &Core) -> Sliced {
        let engine = self.shard.engine.borrow();
        let engine = engine.as_ref().expect("a search began in it");
        let begun = Instant::now();
        if self.span.slices == 0 {
            self.span.begun = begun;
        }
        self.span.slices += 1;
        let mut before = begun;
        loop {
            let phase = self.search.phase();
            let is_done = self.search.step(engine);
            let now = Instant::now();
            let stage_ns = match phase {
                Phase::Hot(_) => &mut self.span.hot_ns,
                Phase::Enter | Phase::Walk | Phase::Rerank(_) | Phase::Fetch | Phase::Done => {
                    &mut self.span.walk_ns
                }
                Phase::Plan | Phase::Scan(_) => &mut self.span.scan_ns,
            };
            *stage_ns += nanos(now.duration_since(before));
            (before, self.paused) = (now, now);
            if is_done {
                return Sliced::Done;
            }
            if self.search.phase() == Phase::Fetch && now < self.request.deadline {
                self.missing = core.give_cached(&self.shard, engine, &mut self.search);
                if !self.missing.is_empty() {
                    return Sliced::More;
                }
            }
            let is_hot = matches!(self.search.phase(), Phase::Hot(_));
            if is_hot && now.duration_since(self.begun) >= self.request.hot_budget {
                self.search.cut_hot_scan();
            }
            match () {
                () if now >= self.request.deadline => return Sliced::Stop,
                () if now.duration_since(begun) >= SLICE => return Sliced::More,
                () => {}
            }
        }
    }

    /// Reads the vectors that the search waits for; false if the deadline comes first.
    async fn fetch(&mut self, core: &Rc<Core>) -> bool {
        let missing = std::mem::take(&mut self.missing);
        let rows = core
            .read_vectors(
                &self.shard,
                &missing,
                self.search.region(),
                self.request.deadline,
                || self.request.reply.is_cancelled(),
            )
            .await;
        Core::give_read(&mut self.search, missing.len(), &rows)
    }

    fn finish(self, core: &Core) {
        let Self { shard, request, mut search, paused, mut span, .. } = self;
        // At the deadline it answers from the candidates whose vectors are in memory.
        if search.phase() != Phase::Done
            && let Some(engine) = &*shard.engine.borrow()
            && contained(&shard, "ending a search", || search.wind_up(engine)).is_ok()
        {
            core.give_cached(&shard, engine, &mut search);
        }
        // Lent documents can't be requested again.
        let is_one = request.lent.is_empty() && request.scope != Scope::Lending;
        let is_sampled = is_one && !request.query.is_exact && shard.sampler.wants(paused);
        let finished = contained(&shard, "finishing a search", || {
            let mut engine = shard.engine.borrow_mut();
            let engine = engine.as_mut().expect("a search began in it");
            if request.is_traced {
                span.state = CoreState {
                    hot_documents: engine.hot_count() as u64,
                    mailbox_depth: core.waiting() as u64,
                    is_snapshot_running: shard.snapshots.is_running(),
                    is_linking: engine.is_linking(),
                };
            }
            match is_sampled {
                true => engine.finish_sampled(search, shard.sampler.parts()),
                false => (engine.finish_search(search), None),
            }
        });
        let (outcome, sample) = match finished {
            Ok((outcome, sample)) => (Ok(outcome), sample),
            Err(error) => (Err(error), None),
        };
        if let Ok(outcome) = &outcome {
            shard.counters.search_distances.add(outcome.work.distances);
            shard.counters.search_full_distances.add(outcome.work.full_distances);
            shard.counters.search_prefetched.add(outcome.work.prefetched);
            shard.counters.search_hops.add(outcome.work.hops);
            shard.counters.search_hot_documents.add(outcome.hot_scanned);
            core.observed.stages.walk.record(span.stepped());
            if request.query.filter.is_none() && !request.query.is_exact {
                core.search_cost.note(span.hot_ns, outcome.hot_scanned, span.walk_ns);
            }
        }
        if request.is_traced {
            span.answered = Instant::now();
            span.collect_ns = nanos(span.answered.saturating_duration_since(paused));
        }
        request.answer(outcome, span);
        if let Some(sample) = sample {
            shard.sampler.keep(sample, paused);
            core.upkeep.raise();
        }
    }

    fn abandon(self) -> Reply<SearchAnswer> {
        if let Some(engine) = &mut *self.shard.engine.borrow_mut() {
            engine.abandon_search(self.search);
        }
        self.request.reply
    }
}

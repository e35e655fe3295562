//! Live measurement of recall: a sample of completed searches is repeated exactly while the core is idle, and their
//! results are compared with the exact ones.
//!
//! One search per shard at a time. Its view stays open until it has been compared ([`crate::engine::read::recall`]), so
//! it is given up if that takes long.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::doing::Doing;
use super::serve::contained;
use super::state::Shard;
use crate::engine::Engine;
use crate::engine::read::recall::{Recall, Sample};

/// Longest time that a sampled search may wait for its comparison, and that the comparison may take: versions that die
/// meanwhile are not reclaimed.
const LIFE_MAX: Duration = Duration::from_secs(5);

/// A comparison is also given up once more documents than this, and than 1/`HELD_SHARE` of the live ones, wait to be
/// reclaimed.
const HELD_MIN: usize = 1_000;
const HELD_SHARE: usize = 64;

/// Bound of a core's time for comparisons: 1/100, however long a scan takes.
const TIME_PARTS: u32 = 100;

/// Window of the recent-recall metric, in sampled searches.
const RECENT: usize = 100;

/// Steps on one shard before other work gets its turn.
const STEPS: usize = 16;

/// Selection of the searches of a shard to compare, and the one in progress.
#[derive(Default)]
pub(super) struct Sampler {
    /// Least time between two samples; `None`: none are taken.
    period: Cell<Option<Duration>>,
    not_before: Cell<Option<Instant>>,
    /// Number of graphs that answer a search together; each has a part of the results.
    parts: Cell<usize>,
    pending: RefCell<Option<Pending>>,
    recent: RefCell<VecDeque<Recall>>,
}

struct Pending {
    sample: Sample,
    ended: Instant,
    /// CPU time of the comparison.
    spent: Duration,
    /// A read from disk failed, so the exact result is not known.
    is_cut: bool,
}

impl Sampler {
    /// Sets the period. `per_second` searches are compared over all `shards` of the server; `parts` graphs answer a
    /// search together.
    pub(super) fn begin(&self, per_second: f64, shards: usize, parts: usize) {
        self.parts.set(parts.max(1));
        let period = (per_second > 0.0).then(|| shards.max(1) as f64 / per_second);
        self.period.set(period.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()));
    }

    /// Number of graphs that answer a search together.
    pub(super) fn parts(&self) -> usize {
        self.parts.get()
    }

    /// True if a search that ends now is to be compared.
    pub(super) fn wants(&self, now: Instant) -> bool {
        let is_time = self.not_before.get().is_none_or(|not_before| now >= not_before);
        is_time && self.period.get().is_some() && self.pending.borrow().is_none()
    }

    /// Keeps a sampled search.
    pub(super) fn keep(&self, sample: Sample, now: Instant) {
        self.not_before.set(self.period.get().and_then(|period| now.checked_add(period)));
        self.pending.replace(Some(Pending {
            sample,
            ended: now,
            spent: Duration::ZERO,
            is_cut: false,
        }));
    }

    /// Sets the time before the next sample: after `spent` of work the core, which has `shards`, does other work for a
    /// multiple of it.
    fn rest(&self, now: Instant, spent: Duration, shards: usize) {
        let parts = TIME_PARTS.saturating_mul(u32::try_from(shards).unwrap_or(u32::MAX));
        let rested = now.checked_add(spent.saturating_mul(parts));
        self.not_before.set(self.not_before.get().max(rested));
    }
}

impl Core {
    /// Does some steps of the comparisons. False if there are none.
    pub(super) async fn compare_some(self: &Rc<Self>, shards: &[Rc<Shard>]) -> bool {
        let mut has_worked = false;
        for shard in shards {
            for _ in 0..STEPS {
                let piece = self.heart.doing.begin(Doing::Recall);
                let is_more = shard.compare_step(shards.len());
                drop(piece);
                if !is_more {
                    break;
                }
                has_worked = true;
                shard.fetch_for_sample(self).await;
                self.give_way().await;
            }
        }
        has_worked
    }
}

impl Shard {
    /// Does a step of the comparison, of some tens of microseconds, on a core with `shards` shards. False if there is
    /// nothing to compare.
    fn compare_step(&self, shards: usize) -> bool {
        self.drop_stale_sample(shards);
        let mut place = self.sampler.pending.borrow_mut();
        let Some(pending) = &mut *place else {
            return false;
        };
        let begun = Instant::now();
        let mut engine = self.engine.borrow_mut();
        let Some(engine) = &mut *engine else {
            return false;
        };
        let what = "comparing a search";
        let stepped = contained(self, what, || engine.step_sample(&mut pending.sample));
        pending.spent += begun.elapsed();
        match stepped {
            Ok(false) => return true,
            Ok(true) => {}
            Err(_) => {
                self.counters.recall_dropped.add(1);
                if let Some(pending) = place.take() {
                    engine.abandon_sample(pending.sample);
                }
                return true;
            }
        }
        if let Some(Pending { sample, spent, .. }) = place.take() {
            if let Ok(recall) = contained(self, what, || engine.finish_sample(sample)) {
                self.note_recall(recall);
            }
            self.sampler.rest(begun, spent, shards);
        }
        true
    }

    /// Reads the vectors on disk that the comparison waits for, if any.
    async fn fetch_for_sample(self: &Rc<Self>, core: &Rc<Core>) {
        let missing = {
            let (mut place, engine) = (self.sampler.pending.borrow_mut(), self.engine.borrow());
            let (Some(pending), Some(engine)) = (&mut *place, &*engine) else { return };
            let Some(search) = Engine::sample_to_fetch(&mut pending.sample) else { return };
            core.give_cached(self, engine, search)
        };
        if missing.is_empty() {
            return;
        }
        let rows =
            core.read_vectors(self, &missing, None, Instant::now() + LIFE_MAX, || false).await;
        let mut place = self.sampler.pending.borrow_mut();
        let Some(pending) = &mut *place else { return };
        if let Some(search) = Engine::sample_to_fetch(&mut pending.sample)
            && !Core::give_read(search, missing.len(), &rows)
        {
            pending.is_cut = true;
        }
    }

    /// Gives up a comparison that takes too long, or whose shard is fenced. The core has `shards` shards.
    pub(super) fn drop_stale_sample(&self, shards: usize) {
        let mut place = self.sampler.pending.borrow_mut();
        let Some(pending) = &*place else {
            return;
        };
        let is_fenced = self.check_readable().is_err();
        let is_whole = !pending.is_cut && pending.ended.elapsed() < LIFE_MAX;
        if !is_fenced && is_whole && !self.holds_much() {
            return;
        }
        self.counters.recall_dropped.add(1);
        if let (Some(Pending { sample, spent, .. }), false) = (place.take(), is_fenced)
            && let Some(engine) = &mut *self.engine.borrow_mut()
        {
            engine.abandon_sample(sample);
            self.sampler.rest(Instant::now(), spent, shards);
        }
    }

    /// True if the number of dead documents that wait for the comparison requires that it be given up.
    fn holds_much(&self) -> bool {
        self.engine.borrow().as_ref().is_some_and(|engine| {
            engine.store().held_count() > HELD_MIN.max(engine.live_count() / HELD_SHARE)
        })
    }

    fn note_recall(&self, recall: Recall) {
        // A search without exact results says nothing about recall.
        if recall.wanted == 0 {
            return;
        }
        let mut recent = self.sampler.recent.borrow_mut();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(recall);
        let [hits, wanted] = [|r: &Recall| r.hits, |r: &Recall| r.wanted]
            .map(|part| recent.iter().map(part).sum::<u64>());
        self.counters.recall_hits.add(recall.hits);
        self.counters.recall_wanted.add(recall.wanted);
        self.counters.recall_recent_millionths.set(hits * 1_000_000 / wanted);
        // Counted last and read first: a page never shows more samples than hits and wanted documents belong to.
        self.counters.recall_sampled.add(1);
    }
}

//! Recall seen live: now and then a search that has ended is repeated exactly, when nothing else
//! is to be done, and what it had found is compared with what there was.
//!
//! One search a shard at a time. Its snapshot is open until it has been compared
//! ([`crate::engine::read::recall`]), so it is given up if that takes long.

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

/// How long a search may wait to be compared, and that take: what dies meanwhile is not reclaimed.
const LIFE_MAX: Duration = Duration::from_secs(5);

/// It is given up as well once more documents than this, and than one in so many, wait to be
/// reclaimed.
const HELD_MIN: usize = 1_000;
const HELD_SHARE: usize = 64;

/// A core spends at most one part in so many of its time on this, however long a scan takes.
const TIME_PARTS: u32 = 100;

/// Searches that the recall of late is that of.
const RECENT: usize = 100;

/// Steps on one shard before all else is looked after.
const STEPS: usize = 16;

/// Which searches of a shard are compared, and the one that is.
#[derive(Default)]
pub(super) struct Sampler {
    /// Between two of them at least; `None` for never.
    period: Cell<Option<Duration>>,
    not_before: Cell<Option<Instant>>,
    /// How many answer a search together, each with what its graph has.
    parts: Cell<usize>,
    pending: RefCell<Option<Pending>>,
    recent: RefCell<VecDeque<Recall>>,
}

struct Pending {
    sample: Sample,
    ended: Instant,
    /// Time worked on it.
    spent: Duration,
    /// The disk has not given it everything: it can't be told what is true.
    is_cut: bool,
}

impl Sampler {
    /// Compares `per_second` searches, of all shards, of which there are so many, with so many graphs.
    pub(super) fn begin(&self, per_second: f64, shards: usize, parts: usize) {
        self.parts.set(parts.max(1));
        let period = (per_second > 0.0).then(|| shards.max(1) as f64 / per_second);
        self.period.set(period.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()));
    }

    /// How many answer a search together.
    pub(super) fn parts(&self) -> usize {
        self.parts.get()
    }

    /// True if a search that ends now is to be compared.
    pub(super) fn wants(&self, now: Instant) -> bool {
        let is_time = self.not_before.get().is_none_or(|not_before| now >= not_before);
        is_time && self.period.get().is_some() && self.pending.borrow().is_none()
    }

    /// Keeps a search that was wanted.
    pub(super) fn keep(&self, sample: Sample, now: Instant) {
        self.not_before.set(self.period.get().and_then(|period| now.checked_add(period)));
        self.pending.replace(Some(Pending {
            sample,
            ended: now,
            spent: Duration::ZERO,
            is_cut: false,
        }));
    }

    /// Lets a core with so many shards do other things after so much work.
    fn rest(&self, now: Instant, spent: Duration, shards: usize) {
        let parts = TIME_PARTS.saturating_mul(u32::try_from(shards).unwrap_or(u32::MAX));
        let rested = now.checked_add(spent.saturating_mul(parts));
        self.not_before.set(self.not_before.get().max(rested));
    }
}

impl Core {
    /// Compares searches for some steps. False if there are none to be compared.
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
    /// Does a step of the comparison, of some tens of microseconds, on a core with so many shards.
    /// False if there is nothing to compare.
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

    /// Reads the vectors on disk that the comparison waits for, if it does.
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

    /// Gives up a comparison that takes too long, or whose shard can't be trusted any more. The
    /// core has so many `shards`.
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

    /// True if so many documents have died that their slots are wanted.
    fn holds_much(&self) -> bool {
        self.engine.borrow().as_ref().is_some_and(|engine| {
            engine.store().held_count() > HELD_MIN.max(engine.live_count() / HELD_SHARE)
        })
    }

    fn note_recall(&self, recall: Recall) {
        // Where there was nothing to be found, nothing can be missed.
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
        // Counted last and shown first: there is never less of the others than belongs to it.
        self.counters.recall_sampled.add(1);
    }
}

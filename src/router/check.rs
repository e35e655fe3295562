//! Hits of the cache of queries, seen live: now and then one is compared with a fresh search, while no
//! search is in flight; and so are answers of walks that began at what was found for a question that is
//! near. If they have less of what searches find than they should, the cache turns itself off, and says so.
//!
//! A hit is compared with what a search finds in the same state of the documents: if anything has been
//! written since, there is nothing to compare. What may differ all the same is what walks find, since
//! documents are linked and dead nodes taken out meanwhile; more than a little of that, or documents that
//! are not there, would be a fault.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::key::{Asked, Key};
use super::{Found, Router};
use crate::cache::changes::{Bucket, Stamp};
use crate::engine::{Hit, Query};
use crate::observe::trace::{Trace, nanos};
use crate::store::realm::Realm;

/// Between two looks at whether there is a hit to be compared, and time for it.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// How long a hit may wait to be compared: what it rests on is the less likely to be there still.
const LIFE_MAX: Duration = Duration::from_secs(5);

/// A fresh search has so much time.
const SEARCH_MAX: Duration = Duration::from_secs(1);

/// The last hits compared, and how many it takes for a judgement.
const RECENT: usize = 100;
const RECENT_MIN: usize = 20;

/// Which hits are compared, and what came of it.
pub(super) struct Checks {
    /// Between two of them at least; `None` for never.
    period: Option<Duration>,
    overlap_min: f64,
    /// What moments are counted from.
    epoch: Instant,
    not_before_ns: AtomicU64,
    pending: Mutex<Option<(Sample, Instant)>>,
    /// Of answers to the same question, and of what rests on one that is near.
    recent: [Mutex<VecDeque<Overlap>>; 2],
}

/// A hit that may be compared.
pub(super) struct Sample {
    query: Query,
    realm: Realm,
    stamp: Stamp,
    hits: Vec<Hit>,
    rests_on: RestsOn,
}

/// What an answer rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RestsOn {
    /// The answer to the same question.
    Same,
    /// What was found for a question that is near, which proves it.
    Near,
    /// A walk that began at what was found for a question that is near.
    NearWalk,
}

impl Sample {
    /// An answer that is kept.
    pub(super) fn of(key: &Key, stamp: Stamp, hits: &[Hit]) -> Self {
        let Asked { k, ef, include_embeddings } = key.asked;
        let query = Query { k, ef, include_embeddings, ..(*key.query).clone() };
        Self { query, realm: key.realm.clone(), stamp, hits: hits.into(), rests_on: RestsOn::Same }
    }

    /// An answer of a walk that began at what was found for a question that is near.
    pub(super) fn near_walk(key: &Key, stamp: Stamp, hits: &[Hit]) -> Self {
        Self { rests_on: RestsOn::NearWalk, ..Self::of(key, stamp, hits) }
    }

    /// An answer that was proved from one that is kept.
    pub(super) fn near(query: &Query, realm: &Realm, stamp: Stamp, hits: &[Hit]) -> Self {
        let (query, realm) = (query.clone(), realm.clone());
        Self { query, realm, stamp, hits: hits.into(), rests_on: RestsOn::Near }
    }
}

/// How many documents a search found, and how many of them a hit had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overlap {
    had: u64,
    found: u64,
}

impl Checks {
    pub(super) fn new(per_second: f64, overlap_min: f64) -> Self {
        let period = (per_second > 0.0).then(|| Duration::try_from_secs_f64(1.0 / per_second));
        Self {
            period: period.and_then(Result::ok),
            overlap_min,
            epoch: Instant::now(),
            not_before_ns: AtomicU64::new(0),
            pending: Mutex::default(),
            recent: Default::default(),
        }
    }

    /// An answer was given that may be compared. Waits for nobody.
    pub(super) fn offer(&self, sample: impl FnOnce() -> Sample) {
        let Some(period) = self.period else { return };
        let now = Instant::now();
        let now_ns = nanos(now.saturating_duration_since(self.epoch));
        if now_ns < self.not_before_ns.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(mut pending) = self.pending.try_lock()
            && pending.is_none()
        {
            *pending = Some((sample(), now));
            self.not_before_ns.store(now_ns.saturating_add(nanos(period)), Ordering::Relaxed);
        }
    }

    pub(super) fn forget(&self) {
        self.take();
        for recent in &self.recent {
            recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn take(&self) -> Option<Sample> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.take().map(|(sample, _)| sample)
    }

    fn waits_since(&self) -> Option<Instant> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.as_ref().map(|(_, since)| *since)
    }

    /// The share of what searches found that the last hits of the kind had, and whether that is too
    /// little.
    fn note(&self, overlap: Overlap, is_near: bool) -> (f64, bool) {
        let recent = &self.recent[usize::from(is_near)];
        let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(overlap);
        let sum = |part: fn(&Overlap) -> u64| recent.iter().map(part).sum::<u64>() as f64;
        let share = sum(|overlap| overlap.had) / sum(|overlap| overlap.found);
        (share, recent.len() >= RECENT_MIN && share < self.overlap_min)
    }
}

/// Compares hits for as long as there is a router.
pub async fn check_hits(router: Weak<Router>) {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let Some(router) = router.upgrade() else { return };
        router.check_hit().await;
    }
}

impl Router {
    /// Compares the hit that waits for it, if there is one, and nothing else to be done.
    pub(super) async fn check_hit(&self) {
        let Some(cache) = &self.cache else { return };
        let Some(since) = cache.checks.waits_since() else { return };
        let counters = &self.observed.gateway.cache;
        let is_late = since.elapsed() > LIFE_MAX;
        if self.searches_in_flight() > 0 && !is_late {
            return;
        }
        let Some(sample) = cache.checks.take() else { return };
        let fresh = match is_late {
            true => None,
            false => self.repeat(&sample).await,
        };
        let Some(fresh) = fresh else { return counters.checks_dropped.add(1) };
        let (overlap, is_near) = match sample.rests_on {
            RestsOn::NearWalk => (reached(&fresh.hits, &sample.hits), true),
            rests_on => (overlap(&fresh.hits, &sample.hits), rests_on == RestsOn::Near),
        };
        if overlap.found == 0 {
            return;
        }
        counters.check_wanted.add(overlap.found);
        counters.check_hits.add(overlap.had);
        let (share, is_too_little) = cache.checks.note(overlap, is_near);
        let (millionths, is_off) = match is_near {
            false => (&counters.overlap_millionths, &counters.is_off),
            true => (&counters.near_overlap_millionths, &counters.is_near_off),
        };
        millionths.set((share * 1e6) as u64);
        // Counted last and shown first: there is never less of the others than belongs to it.
        counters.checked.add(1);
        if is_too_little && !is_off.swap(true, Ordering::Relaxed) {
            self.clear_cache(cache);
            let what = match is_near {
                false => "the cache of queries has turned itself off: please report this",
                true => {
                    "the cache of queries has no more to do with questions that are near, and answers \
                     only the same: raise cache.query_cache_similarity_threshold"
                }
            };
            tracing::error!(
                "{what}. Its last answers had {:.1} % of what fresh searches found, and \
                 cache.query_cache_min_overlap asks for {:.1} %; a reload of the configuration \
                 (SIGHUP) gives it another try",
                100.0 * share,
                100.0 * cache.checks.overlap_min
            );
        }
    }

    /// Searches once more for what was found; `None` if that can't be compared with it.
    async fn repeat(&self, sample: &Sample) -> Option<Found> {
        let is_as_before = || self.stamp(Bucket::of(&sample.realm)) == Some(sample.stamp);
        if !is_as_before() {
            return None;
        }
        let now = Instant::now();
        let mut trace = Trace::new(now, false);
        let found =
            self.search(sample.query.clone(), None, now + SEARCH_MAX, &mut trace).await.ok()?;
        (found.reasons.is_empty() && is_as_before()).then_some(found)
    }
}

/// What a walk that began elsewhere reached of what a search finds: documents as near as those, each in
/// its place. They may be others, and are where it finds more than that search.
fn reached(fresh: &[Hit], other: &[Hit]) -> Overlap {
    let had = fresh.iter().zip(other).filter(|(fresh, other)| other.score >= fresh.score).count();
    Overlap { had: had as u64, found: fresh.len() as u64 }
}

/// What a hit had of what a search finds: the same documents, with the same scores and metadata; or
/// others that are exactly as near as the last of them.
fn overlap(fresh: &[Hit], kept: &[Hit]) -> Overlap {
    let least = fresh.last().map(|hit| hit.score);
    let is_same = |a: &Hit, b: &Hit| a.id == b.id && a.score == b.score && a.payload == b.payload;
    let is_had = |hit: &&Hit| Some(hit.score) == least || fresh.iter().any(|b| is_same(hit, b));
    let had = kept.iter().filter(is_had).count();
    Overlap { had: had as u64, found: fresh.len().max(kept.len()) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::payload::Payload;
    use crate::types::DocId;

    fn hit(id: u64, score: f32, text: &str) -> Hit {
        let payload = Payload::new([("k", text)], "").unwrap();
        Hit { id: DocId(id), score, payload, embedding: None, is_hot: false }
    }

    #[test]
    fn only_the_same_documents_as_they_are_count() {
        let fresh = [hit(1, 0.9, ""), hit(2, 0.8, ""), hit(3, 0.5, "")];
        let had = |kept: &[Hit]| overlap(&fresh, kept);
        assert_eq!(had(&fresh), Overlap { had: 3, found: 3 });
        // Of equals at the end either will do.
        assert_eq!(had(&[hit(1, 0.9, ""), hit(2, 0.8, ""), hit(4, 0.5, "")]).had, 3);
        assert_eq!(had(&[hit(1, 0.9, "other"), hit(2, 0.81, ""), hit(9, 0.7, "")]).had, 0);
        assert_eq!(had(&[hit(1, 0.9, "")]), Overlap { had: 1, found: 3 });
        assert_eq!(overlap(&[], &fresh), Overlap { had: 0, found: 3 });
    }

    #[test]
    fn a_walk_that_finds_what_is_nearer_has_reached_all() {
        let fresh = [hit(1, 0.9, ""), hit(2, 0.8, ""), hit(3, 0.5, "")];
        let had = |other: &[Hit]| reached(&fresh, other);
        assert_eq!(had(&fresh), Overlap { had: 3, found: 3 });
        assert_eq!(had(&[hit(1, 0.9, ""), hit(4, 0.85, ""), hit(2, 0.8, "")]).had, 3);
        assert_eq!(had(&[hit(2, 0.8, ""), hit(3, 0.5, "")]), Overlap { had: 0, found: 3 });
        assert_eq!(had(&[hit(1, 0.9, ""), hit(3, 0.5, ""), hit(5, 0.4, "")]).had, 1);
    }

    #[test]
    fn too_little_is_judged_by_enough_hits_only() {
        let checks = Checks::new(1.0, 0.9);
        for _ in 1..RECENT_MIN {
            assert!(!checks.note(Overlap { had: 0, found: 10 }, true).1);
        }
        assert_eq!(checks.note(Overlap { had: 10, found: 10 }, false), (1.0, false));
        assert_eq!(checks.note(Overlap { had: 10, found: 10 }, true), (0.05, true));
        for _ in 0..RECENT {
            checks.note(Overlap { had: 10, found: 10 }, true);
        }
        assert_eq!(checks.note(Overlap { had: 0, found: 10 }, true), (0.99, false));
        // So many a second, and none where nobody wants any.
        assert_eq!(Checks::new(4.0, 0.9).period, Some(Duration::from_millis(250)));
        assert_eq!(Checks::new(0.0, 0.9).period, None);
    }
}

//! Live audit of the query cache: a sample of its hits is compared with fresh searches, while no search is in flight;
//! and so are answers of walks that began at documents of a near query. If they have too few of the documents that
//! searches find, the cache turns itself off and logs that.
//!
//! A hit is compared with a search in an equal state of the documents: after any write since, it can't be compared.
//! Results of walks may still differ, since documents are linked and dead nodes removed meanwhile. So the documents of
//! a hit are compared by distance, rank by rank: a document counts if the search finds it, or if it is as near, exists,
//! and has this metadata and this score. A hit with fewer such documents is dropped, and does not count again; many
//! such hits would mean a fault.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::cached::{Kept, QueryCache};
use super::key::Asked;
use super::near::padded;
use super::{Found, Router};
use crate::access::fair::Guest;
use crate::engine::{Document, Hit, Query};
use crate::kernels::{Distance, Metric};
use crate::observe::trace::{Trace, nanos};
use crate::types::DocId;
use crate::types::changes::{Bucket, Stamp};
use crate::types::realm::Realm;
use crate::with_distance;

/// Period of looking for a hit to compare, and for time to do it.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Longest wait of a hit for its comparison: later, a write has more likely changed its documents.
const LIFE_MAX: Duration = Duration::from_secs(5);

/// Time limit of the fresh search.
const SEARCH_MAX: Duration = Duration::from_secs(1);

/// Difference of scores that the order of additions explains.
const SCORE_ERROR_MAX: f32 = 1e-5;

/// Window of compared hits, and least number for a judgement.
const RECENT: usize = 100;
const RECENT_MIN: usize = 20;

/// Sampling of hits, and results of the comparisons.
pub(super) struct Checks {
    /// Least time between two samples; `None`: none are taken.
    period: Option<Duration>,
    overlap_min: f64,
    /// Zero point of `not_before_ns`.
    epoch: Instant,
    not_before_ns: AtomicU64,
    pending: Mutex<Option<(Sample, Instant)>>,
    /// Results for answers to equal queries, and for answers that rest on a near query.
    recent: [Mutex<VecDeque<Overlap>>; 2],
}

/// A hit to compare.
pub(super) struct Sample {
    query: Query,
    realm: Realm,
    stamp: Stamp,
    hits: Vec<Hit>,
    /// The hit rests on a near query: proved from its documents, or found by a walk that began there.
    is_near: bool,
}

impl Sample {
    /// Sample of a kept answer.
    pub(super) fn of(kept: &Kept) -> Self {
        let Asked { k, ef, include_embeddings } = kept.key.asked;
        let query = Query { k, ef, include_embeddings, ..(*kept.key.query).clone() };
        let (realm, stamp, is_near) = (kept.key.realm.clone(), kept.stamp, kept.began_near);
        Self { query, realm, stamp, hits: kept.found.hits.clone(), is_near }
    }

    /// Sample of an answer that was proved from a kept one.
    pub(super) fn near(query: &Query, realm: &Realm, stamp: Stamp, hits: &[Hit]) -> Self {
        let (query, realm) = (query.clone(), realm.clone());
        Self { query, realm, stamp, hits: hits.into(), is_near: true }
    }
}

/// Number of documents that a search found, and of their ranks at which the hit had one as near.
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

    /// Offers an answer that was given as a sample. Never blocks.
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

    /// Share of the documents of searches that the last hits of this kind had, and whether that is too little.
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

/// Compares hits until the router is dropped.
pub async fn check_hits(router: Weak<Router>) {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        let Some(router) = router.upgrade() else { return };
        router.check_hit().await;
    }
}

impl Router {
    /// Compares the sampled hit, if there is one and no search is in flight.
    pub(super) async fn check_hit(&self) {
        let Some(cache) = &self.cache else { return };
        let Some(since) = cache.checks.waits_since() else { return };
        let counters = &self.observed.gateway.cache;
        let is_late = since.elapsed() > LIFE_MAX;
        if self.searches_in_flight() > 0 && !is_late {
            return;
        }
        let Some(sample) = cache.checks.take() else { return };
        let compared = match is_late {
            true => None,
            false => self.compare(cache, &sample).await,
        };
        let Some(overlap) = compared else { return counters.checks_dropped.add(1) };
        let is_near = sample.is_near;
        if overlap.found == 0 {
            return;
        }
        if overlap.had < overlap.found {
            self.forget(cache, &sample.query, &sample.realm);
        }
        counters.check_wanted.add(overlap.found);
        counters.check_hits.add(overlap.had);
        let (share, is_too_little) = cache.checks.note(overlap, is_near);
        let (millionths, is_off) = match is_near {
            false => (&counters.overlap_millionths, &counters.is_off),
            true => (&counters.near_overlap_millionths, &counters.is_near_off),
        };
        millionths.set((share * 1e6) as u64);
        // Counted last and read first: a page never shows more comparisons than documents belong to.
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

    /// Compares a hit with a fresh search; `None` if they can't be compared.
    async fn compare(&self, cache: &QueryCache, sample: &Sample) -> Option<Overlap> {
        let is_as_before = || self.stamp(Bucket::of(&sample.realm)) == Some(sample.stamp);
        if !is_as_before() {
            return None;
        }
        let fresh = self.repeat(sample).await?;
        let others = others(&fresh.hits, &sample.hits);
        let ids: Vec<DocId> = others.iter().map(|hit| hit.id).collect();
        let read = match ids[..] {
            [] => Vec::new(),
            _ => self.get(&ids, sample.realm.clone(), true).await.ok()?,
        };
        let score = |values: &[f32]| score(cache.metric, &sample.query.vector, values);
        let is_there = |(hit, document): (&&Hit, &Option<Document>)| {
            let document = document.as_ref().filter(|document| document.payload == hit.payload)?;
            let filter = sample.query.filter.as_ref();
            if filter.is_some_and(|filter| !filter.matches(&document.payload)) {
                return None;
            }
            let is_it = (score(document.embedding.as_deref()?) - hit.score).abs()
                <= SCORE_ERROR_MAX * hit.score.abs().max(1.0);
            is_it.then_some(hit.id)
        };
        let there: Vec<DocId> = others.iter().zip(&read).filter_map(is_there).collect();
        is_as_before().then(|| overlap(&fresh.hits, &sample.hits, &there))
    }

    /// Repeats the search of a sample.
    async fn repeat(&self, sample: &Sample) -> Option<Found> {
        let now = Instant::now();
        let mut trace = Trace::new(now, false);
        let found =
            self.search(sample.query.clone(), Guest::default(), now + SEARCH_MAX, &mut trace).await;
        found.ok().filter(|found| found.reasons.is_empty())
    }
}

fn score(metric: Metric, query: &[f32], values: &[f32]) -> f32 {
    let (query, values) = (padded(query), padded(values));
    metric.score(with_distance!(metric, D => D::between(&query, &values)))
}

/// Documents of a hit that the search did not find.
fn others<'a>(fresh: &[Hit], kept: &'a [Hit]) -> Vec<&'a Hit> {
    kept.iter().filter(|hit| fresh.iter().all(|found| found.id != hit.id)).collect()
}

/// Ranks of the search at which the hit has a document as near. A document of the hit counts if the search found it, or
/// if it is among those `there`; the others count as missing.
fn overlap(fresh: &[Hit], kept: &[Hit], there: &[DocId]) -> Overlap {
    let is_same = |a: &Hit, b: &Hit| a.id == b.id && a.score == b.score && a.payload == b.payload;
    let is_good =
        |hit: &&Hit| there.contains(&hit.id) || fresh.iter().any(|found| is_same(hit, found));
    let good: Vec<&Hit> = kept.iter().filter(is_good).collect();
    // If the hit has more documents than the search, the rest has no counterpart.
    let is_as_near = |(place, hit): &(usize, &&Hit)| {
        fresh.get(*place).is_none_or(|found| hit.score >= found.score)
    };
    let had = good.iter().enumerate().filter(is_as_near).count();
    Overlap { had: had as u64, found: fresh.len().max(kept.len()) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::payload::Payload;

    fn hit(id: u64, score: f32, text: &str) -> Hit {
        let payload = Payload::new([("k", text)], "").unwrap();
        Hit { id: DocId(id), score, payload, embedding: None, is_hot: false }
    }

    #[test]
    fn only_unchanged_documents_with_equal_scores_count() {
        let fresh = [hit(1, 0.9, ""), hit(2, 0.8, ""), hit(3, 0.5, "")];
        let had = |kept: &[Hit]| overlap(&fresh, kept, &[]);
        assert_eq!(had(&fresh), Overlap { had: 3, found: 3 });
        assert_eq!(had(&[hit(1, 0.9, "other"), hit(2, 0.81, ""), hit(9, 0.7, "")]).had, 0);
        assert_eq!(had(&[hit(1, 0.9, "")]), Overlap { had: 1, found: 3 });
        assert_eq!(overlap(&[], &fresh, &[]), Overlap { had: 0, found: 3 });
    }

    #[test]
    fn other_existing_documents_count_if_they_are_as_near() {
        let fresh = [hit(1, 0.9, ""), hit(2, 0.8, ""), hit(3, 0.5, "")];
        let had = |kept: &[Hit]| overlap(&fresh, kept, &[DocId(4), DocId(5)]);
        // Of equal scores at the end either will do.
        assert_eq!(had(&[hit(1, 0.9, ""), hit(2, 0.8, ""), hit(4, 0.5, "")]).had, 3);
        assert_eq!(had(&[hit(1, 0.9, ""), hit(4, 0.85, ""), hit(2, 0.8, "")]).had, 3);
        assert_eq!(had(&[hit(1, 0.9, ""), hit(9, 0.85, ""), hit(2, 0.8, "")]).had, 2);
        assert_eq!(had(&[hit(2, 0.8, ""), hit(3, 0.5, "")]), Overlap { had: 0, found: 3 });
        assert_eq!(had(&[hit(1, 0.9, ""), hit(3, 0.5, ""), hit(5, 0.4, "")]).had, 1);
        assert_eq!(overlap(&[], &fresh, &[1, 2, 3].map(DocId)), Overlap { had: 3, found: 3 });
        let ids: Vec<u64> = others(&fresh, &[hit(3, 0.9, "x"), hit(4, 0.1, "")])
            .into_iter()
            .map(|hit| hit.id.0)
            .collect();
        assert_eq!(ids, [4]);
    }

    #[test]
    fn a_small_overlap_is_judged_only_with_enough_hits() {
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
        // Four per second, and none if the rate is 0.
        assert_eq!(Checks::new(4.0, 0.9).period, Some(Duration::from_millis(250)));
        assert_eq!(Checks::new(0.0, 0.9).period, None);
    }
}

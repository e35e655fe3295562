//! Live measurement of recall: a search that has ended is repeated exactly, on the state that it saw.
//!
//! Its snapshot stays open from its end until then. Whatever is written meanwhile, both see equal documents with
//! equal metadata, so that a true neighbour which is missing was missed by the search, and by nothing else. The price
//! is that versions that die meanwhile wait to be reclaimed: a [`Sample`] must not be held for long.
//!
//! The answer of a shard is compared with the truth of that shard alone. With several shards, each is searched for
//! its part of the k nearest of all, with a beam for that, so only that number of its nearest is compared; documents
//! that pass a filter may all be in one.

use std::sync::Arc;

use super::{Phase, Query, Scope, Search, SearchOutcome};
use crate::engine::Engine;
use crate::engine::filtered::Filtered;
use crate::store::view::View;
use crate::types::DocId;

/// A search that has ended, and the data to compare it with the truth. One of [`Engine::finish_sample`] and
/// [`Engine::abandon_sample`] must follow.
pub struct Sample {
    query: Arc<Query>,
    scope: Scope,
    /// The view of the search, open until the scan, if it has begun, has ended.
    view: View,
    hits: Vec<(DocId, f32)>,
    /// Number of the true nearest that the search should have found.
    wanted: usize,
    scan: Option<Search>,
}

/// Numbers of true nearest documents that a search has found, and should have found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recall {
    /// Found: among the true nearest, or exactly as near as the last of them.
    pub hits: u64,
    /// Wanted: the search's part of k, or fewer if fewer are in scope.
    pub wanted: u64,
}

impl Engine {
    /// Ends a search as [`Engine::finish_search`] does, and keeps the data to repeat it, unless it was cut short.
    /// `parts` is the number of shards or partitions that answer together.
    pub fn finish_sampled(
        &mut self,
        search: Search,
        parts: usize,
    ) -> (SearchOutcome, Option<Sample>) {
        let (query, scope, view) = (search.query.clone(), search.scope, search.reused.view.clone());
        // Held once more, since the search closes it.
        self.store.hold_view(&view);
        let outcome = self.finish_search(search);
        if !outcome.complete || outcome.hot_cut || !outcome.lost.is_empty() {
            self.store.close_view(&view);
            return (outcome, None);
        }
        let hits = outcome.hits.iter().map(|hit| (hit.id, hit.score)).collect();
        let wanted = if query.filter.is_some() { query.k } else { query.k.div_ceil(parts) };
        (outcome, Some(Sample { query, scope, view, hits, wanted, scan: None }))
    }

    /// Does some tens of microseconds of work. True when the truth is known.
    pub fn step_sample(&mut self, sample: &mut Sample) -> bool {
        if sample.scan.is_none() {
            let mut reused = self.take_reused();
            reused.view = sample.view.clone();
            let mut scan = self.scan_in(sample.query.clone(), sample.scope, reused);
            if let Some(filter) = &sample.query.filter {
                scan.filtered = Some(Box::new(Filtered::new(&self.index, filter, true)));
                scan.phase = Phase::Plan;
            }
            sample.scan = Some(scan);
        }
        sample.scan.as_mut().is_some_and(|scan| scan.step(self))
    }

    /// The search that finds the truth, if it waits for vectors on disk.
    pub fn sample_to_fetch(sample: &mut Sample) -> Option<&mut Search> {
        sample.scan.as_mut().filter(|scan| scan.phase == Phase::Fetch)
    }

    /// Compares the search with the truth.
    ///
    /// # Panics
    /// If the truth is not known yet.
    pub fn finish_sample(&mut self, sample: Sample) -> Recall {
        let Sample { hits, wanted, scan, .. } = sample;
        let mut scan = scan.filter(|scan| scan.phase == Phase::Done).expect("the scan is done");
        let metric = self.params.metric;
        let mut truth = scan.reused.top.take_sorted(|c| (c.id, metric.score(c.distance())));
        truth.truncate(wanted);
        self.abandon_search(scan);
        recall(&hits, truth)
    }

    /// Gives up a comparison.
    pub fn abandon_sample(&mut self, sample: Sample) {
        match sample.scan {
            Some(scan) => self.abandon_search(scan),
            None => self.store.close_view(&sample.view),
        }
    }
}

/// Compares hits with the truth; both are pairs of id and score, best first.
fn recall(hits: &[(DocId, f32)], mut truth: Vec<(DocId, f32)>) -> Recall {
    let wanted = truth.len();
    let Some(&(_, least)) = truth.last() else { return Recall::default() };
    truth.sort_unstable_by_key(|&(id, _)| id);
    let is_true = |&&(id, score): &&(DocId, f32)| {
        score >= least || truth.binary_search_by_key(&id, |&(id, _)| id).is_ok()
    };
    let found = hits.iter().filter(is_true).count();
    Recall { hits: found.min(wanted) as u64, wanted: wanted as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::filter::Filter;
    use crate::engine::testing::{Pair, engine, payload};
    use crate::engine::write::Write;

    fn pair(seed: u64, documents: u64) -> Pair {
        let mut pair = Pair::new(seed);
        (1..=documents).for_each(|id| pair.put(id));
        pair.link_all();
        pair
    }

    fn sampled(pair: &mut Pair, query: Query) -> (SearchOutcome, Sample) {
        let mut search = pair.engine.begin_search(Arc::new(query)).unwrap();
        while !search.step(&pair.engine) {}
        let (outcome, sample) = pair.engine.finish_sampled(search, 1);
        (outcome, sample.expect("it ran to its end"))
    }

    fn query(pair: &mut Pair, ef: usize, filter: Option<Filter>) -> Query {
        Query { ef, ..(*pair.query(10, filter)).clone() }
    }

    /// Result of a comparison with the model at the moment of the search.
    fn expected(pair: &Pair, query: &Query, outcome: &SearchOutcome) -> Recall {
        let truth = pair.model.nearest(query);
        let is_found = |id| outcome.hits.iter().any(|hit| hit.id == id);
        let hits = truth.iter().filter(|(id, _)| is_found(*id)).count() as u64;
        Recall { hits, wanted: truth.len() as u64 }
    }

    /// Compares to the end, with `between` before each step.
    fn compare(pair: &mut Pair, mut sample: Sample, between: impl Fn(&mut Pair)) -> Recall {
        loop {
            between(pair);
            if pair.engine.step_sample(&mut sample) {
                return pair.engine.finish_sample(sample);
            }
        }
    }

    #[test]
    fn a_narrow_beam_is_seen_to_miss_what_a_wide_one_finds() {
        let mut pair = pair(61, 6_000);
        let mut found = |ef| {
            let mut sum = Recall::default();
            for _ in 0..60 {
                let query = query(&mut pair, ef, None);
                let (outcome, sample) = sampled(&mut pair, query.clone());
                let recall = compare(&mut pair, sample, |_| {});
                assert_eq!(recall, expected(&pair, &query, &outcome));
                sum = Recall { hits: sum.hits + recall.hits, wanted: sum.wanted + recall.wanted };
            }
            assert_eq!(sum.wanted, 600);
            sum.hits
        };
        let (narrow, wide) = (found(10), found(300));
        assert!(narrow < 570 && wide > 590, "{narrow} and {wide} of 600");
    }

    /// Upserts, deletes and metadata of the documents that are looked for, and linking, before and between the steps
    /// of the comparison.
    #[test]
    fn writes_meanwhile_are_not_taken_for_misses() {
        for seed in 0..8 {
            let mut pair = pair(70 + seed, 2_500);
            for round in 0..20 {
                let filter = match round % 3 {
                    0 => Some(Filter::Exact("colour".into(), "1".into())),
                    1 => Some(Filter::namespace("a")),
                    _ => None,
                };
                let query = query(&mut pair, 15, filter);
                let (outcome, sample) = sampled(&mut pair, query.clone());
                let expected = expected(&pair, &query, &outcome);
                for hit in &outcome.hits[..5] {
                    pair.delete(hit.id.0, "");
                    pair.put(hit.id.0);
                    pair.update(hit.id.0);
                }
                let recall = compare(&mut pair, sample, |pair| {
                    (0..40).for_each(|_| pair.random_write(2_500));
                    let steps = pair.random.below(200) as usize;
                    pair.link(steps);
                });
                assert_eq!(recall, expected, "seed {seed}, round {round}");
            }
            pair.link_all();
            assert_eq!(pair.engine.store().retired_count(), 0, "a snapshot has stayed open");
        }
    }

    #[test]
    fn a_document_as_near_as_the_last_true_one_counts() {
        let mut pair = Pair::new(80);
        pair.engine = engine();
        let places: Vec<Box<[f32]>> = (0..100).map(|_| pair.random.vector()).collect();
        // Thirty documents on each place: any ten of them are as true as any other ten.
        for id in 1..=3_000_u64 {
            let vector = places[id as usize % 100].clone();
            pair.write(Write::Put {
                id: DocId(id),
                vector,
                payload: payload(1, ""),
                tenant_documents_max: None,
            });
        }
        pair.link_all();
        for _ in 0..50 {
            let query = query(&mut pair, 400, None);
            let (outcome, sample) = sampled(&mut pair, query);
            let best = outcome.hits[0].score;
            assert!(outcome.hits.iter().all(|hit| hit.score == best), "all on one place");
            let recall = compare(&mut pair, sample, |_| {});
            assert_eq!(recall, Recall { hits: 10, wanted: 10 });
        }
        let with_ids = |ids: &[(u64, f32)]| -> Vec<(DocId, f32)> {
            ids.iter().map(|&(id, score)| (DocId(id), score)).collect()
        };
        let truth = with_ids(&[(5, 0.9), (3, 0.8), (4, 0.8)]);
        for (hits, found) in [
            (vec![(5, 0.9), (4, 0.8), (9, 0.8)], 3),
            (vec![(5, 0.9), (8, 0.8), (9, 0.7)], 2),
            (vec![(6, 0.7), (7, 0.7)], 0),
            (vec![], 0),
        ] {
            let expected = Recall { hits: found, wanted: 3 };
            assert_eq!(recall(&with_ids(&hits), truth.clone()), expected, "{hits:?}");
        }
        assert_eq!(recall(&[], Vec::new()), Recall::default());
    }

    #[test]
    fn a_search_cut_short_is_no_sample_and_nothing_stays_open() {
        let mut pair = pair(90, 4_000);
        for steps in 0..4 {
            let query = Arc::new(query(&mut pair, 200, None));
            let mut search = pair.engine.begin_search(query).unwrap();
            for _ in 0..steps {
                assert!(!search.step(&pair.engine));
            }
            let (outcome, sample) = pair.engine.finish_sampled(search, 1);
            assert!(!outcome.complete && sample.is_none());
        }
        for steps in 0..3 {
            let query = query(&mut pair, 50, None);
            let (_, mut sample) = sampled(&mut pair, query);
            for _ in 0..steps {
                assert!(!pair.engine.step_sample(&mut sample));
            }
            pair.engine.abandon_sample(sample);
        }
        (1..=50).for_each(|id| pair.put(id));
        pair.link_all();
        assert_eq!(pair.engine.store().retired_count(), 0);
    }
}

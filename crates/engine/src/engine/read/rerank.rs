//! The end of a walk by codes: the nodes found are compared as vectors, so that results and scores come from vectors
//! alone.

use super::{Phase, Reused, Search};
use crate::engine::Engine;
use crate::graph::space::{Coded, Exact, Space};
use crate::kernels::Distance;

/// Candidates of a walk by codes that are compared as vectors between two looks at the clock; and those compared at
/// once, by a bound that those before have set.
const STEP_RERANK: usize = 128;
const RERANK_BATCH: usize = 16;

impl Search {
    /// Compares more of the nodes found by the walk as vectors, from candidate `first` on. Those that by their codes
    /// can't be among the best are left as they are, unless their score matters.
    pub(super) fn rerank<D: Distance>(&mut self, engine: &Engine, first: usize) {
        if engine.store.places().is_some() {
            return self.rerank_on_disk::<D>(engine, first);
        }
        let Some(codes) = engine.store.codes() else {
            return self.finish_walk(engine);
        };
        // Taken out, since it is used while the search changes.
        let code = std::mem::take(&mut self.reused.code);
        let space = Coded::<D>::new(code.get(), codes);
        let end = (first + STEP_RERANK).min(self.reused.candidates.len());
        let is_as_before = self.is_as_before(engine);
        if !is_as_before {
            let candidates = &self.reused.candidates[first..end];
            candidates.iter().for_each(|key| engine.store.prefetch_life(key.slot()));
        }
        for start in (first..end).step_by(RERANK_BATCH) {
            let bound =
                if self.query.min_score > 0.0 { f32::INFINITY } else { self.reused.top.bound() };
            self.reused.batch.clear();
            for index in start..end.min(start + RERANK_BATCH) {
                let key = self.reused.candidates[index];
                if !self.is_news(engine, key.slot(), is_as_before) {
                    continue;
                }
                if space.least(key) <= bound {
                    self.reused.batch.push(key.slot());
                } else {
                    self.seen += 1;
                    self.found += 1;
                }
            }
            let Reused { vector, batch, keys, .. } = &mut *self.reused;
            keys.clear();
            let vectors = Exact::<D>::new(vector, engine.store.vectors());
            vectors.each_key(batch, &mut self.work, |key| keys.push(key));
            for index in 0..self.reused.keys.len() {
                let key = self.reused.keys[index];
                self.admit(engine, key.slot(), key.distance());
            }
        }
        self.reused.code = code;
        self.phase = Phase::Rerank(end);
        if end == self.reused.candidates.len() {
            self.finish_walk(engine);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Query, SearchOutcome};
    use super::*;
    use crate::engine::testing::Pair;
    use crate::kernels::scalar;

    fn pair(seed: u64, documents: u64) -> Pair {
        let mut pair = Pair::new(seed);
        for id in 1..=documents {
            pair.put(id);
        }
        pair.link_all();
        pair
    }

    fn run(pair: &mut Pair, query: Query, steps: usize) -> SearchOutcome {
        let mut search = pair.engine.begin_search(Arc::new(query)).unwrap();
        assert_ne!(search.phase(), Phase::Scan(0), "it walks");
        let _is_done = (0..steps).any(|_| search.step(&pair.engine));
        pair.engine.finish_search(search)
    }

    fn assert_scores(pair: &Pair, query: &Query, outcome: &SearchOutcome) {
        assert!(outcome.hits.is_sorted_by(|a, b| a.score >= b.score));
        for hit in &outcome.hits {
            let truth = scalar::dot(&query.vector, &pair.model.0[&hit.id].0);
            assert!((hit.score - truth).abs() < 1e-6, "{} for {truth}", hit.score);
        }
    }

    #[test]
    fn candidates_left_unread_would_not_be_among_the_best() {
        let mut pair = pair(31, 6_000);
        let (mut full, mut read) = (0, 0);
        for _ in 0..100 {
            let query = Query { ef: 60, ..(*pair.query(10, None)).clone() };
            let outcome = run(&mut pair, query.clone(), usize::MAX);
            assert!(outcome.complete);
            assert_eq!(outcome.found, 60, "all that the beam holds");
            assert_scores(&pair, &query, &outcome);
            // If scores count, everything is read.
            let whole = Query { min_score: f32::MIN_POSITIVE, ..query };
            let whole = run(&mut pair, whole, usize::MAX);
            let ids = |outcome: &SearchOutcome| -> Vec<_> {
                outcome.hits.iter().map(|hit| hit.id).collect()
            };
            assert_eq!(ids(&outcome), ids(&whole));
            full += whole.work.full_distances;
            read += outcome.work.full_distances;
        }
        assert_eq!(full, 6_000);
        assert!((1_000..5_000).contains(&read), "{read} vectors read for 100 searches");
    }

    #[test]
    fn a_walk_that_is_cut_off_answers_by_vectors_too() {
        let mut pair = pair(32, 6_000);
        for steps in 1..6 {
            let query = Query { ef: 200, ..(*pair.query(10, None)).clone() };
            // The hot tier, then the way in, then a part of the walk.
            let outcome = run(&mut pair, query.clone(), 1 + steps);
            assert!(!outcome.complete);
            assert!(steps < 2 || outcome.hits.len() == 10, "{} hits", outcome.hits.len());
            assert_scores(&pair, &query, &outcome);
            assert!(outcome.work.full_distances <= STEP_RERANK as u64);
        }
    }
}

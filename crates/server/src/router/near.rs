//! Proved answers to queries near a cached one: `cache.query_cache_similarity_threshold` below 1.
//!
//! The cache then keeps a *neighbourhood* of each search: more documents than were requested, with their vectors. A
//! later query is compared with all of them, so its scores are its own, and the nearest k are its answer only if it is
//! proved that no other document can be among them. All other documents are at least as far from the cached query as
//! the last document of the neighbourhood; by the triangle inequality their distance from the new query is at least
//! that, less the distance between the two queries. If the k-th of the neighbourhood is nearer than that, it is one of
//! the k nearest of all. Distances are angles under cosine, and lengths of lines under euclidean distance; the inner
//! product satisfies no triangle inequality. Rounding is allowed for on both sides.
//!
//! If it is not proved, the walk begins at the nearest few: it needs no descent through the upper levels, and then
//! continues as any walk does, with its whole beam.
//!
//! The proof goes as far as the search did that found the neighbourhood: if its walk had missed a document that is
//! nearer than the last of it, that document may be missing here too, as it would be from the walk's own answer. For a
//! neighbourhood of an exact search, the answer is proved to be the exact one. The effect is measured
//! ([`super::check`]).
//!
//! Neighbours are dense in many dimensions, so the proof holds for queries that are very near: one text, embedded by
//! another batch or another processor, and not one thought in other words.

use std::sync::Arc;

use crate::engine::{Hit, Query};
use crate::kernels::{Distance, Metric};
use crate::store::Vectors;
use crate::types::DocId;
use crate::with_distance;

/// Least number of documents of a neighbourhood beyond those requested; otherwise as many as were requested.
const MORE: usize = 10;

/// Most documents of a neighbourhood.
const NEIGHBOURHOOD_MAX: usize = 1_000;

/// Documents at which a walk begins, if an answer is not proved.
pub const STARTS_MAX: usize = 8;

/// Result of comparing a neighbourhood with a near query.
#[derive(Debug, PartialEq)]
pub(super) enum Told<T> {
    /// The proved answer.
    Answer(T),
    /// No proof; these documents of the neighbourhood are the nearest ones, nearest first.
    Starts(Arc<[DocId]>),
}

/// When two queries are near.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    /// Metric of the collection.
    pub metric: Metric,
    /// Least score of one query with the other.
    pub similarity_min: f32,
}

/// The documents around a query.
pub(super) struct Neighbourhood {
    /// Their padded vectors, contiguous, in the order of the hits.
    vectors: Box<[f32]>,
    /// Hits after those that were requested.
    pub(super) others: Vec<Hit>,
    /// Least distance of all other documents from the query; `None` if there are none in scope.
    edge: Option<f64>,
}

impl Near {
    /// Number of documents for the neighbourhood of this query; `None` for no neighbourhood. A walk must not cost more
    /// for it, so the number is at most the beam width.
    #[must_use]
    pub fn width(self, query: &Query) -> Option<usize> {
        let most = if query.is_exact { NEIGHBOURHOOD_MAX } else { query.ef.min(NEIGHBOURHOOD_MAX) };
        let width = (2 * query.k + MORE).min(most);
        // A document whose score is too low for one query may have a high enough one for another.
        (width > query.k && query.min_score <= 0.0).then_some(width)
    }

    /// Score of two queries, if it reaches `similarity_min`.
    pub(super) fn similarity(self, one: &[f32], other: &[f32]) -> Option<f32> {
        if one.len() != other.len() {
            return None;
        }
        let distance = with_distance!(self.metric, D => D::between(one, other));
        let score = self.metric.score(distance);
        (score >= self.similarity_min).then_some(score)
    }

    /// Splits the neighbourhood off the hits of a search for `width` documents, all with vectors, and leaves the
    /// requested hits with the requested fields.
    pub(super) fn take(
        self,
        vector: &[f32],
        hits: &mut Vec<Hit>,
        width: usize,
        k: usize,
        include_embeddings: bool,
    ) -> Neighbourhood {
        let row_values = Vectors::row_values(vector.len());
        let mut vectors = vec![0.0; hits.len() * row_values].into_boxed_slice();
        for (row, hit) in vectors.chunks_exact_mut(row_values).zip(&*hits) {
            let values = hit.embedding.as_deref().expect("it was asked for");
            row[..vector.len()].copy_from_slice(values);
        }
        let vector = padded(vector);
        let farthest = |row: &[f32]| self.bounds(self.distance(&vector, row), vector.len()).0;
        let edge = vectors.chunks_exact(row_values).map(farthest).reduce(f64::max);
        let is_all = hits.len() < width;
        let mut others = hits.split_off(k.min(hits.len()));
        others.iter_mut().for_each(|hit| hit.embedding = None);
        if !include_embeddings {
            hits.iter_mut().for_each(|hit| hit.embedding = None);
        }
        Neighbourhood { vectors, others, edge: if is_all { None } else { edge } }
    }

    /// The answer to a query, if the neighbourhood of another one, whose first hits are these, proves it; else
    /// documents to start at.
    pub(super) fn answer(
        self,
        query: &Query,
        other: &[f32],
        first: &[Hit],
        around: &Neighbourhood,
    ) -> Told<Vec<Hit>> {
        let vector = padded(&query.vector);
        let rows = around.vectors.chunks_exact(vector.len());
        let hits = first.iter().chain(&around.others);
        let mut nearest: Vec<(f32, &Hit, &[f32])> =
            hits.zip(rows).map(|(hit, row)| (self.distance(&vector, row), hit, row)).collect();
        nearest.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.id.cmp(&b.1.id)));
        let is_proved = around.edge.is_none_or(|edge| {
            let most = |(last, ..): &(f32, _, _)| self.bounds(*last, vector.len()).1;
            let most = nearest.get(query.k - 1).map_or(f64::INFINITY, most);
            most < edge - self.way(&query.vector, other)
        });
        if !is_proved {
            let starts = nearest.iter().take(STARTS_MAX).map(|(_, hit, _)| hit.id);
            return Told::Starts(starts.collect());
        }
        nearest.truncate(query.k);
        let hit = |(distance, hit, row): (f32, &Hit, &[f32])| Hit {
            score: self.metric.score(distance),
            embedding: query.include_embeddings.then(|| row[..query.vector.len()].into()),
            ..hit.clone()
        };
        let mut answer: Vec<Hit> = nearest.into_iter().map(hit).collect();
        // Distances that differ may be equal as scores.
        answer.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        Told::Answer(answer)
    }

    fn distance(self, one: &[f32], other: &[f32]) -> f32 {
        with_distance!(self.metric, D => D::between(one, other))
    }

    /// Lower and upper bound of the true distance, given the computed one.
    fn bounds(self, distance: f32, values: usize) -> (f64, f64) {
        // Each product and each sum is rounded once.
        let rounding = (2 * values) as f64 * f64::from(f32::EPSILON);
        let distance = f64::from(distance);
        match self.metric {
            Metric::Cosine => {
                let angle = |dot: f64| dot.clamp(-1.0, 1.0).acos();
                (angle(-distance + rounding), angle(-distance - rounding))
            }
            Metric::Euclidean => {
                let length = |square: f64| square.max(0.0).sqrt();
                (length(distance * (1.0 - rounding)), length(distance * (1.0 + rounding)))
            }
            Metric::InnerProduct => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }

    /// Upper bound of the distance between two queries.
    fn way(self, one: &[f32], other: &[f32]) -> f64 {
        let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
        let line = one.iter().zip(other).map(square).sum::<f64>().sqrt() * (1.0 + 1e-9);
        match self.metric {
            // The lengths of unit vectors are rounded as well.
            Metric::Cosine => 2.0 * (line / 2.0 + 1e-6).min(1.0).asin(),
            Metric::Euclidean => line,
            Metric::InnerProduct => f64::INFINITY,
        }
    }
}

impl Neighbourhood {
    /// Bytes of memory, estimated.
    pub(super) fn bytes(&self) -> usize {
        let others = self.others.iter().map(|hit| hit.payload.bytes().len()).sum::<usize>();
        size_of_val(&*self.vectors) + self.others.capacity() * size_of::<Hit>() + others
    }
}

/// A vector padded as in the store, so that scores equal those of a shard.
pub(super) fn padded(vector: &[f32]) -> Vec<f32> {
    let mut padded = Vec::with_capacity(Vectors::row_values(vector.len()));
    padded.extend_from_slice(vector);
    padded.resize(Vectors::row_values(vector.len()), 0.0);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::normalize;
    use crate::types::mix;
    use crate::types::payload::Payload;
    use proptest::prelude::*;

    fn vector(metric: Metric, seed: u64, dimension: usize) -> Vec<f32> {
        let value = |d: u64| (mix(seed * 1_000 + d) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        let mut vector: Vec<f32> = (0..dimension as u64).map(value).collect();
        if metric == Metric::Cosine {
            normalize(&mut vector);
        }
        vector
    }

    fn query(vector: Vec<f32>, k: usize) -> Query {
        Query {
            vector,
            k,
            ef: 50,
            min_score: 0.0,
            filter: None,
            include_embeddings: false,
            is_exact: false,
        }
    }

    /// The k nearest of all documents, by number.
    fn nearest(near: Near, documents: &[Vec<f32>], query: &[f32], k: usize) -> Vec<Hit> {
        let query = padded(query);
        let distances = documents.iter().map(|document| near.distance(&query, &padded(document)));
        let mut all: Vec<(f32, usize)> = distances.zip(0..).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.truncate(k);
        let hit = |(distance, number): (f32, usize)| Hit {
            id: DocId(number as u64 + 1),
            score: near.metric.score(distance),
            payload: Payload::new([], "").unwrap(),
            embedding: Some(documents[number].as_slice().into()),
            is_hot: false,
        };
        let mut all: Vec<Hit> = all.into_iter().map(hit).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        all
    }

    fn answers(near: Near, documents: &[Vec<f32>], k: usize, step: f32, seed: u64) -> Option<bool> {
        let dimension = documents[0].len();
        let before = vector(near.metric, seed, dimension);
        let aside = vector(near.metric, seed + 1, dimension);
        let mut now: Vec<f32> = before.iter().zip(&aside).map(|(a, b)| a + step * b).collect();
        if near.metric == Metric::Cosine {
            normalize(&mut now);
        }
        let width = near.width(&query(before.clone(), k)).unwrap();
        let mut hits = nearest(near, documents, &before, width);
        let around = near.take(&before, &mut hits, width, k, false);
        assert_eq!(hits.len(), k.min(documents.len()));
        assert!(hits.iter().chain(&around.others).all(|hit| hit.embedding.is_none()));
        let asked = Query { include_embeddings: true, ..query(now.clone(), k) };
        let found = match near.answer(&asked, &before, &hits, &around) {
            Told::Answer(found) => found,
            Told::Starts(starts) => {
                // The nearest of all are among them more often than not, but not certainly.
                assert_eq!(starts.len(), STARTS_MAX.min(width).min(documents.len()));
                return None;
            }
        };
        let expected = nearest(near, documents, &now, k);
        let shown = |hits: &[Hit]| -> Vec<_> {
            hits.iter().map(|hit| (hit.id, hit.score, hit.embedding.clone())).collect()
        };
        assert_eq!(shown(&found), shown(&expected), "what is proved is so");
        Some(true)
    }

    proptest! {
        #[test]
        fn proved_answers_equal_those_of_an_exact_search(
            seed in 0..1_000_000_u64, count in 1..400_usize, dimension in 2..40_usize,
            k in 1..20_usize, exponent in -6.0..0.0_f32, is_cosine in any::<bool>(),
        ) {
            let metric = if is_cosine { Metric::Cosine } else { Metric::Euclidean };
            let near = Near { metric, similarity_min: 0.0 };
            let documents: Vec<_> =
                (0..count as u64).map(|n| vector(metric, seed + 7 + n, dimension)).collect();
            answers(near, &documents, k, 10_f32.powf(exponent), seed);
        }
    }

    #[test]
    fn the_same_text_embedded_elsewhere_is_proved_and_another_thought_is_not() {
        for metric in [Metric::Cosine, Metric::Euclidean] {
            let near = Near { metric, similarity_min: 0.0 };
            let documents: Vec<_> = (0..2_000).map(|n| vector(metric, 10_000 + n, 64)).collect();
            let proved = |step: f32| {
                (0..50)
                    .filter(|seed| answers(near, &documents, 10, step, 5 * seed).is_some())
                    .count()
            };
            assert!(proved(1e-4) >= 48 && proved(1e-3) > 25, "{} {}", proved(1e-4), proved(1e-3));
            assert_eq!(proved(1.0), 0);
            // If there are no other documents, nothing has to be proved.
            assert!(answers(near, &documents[..5], 10, 1.0, 3).is_some());
        }
        let near = Near { metric: Metric::InnerProduct, similarity_min: 0.0 };
        let documents: Vec<_> = (0..100).map(|n| vector(near.metric, n, 8)).collect();
        assert_eq!(answers(near, &documents, 5, 1e-6, 1), None, "it has no triangles");
    }

    #[test]
    fn only_near_queries_are_compared_and_a_walk_costs_no_more() {
        let near = Near { metric: Metric::Cosine, similarity_min: 0.9 };
        assert_eq!(near.similarity(&[1.0, 0.0], &[1.0, 0.0]), Some(1.0));
        assert_eq!(near.similarity(&[1.0, 0.0], &[0.6, 0.8]), None);
        assert_eq!(near.similarity(&[1.0, 0.0], &[1.0]), None);
        let width = |k, ef| near.width(&Query { ef, ..query(vec![1.0], k) });
        assert_eq!((width(10, 50), width(10, 15), width(10, 10)), (Some(30), Some(15), None));
        assert_eq!(near.width(&Query { min_score: 0.1, ..query(vec![1.0], 10) }), None);
        assert_eq!(near.width(&Query { is_exact: true, ..query(vec![1.0], 100) }), Some(210));
    }
}

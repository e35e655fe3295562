//! Clustered vectors, similar to embeddings: generated from a seed, equal on every machine, with the exact neighbours
//! of each query.

#![allow(dead_code, unreachable_pub, reason = "each test and bench uses its part")]

use kyrodb::kernels::{normalize, scalar};
use kyrodb::types::mix;

/// Values in a vector.
pub const WIDTH: usize = 64;

/// Number of exact neighbours per query.
pub const K: usize = 10;

/// Number of clusters, and number of directions in which the documents of one differ.
const CLUSTERS: u64 = 200;
const DIRECTIONS: u64 = 8;

/// Spread in these directions, and in all others.
const SPREAD: f32 = 0.4;
const NOISE: f32 = 0.05;

/// Streams of numbers.
const CENTRES: u64 = 1 << 40;
const WAYS: u64 = 2 << 40;
const PLACES: u64 = 3 << 40;
const NOISES: u64 = 4 << 40;

/// A number between -1 and 1.
fn value(stream: u64, index: u64) -> f32 {
    (mix(mix(stream) ^ index) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The cluster of the vector with this number.
pub fn cluster(number: u64) -> u64 {
    mix(number) % CLUSTERS
}

/// The vector with this number, of length 1.
pub fn vector(number: u64) -> Vec<f32> {
    let cluster = cluster(number);
    let mut vector: Vec<f32> = (0..WIDTH as u64)
        .map(|d| value(CENTRES | cluster, d) + NOISE * value(NOISES | number, d))
        .collect();
    for way in 0..DIRECTIONS {
        let place = SPREAD * value(PLACES | number, way);
        for (d, target) in vector.iter_mut().enumerate() {
            *target += place * value(WAYS | (cluster * DIRECTIONS + way), d as u64);
        }
    }
    assert!(normalize(&mut vector), "it has a direction");
    vector
}

/// Documents with the ids 1, 2, …, and queries with their exact neighbours among them.
pub struct Data {
    pub documents: Vec<Vec<f32>>,
    pub queries: Vec<Vec<f32>>,
    pub truth: Vec<[u64; K]>,
}

impl Data {
    pub fn new(documents: usize, queries: usize) -> Self {
        let rows: Vec<Vec<f32>> = (0..documents as u64).map(vector).collect();
        let queries: Vec<Vec<f32>> = (0..queries as u64).map(|n| vector(1 << 32 | n)).collect();
        let truth = queries.iter().map(|query| nearest(&rows, query)).collect();
        Self { documents: rows, queries, truth }
    }

    /// Share of the true neighbours that are among `found`, the ids found by each query.
    pub fn recall(&self, found: &[Vec<u64>]) -> f64 {
        assert_eq!(found.len(), self.truth.len());
        let pairs = self.truth.iter().zip(found);
        let hits: usize =
            pairs.map(|(truth, found)| truth.iter().filter(|id| found.contains(id)).count()).sum();
        hits as f64 / (K * found.len()) as f64
    }
}

/// Ids of the rows with the largest dot product.
fn nearest(rows: &[Vec<f32>], query: &[f32]) -> [u64; K] {
    let mut scored: Vec<(f32, u64)> =
        (1..).zip(rows).map(|(id, row)| (scalar::dot(row, query), id)).collect();
    scored.select_nth_unstable_by(K, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    std::array::from_fn(|place| scored[place].1)
}

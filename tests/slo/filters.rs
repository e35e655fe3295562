//! Recall and cost of a search with a filter, for every share of documents that pass: counted in the engine, beside a
//! search without a filter.

use std::sync::Arc;

use kyrodb::engine::filter::{Bound, Filter, Side};
use kyrodb::engine::{Capacity, Engine, LinkProgress, Params, Query, VectorStorage, Write};
use kyrodb::graph;
use kyrodb::kernels::{Metric, scalar};
use kyrodb::types::payload::Payload;
use kyrodb::types::{DocId, mix};

use crate::alone;
use crate::bounds::Bounds;
use crate::common::clustered::{K, WIDTH, cluster, vector};

const DOCUMENTS: u64 = 20_000;
const QUERIES: u64 = 200;
const EF: usize = 50;

/// A number between 0 and 999, independent of the clusters.
fn share(number: u64) -> u64 {
    mix(number ^ (1 << 50)) % 1_000
}

fn engine() -> Engine {
    let mut engine = Engine::new(Params {
        codes: true,
        metric: Metric::Cosine,
        dimension: WIDTH,
        graph: graph::Params { m: 16, ef_construction: 200, seed: 42 },
        hot_documents_max: usize::MAX,
        capacity: Arc::new(Capacity::new(usize::MAX)),
        vectors: VectorStorage::Memory,
        home: None,
    });
    for number in 0..DOCUMENTS {
        let pairs = [
            ("share", share(number).to_string()),
            ("cluster", cluster(number).to_string()),
            ("id", format!("document {number}")),
        ];
        let pairs = pairs.iter().map(|(key, value)| (*key, value.as_str()));
        let payload = Payload::new(pairs, "").unwrap();
        let write = Write::Put {
            id: DocId(number + 1),
            vector: vector(number).into(),
            payload,
            tenant_documents_max: None,
        };
        for record in engine.stage(write).unwrap().records {
            assert!(engine.apply(engine.applied().next(), record));
        }
        while engine.link_step() == LinkProgress::More {}
    }
    engine
}

/// Recall, and distances per search.
fn measure(engine: &mut Engine, filter: Option<&Filter>, passes: impl Fn(u64) -> bool) -> [f64; 2] {
    let rows: Vec<(u64, Vec<f32>)> =
        (0..DOCUMENTS).filter(|&n| passes(n)).map(|n| (n + 1, vector(n))).collect();
    let (mut hits, mut wanted, mut distances) = (0, 0, 0);
    for number in 0..QUERIES {
        let query = Query {
            vector: vector(1 << 32 | number),
            k: K,
            ef: EF,
            min_score: 0.0,
            filter: filter.cloned(),
            include_embeddings: false,
            is_exact: false,
        };
        let mut scored: Vec<(f32, u64)> =
            rows.iter().map(|(id, row)| (scalar::dot(row, &query.vector), *id)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.truncate(K);
        let mut search = engine.begin_search(Arc::new(query)).unwrap();
        while !search.step(engine) {}
        let outcome = engine.finish_search(search);
        assert_eq!(outcome.hits.len(), scored.len(), "k come back if there are k");
        let found: Vec<u64> = outcome.hits.iter().map(|hit| hit.id.0).collect();
        assert!(found.iter().all(|&id| passes(id - 1)));
        hits += scored.iter().filter(|(_, id)| found.contains(id)).count();
        wanted += scored.len();
        distances += outcome.work.distances;
    }
    [hits as f64 / wanted as f64, distances as f64 / QUERIES as f64]
}

fn below(key: &str, bound: u64) -> Filter {
    Filter::Range(key.into(), Some(Bound::new(Side::Below, bound.to_string())))
}

#[test]
fn a_filter_costs_little_whatever_it_selects() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let mut engine = engine();
    let [_, without] = measure(&mut engine, None, |_| true);
    let shares = [
        (1, "filter_distances_1_permille"),
        (80, "filter_distances_80_permille"),
        (100, "filter_distances_100_permille"),
        (300, "filter_distances_300_permille"),
        (590, "filter_distances_590_permille"),
        (620, "filter_distances_620_permille"),
        (1_000, "filter_distances_all"),
    ];
    let mut least = f64::MAX;
    for (permille, name) in shares {
        let filter = below("share", permille);
        let [recall, distances] = measure(&mut engine, Some(&filter), |n| share(n) < permille);
        println!("{permille} permille: recall {recall:.4}, {distances:.1} distances");
        least = least.min(recall);
        bounds.hold(name, distances / without);
    }
    bounds.hold("filter_recall", least);
    // Passing documents lie in a part of the clusters; most queries come from elsewhere.
    least = f64::MAX;
    let clusters = [
        (20, "filter_distances_20_clusters"),
        (60, "filter_distances_60_clusters"),
        (110, "filter_distances_110_clusters"),
    ];
    for (clusters, name) in clusters {
        let filter = below("cluster", clusters);
        let [recall, distances] = measure(&mut engine, Some(&filter), |n| cluster(n) < clusters);
        println!("{clusters} clusters: recall {recall:.4}, {distances:.1} distances");
        least = least.min(recall);
        bounds.hold(name, distances / without);
    }
    bounds.hold("filter_recall_clusters", least);
    let bytes = engine.metadata_index().bytes() as f64 / DOCUMENTS as f64;
    bounds.hold("filter_index_bytes", bytes);
    bounds.end();
}

//! One shard without a disk or a network: the walk, linking, filters, and pieces of a snapshot.
//! `cargo bench --bench engine`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

#[path = "../tests/common/clustered.rs"]
mod clustered;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use clustered::{K, WIDTH, vector};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kyrodb::engine::filter::{Bound, Filter, Side};
use kyrodb::engine::{
    Capacity, Engine, LinkProgress, Params, Query, SearchOutcome, VectorStorage, Write,
};
use kyrodb::graph;
use kyrodb::types::DocId;
use kyrodb::types::metric::Metric;
use kyrodb::types::payload::Payload;

const DOCUMENTS: u64 = 20_000;
const QUERIES: u64 = 500;

fn payload(number: u64) -> Payload {
    let (year, colour) = ((1_950 + number % 75).to_string(), format!("colour {}", number % 7));
    let pairs = [("year", year.as_str()), ("colour", &colour), ("language", "en"), ("page", "17")];
    Payload::new(pairs, "").unwrap()
}

fn put(engine: &mut Engine, number: u64, vector: Vec<f32>) {
    let write = Write::Put {
        id: DocId(number + 1),
        vector: vector.into(),
        payload: payload(number),
        tenant_documents_max: None,
    };
    for record in engine.stage(write).unwrap().records {
        assert!(engine.apply(engine.applied().next(), record), "a put is applied at once");
    }
}

fn link(engine: &mut Engine) {
    while engine.link_step() == LinkProgress::More {}
}

/// 20,000 linked documents.
fn engine() -> Engine {
    let mut engine = Engine::new(Params {
        metric: Metric::Cosine,
        dimension: WIDTH,
        codes: true,
        graph: graph::Params { m: 16, ef_construction: 200, seed: 42 },
        hot_documents_max: usize::MAX,
        capacity: Arc::new(Capacity::new(usize::MAX)),
        vectors: VectorStorage::Memory,
        home: None,
    });
    for number in 0..DOCUMENTS {
        put(&mut engine, number, vector(number));
        link(&mut engine);
    }
    engine
}

fn search(engine: &mut Engine, query: &Arc<Query>) -> SearchOutcome {
    let mut search = engine.begin_search(query.clone()).unwrap();
    while !search.step(engine) {}
    engine.finish_search(search)
}

/// Queries that are not documents.
fn queries(ef: usize, filter: Option<&Filter>) -> Vec<Arc<Query>> {
    let query = |number: u64| {
        Arc::new(Query {
            vector: vector(1 << 32 | number),
            k: K,
            ef,
            min_score: 0.0,
            filter: filter.cloned(),
            include_embeddings: false,
            is_exact: false,
        })
    };
    (0..QUERIES).map(query).collect()
}

fn searches(criterion: &mut Criterion, engine: &mut Engine) {
    let mut group = criterion.benchmark_group("search");
    for ef in [10, 50, 100] {
        let queries = queries(ef, None);
        let mut next = queries.iter().cycle();
        group.bench_function(BenchmarkId::new("walk/ef", ef), |bench| {
            bench.iter(|| search(engine, next.next().unwrap()));
        });
    }
    let filter = Filter::Exact("colour".into(), "colour 3".into());
    let queries = queries(50, Some(&filter));
    let mut next = queries.iter().cycle();
    group.bench_function("filtered/ef/50", |bench| {
        bench.iter(|| search(engine, next.next().unwrap()));
    });
    group.finish();
}

/// One document more each time: the measured inserts grow the graph.
fn inserts(criterion: &mut Criterion, engine: &mut Engine) {
    let mut number = DOCUMENTS;
    let mut group = criterion.benchmark_group("insert");
    group.measurement_time(Duration::from_secs(2));
    group.bench_function("apply_and_link", |bench| {
        let next = || {
            number += 1;
            (number, vector(number))
        };
        let insert = |(number, vector)| {
            put(engine, number, vector);
            link(engine);
        };
        bench.iter_batched(next, insert, BatchSize::SmallInput);
    });
    group.finish();
}

fn snapshots(criterion: &mut Criterion, engine: &mut Engine) {
    let mut pieces = || {
        let mut checkpoint =
            engine.begin_checkpoint(std::sync::Arc::default(), std::collections::BTreeSet::new());
        let mut count = 0;
        while let Some(piece) = checkpoint.next(engine) {
            black_box(piece);
            count += 1;
        }
        engine.abandon_checkpoint(checkpoint);
        count
    };
    let count = pieces();
    let mut group = criterion.benchmark_group("snapshot");
    group.throughput(Throughput::Elements(count));
    group.bench_function("all_pieces", |bench| bench.iter(&mut pieces));
    group.finish();
}

fn filters(criterion: &mut Criterion) {
    let exact = || Filter::Exact("colour".into(), "colour 3".into());
    let range = || {
        let bound = Bound::new(Side::AtLeast, "1999".into());
        Filter::Range("year".into(), Some(bound))
    };
    let colours = (0..100).map(|number| format!("colour {number}")).collect();
    let filters = [
        ("exact", exact()),
        ("in_100", Filter::one_of("colour".into(), colours)),
        ("range", range()),
        (
            "and_or_not",
            Filter::And(vec![Filter::Or(vec![exact(), range()]), Filter::Not(Box::new(exact()))]),
        ),
    ];
    let payloads: Vec<Payload> = (0..512).map(payload).collect();
    let mut group = criterion.benchmark_group("filter");
    group.throughput(Throughput::Elements(payloads.len() as u64));
    for (name, filter) in filters {
        group.bench_function(name, |bench| {
            bench.iter(|| payloads.iter().filter(|payload| filter.matches(payload)).count());
        });
    }
    group.finish();
}

fn engines(criterion: &mut Criterion) {
    let mut engine = engine();
    searches(criterion, &mut engine);
    snapshots(criterion, &mut engine);
    inserts(criterion, &mut engine);
}

criterion_group!(benches, filters, engines);
criterion_main!(benches);

//! Recall over gRPC, on real vectors: always the shipped sample, larger sets if present.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::path::Path;

use common::{Client, Inside, dataset, insert, runtime, search};
use kyrodb::dataset::{Rows, read_vectors};
use kyrodb::kernels::scalar;
use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::{ExactMatch, FlushRequest, InMatch, MetadataFilter, SearchRequest};

const K: usize = 10;

fn sample() -> Rows<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/sample/vectors.npy");
    read_vectors(&path).unwrap()
}

/// Document `row + 1` of colour `row % 7`.
async fn load(client: &mut Client, base: &Rows<f32>, count: usize) {
    let documents: Vec<_> = (0..count)
        .map(|row| {
            let colour = (row % 7).to_string();
            insert(row as u64 + 1, base.row(row), &[("colour", &colour)])
        })
        .collect();
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap().into_inner();
    assert_eq!((loaded.total_loaded, loaded.total_failed), (count as u64, 0));
}

/// Ids of the `K` rows, among those that `passes`, with the largest dot product.
fn nearest(
    base: &Rows<f32>,
    count: usize,
    query: &[f32],
    passes: impl Fn(usize) -> bool,
) -> Vec<u64> {
    let mut scored: Vec<(f32, u64)> = (0..count)
        .filter(|&row| passes(row))
        .map(|row| (scalar::dot(base.row(row), query), row as u64 + 1))
        .collect();
    let by_score = |a: &(f32, u64), b: &(f32, u64)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if scored.len() > K {
        scored.select_nth_unstable_by(K, by_score);
        scored.truncate(K);
    }
    scored.sort_by(by_score);
    scored.into_iter().map(|(_, id)| id).collect()
}

/// Recall@10 at `ef` (0: the configured one), with everything linked into the graph.
async fn recall(
    client: &mut Client,
    base: &Rows<f32>,
    count: usize,
    queries: &[Vec<f32>],
    ef: u32,
) -> f64 {
    client.flush_hot_tier(FlushRequest { force: true }).await.unwrap();
    let mut hits = 0;
    for query in queries {
        let request = SearchRequest { ef_search: ef, ..search(query, K as u32) };
        let found = common::ids(&client.search(request).await.unwrap().into_inner());
        assert_eq!(found.len(), K);
        let truth = nearest(base, count, query, |_| true);
        hits += truth.iter().filter(|id| found.contains(id)).count();
    }
    hits as f64 / (K * queries.len()) as f64
}

fn start(shards: &str, partitions: &str) -> Inside {
    Inside::start(&[("runtime.shards", shards), ("runtime.partitions", partitions)])
}

/// Vectors that are near documents but not equal to any: halfway between two of the sample.
fn between(base: &Rows<f32>, count: usize) -> Vec<Vec<f32>> {
    (0..count)
        .map(|i| {
            let (a, b) = (base.row(i * 37 % base.count()), base.row((i * 91 + 5) % base.count()));
            let mut mixed: Vec<f32> = a.iter().zip(b).map(|(a, b)| 0.7 * a + 0.3 * b).collect();
            assert!(kyrodb::kernels::normalize(&mut mixed));
            mixed
        })
        .collect()
}

#[test]
fn the_sample_is_searched_well_with_any_number_of_shards() {
    let base = sample();
    let queries = between(&base, 150);
    for (shards, partitions) in [("1", "1"), ("2", "2"), ("4", "1"), ("4", "2")] {
        let server = start(shards, partitions);
        runtime().block_on(async {
            let mut client = server.client().await;
            load(&mut client, &base, base.count()).await;
            let recall = recall(&mut client, &base, base.count(), &queries, 0).await;
            println!("sample, {shards} shards, {partitions} graphs: recall@10 {recall:.4}");
            assert!(recall >= 0.97, "{shards} shards, {partitions} graphs: {recall}");
            filters_are_exact(&mut client, &base, &queries[..40]).await;
            filters_are_walked_well(&mut client, &base, &queries).await;
            deletes_keep_recall(&mut client, &base, &queries).await;
        });
    }
}

async fn filters_are_exact(client: &mut Client, base: &Rows<f32>, queries: &[Vec<f32>]) {
    let key = || "colour".to_owned();
    let one = FilterType::Exact(ExactMatch { key: key(), value: "3".into() });
    let values = ["0", "6", "no such"].map(String::from).to_vec();
    let some = FilterType::InMatch(InMatch { key: key(), values });
    for (filter, passes) in [(one, [3, 3]), (some, [0, 6])] {
        let filter = Some(MetadataFilter { filter_type: Some(filter) });
        for query in queries {
            let request = SearchRequest { filter: filter.clone(), ..search(query, K as u32) };
            let found = common::ids(&client.search(request).await.unwrap().into_inner());
            let truth = nearest(base, base.count(), query, |row| passes.contains(&(row % 7)));
            assert_eq!(found, truth);
        }
    }
}

/// With a narrow beam, too many documents pass to be compared one by one: the filtered search walks, and if several
/// shards own a graph one of them walks among the passing documents of all.
async fn filters_are_walked_well(client: &mut Client, base: &Rows<f32>, queries: &[Vec<f32>]) {
    let values = ["0", "1", "2", "3"].map(String::from).to_vec();
    let some = FilterType::InMatch(InMatch { key: "colour".into(), values });
    let filter = Some(MetadataFilter { filter_type: Some(some) });
    let mut hits = 0;
    for query in queries {
        let filter = filter.clone();
        let request = SearchRequest { filter, ef_search: 12, ..search(query, K as u32) };
        let answer = client.search(request).await.unwrap().into_inner();
        assert_eq!(answer.shards_asked, answer.shards_answered, "{:?}", answer.coverage_reasons);
        let found = common::ids(&answer);
        assert_eq!(found.len(), K);
        assert!(found.iter().all(|id| (*id as usize - 1) % 7 <= 3), "{found:?} pass");
        let truth = nearest(base, base.count(), query, |row| row % 7 <= 3);
        hits += truth.iter().filter(|id| found.contains(id)).count();
    }
    let recall = hits as f64 / (K * queries.len()) as f64;
    println!("  four of seven colours pass: recall@10 {recall:.4} at ef 12");
    assert!(recall >= 0.85, "{recall}");
}

/// Half of the documents are deleted; the others are found as well as before, and no deleted one is.
async fn deletes_keep_recall(client: &mut Client, base: &Rows<f32>, queries: &[Vec<f32>]) {
    let half = base.count() / 2;
    let gone: Vec<u64> = (half as u64 + 1..=base.count() as u64).collect();
    for doc_ids in gone.chunks(1_000) {
        let ids = kyrodb::proto::IdList { doc_ids: doc_ids.to_vec() };
        let criteria = kyrodb::proto::batch_delete_request::DeleteCriteria::Ids(ids);
        let request = kyrodb::proto::BatchDeleteRequest {
            delete_criteria: Some(criteria),
            namespace: String::new(),
        };
        let deleted = client.batch_delete(request).await.unwrap().into_inner();
        assert_eq!(deleted.deleted_count, doc_ids.len() as u64);
    }
    let recall = recall(client, base, half, queries, 0).await;
    assert!(recall >= 0.95, "after deletes: {recall}");
}

/// Recall on the first rows of a large set, if it is present.
fn large(name: &str, rows: usize, shards: &str, ef: u32, floor: f64) {
    let Some(directory) = dataset(name) else {
        println!("skipped: there is no data set {name}; KYRODB_DATASETS may say where it is");
        return;
    };
    let mut base = read_vectors(&directory.join("base.npy")).unwrap();
    for row in base.values.chunks_exact_mut(base.width) {
        assert!(kyrodb::kernels::normalize(row));
    }
    let queries = read_vectors(&directory.join("queries.npy")).unwrap();
    let queries: Vec<Vec<f32>> = (0..200).map(|row| queries.row(row).to_vec()).collect();
    let server = start(shards, "1");
    runtime().block_on(async {
        let mut client = server.client().await;
        load(&mut client, &base, rows).await;
        let recall = recall(&mut client, &base, rows, &queries, ef).await;
        println!("{name}, {rows} rows, {shards} shards: recall@10 {recall:.4} at ef {ef}");
        assert!(recall >= floor, "{recall}");
    });
}

#[test]
fn large_sets_are_searched_well() {
    large("wordnet384", 15_000, "2", 0, 0.97);
    large("glove100", 15_000, "3", 200, 0.95);
}

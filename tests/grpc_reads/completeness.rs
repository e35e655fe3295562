//! If k documents match, k are found, however few of all documents match.

use std::collections::BTreeSet;

use kyrodb::proto::{InsertRequest, MetadataFilter, SearchRequest, SearchResponse};
use kyrodb::types::{DocId, ShardId};

use super::common::documents::delete_where;
use super::common::filters::{and, exact, gte, lt, not};
use super::common::{Inside, ids, insert, runtime, search, vector};
use super::{SETTINGS, find, store};

const COUNT: u64 = 6_000;
const DIMENSION: usize = 16;

/// One document in 600 is rare; one in 1000 is in the namespace `tiny`, half of the rest in `large`.
fn document(id: u64) -> InsertRequest {
    let rare = if id.is_multiple_of(600) { "yes" } else { "no" };
    let namespace = match id {
        id if id.is_multiple_of(1_000) => "tiny",
        id if id.is_multiple_of(2) => "large",
        _ => "",
    };
    let pairs = [("rare", rare), ("n", &*id.to_string())];
    let request = insert(id, &vector(id, DIMENSION), &pairs);
    InsertRequest { namespace: namespace.into(), ..request }
}

fn distance(query: &[f32], id: u64) -> f64 {
    let differences = vector(id, DIMENSION).into_iter().zip(query).map(|(a, b)| f64::from(a - b));
    differences.map(|difference| difference * difference).sum::<f64>().sqrt()
}

/// The documents of a set, nearest first.
fn nearest(query: &[f32], set: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut found: Vec<u64> = (1..=COUNT).filter(|&id| set(id)).collect();
    found.sort_by(|a, b| distance(query, *a).total_cmp(&distance(query, *b)));
    found
}

/// Asserts that each rank has the expected document, or one as near up to the precision of `f32`.
fn assert_nearest(query: &[f32], answer: &SearchResponse, expected: &[u64]) {
    let found = ids(answer);
    assert_eq!(found.len(), expected.len());
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "one is found twice");
    for (found, expected) in found.into_iter().zip(expected) {
        let apart = (distance(query, found) - distance(query, *expected)).abs();
        assert!(apart < 1e-5, "{found} is found in the place of {expected}");
    }
}

/// A filter and a namespace, and the documents that both select.
type Case = (MetadataFilter, &'static str, fn(u64) -> bool);

#[test]
fn as_many_as_match_are_found_up_to_k() {
    let server = Inside::start(SETTINGS);
    let cases: [Case; 7] = [
        (exact("rare", "yes"), "", |id| id.is_multiple_of(600)),
        (MetadataFilter::default(), "tiny", |id| id.is_multiple_of(1_000)),
        (exact("rare", "yes"), "tiny", |id| id.is_multiple_of(3_000)),
        (exact("n", "17"), "", |id| id == 17),
        (and(&[gte("n", "100"), lt("n", "200")]), "", |id| (100..200).contains(&id)),
        (not(exact("rare", "no")), "large", |id| {
            id.is_multiple_of(600) && !id.is_multiple_of(1_000)
        }),
        (exact("rare", "maybe"), "", |_| false),
    ];
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, (1..=COUNT).map(document).collect()).await;
        for (filter, namespace, set) in &cases {
            for seed in [1, 2, 3] {
                let query = vector(COUNT + seed, DIMENSION);
                let expected = nearest(&query, set);
                for k in [1, 10, 1_000] {
                    let (filter, namespace) = (Some(filter.clone()), (*namespace).into());
                    let request = SearchRequest { filter, namespace, ..search(&query, k) };
                    let answer = find(&mut client, request.clone()).await;
                    let count = expected.len().min(k as usize);
                    assert_nearest(&query, &answer, &expected[..count]);
                    assert!(ids(&answer).into_iter().all(set), "{request:?}: {answer:?}");
                }
            }
        }
        let query = vector(COUNT + 9, DIMENSION);
        let answer = find(&mut client, search(&query, 1_000)).await;
        let distinct: BTreeSet<u64> = ids(&answer).into_iter().collect();
        assert_eq!(distinct.len(), 1_000, "without a filter as well, each once");
    });
}

#[test]
fn k_are_found_also_where_the_nearest_have_been_deleted_or_replaced() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let query = vector(COUNT + 1, DIMENSION);
        let order = nearest(&query, |_| true);
        let doomed: Vec<u64> = order[..4_000].to_vec();
        let document = |id: u64| {
            let fate = if doomed.contains(&id) { "doomed" } else { "kept" };
            insert(id, &vector(id, DIMENSION), &[("fate", fate)])
        };
        store(&mut client, (1..=COUNT).map(document).collect()).await;
        let request = delete_where(exact("fate", "doomed"), "");
        let deleted = client.batch_delete(request).await.unwrap().into_inner().deleted_count;
        assert_eq!(deleted, 4_000);
        for k in [1, 10, 100] {
            let answer = find(&mut client, search(&query, k)).await;
            assert_eq!(answer.results.len(), k as usize, "of 2000 documents");
            assert!(answer.results.iter().all(|result| result.metadata["fate"] == "kept"));
        }
        let request = SearchRequest { ef_search: 10_000, ..search(&query, 1_000) };
        assert_nearest(&query, &find(&mut client, request).await, &order[4_000..5_000]);
        // The nearer half of the rest moves to the places of the other half, the nearest one farthest.
        let moved = order[4_000..5_000].iter().zip(order[5_000..].iter().rev());
        let moved = moved.map(|(&near, &far)| insert(near, &vector(far, DIMENSION), &[]));
        store(&mut client, moved.collect()).await;
        let request = SearchRequest { ef_search: 10_000, ..search(&query, 1_000) };
        let answer = find(&mut client, request).await;
        let distinct: BTreeSet<u64> = ids(&answer).into_iter().collect();
        let expected: BTreeSet<u64> = order[4_500..5_500].iter().copied().collect();
        assert_eq!(distinct, expected, "documents are found where they were, not where they are");
    });
}

/// Every shard walks with a beam of its share; a shard that holds nearly all documents has to find nearly all results.
#[test]
fn k_are_found_also_where_one_shard_holds_nearly_all() {
    const SHARDS: u32 = 16;
    let of_shard = |shard: u32| (1..).filter(move |&id| DocId(id).shard(SHARDS) == ShardId(shard));
    let few = (1..SHARDS).flat_map(|shard| of_shard(shard).take(2));
    let documents: Vec<u64> = of_shard(0).take(5_000).chain(few).collect();
    let server =
        Inside::start(&[("hnsw.distance", "euclidean"), ("runtime.shards", &SHARDS.to_string())]);
    runtime().block_on(async {
        let mut client = server.client().await;
        let request = |&id: &u64| insert(id, &vector(id, DIMENSION), &[]);
        store(&mut client, documents.iter().map(request).collect()).await;
        for k in [1, 10, 100, 200] {
            let query = vector(u64::from(k), DIMENSION);
            let mut nearest = documents.clone();
            nearest.sort_by(|a, b| distance(&query, *a).total_cmp(&distance(&query, *b)));
            nearest.truncate(k as usize);
            let request = SearchRequest { ef_search: 200, ..search(&query, k) };
            let found = ids(&find(&mut client, request).await);
            assert_eq!(found.len(), k as usize);
            assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
            let hits = nearest.iter().filter(|id| found.contains(id)).count();
            assert!(hits * 100 >= nearest.len() * 95, "{hits} of {k}");
        }
    });
}

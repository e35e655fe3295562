//! Two servers, one with the cache and one without, are told and asked the same at random: they have to
//! answer the same, always. `KYRODB_CACHE_OPERATIONS` says how much, `KYRODB_CACHE_SEED` what.

use std::collections::BTreeMap;

use kyrodb::proto::batch_delete_request::DeleteCriteria;
use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::{
    BatchDeleteRequest, DeleteRequest, ExactMatch, FlushRequest, IdList, InsertRequest,
    MetadataFilter, SearchRequest, UpdateMetadataRequest,
};
use kyrodb::types::mix;

use crate::common::{Client, insert, runtime, search, vector};
use crate::{DIMENSION, answer, is_hit, start};

const OPERATIONS: u64 = 4_000;

/// Ids, so few that most are written several times, and so few documents that searches scan them:
/// what a walk finds depends on when documents were linked.
const IDS: u64 = 60;
const NAMESPACES: [&str; 4] = ["", "a", "b", "c"];
const COLOURS: [&str; 3] = ["red", "green", "blue"];

/// One in so many operations writes.
const WRITES: u64 = 12;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % bound
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Insert(InsertRequest),
    BulkInsert(Vec<InsertRequest>),
    Load(Vec<InsertRequest>),
    Update(UpdateMetadataRequest),
    Delete(DeleteRequest),
    DeleteMany(BatchDeleteRequest),
    Flush,
    Search(SearchRequest),
}

fn filter(random: &mut Random) -> MetadataFilter {
    let exact = ExactMatch { key: "colour".into(), value: random.of(&COLOURS).into() };
    MetadataFilter { filter_type: Some(FilterType::Exact(exact)) }
}

fn document(random: &mut Random) -> InsertRequest {
    let (id, version) = (1 + random.below(IDS), random.below(1 << 20));
    let pairs = [("colour", random.of(&COLOURS)), ("n", &version.to_string())];
    let namespace = random.of(&NAMESPACES).to_owned();
    InsertRequest { namespace, ..insert(id, &vector(version % 40, DIMENSION), &pairs) }
}

fn write(random: &mut Random) -> Operation {
    let doc_id = 1 + random.below(IDS);
    // Nearly always the right one, since most documents are in none.
    let namespace =
        if random.below(3) == 0 { random.of(&NAMESPACES).into() } else { String::new() };
    match random.below(20) {
        0..9 => Operation::Insert(document(random)),
        9 => Operation::BulkInsert((0..3).map(|_| document(random)).collect()),
        10 => Operation::Load((0..3).map(|_| document(random)).collect()),
        11..14 => Operation::Update(UpdateMetadataRequest {
            doc_id,
            metadata: [("colour".to_owned(), random.of(&COLOURS).to_owned())].into(),
            merge: random.below(2) == 0,
            namespace,
        }),
        14..17 => Operation::Delete(DeleteRequest { doc_id, namespace }),
        17 => {
            let doc_ids = (0..4).map(|_| 1 + random.below(IDS)).collect();
            let delete_criteria = Some(DeleteCriteria::Ids(IdList { doc_ids }));
            Operation::DeleteMany(BatchDeleteRequest { delete_criteria, namespace })
        }
        18 => {
            let delete_criteria = Some(DeleteCriteria::Filter(filter(random)));
            let namespace = random.of(&NAMESPACES[1..]).into();
            Operation::DeleteMany(BatchDeleteRequest { delete_criteria, namespace })
        }
        _ => Operation::Flush,
    }
}

/// A question; with `is_near`, often one that is only nearly one of before.
fn question(random: &mut Random, is_near: bool) -> SearchRequest {
    // A few questions come again and again, others now and then.
    let number = if random.below(4) > 0 { random.below(3) } else { random.below(30) };
    let one_in = |random: &mut Random, parts| random.below(parts) == 0;
    let mut asked = vector(number, DIMENSION);
    if is_near && one_in(random, 2) {
        // From next to nothing to a good deal.
        let step = 10_f32.powi(-(1 + random.below(5) as i32));
        let aside = vector(random.below(1 << 20), DIMENSION);
        asked.iter_mut().zip(aside).for_each(|(value, aside)| *value += step * aside);
    }
    SearchRequest {
        k: if one_in(random, 8) { 20 } else { 5 },
        namespace: random.of(&NAMESPACES).into(),
        filter: one_in(random, 8).then(|| filter(random)),
        min_score: if one_in(random, 8) { 0.3 } else { 0.0 },
        include_embeddings: one_in(random, 8),
        exact: one_in(random, 8),
        ef_search: if one_in(random, 8) { 70 } else { 0 },
        ..search(&asked, 5)
    }
}

/// What a server says to an operation, and whether the cache said it.
async fn apply(client: &mut Client, operation: Operation) -> (String, bool) {
    let stream = |documents| tokio_stream::iter::<Vec<InsertRequest>>(documents);
    let said = match operation {
        Operation::Insert(request) => client.insert(request).await.map(|_| String::new()),
        Operation::BulkInsert(documents) => {
            let inserted = client.bulk_insert(stream(documents)).await;
            inserted.map(|answer| answer.into_inner().total_inserted.to_string())
        }
        Operation::Load(documents) => {
            let loaded = client.bulk_load_hnsw(stream(documents)).await;
            loaded.map(|answer| answer.into_inner().total_loaded.to_string())
        }
        Operation::Update(request) => {
            let updated = client.update_metadata(request).await;
            updated.map(|answer| answer.into_inner().existed.to_string())
        }
        Operation::Delete(request) => {
            let deleted = client.delete(request).await;
            deleted.map(|answer| answer.into_inner().existed.to_string())
        }
        Operation::DeleteMany(request) => {
            let deleted = client.batch_delete(request).await;
            deleted.map(|answer| answer.into_inner().deleted_count.to_string())
        }
        Operation::Flush => {
            client.flush_hot_tier(FlushRequest { force: true }).await.map(|_| String::new())
        }
        Operation::Search(request) => {
            let found = client.search(request).await.unwrap().into_inner();
            let mut shown = answer(&found);
            // Maps have no order.
            let metadata: Vec<_> = shown
                .results
                .iter_mut()
                .map(|result| BTreeMap::from_iter(std::mem::take(&mut result.metadata)))
                .collect();
            return (format!("{shown:?} {metadata:?}"), is_hit(&found));
        }
    };
    (said.unwrap_or_else(|status| panic!("{status}")), false)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn a_server_with_the_cache_answers_as_one_without() {
    compare("1.0", "cosine");
}

/// What is proved of questions that are near is what a search finds, to the last bit of its scores.
#[test]
fn a_server_that_answers_near_questions_does_too() {
    compare("0.9", "cosine");
    compare("0.5", "euclidean");
}

fn compare(similarity: &str, distance: &str) {
    let is_near = similarity != "1.0";
    let (operations, seed) =
        (number("KYRODB_CACHE_OPERATIONS", OPERATIONS), number("KYRODB_CACHE_SEED", 1));
    // Fast, and so small that what is kept goes again.
    let common = [
        ("environment.type", "benchmark"),
        ("persistence.fsync_policy", "none"),
        ("runtime.cores", "1"),
        ("cache.query_cache_capacity", "40"),
        ("cache.query_cache_similarity_threshold", similarity),
        ("hnsw.distance", distance),
    ];
    let without = [&common[..], &[("cache.query_cache_enabled", "false")]].concat();
    let (with, without) = (start(&common), start(&without));
    let cache = &with.server().observed().gateway.cache;
    let mut hits = 0;
    runtime().block_on(async {
        let (mut client, mut other) = (with.client().await, without.client().await);
        let mut random = Random(seed << 32);
        for turn in 0..operations {
            let operation = match random.below(WRITES) {
                0 => write(&mut random),
                _ => Operation::Search(question(&mut random, is_near)),
            };
            let (said, expected) = tokio::join!(
                apply(&mut client, operation.clone()),
                apply(&mut other, operation.clone())
            );
            assert_eq!(
                said.0, expected.0,
                "turn {turn}, from the cache: {}; KYRODB_CACHE_SEED={seed}: {operation:?}",
                said.1
            );
            assert!(!expected.1);
            hits += u64::from(said.1);
        }
    });
    println!(
        "{operations} operations, {hits} hits, of which near {}, not proved {}; {} evictions",
        cache.near_hits.get(),
        cache.near_misses.get(),
        cache.evictions.get()
    );
    assert_eq!(cache.near_hits.get() > operations / 50, is_near, "{}", cache.near_hits.get());
    assert!(hits > operations / 20, "{hits}");
    assert_eq!(hits, cache.hits.get());
    assert!(cache.evictions.get() > 0);
}

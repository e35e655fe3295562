//! Model test: two servers, one with the cache and one without, get equal random operations, and always have to give
//! equal answers. `KYRODB_CACHE_OPERATIONS` sets the number of operations, `KYRODB_CACHE_SEED` the seed.

use std::collections::{BTreeMap, HashMap};

use kyrodb::proto::batch_delete_request::DeleteCriteria;
use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::{
    BatchDeleteRequest, BulkQueryRequest, DeleteRequest, ExactMatch, FlushRequest, IdList,
    InsertRequest, MetadataFilter, SearchRequest, SearchResponse, UpdateMetadataRequest,
};
use kyrodb::types::mix;
use tonic::{Code, Status};

use crate::common::{Client, Inside, insert, runtime, search, vector};
use crate::{DIMENSION, answer, is_hit, start};

const OPERATIONS: u64 = 4_000;

/// Few ids, so that most are written several times, and few documents, so that searches scan them: results of a walk
/// depend on when documents were linked.
const IDS: u64 = 60;

/// Number of distinct vectors of documents.
const VECTORS: u64 = 40;
const NAMESPACES: [&str; 4] = ["", "a", "b", "c"];
const COLOURS: [&str; 3] = ["red", "green", "blue"];

/// One in this many operations writes, and another one reads documents by id.
const WRITES: u64 = 12;

/// Most repetitions of a request that the disk was too slow for.
const SLOW_MAX: u32 = 30;

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % bound
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Insert(InsertRequest),
    BulkInsert(Vec<InsertRequest>),
    Load(Vec<InsertRequest>),
    Update(UpdateMetadataRequest),
    Delete(DeleteRequest),
    DeleteMany(BatchDeleteRequest),
    Flush,
    Read(BulkQueryRequest),
    Search(SearchRequest),
}

/// Generator of operations.
pub(crate) struct Script {
    pub(crate) random: Random,
    pub(crate) ids: u64,
    pub(crate) vectors: u64,
    pub(crate) dimension: usize,
    /// Queries are often near an earlier one.
    pub(crate) is_near: bool,
    /// One in this many queries is exact.
    pub(crate) exact_parts: u64,
}

fn filter(random: &mut Random) -> MetadataFilter {
    let exact = ExactMatch { key: "colour".into(), value: random.of(&COLOURS).into() };
    MetadataFilter { filter_type: Some(FilterType::Exact(exact)) }
}

impl Script {
    /// `KYRODB_CACHE_SEED` sets the seed.
    pub(crate) fn new(ids: u64, vectors: u64, dimension: usize, is_near: bool) -> Self {
        let (random, exact_parts) = (Random(seed() << 32), 8);
        Self { random, ids, vectors, dimension, is_near, exact_parts }
    }

    pub(crate) fn id(&mut self) -> u64 {
        1 + self.random.below(self.ids)
    }

    pub(crate) fn document(&mut self, id: u64) -> InsertRequest {
        let version = self.random.below(1 << 20);
        let pairs = [("colour", self.random.of(&COLOURS)), ("n", &version.to_string())];
        let namespace = self.random.of(&NAMESPACES).to_owned();
        let vector = vector(version % self.vectors, self.dimension);
        InsertRequest { namespace, ..insert(id, &vector, &pairs) }
    }

    fn documents(&mut self) -> Vec<InsertRequest> {
        let ids: Vec<u64> = (0..self.ids / 20).map(|_| self.id()).collect();
        ids.into_iter().map(|id| self.document(id)).collect()
    }

    pub(crate) fn next(&mut self) -> Operation {
        match self.random.below(WRITES) {
            0 => self.write(),
            1 => Operation::Read(BulkQueryRequest {
                doc_ids: (0..self.random.below(8)).map(|_| self.id()).collect(),
                include_embeddings: self.random.below(4) > 0,
                namespace: self.random.of(&NAMESPACES).into(),
            }),
            _ => Operation::Search(self.question()),
        }
    }

    fn write(&mut self) -> Operation {
        let doc_id = self.id();
        let random = &mut self.random;
        // Nearly always the right one, since most documents are in no namespace.
        let namespace =
            if random.below(3) == 0 { random.of(&NAMESPACES).into() } else { String::new() };
        match random.below(20) {
            0..9 => Operation::Insert(self.document(doc_id)),
            9 => Operation::BulkInsert(self.documents()),
            10 => Operation::Load(self.documents()),
            11..14 => Operation::Update(UpdateMetadataRequest {
                doc_id,
                metadata: [("colour".to_owned(), random.of(&COLOURS).to_owned())].into(),
                merge: random.below(2) == 0,
                namespace,
            }),
            14..17 => Operation::Delete(DeleteRequest { doc_id, namespace }),
            17 => {
                let doc_ids = (0..4).map(|_| self.id()).collect();
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

    fn question(&mut self) -> SearchRequest {
        let (is_near, dimension, doc_id) = (self.is_near, self.dimension, self.id());
        let exact_parts = self.exact_parts;
        let random = &mut self.random;
        // A few queries come again and again, others now and then.
        let number = if random.below(4) > 0 { random.below(3) } else { random.below(30) };
        let one_in = |random: &mut Random, parts| random.below(parts) == 0;
        let mut asked = vector(number, dimension);
        if is_near && one_in(random, 2) {
            // The step ranges from tiny to considerable.
            let step = 10_f32.powi(-(1 + random.below(5) as i32));
            let aside = vector(random.below(1 << 20), dimension);
            asked.iter_mut().zip(aside).for_each(|(value, aside)| *value += step * aside);
        }
        let question = SearchRequest {
            k: if one_in(random, 8) { 20 } else { 5 },
            namespace: random.of(&NAMESPACES).into(),
            filter: one_in(random, 8).then(|| filter(random)),
            min_score: if one_in(random, 8) { 0.3 } else { 0.0 },
            include_embeddings: one_in(random, 8),
            exact: one_in(random, exact_parts),
            ef_search: if one_in(random, 8) { 70 } else { 0 },
            ..search(&asked, 5)
        };
        match random.below(60) {
            // By a document that may or may not exist.
            0 => SearchRequest { query_embedding: Vec::new(), query_doc_id: doc_id, ..question },
            1 => SearchRequest { query_embedding: asked[1..].to_vec(), ..question },
            2 => SearchRequest { k: 0, ..question },
            _ => question,
        }
    }
}

/// Metadata in a fixed order.
pub(crate) fn ordered(metadata: &mut HashMap<String, String>) -> BTreeMap<String, String> {
    std::mem::take(metadata).into_iter().collect()
}

/// An answer without its cost.
fn shown(found: &SearchResponse) -> String {
    let mut shown = answer(found);
    let metadata: Vec<_> =
        shown.results.iter_mut().map(|result| ordered(&mut result.metadata)).collect();
    format!("{shown:?} {metadata:?}")
}

/// A server's answer to an operation, and whether it came from the cache. Errors are compared as well.
pub(crate) async fn apply(client: &mut Client, operation: Operation) -> (String, bool) {
    // Slowness of the disk does not count as a different answer.
    for _ in 0..SLOW_MAX {
        match attempt(client, operation.clone()).await {
            Ok(said) => return said,
            Err(status) if status.code() == Code::Unavailable => println!("{status:?}"),
            Err(status) => {
                let is_expected = matches!(status.code(), Code::InvalidArgument | Code::NotFound);
                assert!(is_expected, "{status:?}");
                return (format!("{:?}: {}", status.code(), status.message()), false);
            }
        }
    }
    panic!("{operation:?} has no answer");
}

async fn attempt(client: &mut Client, operation: Operation) -> Result<(String, bool), Status> {
    let stream = |documents| tokio_stream::iter::<Vec<InsertRequest>>(documents);
    match operation {
        Operation::Insert(request) => client.insert(request).await.map(|_| (String::new(), false)),
        Operation::BulkInsert(documents) => {
            let inserted = client.bulk_insert(stream(documents)).await;
            inserted.map(|answer| (answer.into_inner().total_inserted.to_string(), false))
        }
        Operation::Load(documents) => {
            let loaded = client.bulk_load_hnsw(stream(documents)).await;
            loaded.map(|answer| (answer.into_inner().total_loaded.to_string(), false))
        }
        Operation::Update(request) => {
            let updated = client.update_metadata(request).await;
            updated.map(|answer| (answer.into_inner().existed.to_string(), false))
        }
        Operation::Delete(request) => {
            let deleted = client.delete(request).await;
            deleted.map(|answer| (answer.into_inner().existed.to_string(), false))
        }
        Operation::DeleteMany(request) => {
            let deleted = client.batch_delete(request).await;
            deleted.map(|answer| (answer.into_inner().deleted_count.to_string(), false))
        }
        Operation::Flush => {
            let flushed = client.flush_hot_tier(FlushRequest { force: true }).await;
            flushed.map(|_| (String::new(), false))
        }
        Operation::Read(request) => client.bulk_query(request).await.map(|found| {
            let mut found = found.into_inner();
            let metadata: Vec<_> = found
                .results
                .iter_mut()
                .map(|result| {
                    // The time at which a document is linked is not specified.
                    result.served_from = 0;
                    ordered(&mut result.metadata)
                })
                .collect();
            (format!("{found:?} {metadata:?}"), false)
        }),
        Operation::Search(request) => client.search(request).await.map(|found| {
            let found = found.into_inner();
            (shown(&found), is_hit(&found))
        }),
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// Number of operations.
pub(crate) fn operations(default: u64) -> u64 {
    number("KYRODB_CACHE_OPERATIONS", default)
}

pub(crate) fn seed() -> u64 {
    number("KYRODB_CACHE_SEED", 1)
}

/// Long timeouts: slowness of a busy machine does not count as a different answer.
pub(crate) const PATIENT: [(&str, &str); 2] =
    [("timeouts.hot_tier_ms", "3600000"), ("timeouts.cold_tier_ms", "3600000")];

/// Fast, and with a query cache so small that answers are evicted.
pub(crate) fn settings<'a>(similarity: &'a str, distance: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("environment.type", "benchmark"),
        ("persistence.fsync_policy", "none"),
        ("runtime.cores", "1"),
        ("cache.query_cache_capacity", "40"),
        ("cache.query_cache_similarity_threshold", similarity),
        ("hnsw.distance", distance),
        PATIENT[0],
        PATIENT[1],
    ]
}

#[test]
fn a_server_with_the_cache_answers_as_one_without() {
    compare("1.0", "cosine");
}

/// Proved answers to near queries equal those of a search, to the last bit of their scores.
#[test]
fn a_server_that_answers_near_questions_does_too() {
    compare("0.9", "cosine");
    compare("0.5", "euclidean");
}

fn compare(similarity: &str, distance: &str) {
    let with = settings(similarity, distance);
    let without = [&with[..], &[("cache.query_cache_enabled", "false")]].concat();
    let (with, without) = (start(&with), start(&without));
    let is_near = similarity != "1.0";
    assert_alike(&with, &without, Script::new(IDS, VECTORS, DIMENSION, is_near), OPERATIONS);
}

/// Applies equal operations to two servers, of which only the first has a query cache: their answers are equal, and
/// many come from the cache.
pub(crate) fn assert_alike(with: &Inside, without: &Inside, mut script: Script, default: u64) {
    let (operations, is_near) = (operations(default), script.is_near);
    let cache = &with.server().observed().gateway.cache;
    let mut hits = 0;
    runtime().block_on(async {
        let (mut client, mut other) = (with.client().await, without.client().await);
        for turn in 0..operations {
            let operation = script.next();
            let (said, expected) = tokio::join!(
                apply(&mut client, operation.clone()),
                apply(&mut other, operation.clone())
            );
            assert_eq!(
                said.0,
                expected.0,
                "turn {turn}, from the cache: {}; KYRODB_CACHE_SEED={}: {operation:?}",
                said.1,
                seed()
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
    assert!(hits > operations / 25, "{hits}");
    assert_eq!(hits, cache.hits.get());
    assert!(cache.evictions.get() > 0);
}

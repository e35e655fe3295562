//! Both caches at once: a server with vectors on disk, a query cache, and a vector cache that holds an eighth of them,
//! gets operations equal to those of a server with vectors in memory and no cache. `KYRODB_CACHE_OPERATIONS` and
//! `KYRODB_CACHE_SEED` as in [`crate::model`].
//!
//! Where searches scan, both give the true answer: everything is equal, to the last bit of a score. Where they walk,
//! their graphs differ: linking chooses neighbours by vectors if these are in memory, otherwise by codes, and at times
//! of its own. Then guaranteed properties are compared: exact searches are equal, and every result of a walk is as in
//! an exact search, results are in the order of scores, and their number is the requested one.

use kyrodb::proto::{SearchRequest, SearchResponse, SearchResult};

use crate::common::{Inside, get, metric_sum, runtime};
use crate::model::{Operation, Script, apply, assert_alike, operations, ordered, seed, settings};
use crate::{DIMENSION, find, is_hit, start};

/// Few documents, so that searches scan them; about half of them exist at a time.
const IDS: u64 = 600;
const VECTORS: u64 = 400;
const OPERATIONS: u64 = 2_000;

/// Enough documents that a search with a narrow beam walks, and few enough that one exact search returns all.
const WALKED: u64 = 900;
const WALKED_DIMENSION: usize = 512;
const WALKS: u64 = 1_000;

/// Number of operations after which some deleted documents are written again.
const RELOAD_EVERY: u64 = 250;
const RELOADED: u64 = 200;

/// Initial writes of all documents, so that more wait for snapshots than permitted.
const LOADS: u64 = 6;

/// Bytes of an entry of the vector cache in addition to the vector.
const OVERHEAD_BYTES: usize = 96;

/// A server with vectors on disk, with a snapshot after this many mutations; the cache holds about an eighth of this
/// many documents.
pub(crate) fn start_on_disk(
    settings: &[(&str, &str)],
    documents: u64,
    dimension: usize,
    mutations: u64,
) -> Inside {
    let row_bytes = (dimension * size_of::<f32>()).next_multiple_of(64) + OVERHEAD_BYTES;
    let cache_bytes = (documents / 8 * row_bytes as u64).to_string();
    let mutations = mutations.to_string();
    let own = [
        ("storage.vectors", "nvme"),
        ("hnsw.codes", "sq8"),
        ("cache.document_bytes", cache_bytes.as_str()),
        ("persistence.snapshot_interval_mutations", mutations.as_str()),
        // The least permitted value.
        ("storage.unsaved_bytes", "16777216"),
    ];
    start(&[settings, &own].concat())
}

/// A server with equal settings, without caches, and with vectors in memory.
fn start_in_memory(settings: &[(&str, &str)]) -> Inside {
    let own = [("cache.query_cache_enabled", "false"), ("cache.document_bytes", "0")];
    start(&[settings, &own].concat())
}

/// Asserts that vectors came from disk and from the cache, that snapshots were taken, and that nothing was lost.
pub(crate) fn assert_reads(inside: &Inside, least: u64) {
    let (_, text) = get(inside.server().http_address(), "/metrics").unwrap();
    let value = |name: &str| metric_sum(&text, name) as u64;
    let reads = value("kyrodb_vector_reads_total");
    let hits = value("kyrodb_vector_cache_hits_total");
    let evictions = value("kyrodb_vector_cache_evictions_total");
    let snapshots = value("kyrodb_snapshots_total");
    println!(
        "{reads} reads of vectors, {hits} from their cache, {evictions} evictions; {snapshots} snapshots"
    );
    assert_eq!(value("kyrodb_vector_lost_total"), 0);
    assert!(reads > least && hits > least && evictions > 0, "{least} at least");
    assert!(snapshots >= 3);
}

fn compare(similarity: &str, distance: &str) {
    let settings = settings(similarity, distance);
    let with = start_on_disk(&settings, IDS / 2, DIMENSION, 2);
    let without = start_in_memory(&settings);
    // Each exact search reads everything: few of them, so that cached rows stay for a while.
    let script = Script::new(IDS, VECTORS, DIMENSION, similarity != "1.0");
    let script = Script { exact_parts: 100, ..script };
    assert_alike(&with, &without, script, OPERATIONS);
    assert_reads(&with, operations(OPERATIONS) / 20);
    let (_, text) = get(without.server().http_address(), "/metrics").unwrap();
    assert_eq!(metric_sum(&text, "kyrodb_vector_reads_total"), 0.0);
}

#[test]
fn the_model_has_both_caches_on_against_both_off() {
    compare("1.0", "cosine");
    compare("1.0", "euclidean");
}

#[test]
fn the_model_answers_near_questions_with_vectors_on_disk() {
    compare("0.9", "cosine");
}

/// All fields of a found document.
fn shown(result: &SearchResult) -> (u32, String) {
    let mut result = result.clone();
    let metadata = ordered(&mut result.metadata);
    (result.score.to_bits(), format!("{result:?} {metadata:?}"))
}

/// Asserts that the results of a walk are as in an exact search. Returns how many are among the best k.
fn assert_is_true(
    question: &SearchRequest,
    found: &SearchResponse,
    truth: &SearchResponse,
) -> usize {
    assert_eq!(found.shards_answered, found.shards_asked, "{found:?}");
    let best = truth.results.len().min(question.k as usize);
    if question.min_score == 0.0 {
        assert_eq!(found.results.len(), best, "{question:?}");
    }
    let mut places = Vec::new();
    for result in &found.results {
        let place = truth.results.iter().position(|true_one| true_one.doc_id == result.doc_id);
        let place = place.unwrap_or_else(|| panic!("{result:?} of {question:?}"));
        assert_eq!(shown(result), shown(&truth.results[place]), "{question:?}");
        places.push(place);
    }
    assert!(places.is_sorted_by(|one, next| one < next), "{places:?} of {question:?}");
    places.iter().filter(|&&place| place < best).count()
}

#[test]
fn the_model_walks_with_both_caches_on() {
    walk("1.0", WALKS);
}

/// Queries are often near others: unproved ones are walked from there.
#[test]
fn the_model_walks_from_what_is_near_with_both_caches_on() {
    walk("0.5", WALKS);
}

/// As [`compare`], with searches that walk; documents that wait in memory make snapshots due.
fn walk(similarity: &str, default: u64) {
    let is_near = similarity != "1.0";
    let settings = settings(similarity, "cosine");
    let with = start_on_disk(&settings, WALKED, WALKED_DIMENSION, 1_000_000);
    let without = start_in_memory(&settings);
    let mut script = Script::new(WALKED, WALKED, WALKED_DIMENSION, is_near);
    let operations = operations(default);
    let (mut hits, mut walks, mut best, mut wanted) = (0_u64, 0_u64, 0, 0);
    runtime().block_on(async {
        let (mut client, mut other) = (with.client().await, without.client().await);
        for _ in 0..LOADS {
            let documents: Vec<_> = (1..=WALKED).map(|id| script.document(id)).collect();
            let load = Operation::BulkInsert(documents);
            let said = apply(&mut client, load.clone()).await;
            assert_eq!(said, apply(&mut other, load).await);
        }
        for turn in 0..operations {
            let operation = match turn % RELOAD_EVERY {
                0 => {
                    let ids: Vec<_> = (0..RELOADED).map(|_| script.id()).collect();
                    let documents = ids.into_iter().map(|id| script.document(id));
                    Operation::BulkInsert(documents.collect())
                }
                _ => script.next(),
            };
            let asked = match &operation {
                Operation::Search(asked) if !asked.exact && asked.k > 0 => asked,
                _ => {
                    let (said, expected) = tokio::join!(
                        apply(&mut client, operation.clone()),
                        apply(&mut other, operation.clone())
                    );
                    let from = format!("turn {turn}; KYRODB_CACHE_SEED={}: {operation:?}", seed());
                    assert_eq!(said.0, expected.0, "{from}");
                    hits += u64::from(said.1);
                    continue;
                }
            };
            if asked.query_embedding.len() != WALKED_DIMENSION {
                continue;
            }
            let asked = SearchRequest { ef_search: 10 + asked.ef_search % 20, ..asked.clone() };
            let exact = SearchRequest { exact: true, k: WALKED as u32, ..asked.clone() };
            let (found, truth) = tokio::join!(find(&mut client, &asked), find(&mut other, &exact));
            best += assert_is_true(&asked, &found, &truth);
            wanted += truth.results.len().min(asked.k as usize);
            hits += u64::from(is_hit(&found));
            let is_scan = found.documents_considered >= truth.results.len() as u64;
            walks += u64::from(!is_hit(&found) && !is_scan);
        }
    });
    let begun_near = with.server().observed().gateway.cache.near_misses.get();
    println!(
        "{operations} operations, {hits} hits, {walks} walks; {best} of the {wanted} best; \
         {begun_near} questions near one, and not proved"
    );
    assert!(hits > operations / 40 && walks > operations / 40);
    assert_eq!(begun_near > 0, is_near, "{begun_near}");
    assert!(best * 10 > wanted * 9, "{best} of {wanted}");
    assert_reads(&with, operations);
}

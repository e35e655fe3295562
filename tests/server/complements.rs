//! Filters that exclude, above all NOT, after documents were deleted, snapshots were taken before and after that, and a
//! restart: rows are long enough that the second snapshot keeps blocks of the first.

use std::collections::BTreeSet;
use std::process::Command;

use kyrodb::proto::{ListDocumentsRequest, MetadataFilter, SearchRequest, SnapshotRequest};

use crate::common::documents::{delete_ids, delete_where};
use crate::common::filters::{exact, gte, not};
use crate::common::{
    Client, Process, Settings, directory, get, http, insert, metric_sum, runtime, vector,
};

const DIMENSION: usize = 256;
const OLD: u64 = 600;
const GONE: u64 = 30;

/// One shard, with snapshots only on request.
const ALONE: [(&str, &str); 3] = [
    ("runtime.shards", "1"),
    ("hnsw.distance", "euclidean"),
    ("persistence.snapshot_interval_mutations", "1000000"),
];

async fn put(client: &mut Client, ids: impl IntoIterator<Item = u64>, language: &str, year: u64) {
    let year = year.to_string();
    for id in ids {
        let pairs = [("lang", language), ("year", &year)];
        let mut request = insert(id, &vector(id, DIMENSION), &pairs);
        request.namespace = language.into();
        assert!(client.insert(request).await.unwrap().into_inner().success);
    }
}

async fn snapshot(client: &mut Client) {
    assert!(client.create_snapshot(SnapshotRequest::default()).await.unwrap().into_inner().success);
}

/// The ids that pass, by each kind of request.
async fn found(client: &mut Client, filter: &MetadataFilter) -> [BTreeSet<u64>; 3] {
    let mut found = [const { BTreeSet::new() }; 3];
    for (exact, found) in [false, true].into_iter().zip(&mut found) {
        let request = SearchRequest {
            query_embedding: vector(7, DIMENSION),
            k: 1_000,
            filter: Some(filter.clone()),
            exact,
            ..Default::default()
        };
        let answer = client.search(request).await.unwrap().into_inner();
        *found = answer.results.iter().map(|result| result.doc_id).collect();
        assert_eq!(u64::from(answer.total_found), found.len() as u64, "exact: {exact}");
    }
    let request =
        ListDocumentsRequest { limit: 10_000, filter: Some(filter.clone()), ..Default::default() };
    let listed = client.list_documents(request).await.unwrap().into_inner();
    found[2] = listed.documents.iter().map(|document| document.doc_id).collect();
    found
}

/// How documents are removed between the two snapshots.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Going {
    Deleted,
    Replaced,
}

/// The year of each initial document; the first ones have the earliest.
fn year(id: u64) -> u64 {
    1_900 + id % 100
}

async fn fill(client: &mut Client, going: Going) {
    for id in 1..=OLD {
        put(client, [id], "en", year(id)).await;
    }
    snapshot(client).await;
    match going {
        Going::Deleted => {
            client.batch_delete(delete_ids(&Vec::from_iter(1..=GONE), "")).await.unwrap();
        }
        Going::Replaced => put(client, 1..=GONE, "fr", 2_001).await,
    }
    snapshot(client).await;
}

/// Asserts that every kind of request finds all remaining documents when some are excluded.
async fn assert_complements(client: &mut Client, others: &BTreeSet<u64>) {
    for filter in [not(exact("lang", "en")), not(exact("__namespace__", "en"))] {
        for found in found(client, &filter).await {
            assert_eq!(&found, others, "{filter:?}");
        }
    }
    // Most documents are within the range, so the index reads those outside, and excludes them.
    let is_within = |id: &u64| year(*id) >= 1_930;
    let wanted: BTreeSet<u64> =
        (GONE + 1..=OLD).filter(is_within).chain(others.iter().copied()).collect();
    // A walk may miss a few of them.
    for found in &found(client, &gte("year", "1930")).await[1..] {
        assert_eq!(found, &wanted);
    }
}

/// Documents are removed, the server is killed, and others take their slots.
fn run(before: Settings<'_>, after: Settings<'_>, going: Going) {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let runtime = runtime();
    let process = Process::start(&data_dir, before);
    runtime.block_on(async { fill(&mut process.client().await, going).await });
    process.kill();
    let process = Process::start(&data_dir, after);
    runtime.block_on(async {
        let mut client = process.client().await;
        // The slots are free once all dead nodes have left the graph.
        assert_eq!(http(process.http, "POST", "/admin/compact").unwrap().code, 200);
        let new = 1_001..=1_000 + GONE;
        put(&mut client, new.clone(), "de", 2_024).await;
        let replaced = (1..=GONE).filter(|_| going == Going::Replaced);
        let others: BTreeSet<u64> = new.chain(replaced).collect();
        assert_complements(&mut client, &others).await;
        let request = delete_where(not(exact("lang", "en")), "");
        let deleted = client.batch_delete(request).await.unwrap().into_inner();
        assert_eq!(deleted.deleted_count, others.len() as u64);
        assert_complements(&mut client, &BTreeSet::new()).await;
    });
    let metrics = get(process.http, "/metrics").unwrap().1;
    assert_eq!(metric_sum(&metrics, "kyrodb_index_stale_postings_total"), 0.0);
    process.stop();
    let server = env!("CARGO_BIN_EXE_kyrodb_server");
    let checked = Command::new(server).arg("--data-dir").arg(&data_dir).arg("--verify").output();
    let checked = checked.unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !said.contains("earlier"), "{said}");
    assert!(said.contains("pairs of metadata in the index of filters"), "{said}");
}

fn with<'a>(settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let is_other = |(key, _): &&(&str, &str)| settings.iter().all(|(other, _)| other != key);
    let others = ALONE.iter().filter(is_other).copied();
    others.chain(settings.iter().copied()).collect()
}

#[test]
fn documents_that_were_deleted_hide_none_that_came_later() {
    run(&ALONE, &ALONE, Going::Deleted);
}

#[test]
fn documents_that_were_replaced_hide_none_that_came_later() {
    run(&ALONE, &ALONE, Going::Replaced);
}

#[test]
fn removed_documents_hide_none_in_a_graph_of_two_shards() {
    let shards = with(&[("runtime.shards", "2")]);
    run(&shards, &shards, Going::Deleted);
    run(&shards, &shards, Going::Replaced);
}

#[test]
fn removed_documents_hide_none_with_vectors_on_disk() {
    let nvme = with(&[("storage.vectors", "nvme"), ("hnsw.codes", "sq8")]);
    run(&nvme, &nvme, Going::Deleted);
}

/// All documents are linked again, so that slots of dead ones are free at once.
#[test]
fn removed_documents_hide_none_in_a_graph_that_is_linked_again() {
    run(&ALONE, &with(&[("hnsw.m", "8")]), Going::Deleted);
}

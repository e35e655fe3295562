//! Writes of one document: Insert, Delete, UpdateMetadata; and FlushHotTier.

use std::collections::HashMap;

use kyrodb::proto::insert_response::Tier;
use kyrodb::proto::{
    DeleteRequest, FlushRequest, InsertRequest, QueryResponse, SearchRequest,
    UpdateMetadataRequest, query_response,
};

use super::common::documents::query;
use super::common::filters::{exact, not, one_of, unbounded};
use super::common::{
    Client, Inside, eventually, get, ids, insert, metric_sum, runtime, search, vector,
};
use super::{SETTINGS, unix_secs};

fn pairs(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn within(request: InsertRequest, namespace: &str) -> InsertRequest {
    InsertRequest { namespace: namespace.into(), ..request }
}

async fn delete(client: &mut Client, doc_id: u64, namespace: &str) -> bool {
    let request = DeleteRequest { doc_id, namespace: namespace.into() };
    let answer = client.delete(request).await.unwrap().into_inner();
    assert!(answer.success && answer.error.is_empty(), "{answer:?}");
    answer.existed
}

async fn update(
    client: &mut Client,
    (doc_id, namespace): (u64, &str),
    metadata: &[(&str, &str)],
    merge: bool,
) -> bool {
    let namespace = namespace.into();
    let request = UpdateMetadataRequest { doc_id, metadata: pairs(metadata), merge, namespace };
    let answer = client.update_metadata(request).await.unwrap().into_inner();
    assert!(answer.success && answer.error.is_empty(), "{answer:?}");
    answer.existed
}

/// The ids of documents that pass a filter.
async fn passing(client: &mut Client, filter: kyrodb::proto::MetadataFilter) -> Vec<u64> {
    let request = SearchRequest { filter: Some(filter), ..search(&vector(1, 8), 100) };
    let mut found = ids(&client.search(request).await.unwrap().into_inner());
    found.sort_unstable();
    found
}

async fn flush(client: &mut Client, force: bool) -> u64 {
    let answer = client.flush_hot_tier(FlushRequest { force }).await.unwrap().into_inner();
    assert!(answer.success && answer.error.is_empty() && answer.flush_duration_ms >= 0.0);
    answer.documents_flushed
}

#[test]
fn an_insert_is_findable_at_once_by_every_client() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let (mut writer, mut reader) = (server.client().await, server.client().await);
        for id in 1..=50 {
            let before = unix_secs();
            let request = insert(id, &vector(id, 8), &[("n", &id.to_string())]);
            let answer = writer.insert(request).await.unwrap().into_inner();
            assert!(answer.success && answer.error.is_empty(), "{answer:?}");
            assert!((before..=unix_secs()).contains(&answer.inserted_at), "{answer:?}");
            assert_eq!(answer.tier(), Tier::ColdTier);
            assert_eq!((answer.total_inserted, answer.total_failed), (1, 0));
            for client in [&mut writer, &mut reader] {
                let found = query(client, id, "").await;
                assert!(found.found && found.error.is_empty(), "{found:?}");
                assert_eq!(found.embedding, vector(id, 8));
                assert_eq!(found.metadata, pairs(&[("n", &id.to_string())]));
                let request = search(&vector(id, 8), 1);
                assert_eq!(ids(&client.search(request).await.unwrap().into_inner()), [id]);
            }
        }
        let last = insert(u64::MAX, &vector(0, 8), &[]);
        assert!(writer.insert(last).await.unwrap().into_inner().success);
        assert!(query(&mut reader, u64::MAX, "").await.found);
    });
}

#[test]
fn an_upsert_replaces_vector_metadata_and_namespace() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let (old, new) = (vector(1, 8), vector(2, 8));
        for is_linked in [false, true] {
            let first = within(insert(1, &old, &[("a", "1"), ("b", "2")]), "before");
            client.insert(first).await.unwrap();
            if is_linked {
                flush(&mut client, true).await;
            }
            let second = within(insert(1, &new, &[("c", "3")]), "after");
            let answer = client.insert(second).await.unwrap().into_inner();
            assert_eq!((answer.success, answer.total_inserted), (true, 1));
            assert!(!query(&mut client, 1, "before").await.found);
            let found = query(&mut client, 1, "after").await;
            assert_eq!((found.embedding, found.metadata), (new.clone(), pairs(&[("c", "3")])));
            let answer = client.search(search(&old, 10)).await.unwrap().into_inner();
            assert_eq!((ids(&answer), answer.total_found), (vec![1], 1));
            assert!(answer.results[0].score < 1.0, "the old vector is still found: {answer:?}");
            assert_eq!(passing(&mut client, unbounded("a")).await, [0; 0]);
            assert_eq!(passing(&mut client, exact("__namespace__", "before")).await, [0; 0]);
            assert_eq!(passing(&mut client, exact("__namespace__", "after")).await, [1]);
            client.insert(insert(1, &new, &[])).await.unwrap();
            assert!(!query(&mut client, 1, "after").await.found, "it has no namespace any more");
            assert!(query(&mut client, 1, "").await.metadata.is_empty());
        }
    });
}

#[test]
fn reserved_keys_can_neither_be_set_nor_seen_but_filtered_by() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let spoof =
            [("__tenant_id__", "1"), ("__tenant_idx__", "2"), ("__namespace__", "x"), ("a", "1")];
        let own = pairs(&[("a", "1")]);
        client.insert(within(insert(1, &vector(1, 8), &spoof), "real")).await.unwrap();
        client.insert(insert(2, &vector(2, 8), &spoof)).await.unwrap();
        for id in [1, 2] {
            for merge in [true, false] {
                assert!(update(&mut client, (id, ""), &spoof, merge).await);
                assert_eq!(query(&mut client, id, "").await.metadata, own);
            }
        }
        let request = SearchRequest { k: 10, ..search(&vector(1, 8), 10) };
        let answer = client.search(request).await.unwrap().into_inner();
        assert_eq!(answer.results.len(), 2);
        assert!(answer.results.iter().all(|result| result.metadata == own), "{answer:?}");
        assert!(query(&mut client, 1, "real").await.found);
        assert!(!query(&mut client, 1, "x").await.found && !query(&mut client, 2, "x").await.found);
        assert_eq!(passing(&mut client, exact("__namespace__", "real")).await, [1]);
        assert_eq!(passing(&mut client, not(exact("__namespace__", "real"))).await, [2]);
        assert_eq!(passing(&mut client, one_of("__namespace__", &["real", "x"])).await, [1]);
        for key in ["__tenant_id__", "__tenant_idx__"] {
            assert_eq!(passing(&mut client, unbounded(key)).await, [0; 0], "{key}");
        }
    });
}

#[test]
fn a_document_of_another_namespace_looks_absent() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        client.insert(within(insert(1, &vector(1, 8), &[("a", "1")]), "one")).await.unwrap();
        client.insert(insert(2, &vector(2, 8), &[("a", "1")])).await.unwrap();
        let absent = |doc_id| QueryResponse { doc_id, ..Default::default() };
        for (id, namespace) in [(1, "two"), (2, "one"), (3, "one"), (3, ""), (1, "on"), (1, "One")]
        {
            assert_eq!(query(&mut client, id, namespace).await, absent(id), "{id} {namespace}");
            assert!(!delete(&mut client, id, namespace).await, "{id} {namespace}");
            assert!(!update(&mut client, (id, namespace), &[("a", "2")], true).await);
        }
        for (id, namespace) in [(1, ""), (1, "one"), (2, "")] {
            let found = query(&mut client, id, namespace).await;
            assert_eq!((found.found, found.metadata), (true, pairs(&[("a", "1")])));
        }
        let request = SearchRequest { namespace: "one".into(), ..search(&vector(2, 8), 10) };
        assert_eq!(ids(&client.search(request).await.unwrap().into_inner()), [1]);
        assert!(delete(&mut client, 1, "one").await);
        assert!(delete(&mut client, 2, "").await);
    });
}

#[test]
fn a_delete_is_idempotent_and_takes_the_document_out_of_every_read() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        assert!(!delete(&mut client, 1, "").await, "before there is any document");
        for is_linked in [false, true] {
            for id in 1..=20 {
                client.insert(insert(id, &vector(id, 8), &[("a", "1")])).await.unwrap();
            }
            if is_linked {
                flush(&mut client, true).await;
            }
            for id in 1..=19 {
                assert!(delete(&mut client, id, "").await);
                assert!(!delete(&mut client, id, "").await);
                assert!(!query(&mut client, id, "").await.found);
            }
            let answer = client.search(search(&vector(1, 8), 20)).await.unwrap().into_inner();
            assert_eq!((ids(&answer), answer.total_found), (vec![20], 1));
            assert_eq!(passing(&mut client, exact("a", "1")).await, [20]);
            assert!(!update(&mut client, (1, ""), &[("a", "2")], true).await);
            client.insert(insert(1, &vector(30, 8), &[])).await.unwrap();
            let found = query(&mut client, 1, "").await;
            assert_eq!((found.embedding, found.metadata.len()), (vector(30, 8), 0));
        }
    });
}

#[test]
fn an_update_merges_or_replaces_metadata_and_never_moves_the_document() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let inserted = insert(1, &vector(1, 8), &[("a", "1"), ("b", "2")]);
        client.insert(within(inserted, "home")).await.unwrap();
        let steps: [(&str, &[_], bool, &[_]); 6] = [
            ("", &[("b", "3"), ("c", "4")], true, &[("a", "1"), ("b", "3"), ("c", "4")]),
            (
                "home",
                &[("", "empty key")],
                true,
                &[("", "empty key"), ("a", "1"), ("b", "3"), ("c", "4")],
            ),
            ("home", &[("b", "5")], false, &[("b", "5")]),
            ("", &[], true, &[("b", "5")]),
            ("", &[("b", "")], true, &[("b", "")]),
            ("", &[], false, &[]),
        ];
        for (namespace, metadata, merge, expected) in steps {
            assert!(update(&mut client, (1, namespace), metadata, merge).await);
            let found = query(&mut client, 1, "home").await;
            assert!(found.found, "an update through `{namespace}` has moved the document");
            assert_eq!((found.metadata, found.embedding), (pairs(expected), vector(1, 8)));
        }
        assert!(update(&mut client, (1, "home"), &[("a", "9")], true).await);
        assert_eq!(passing(&mut client, exact("a", "9")).await, [1]);
        assert_eq!(passing(&mut client, unbounded("b")).await, [0; 0]);
        assert!(!update(&mut client, (2, ""), &[("a", "1")], true).await, "there is no document 2");
        assert!(!query(&mut client, 2, "").await.found, "an update makes no document");
    });
}

/// Repeatedly replaced documents leave nothing behind: their nodes are removed from the graph, and their slots are
/// reused.
#[test]
fn documents_that_are_replaced_leave_no_nodes_behind() {
    const DOCUMENTS: u64 = 1_500;
    let server = Inside::start(SETTINGS);
    let metric =
        |name: &str| metric_sum(&get(server.server().http_address(), "/metrics").unwrap().1, name);
    runtime().block_on(async {
        let mut client = server.client().await;
        for round in 0..8 {
            let vector_of = |id| vector(id + round * DOCUMENTS, 16);
            let requests: Vec<_> =
                (1..=DOCUMENTS).map(|id| insert(id, &vector_of(id), &[])).collect();
            let stream = tokio_stream::iter(requests);
            assert!(client.bulk_insert(stream).await.unwrap().into_inner().success);
            flush(&mut client, true).await;
            for id in (1..=DOCUMENTS).step_by(100) {
                let found = client.search(search(&vector_of(id), 1)).await.unwrap().into_inner();
                assert_eq!(found.results[0].doc_id, id);
            }
        }
        eventually("dead nodes leave the graph", || async {
            metric("kyrodb_shard_dead_nodes") < 200.0
        })
        .await;
    });
    let documents = DOCUMENTS as f64;
    assert_eq!(metric("kyrodb_hnsw_vector_count"), documents);
    assert!(metric("kyrodb_shard_removed_nodes_total") >= 6.0 * documents);
    // At worst all inserts of a round are acknowledged before the first of them is linked.
    assert!(metric("kyrodb_shard_slots") <= 4.0 * documents, "{}", metric("kyrodb_shard_slots"));
    let nodes = documents + metric("kyrodb_shard_dead_nodes");
    assert_eq!(metric("kyrodb_shard_linked_nodes"), nodes);
}

#[test]
fn a_forced_flush_links_all_that_is_pending_and_counts_it() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        assert_eq!(flush(&mut client, true).await, 0);
        let (client, mut next) = (&client, 1);
        eventually("a flush finds documents to link", || {
            let batch: Vec<u64> = (next..next + 300).collect();
            next += 300;
            let mut client = client.clone();
            async move {
                let requests = batch.iter().map(|&id| insert(id, &vector(id, 64), &[]));
                let stream = tokio_stream::iter(requests.collect::<Vec<_>>());
                assert!(client.bulk_insert(stream).await.unwrap().into_inner().success);
                let flushed = flush(&mut client, true).await;
                assert!(flushed <= 300, "{flushed} of 300 documents");
                let last = query(&mut client, batch[299], "").await;
                assert_eq!(last.served_from(), query_response::Tier::ColdTier);
                flushed > 0
            }
        })
        .await;
        let mut client = client.clone();
        assert_eq!(flush(&mut client, true).await, 0, "nothing is left");
        assert_eq!(flush(&mut client, false).await, 0);
    });
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    assert_eq!(metric_sum(&metrics, "kyrodb_shard_hot_documents"), 0.0);
    let linked = metric_sum(&metrics, "kyrodb_shard_linked_nodes");
    assert_eq!(linked, metric_sum(&metrics, "kyrodb_hnsw_vector_count"));
    assert!(linked >= 300.0);
}

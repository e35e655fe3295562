//! The write streams: BulkInsert and BulkLoadHnsw.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use kyrodb::proto::insert_response::Tier;
use kyrodb::proto::{BulkLoadResponse, InsertRequest, InsertResponse, query_response};
use tokio_stream::wrappers::ReceiverStream;

use super::common::documents::{Contents, Document, is_stored, query, read};
use super::common::{
    Client, Inside, eventually, get, ids, insert, metric_sum, runtime, search, vector,
};
use super::{SETTINGS, unix_secs};

fn document(id: u64) -> InsertRequest {
    insert(id, &vector(id, 8), &[("n", &id.to_string())])
}

async fn bulk_insert(client: &mut Client, requests: Vec<InsertRequest>) -> InsertResponse {
    client.bulk_insert(tokio_stream::iter(requests)).await.unwrap().into_inner()
}

async fn bulk_load(client: &mut Client, requests: Vec<InsertRequest>) -> BulkLoadResponse {
    client.bulk_load_hnsw(tokio_stream::iter(requests)).await.unwrap().into_inner()
}

/// Valid documents 1 to 200, and among them eight invalid ones, the last of which has a NaN.
fn good_and_bad() -> Vec<InsertRequest> {
    let mut requests: Vec<InsertRequest> = (1..=200).map(document).collect();
    requests.insert(10, document(0));
    requests.insert(20, insert(1_000, &[], &[]));
    requests.insert(30, insert(1_001, &vector(1, 7), &[]));
    requests.insert(40, insert(1_002, &[f32::INFINITY; 8], &[]));
    requests.insert(50, insert(1_003, &vector(1, 8), &[("k", &"v".repeat(65_536))]));
    let namespace = "n".repeat(257);
    requests.insert(60, InsertRequest { namespace, ..document(1_004) });
    requests.insert(70, insert(1_005, &[1.0; 4_097], &[]));
    requests.insert(150, insert(1_006, &[1.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], &[]));
    requests
}

async fn assert_only_the_good_are_there(client: &mut Client) {
    let all: Vec<u64> = (1..=1_010).collect();
    let expected: Contents = (1..=200).map(|id| (id, as_document(&document(id)))).collect();
    assert_eq!(read(client, &all).await, expected);
}

fn as_document(request: &InsertRequest) -> Document {
    Document {
        vector: request.embedding.clone(),
        metadata: request.metadata.clone().into_iter().collect(),
        namespace: request.namespace.clone(),
    }
}

#[test]
fn a_bulk_insert_counts_bad_documents_and_stores_the_others() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let nothing = bulk_insert(&mut client, Vec::new()).await;
        assert!(nothing.success && nothing.error.is_empty(), "{nothing:?}");
        assert_eq!((nothing.total_inserted, nothing.total_failed), (0, 0));

        let before = unix_secs();
        let answer = bulk_insert(&mut client, good_and_bad()).await;
        assert!(!answer.success, "{answer:?}");
        assert_eq!((answer.total_inserted, answer.total_failed), (200, 8));
        assert!(answer.error.contains("embedding") && answer.error.contains("NaN"), "{answer:?}");
        assert!((before..=unix_secs()).contains(&answer.inserted_at), "{answer:?}");
        assert_eq!(answer.tier(), Tier::ColdTier);
        assert_only_the_good_are_there(&mut client).await;

        let twice = vec![document(1), insert(1, &vector(7, 8), &[("n", "later")])];
        let answer = bulk_insert(&mut client, twice).await;
        assert_eq!((answer.success, answer.total_inserted), (true, 2));
        let found = query(&mut client, 1, "").await;
        assert_eq!((&found.embedding, &*found.metadata["n"]), (&vector(7, 8), "later"));
    });
}

#[test]
fn the_ten_thousand_and_first_message_of_a_bulk_insert_fails_and_ends_it() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let answer = bulk_insert(&mut client, (1..=10_000).map(document).collect()).await;
        assert_eq!((answer.success, answer.total_inserted), (true, 10_000));
        assert_eq!((answer.total_failed, &*answer.error), (0, ""));

        let answer = bulk_insert(&mut client, (20_001..=30_040).map(document).collect()).await;
        assert_eq!((answer.total_inserted, answer.total_failed), (10_000, 1));
        assert!(!answer.success && answer.error.contains("10000"), "{answer:?}");
        assert!(query(&mut client, 30_000, "").await.found);
        for id in 30_001..=30_040 {
            assert!(!query(&mut client, id, "").await.found, "{id}");
        }
        // Invalid messages count as messages.
        let mut requests = vec![document(0); 10_000];
        requests.push(document(40_000));
        let answer = bulk_insert(&mut client, requests).await;
        assert_eq!((answer.total_inserted, answer.total_failed), (0, 10_001));
        assert!(!query(&mut client, 40_000, "").await.found);
    });
}

#[test]
fn a_bulk_load_is_linked_searchable_and_durable_when_it_returns() {
    let mut server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let nothing = bulk_load(&mut client, Vec::new()).await;
        assert!(nothing.success && nothing.error.is_empty(), "{nothing:?}");
        assert_eq!((nothing.total_loaded, nothing.total_failed), (0, 0));

        let answer = bulk_load(&mut client, good_and_bad()).await;
        assert!(!answer.success, "{answer:?}");
        assert_eq!((answer.total_loaded, answer.total_failed), (200, 8));
        assert!(answer.error.contains("embedding") && answer.error.contains("NaN"), "{answer:?}");
        assert_only_the_good_are_there(&mut client).await;

        let answer = bulk_load(&mut client, (2_001..=6_000).map(document).collect()).await;
        assert!(answer.success && answer.error.is_empty(), "{answer:?}");
        assert_eq!((answer.total_loaded, answer.total_failed), (4_000, 0));
        let rate = 4_000.0 / (answer.load_duration_ms / 1e3);
        assert!((answer.avg_insert_rate / rate - 1.0).abs() < 0.01, "{answer:?}");
        assert!(answer.peak_memory_bytes > 1 << 20, "{answer:?}");
    });
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    assert_eq!(metric_sum(&metrics, "kyrodb_shard_hot_documents"), 0.0);
    for is_restarted in [false, true] {
        if is_restarted {
            server.restart(SETTINGS);
        }
        runtime().block_on(async {
            let mut client = server.client().await;
            for id in (2_001..=6_000).step_by(97) {
                let found = query(&mut client, id, "").await;
                assert_eq!((found.found, &found.embedding), (true, &vector(id, 8)));
                if !is_restarted {
                    assert_eq!(found.served_from(), query_response::Tier::ColdTier);
                }
                let answer = client.search(search(&vector(id, 8), 1)).await.unwrap().into_inner();
                assert_eq!(ids(&answer), [id]);
            }
            let all: Vec<u64> = (1..=6_000).collect();
            let contents = read(&mut client, &all).await;
            assert_eq!(contents.len(), 4_200);
            for (id, found) in &contents {
                assert_eq!(found, &as_document(&document(*id)), "{id}");
            }
        });
    }
}

/// Sends documents, and drops the connection when document `first + seen` is stored.
async fn vanish_in_mid_stream(client: &Client, first: u64, seen: u64) {
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let mut caller = client.clone();
    let call = tokio::spawn(async move { caller.bulk_insert(ReceiverStream::new(receiver)).await });
    let feed = tokio::spawn(async move {
        for id in first..first + 2_000 {
            if sender.send(document(id)).await.is_err() {
                return;
            }
        }
        // More might come: the stream stays open.
        std::future::pending::<()>().await;
    });
    eventually("the first documents of a stream are stored", || is_stored(client, first + seen))
        .await;
    feed.abort();
    call.abort();
    assert!(call.await.is_err_and(|error| error.is_cancelled()), "it was not in mid-stream");
}

#[test]
fn a_client_that_vanishes_in_mid_stream_leaves_whole_documents_and_a_server_that_goes_on() {
    // More of them than streams may run at once: each has to return its permit.
    const VANISHED: u64 = 12;
    let all: Vec<u64> = (0..VANISHED).flat_map(|n| n * 10_000 + 1..n * 10_000 + 2_001).collect();
    let mut server = Inside::start(SETTINGS);
    let before = runtime().block_on(async {
        for round in 0..VANISHED {
            // The stream is reset first; then its connection is dropped as well.
            let client = server.client().await;
            vanish_in_mid_stream(&client, round * 10_000 + 1, round * 40).await;
        }
        let mut client = server.client().await;
        let answer = bulk_insert(&mut client, (500_001..=500_500).map(document).collect()).await;
        assert_eq!((answer.success, answer.total_inserted), (true, 500));
        read(&mut client, &all).await
    });
    server.restart(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let after = read(&mut client, &all).await;
        assert!(!before.is_empty());
        let lost = before.keys().filter(|id| !after.contains_key(id)).collect::<BTreeSet<_>>();
        assert!(lost.is_empty(), "seen once, and gone after a restart: {lost:?}");
        for (id, found) in &after {
            assert_eq!(found, &as_document(&document(*id)), "{id}");
        }
        let acknowledged: Vec<u64> = (500_001..=500_500).collect();
        assert_eq!(read(&mut client, &acknowledged).await.len(), 500);
    });
}

#[test]
fn a_client_that_pauses_in_mid_stream_has_what_it_sent_stored_meanwhile() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        let mut caller = client.clone();
        let call = tokio::spawn(async move {
            // The second half comes only once the first is seen.
            caller.bulk_insert(ReceiverStream::new(receiver).fuse()).await
        });
        for half in [1..=10, 11..=20] {
            for id in half.clone() {
                sender.send(document(id)).await.unwrap();
            }
            let last = *half.end();
            eventually("a document of a paused stream is stored", || is_stored(&client, last))
                .await;
        }
        drop(sender);
        let answer = call.await.unwrap().unwrap().into_inner();
        assert_eq!((answer.success, answer.total_inserted), (true, 20));
        assert!(query(&mut client, 20, "").await.found);
    });
}

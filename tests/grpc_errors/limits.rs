//! Limits on memory, documents and bytes written.

use tonic::{Code, Status};

use super::common::documents::{delete_ids, query, read};
use super::common::{
    Client, Inside, Settings, get, insert, metric, retry_delay, runtime, search, vector,
};

const SETTINGS: Settings<'static> =
    &[("hnsw.max_elements", "20"), ("hnsw.distance", "euclidean"), ("runtime.shards", "3")];

fn assert_full(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("hnsw.max_elements"), "{status:?}");
    assert!(!retry_delay(status).is_zero());
}

async fn put(client: &mut Client, id: u64) -> Result<(), Status> {
    client.insert(insert(id, &vector(id, 8), &[])).await.map(|_| ())
}

#[test]
fn a_full_index_takes_no_more_documents_but_replaces_and_deletes_those_it_has() {
    let mut server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        for id in 1..=20 {
            put(&mut client, id).await.unwrap();
        }
        for id in 21..=30 {
            assert_full(&put(&mut client, id).await.unwrap_err());
            assert!(!query(&mut client, id, "").await.found);
        }
        let replaced = insert(7, &vector(70, 8), &[("a", "1")]);
        assert!(client.insert(replaced).await.unwrap().into_inner().success);
        assert_eq!(query(&mut client, 7, "").await.embedding, vector(70, 8));

        let requests: Vec<_> = (19..=22).map(|id| insert(id, &vector(id, 8), &[])).collect();
        let stream = tokio_stream::iter(requests.clone());
        let answer = client.bulk_insert(stream).await.unwrap().into_inner();
        assert_eq!((answer.total_inserted, answer.total_failed), (2, 2));
        assert!(answer.error.contains("hnsw.max_elements"), "{answer:?}");
        let answer = client.bulk_load_hnsw(tokio_stream::iter(requests)).await.unwrap();
        let answer = answer.into_inner();
        assert_eq!((answer.total_loaded, answer.total_failed), (2, 2));
        assert!(answer.error.contains("hnsw.max_elements"), "{answer:?}");
    });
    server.restart(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let all: Vec<u64> = (1..=40).collect();
        assert_eq!(read(&mut client, &all).await.len(), 20);
        assert_full(&put(&mut client, 21).await.unwrap_err());
        put(&mut client, 20).await.unwrap();
        for freed in 1..=5 {
            let deleted = client.batch_delete(delete_ids(&[freed], "")).await.unwrap();
            assert_eq!(deleted.into_inner().deleted_count, 1);
            put(&mut client, 30 + freed).await.unwrap();
            assert_full(&put(&mut client, 40).await.unwrap_err());
        }
        let found: Vec<u64> = read(&mut client, &all).await.into_keys().collect();
        assert_eq!(found, (6..=20).chain(31..=35).collect::<Vec<_>>());
    });
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    let refused = metric(&metrics, "kyrodb_errors_total{category=\"resource_exhausted\"}");
    assert_eq!(refused, Some(6.0));
}

#[test]
fn inserts_that_come_together_do_not_pass_the_limit() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let client = server.client().await;
        let inserts = (1..=200).map(|id| {
            let mut client = client.clone();
            tokio::spawn(async move { put(&mut client, id).await.map(|()| id) })
        });
        let mut stored = Vec::new();
        for answer in futures_util::future::join_all(inserts).await {
            match answer.unwrap() {
                Ok(id) => stored.push(id),
                Err(status) => assert_full(&status),
            }
        }
        assert_eq!(stored.len(), 20);
        let all: Vec<u64> = (1..=200).collect();
        let found: Vec<u64> = read(&mut client.clone(), &all).await.into_keys().collect();
        assert_eq!(found, stored);
    });
}

#[test]
fn answers_may_be_larger_than_requests() {
    let settings = [("runtime.shards", "3"), ("server.max_message_bytes", "100000")];
    let server = Inside::start(&settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        let text = "t".repeat(60_000);
        let document = |id: u64| insert(id, &vector(id, 8), &[("text", &text)]);
        let stream = tokio_stream::iter((1..=400).map(document).collect::<Vec<_>>());
        assert!(client.bulk_insert(stream).await.unwrap().into_inner().success);
        let answer = client.search(search(&vector(1, 8), 1_000)).await.unwrap().into_inner();
        assert_eq!(answer.results.len(), 400);
        assert!(answer.results.iter().all(|result| result.metadata["text"] == text));
    });
}

#[test]
fn bytes_written_in_a_second_have_a_bound_if_one_is_set() {
    const DIMENSION: usize = 4_000;
    let settings = [("storage.max_write_bytes_per_sec", "65536"), ("runtime.shards", "1")];
    let server = Inside::start(&settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        let mut refused = None;
        for id in 1..=100 {
            if let Err(status) = client.insert(insert(id, &vector(id, DIMENSION), &[])).await {
                refused = Some(status);
                break;
            }
        }
        let status = refused.expect("four a second are 64 KiB");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("storage.max_write_bytes_per_sec"), "{status:?}");
        assert!(!retry_delay(&status).is_zero());
        // A stream is read no faster, and all of it is stored.
        let documents = (201..=210).map(|id| insert(id, &vector(id, DIMENSION), &[]));
        let stored = client.bulk_insert(tokio_stream::iter(documents.collect::<Vec<_>>())).await;
        let stored = stored.unwrap().into_inner();
        assert_eq!((stored.total_inserted, stored.total_failed), (10, 0), "{stored:?}");
    });
}

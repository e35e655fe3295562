//! BulkSearch.

use futures_util::StreamExt;
use kyrodb::proto::{SearchRequest, SearchResponse};
use tonic::{Code, Status};

use super::common::filters::exact;
use super::common::{
    Client, Inside, bad_field, eventually, get, ids, insert, metric, retry_delay, runtime, search,
    vector,
};
use super::{SETTINGS, store};

/// The answers of a stream, and the status that ended it, if it failed.
async fn bulk_search(
    client: &mut Client,
    requests: Vec<SearchRequest>,
) -> (Vec<SearchResponse>, Option<Status>) {
    let stream = client.bulk_search(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut answers = Vec::new();
    let mut end = None;
    let mut stream = std::pin::pin!(stream);
    while let Some(answer) = stream.next().await {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(status) => end = Some(status),
        }
    }
    (answers, end)
}

#[test]
fn answers_come_in_the_order_of_requests_and_an_error_after_all_before_it() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let document = |id: u64| insert(id, &vector(id, 8), &[("n", &id.to_string())]);
        store(&mut client, (1..=400).map(document).collect()).await;
        // Cheap and expensive searches in turn.
        let request = |id: u64| match id % 3 {
            0 => search(&vector(id, 8), 1_000),
            1 => search(&vector(id, 8), 1),
            _ => {
                let filter = Some(exact("n", &id.to_string()));
                SearchRequest { filter, ..search(&vector(id + 1, 8), 10) }
            }
        };
        let (answers, end) = bulk_search(&mut client, (1..=400).map(request).collect()).await;
        assert!(end.is_none(), "{end:?}");
        let first: Vec<u64> = answers.iter().map(|answer| ids(answer)[0]).collect();
        assert_eq!(first, (1..=400).collect::<Vec<_>>());
        let (answers, end) = bulk_search(&mut client, Vec::new()).await;
        assert!(answers.is_empty() && end.is_none());

        for bad_at in [1, 30, 100] {
            let mut requests: Vec<_> = (1..=100).map(request).collect();
            requests[bad_at - 1].k = 1_001;
            let (answers, end) = bulk_search(&mut client, requests).await;
            let first: Vec<u64> = answers.iter().map(|answer| ids(answer)[0]).collect();
            assert_eq!(first, (1..bad_at as u64).collect::<Vec<_>>());
            assert_eq!(bad_field(&end.expect("request {bad_at} is bad")), "k");
        }
    });
}

#[test]
fn the_ten_thousand_and_first_request_ends_the_stream() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, (1..=10).map(|id| insert(id, &vector(id, 8), &[])).collect()).await;
        let requests = (0..10_001).map(|n| search(&vector(n % 10 + 1, 8), 1)).collect();
        let (answers, end) = bulk_search(&mut client, requests).await;
        let first: Vec<u64> = answers.iter().map(|answer| ids(answer)[0]).collect();
        assert_eq!(first, (0..10_000).map(|n| n % 10 + 1).collect::<Vec<_>>());
        let end = end.expect("there was one request too many");
        assert_eq!(end.code(), Code::ResourceExhausted, "{end:?}");
        assert!(!retry_delay(&end).is_zero());
    });
}

async fn sixteen_places_are_free(client: &Client) {
    eventually("there is room for as many searches as are allowed", || async {
        let searches = (0..16).map(|n| {
            let mut client = client.clone();
            async move { client.search(search(&vector(n, 8), 10)).await.is_ok() }
        });
        futures_util::future::join_all(searches).await.into_iter().all(|is_ok| is_ok)
    })
    .await;
}

#[test]
fn a_client_that_leaves_a_stream_takes_its_searches_with_it() {
    let server = Inside::start(&[
        ("hnsw.distance", "euclidean"),
        ("runtime.shards", "3"),
        ("timeouts.max_concurrent_queries", "16"),
    ]);
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, (1..=2_000).map(|id| insert(id, &vector(id, 8), &[])).collect()).await;
        for _ in 0..20 {
            let requests = futures_util::stream::iter(0..9_000).map(|n| search(&vector(n, 8), 100));
            let answers = client.bulk_search(requests).await.unwrap().into_inner();
            // Permits of the streams before may not have been returned yet.
            let mut answers = std::pin::pin!(answers);
            assert!(answers.next().await.is_some());
        }
        // Searches that had kept their permits would leave none for these.
        sixteen_places_are_free(&client).await;
    });
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    assert_eq!(metric(&metrics, "kyrodb_panics_total"), Some(0.0));
}

/// Whether its client reads or not: searches in flight of a stream end, and others get their permits.
#[test]
fn an_unread_stream_keeps_no_places() {
    let server = Inside::start(&[
        ("hnsw.distance", "euclidean"),
        ("runtime.shards", "3"),
        ("timeouts.max_concurrent_queries", "16"),
        ("timeouts.cold_tier_ms", "30000"),
        ("cache.query_cache_enabled", "false"),
    ]);
    runtime().block_on(async {
        let mut client = server.client().await;
        let text = "x".repeat(1_000);
        let document = |id: u64| insert(id, &vector(id, 8), &[("text", &text)]);
        store(&mut client, (1..=2_000).map(document).collect()).await;
        // Each answer is larger than the client's window.
        let mut unread = Vec::new();
        for _ in 0..8 {
            let requests = (0..100).map(|n| search(&vector(n, 8), 1_000));
            // Unread answers keep the server from sending more on the whole connection.
            let mut client = server.client().await;
            let stream = client.bulk_search(futures_util::stream::iter(requests)).await.unwrap();
            unread.push(stream.into_inner());
        }
        let asked = || {
            let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
            metric(&metrics, "kyrodb_queries_total").unwrap()
        };
        // Each has searched as far ahead as permitted.
        eventually("no stream waits for another", async || asked() >= 8.0 * 16.0).await;
        sixteen_places_are_free(&client).await;
        let mut stream = unread.pop().unwrap();
        let mut answers = 0;
        while let Some(answer) = stream.next().await {
            assert_eq!(answer.unwrap().results.len(), 1_000);
            answers += 1;
        }
        assert_eq!(answers, 100, "and it goes on when it is read");
    });
}

/// Streams that together want more permits than there are wait for each other.
#[test]
fn streams_wait_for_places() {
    let server = Inside::start(&[
        ("hnsw.distance", "euclidean"),
        ("runtime.shards", "3"),
        ("timeouts.max_concurrent_queries", "4"),
        ("timeouts.cold_tier_ms", "30000"),
        ("cache.query_cache_enabled", "false"),
    ]);
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, (1..=2_000).map(|id| insert(id, &vector(id, 8), &[])).collect()).await;
        let streams = (0..6).map(|_| {
            let mut client = client.clone();
            async move {
                let requests = (1..=300).map(|id| search(&vector(id, 8), 100)).collect();
                bulk_search(&mut client, requests).await
            }
        });
        for (answers, end) in futures_util::future::join_all(streams).await {
            assert!(end.is_none(), "{end:?}");
            let first: Vec<u64> = answers.iter().map(|answer| ids(answer)[0]).collect();
            assert_eq!(first, (1..=300).collect::<Vec<_>>());
        }
    });
}

//! Deadlines: answered in time with the results so far, or refused; never half done.

use kyrodb::proto::{
    BulkQueryRequest, DeleteRequest, MetadataFilter, QueryRequest, SearchRequest, SearchResponse,
    UpdateMetadataRequest,
};
use prost::Message;
use tonic::Code;

use super::common::documents::{delete_where, read};
use super::common::filters::{exact, one_of, or};
use super::common::{Inside, eventually, ids, insert, retry_delay, runtime, search, vector};
use super::raw::{call, framed, method};

/// An expensive filter, with nearly as many conditions and values as permitted, that every document passes by the last
/// of them.
fn dear() -> MetadataFilter {
    let mut filters = vec![one_of("n", &["0", "1"]); 4_000];
    filters.push(exact("all", "yes"));
    or(&filters)
}

/// A search that compares every document in scope of that filter.
fn dear_search(seed: u64) -> SearchRequest {
    SearchRequest { filter: Some(dear()), exact: true, ..search(&vector(seed, 8), 10) }
}

const COUNT: u64 = 3_000;

fn server(settings: &[(&str, &str)]) -> Inside {
    let mut all = vec![("hnsw.distance", "euclidean"), ("runtime.shards", "3")];
    all.extend(settings);
    let server = Inside::start(&all);
    runtime().block_on(async {
        let mut client = server.client().await;
        let document = |id: u64| insert(id, &vector(id, 8), &[("n", "x"), ("all", "yes")]);
        let stream = tokio_stream::iter((1..=COUNT).map(document));
        assert!(client.bulk_load_hnsw(stream).await.unwrap().into_inner().success);
    });
    server
}

/// Asserts that an answer is complete, or names the missing shards.
fn assert_coverage(answer: &SearchResponse) {
    assert_eq!(answer.shards_asked, 3);
    let missing = answer.shards_asked - answer.shards_answered;
    assert_eq!(answer.coverage_reasons.len() as u32, missing, "{:?}", answer.coverage_reasons);
    assert!(answer.coverage_reasons.iter().all(|reason| reason.contains("shard")));
    assert!(missing > 0 || answer.results.len() == 10, "a whole answer lacks documents");
    assert!(u64::from(answer.total_found) <= COUNT);
}

#[test]
fn a_search_that_is_out_of_time_tells_what_it_covers_or_fails() {
    let server = server(&[("timeouts.cold_tier_ms", "5")]);
    runtime().block_on(async {
        let mut client = server.client().await;
        for seed in 0..20 {
            match client.search(dear_search(seed)).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    assert_coverage(&answer);
                    assert!(answer.shards_answered < 3, "12,000,000 conditions within 5 ms");
                }
                Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}"),
            }
        }
        let client = &client;
        eventually("a cheap search is answered whole again", || async {
            let answer = client.clone().search(search(&vector(1, 8), 10)).await;
            answer.is_ok_and(|answer| answer.get_ref().shards_answered == 3)
        })
        .await;
    });
}

#[test]
fn a_deadline_of_the_client_is_kept_by_the_server() {
    let server = server(&[]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        let request = search(&vector(1, 8), 10).encode_to_vec();
        for timeout in ["0n", "1n", "1u", "100u", "1m", "2m", "5m"] {
            let headers = [("grpc-timeout", timeout)];
            let (status, body) = call(address, &method("Search"), &headers, framed(&request)).await;
            match status.code() {
                Code::Ok => assert_coverage(&SearchResponse::decode(&body[5..]).unwrap()),
                code => assert_eq!(code, Code::DeadlineExceeded, "{timeout}: {status:?}"),
            }
        }
        let (status, _) =
            call(address, &method("Search"), &[("grpc-timeout", "0n")], framed(&request)).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "no time at all: {status:?}");
        // Far away, too long to be valid, or not a deadline at all.
        for timeout in ["99999999H", "30S", "123456789S", "soon", "5", "-1S", ""] {
            let headers = [("grpc-timeout", timeout)];
            let (status, body) = call(address, &method("Search"), &headers, framed(&request)).await;
            assert_eq!(status.code(), Code::Ok, "{timeout}: {status:?}");
            assert_eq!(ids(&SearchResponse::decode(&body[5..]).unwrap())[0], 1);
        }
        for (name, request) in [
            ("Query", QueryRequest { doc_id: 1, ..Default::default() }.encode_to_vec()),
            ("BulkQuery", BulkQueryRequest::default().encode_to_vec()),
            ("Delete", DeleteRequest { doc_id: 9_999, ..Default::default() }.encode_to_vec()),
            ("UpdateMetadata", {
                UpdateMetadataRequest { doc_id: 9_999, ..Default::default() }.encode_to_vec()
            }),
            ("BatchDelete", delete_where(exact("all", "no"), "").encode_to_vec()),
        ] {
            let headers = [("grpc-timeout", "1n")];
            let (status, _) = call(address, &method(name), &headers, framed(&request)).await;
            let is_known = [Code::Ok, Code::DeadlineExceeded].contains(&status.code());
            assert!(is_known, "{name}: {status:?}");
        }
    });
}

#[test]
fn an_insert_that_is_out_of_time_is_done_or_not_but_never_by_half() {
    let settings = [("hnsw.distance", "euclidean"), ("runtime.shards", "3")];
    let mut server = Inside::start(&settings);
    let all: Vec<u64> = (1..=60).collect();
    let address = server.server().grpc_address();
    let (done, seen) = runtime().block_on(async {
        let mut client = server.client().await;
        client.insert(insert(1_000, &vector(1, 8), &[])).await.unwrap();
        let mut done = Vec::new();
        for id in &all {
            let timeout = ["0n", "1n", "10u", "100u", "1m", "10m"][*id as usize % 6];
            let request = insert(*id, &vector(*id, 8), &[("n", "x")]).encode_to_vec();
            let headers = [("grpc-timeout", timeout)];
            let (status, _) = call(address, &method("Insert"), &headers, framed(&request)).await;
            match status.code() {
                Code::Ok => done.push(*id),
                code => assert_eq!(code, Code::DeadlineExceeded, "{timeout}: {status:?}"),
            }
        }
        (done, read(&mut client, &all).await)
    });
    assert!(done.iter().all(|id| seen.contains_key(id)), "{done:?}");
    server.restart(&settings);
    runtime().block_on(async {
        let after = read(&mut server.client().await, &all).await;
        assert!(seen.iter().all(|(id, document)| after.get(id) == Some(document)));
        for (id, document) in after {
            assert_eq!((document.vector, document.metadata.len()), (vector(id, 8), 1));
        }
    });
}

#[test]
fn searches_beyond_the_limit_are_refused_until_others_are_done() {
    let server = server(&[("timeouts.max_concurrent_queries", "2")]);
    runtime().block_on(async {
        let client = server.client().await;
        let client = &client;
        eventually("of ten dear searches some find no place", || async {
            let searches = (0..10).map(|seed| {
                let mut client = client.clone();
                async move { client.search(dear_search(seed)).await }
            });
            let answers = futures_util::future::join_all(searches).await;
            let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
            for status in refused.iter().map(|refused| refused.as_ref().unwrap_err()) {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                assert!(status.message().contains("max_concurrent_queries"), "{status:?}");
                assert!(!retry_delay(status).is_zero());
            }
            assert!(done.len() >= 2, "fewer are done at once than are allowed");
            !refused.is_empty()
        })
        .await;
        let answer = client.clone().search(search(&vector(1, 8), 10)).await;
        assert!(answer.is_ok(), "there is no place again when all are done: {answer:?}");
    });
}

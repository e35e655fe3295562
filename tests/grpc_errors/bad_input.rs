//! Invalid requests: refused, with the field named, and without effect.

use std::collections::HashMap;

use kyrodb::proto::{
    BulkQueryRequest, ConfigRequest, DeleteRequest, InsertRequest, ListDocumentsRequest,
    MetadataFilter, QueryRequest, SearchRequest, UpdateMetadataRequest,
};
use tonic::{Code, Status};

use super::common::documents::{Contents, delete_ids, delete_where, query, read};
use super::common::filters::{exact, not, one_of, or};
use super::common::{
    Client, Inside, Settings, bad_field, get, ids, insert, metric, runtime, search, vector,
};

/// Cosine, the default: a vector needs a direction.
const SETTINGS: Settings<'static> = &[("runtime.shards", "3")];

const GOOD: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// Invalid vectors, each with its fault.
fn bad_vectors() -> Vec<(&'static str, Vec<f32>)> {
    vec![
        ("empty", vec![]),
        ("too short", vec![1.0; 3]),
        ("too long", vec![1.0; 5]),
        ("longer than any may be", vec![1.0; 4_097]),
        ("not a number", vec![1.0, f32::NAN, 0.0, 0.0]),
        ("infinite", vec![1.0, 0.0, 0.0, f32::INFINITY]),
        ("negative infinite", vec![f32::NEG_INFINITY, 0.0, 0.0, 1.0]),
        ("without direction", vec![0.0, -0.0, 0.0, 0.0]),
    ]
}

fn keys(count: usize) -> HashMap<String, String> {
    (0..count).map(|n| (n.to_string(), String::new())).collect()
}

fn value(bytes: usize) -> HashMap<String, String> {
    HashMap::from([("k".to_owned(), "v".repeat(bytes - 1))])
}

fn bad_inserts(doc_id: u64) -> Vec<(&'static str, InsertRequest)> {
    let good = || insert(doc_id, &GOOD, &[("a", "bad")]);
    let mut requests: Vec<_> = bad_vectors()
        .into_iter()
        .map(|(_, embedding)| ("embedding", InsertRequest { embedding, ..good() }))
        .collect();
    requests.push(("doc_id", InsertRequest { doc_id: 0, ..good() }));
    requests.push(("metadata", InsertRequest { metadata: keys(257), ..good() }));
    requests.push(("metadata", InsertRequest { metadata: value((64 << 10) + 1), ..good() }));
    requests.push(("namespace", InsertRequest { namespace: "n".repeat(257), ..good() }));
    requests
}

/// A filter with too many conditions.
fn bad_filter() -> MetadataFilter {
    or(&vec![exact("a", "good"); 4_097])
}

/// Filters with too many, or too long, values.
fn bad_lists() -> Vec<MetadataFilter> {
    let list = |count: usize, bytes: usize| {
        let values: Vec<String> = (0..count).map(|n| format!("{n}{}", "0".repeat(bytes))).collect();
        one_of("a", &values.iter().map(String::as_str).collect::<Vec<_>>())
    };
    vec![
        list(10_001, 1),
        or(&[list(5_001, 1), not(list(5_000, 1))]),
        list(1, (64 << 10) + 1),
        list(200, 6_000),
        exact(&"k".repeat((64 << 10) + 1), "v"),
    ]
}

fn bad_searches() -> Vec<(&'static str, SearchRequest)> {
    let good = || search(&GOOD, 10);
    let mut requests: Vec<_> = bad_vectors()
        .into_iter()
        .map(|(_, query_embedding)| {
            ("query_embedding", SearchRequest { query_embedding, ..good() })
        })
        .collect();
    for k in [0, 1_001, u32::MAX] {
        requests.push(("k", SearchRequest { k, ..good() }));
    }
    for ef_search in [10_001, u32::MAX] {
        requests.push(("ef_search", SearchRequest { ef_search, ..good() }));
    }
    requests.push(("min_score", SearchRequest { min_score: f32::NAN, ..good() }));
    requests.push(("namespace", SearchRequest { namespace: "n".repeat(257), ..good() }));
    requests.push(("filter", SearchRequest { filter: Some(bad_filter()), ..good() }));
    for filter in bad_lists() {
        requests.push(("filter", SearchRequest { filter: Some(filter), ..good() }));
    }
    for metadata_filters in [keys(257), value((64 << 10) + 1)] {
        requests.push(("metadata_filters", SearchRequest { metadata_filters, ..good() }));
    }
    requests
}

fn assert_refused<T: std::fmt::Debug>(field: &str, answer: Result<T, Status>, request: &str) {
    let request = &request[..request.len().min(300)];
    match answer {
        Ok(answer) => panic!("{field}: {request} is answered with {answer:?}"),
        Err(status) if status.code() != Code::InvalidArgument => {
            panic!("{field}: {request} is refused with {status:?}")
        }
        Err(status) => assert_eq!(bad_field(&status), field, "{request}"),
    }
}

/// Sends invalid requests of every kind about document 1, which exists, and about document 2, which does not. Returns
/// their number.
async fn send_bad(client: &mut Client) -> usize {
    let mut count = 0;
    for (field, request) in bad_inserts(1).into_iter().chain(bad_inserts(2)) {
        let shown = format!("{request:?}");
        assert_refused(field, client.insert(request).await, &shown);
        count += 1;
    }
    for (field, request) in bad_searches() {
        let shown = format!("{request:?}");
        assert_refused(field, client.search(request).await, &shown);
        count += 1;
    }
    let long = || "n".repeat(257);
    for (field, doc_id, namespace) in [("doc_id", 0, String::new()), ("namespace", 1, long())] {
        let (name, include_embedding) = (namespace.clone(), true);
        let request = QueryRequest { doc_id, include_embedding, namespace: name };
        assert_refused(field, client.query(request).await, "Query");
        let request = DeleteRequest { doc_id, namespace: namespace.clone() };
        assert_refused(field, client.delete(request).await, "Delete");
        let request = UpdateMetadataRequest { doc_id, namespace, ..Default::default() };
        assert_refused(field, client.update_metadata(request).await, "UpdateMetadata");
        count += 3;
    }
    // Each is small enough, but the merged metadata would not be.
    let filled = HashMap::from([("filler".to_owned(), "v".repeat((64 << 10) - 10))]);
    for (metadata, merge) in
        [(keys(257), false), (value((64 << 10) + 1), true), (keys(256), true), (filled, true)]
    {
        let request = UpdateMetadataRequest { doc_id: 1, metadata, merge, ..Default::default() };
        assert_refused("metadata", client.update_metadata(request).await, "UpdateMetadata");
        count += 1;
    }
    count + send_bad_lists(client).await
}

async fn send_bad_lists(client: &mut Client) -> usize {
    let lists = [vec![1; 10_001], vec![1, 0]];
    for doc_ids in &lists {
        let request = BulkQueryRequest { doc_ids: doc_ids.clone(), ..Default::default() };
        assert_refused("doc_ids", client.bulk_query(request).await, "BulkQuery");
        let request = delete_ids(doc_ids, "");
        assert_refused("ids", client.batch_delete(request).await, "BatchDelete");
    }
    let filters: Vec<_> = bad_lists().into_iter().chain([bad_filter()]).collect();
    for filter in &filters {
        let request = delete_where(filter.clone(), "");
        assert_refused("filter", client.batch_delete(request).await, "BatchDelete");
        let request = ListDocumentsRequest { filter: Some(filter.clone()), ..Default::default() };
        assert_refused("filter", client.list_documents(request).await, "ListDocuments");
    }
    let long = "n".repeat(257);
    let request = delete_ids(&[1], &long);
    assert_refused("namespace", client.batch_delete(request).await, "BatchDelete");
    let request =
        BulkQueryRequest { doc_ids: vec![1], namespace: long, ..BulkQueryRequest::default() };
    assert_refused("namespace", client.bulk_query(request).await, "BulkQuery");
    2 * lists.len() + 2 * filters.len() + 2
}

async fn assert_unchanged(client: &mut Client, before: &Contents) {
    assert_eq!(&read(client, &[1, 2]).await, before);
    let answer = client.search(search(&GOOD, 1_000)).await.unwrap().into_inner();
    assert_eq!((ids(&answer), answer.total_found), (vec![1], 1));
}

#[test]
fn invalid_requests_are_refused_with_their_field_named_and_change_nothing() {
    let mut server = Inside::start(SETTINGS);
    let before = runtime().block_on(async {
        let mut client = server.client().await;
        client.insert(insert(1, &GOOD, &[("a", "good"), ("filler_", "1234567890")])).await.unwrap();
        let before = read(&mut client, &[1, 2]).await;
        let count = send_bad(&mut client).await;
        assert_unchanged(&mut client, &before).await;
        let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
        let errors = metric(&metrics, "kyrodb_errors_total{category=\"validation\"}");
        assert_eq!(errors, Some(count as f64));
        assert_eq!(metric(&metrics, "kyrodb_inserts_total"), Some(1.0));
        assert_eq!(metric(&metrics, "kyrodb_inserts_failed"), Some(2.0 * 12.0));
        assert_eq!(metric(&metrics, "kyrodb_wal_writes_total"), Some(1.0), "something was logged");
        before
    });
    server.restart(SETTINGS);
    runtime().block_on(async {
        assert_unchanged(&mut server.client().await, &before).await;
    });
}

/// However deep a filter nests: the error is always that it is too deep.
#[test]
fn a_filter_that_nests_too_deep_is_refused_with_its_field_named() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        client.insert(insert(1, &GOOD, &[("a", "good")])).await.unwrap();
        let mut filter = exact("a", "good");
        for depth in 1..=100 {
            let request = SearchRequest { filter: Some(filter.clone()), ..search(&GOOD, 1) };
            match client.search(request).await {
                Ok(answer) => {
                    let expected = if depth % 2 == 1 { vec![1] } else { vec![] };
                    assert_eq!(ids(answer.get_ref()), expected, "at a depth of {depth}");
                }
                Err(status) => {
                    assert!(depth > 16, "hardly any filter may nest");
                    assert_eq!(bad_field(&status), "filter", "at a depth of {depth}");
                    return;
                }
            }
            filter = not(filter);
        }
        panic!("filters nest without a limit");
    });
}

#[test]
fn requests_just_within_the_limits_are_accepted() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let requests = [
            InsertRequest { metadata: keys(256), ..insert(1, &GOOD, &[]) },
            InsertRequest { metadata: value(64 << 10), ..insert(2, &GOOD, &[]) },
            InsertRequest { namespace: "n".repeat(256), ..insert(3, &GOOD, &[]) },
            insert(u64::MAX, &[f32::MAX, f32::MIN, 1e-45, 0.0], &[]),
            insert(5, &[1e-45, 0.0, 0.0, 0.0], &[]),
        ];
        for request in requests {
            let (id, namespace) = (request.doc_id, request.namespace.clone());
            let metadata = request.metadata.clone();
            assert!(client.insert(request).await.unwrap().into_inner().success);
            let found = query(&mut client, id, &namespace).await;
            assert_eq!((found.found, found.metadata), (true, metadata));
            let length: f32 = found.embedding.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{:?} is not of unit length", found.embedding);
        }
        let filter = Some(or(&vec![exact("a", "b"); 4_000]));
        for request in [
            SearchRequest { ef_search: 10_000, ..search(&GOOD, 1_000) },
            SearchRequest { filter, ..search(&GOOD, 1) },
            SearchRequest { min_score: f32::INFINITY, ..search(&GOOD, 1) },
            SearchRequest { namespace: "n".repeat(256), ..search(&GOOD, 1) },
        ] {
            assert!(client.search(request).await.is_ok());
        }
    });
}

#[test]
fn refused_documents_do_not_decide_the_dimension() {
    let mut server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let dimension = async |client: &mut Client| {
            client.get_config(ConfigRequest {}).await.unwrap().into_inner().embedding_dimension
        };
        for request in [
            insert(0, &[1.0; 3], &[]),
            insert(1, &[], &[]),
            insert(1, &[0.0; 5], &[]),
            insert(1, &[f32::NAN; 6], &[]),
            insert(1, &[1.0; 4_097], &[]),
            InsertRequest { metadata: keys(257), ..insert(1, &[1.0; 7], &[]) },
            InsertRequest { namespace: "n".repeat(257), ..insert(1, &[1.0; 8], &[]) },
        ] {
            let stream = tokio_stream::iter(vec![request.clone()]);
            let answer = client.bulk_insert(stream).await.unwrap().into_inner();
            assert_eq!((answer.total_inserted, answer.total_failed), (0, 1));
            let status = client.insert(request).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        }
        assert_eq!(dimension(&mut client).await, 0);
        // Until the dimension is decided any vector may be searched for, but an invalid one is refused.
        assert_eq!(ids(&client.search(search(&[1.0; 9], 1)).await.unwrap().into_inner()), [0; 0]);
        let status = client.search(search(&[f32::NAN], 1)).await.unwrap_err();
        assert_eq!(bad_field(&status), "query_embedding");
        client.insert(insert(1, &GOOD, &[])).await.unwrap();
        assert_eq!(dimension(&mut client).await, 4);
        let status = client.insert(insert(2, &[1.0; 3], &[])).await.unwrap_err();
        assert_eq!(bad_field(&status), "embedding");
    });
    server.restart(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let status = client.insert(insert(2, &[1.0; 3], &[])).await.unwrap_err();
        assert_eq!(bad_field(&status), "embedding");
        assert!(query(&mut client, 1, "").await.found);
    });
}

/// Whichever comes first: there is one dimension from then on.
#[test]
fn first_documents_that_come_together_decide_one_dimension() {
    for round in 0..3 {
        let mut server = Inside::start(SETTINGS);
        let stored = runtime().block_on(async {
            let client = server.client().await;
            let inserts = (1..=40_u64).map(|id| {
                let mut client = client.clone();
                let length = 3 + (id + round) as usize % 3;
                tokio::spawn(async move {
                    (id, length, client.insert(insert(id, &vector(id, length), &[])).await)
                })
            });
            let mut stored = Vec::new();
            for answer in futures_util::future::join_all(inserts).await {
                let (id, length, answer) = answer.unwrap();
                match answer {
                    Ok(_) => stored.push((id, length)),
                    Err(status) => assert_eq!(bad_field(&status), "embedding"),
                }
            }
            stored
        });
        let dimension = stored[0].1;
        assert!(stored.iter().all(|(_, length)| *length == dimension), "{stored:?}");
        assert!((13..=14).contains(&stored.len()), "{stored:?}");
        server.restart(SETTINGS);
        runtime().block_on(async {
            let mut client = server.client().await;
            let all: Vec<u64> = (1..=40).collect();
            let found: Vec<u64> = read(&mut client, &all).await.into_keys().collect();
            assert_eq!(found, stored.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        });
    }
}

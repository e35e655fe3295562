//! Query and BulkQuery.

use kyrodb::proto::query_response::Tier;
use kyrodb::proto::{BulkQueryRequest, BulkQueryResponse, InsertRequest, QueryRequest};

use super::common::{Client, Inside, bad_field, insert, runtime, vector};
use super::{SETTINGS, store};

async fn bulk(client: &mut Client, ids: &[u64], namespace: &str) -> BulkQueryResponse {
    let (doc_ids, namespace) = (ids.to_vec(), namespace.into());
    let request = BulkQueryRequest { doc_ids, include_embeddings: true, namespace };
    client.bulk_query(request).await.unwrap().into_inner()
}

/// Documents 1 to 100; the even ones are in the namespace `even`.
fn documents() -> Vec<InsertRequest> {
    let document = |id: u64| InsertRequest {
        namespace: if id.is_multiple_of(2) { "even".into() } else { String::new() },
        ..insert(id, &vector(id, 8), &[("n", &id.to_string())])
    };
    (1..=100).map(document).collect()
}

#[test]
fn a_query_returns_the_stored_document_and_only_requested_fields() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let request = QueryRequest { doc_id: 7, ..Default::default() };
        let empty = client.query(request.clone()).await.unwrap().into_inner();
        assert!(!empty.found && empty.doc_id == 7 && empty.error.is_empty(), "{empty:?}");
        store(&mut client, documents()).await;
        let found = client.query(request.clone()).await.unwrap().into_inner();
        assert!(found.found && found.doc_id == 7 && found.error.is_empty(), "{found:?}");
        assert_eq!((found.embedding.len(), &*found.metadata["n"]), (0, "7"));
        assert_eq!(found.served_from(), Tier::ColdTier);
        let request = QueryRequest { include_embedding: true, ..request };
        let found = client.query(request).await.unwrap().into_inner();
        assert_eq!(found.embedding, vector(7, 8));
        let request = QueryRequest { doc_id: 101, include_embedding: true, ..Default::default() };
        let absent = client.query(request).await.unwrap().into_inner();
        assert!(!absent.found && absent.doc_id == 101, "{absent:?}");
        assert!(absent.metadata.is_empty() && absent.embedding.is_empty(), "{absent:?}");
        assert_eq!(absent.served_from(), Tier::Unknown);
    });
}

#[test]
fn a_bulk_query_answers_in_the_order_of_its_ids_repeats_included() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, documents()).await;
        let asked = [50, 3, 999, 3, 100, u64::MAX, 1, 50];
        let answer = bulk(&mut client, &asked, "").await;
        assert!(answer.error.is_empty());
        assert_eq!((answer.total_found, answer.total_requested), (6, 8));
        assert_eq!(answer.results.iter().map(|r| r.doc_id).collect::<Vec<_>>(), asked);
        for result in answer.results {
            assert_eq!(result.found, result.doc_id <= 100, "{result:?}");
            if result.found {
                assert_eq!(result.embedding, vector(result.doc_id, 8));
                assert_eq!(result.metadata["n"], result.doc_id.to_string());
            }
        }
        let answer = bulk(&mut client, &[2, 1, 4], "even").await;
        assert_eq!(answer.results.iter().map(|r| r.found).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!((answer.total_found, answer.total_requested), (2, 3));

        let nothing = bulk(&mut client, &[], "").await;
        assert_eq!((nothing.total_found, nothing.total_requested), (0, 0));
        let most: Vec<u64> = (1..=10_000).rev().collect();
        let answer = bulk(&mut client, &most, "").await;
        assert_eq!((answer.total_found, answer.total_requested), (100, 10_000));
        assert_eq!(answer.results.iter().map(|r| r.doc_id).collect::<Vec<_>>(), most);
        assert!(answer.results[9_900..].iter().all(|result| result.found));
        let request = BulkQueryRequest { doc_ids: vec![1; 10_001], ..Default::default() };
        let status = client.bulk_query(request).await.unwrap_err();
        assert_eq!(bad_field(&status), "doc_ids");
        let request = BulkQueryRequest { doc_ids: vec![1, 2], ..Default::default() };
        let answer = client.bulk_query(request).await.unwrap().into_inner();
        assert!(answer.results.iter().all(|r| r.found && r.embedding.is_empty()), "{answer:?}");
    });
}

//! ListDocuments: every document, once, in order, whatever is written meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kyrodb::proto::{DeleteRequest, ListDocumentsRequest, ListDocumentsResponse};
use tonic::Code;

use crate::common::filters::exact;
use crate::common::{Client, Inside, bad_field, insert, runtime, vector};

const COUNT: u64 = 400;

async fn page(client: &mut Client, request: ListDocumentsRequest) -> ListDocumentsResponse {
    client.list_documents(request).await.unwrap().into_inner()
}

/// The ids on all pages of this size.
async fn all(client: &mut Client, request: &ListDocumentsRequest) -> Vec<u64> {
    let (mut ids, mut after) = (Vec::new(), 0);
    loop {
        let request = ListDocumentsRequest { after_doc_id: after, ..request.clone() };
        let page = page(client, request).await;
        assert!(page.documents.iter().all(|document| document.doc_id > after));
        ids.extend(page.documents.iter().map(|document| document.doc_id));
        after = page.next_after_doc_id;
        if !page.has_more {
            return ids;
        }
    }
}

#[test]
fn pages_have_every_document_in_order() {
    let inside = Inside::start(&[("runtime.shards", "3")]);
    runtime().block_on(async {
        let mut client = inside.client().await;
        let empty = page(&mut client, ListDocumentsRequest::default()).await;
        assert_eq!(empty, ListDocumentsResponse::default(), "there is nothing yet");
        for id in 1..=COUNT {
            let parity = if id % 2 == 0 { "even" } else { "odd" };
            let mut document = insert(id * 3, &vector(id, 8), &[("parity", parity)]);
            document.namespace = if id % 5 == 0 { "five".into() } else { String::new() };
            client.insert(document).await.unwrap();
        }
        let wanted: Vec<u64> = (1..=COUNT).map(|id| id * 3).collect();
        for limit in [0, 1, 7, 400, 10_000] {
            let request = ListDocumentsRequest { limit, ..Default::default() };
            assert_eq!(all(&mut client, &request).await, wanted, "{limit}");
        }
        let whole = ListDocumentsRequest { include_embeddings: true, ..Default::default() };
        let first = &page(&mut client, ListDocumentsRequest { limit: 5, ..whole }).await.documents;
        assert_eq!(first[4].namespace, "five");
        assert_eq!(first[4].metadata.len(), 1, "reserved keys are not shown");
        let length = first[4].embedding.iter().map(|x| x * x).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-5 && first[4].embedding.len() == 8);
        let request = ListDocumentsRequest {
            limit: 9,
            namespace: "five".into(),
            filter: Some(exact("parity", "even")),
            ..Default::default()
        };
        let wanted: Vec<u64> = (1..=COUNT).filter(|id| id % 10 == 0).map(|id| id * 3).collect();
        assert_eq!(all(&mut client, &request).await, wanted);
        let request = ListDocumentsRequest { limit: 10_001, ..Default::default() };
        let refused = client.list_documents(request).await.unwrap_err();
        assert_eq!(
            (refused.code(), bad_field(&refused).as_str()),
            (Code::InvalidArgument, "limit")
        );
        let behind = ListDocumentsRequest { after_doc_id: u64::MAX, ..Default::default() };
        let behind = page(&mut client, behind).await;
        assert!(behind.documents.is_empty() && !behind.has_more);
        assert_eq!(behind.next_after_doc_id, u64::MAX);
    });
}

/// Documents move to other slots all the time, on both sides of the place where a page ends.
#[test]
fn unchanged_documents_are_listed_while_all_others_change() {
    let inside = Inside::start(&[("runtime.shards", "2")]);
    runtime().block_on(async {
        let mut client = inside.client().await;
        for id in 1..=COUNT {
            client.insert(insert(id, &vector(id, 8), &[])).await.unwrap();
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = {
            let (mut client, is_over) = (client.clone(), is_over.clone());
            tokio::spawn(async move {
                let mut round = 0;
                while !is_over.load(Ordering::Relaxed) {
                    round += 1;
                    for id in 1..=COUNT {
                        if id % 4 == 0 {
                            let delete = DeleteRequest { doc_id: id, namespace: String::new() };
                            client.delete(delete).await.unwrap();
                        } else {
                            let document = insert(id, &vector(id + round, 8), &[]);
                            client.insert(document).await.unwrap();
                        }
                    }
                }
                round
            })
        };
        let stays: BTreeSet<u64> = (1..=COUNT).filter(|id| id % 4 != 0).collect();
        for _ in 0..40 {
            let request = ListDocumentsRequest { limit: 37, ..Default::default() };
            let listed = all(&mut client, &request).await;
            assert!(listed.is_sorted_by(|a, b| a < b), "each once, in order");
            let missing: Vec<_> =
                stays.difference(&listed.into_iter().collect()).copied().collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(writer.await.unwrap() > 0);
    });
}

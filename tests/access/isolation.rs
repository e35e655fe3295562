//! Isolation of tenants: no RPC discloses anything about another tenant.

use std::collections::HashMap;

use kyrodb::proto::batch_delete_request::DeleteCriteria;
use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::{
    BatchDeleteRequest, BulkQueryRequest, ConfigRequest, DeleteRequest, ExactMatch, FlushRequest,
    HealthRequest, IdList, ListDocumentsRequest, MetadataFilter, MetricsRequest, NotFilter,
    QueryRequest, SearchRequest, SnapshotRequest, UpdateMetadataRequest,
};
use tonic::{Code, Request, Status};

use crate::common::{Client, insert, runtime, search};
use crate::{ACME, BETA, Entry, Place, ROOT, by, put, vector};

/// Numbers of documents of the two tenants: some have equal ids.
const OF_ACME: u64 = 40;
const OF_BETA: u64 = 5;

fn exact(key: &str, value: &str) -> MetadataFilter {
    let exact = ExactMatch { key: key.into(), value: value.into() };
    MetadataFilter { filter_type: Some(FilterType::Exact(exact)) }
}

fn query(doc_id: u64) -> QueryRequest {
    QueryRequest { doc_id, include_embedding: true, namespace: String::new() }
}

/// Searches of every kind that might find another tenant's documents.
fn searches() -> Vec<SearchRequest> {
    // Exactly at a document of the other tenant.
    let near = vector(&ACME, 7);
    let plain = SearchRequest { include_embeddings: true, ..search(&near, 1_000) };
    let filtered = |filter| SearchRequest { filter: Some(filter), ..plain.clone() };
    let not = |filter| {
        let not = NotFilter { filter: Some(Box::new(filter)) };
        MetadataFilter { filter_type: Some(FilterType::NotFilter(Box::new(not))) }
    };
    vec![
        plain.clone(),
        SearchRequest { exact: true, ..plain.clone() },
        SearchRequest { ef_search: 10_000, ..plain.clone() },
        SearchRequest { namespace: "secret".into(), ..plain.clone() },
        SearchRequest {
            metadata_filters: HashMap::from([("__tenant_id__".into(), "acme".into())]),
            ..plain.clone()
        },
        filtered(MetadataFilter::default()),
        filtered(exact("owner", "acme")),
        filtered(exact("__tenant_id__", "acme")),
        filtered(exact("__tenant_idx__", "0")),
        filtered(exact("__namespace__", "secret")),
        filtered(not(exact("__tenant_id__", "beta_2"))),
        filtered(not(exact("owner", "beta_2"))),
    ]
}

async fn fill(client: &mut Client) {
    for id in 1..=OF_ACME {
        put(client, &ACME, id).await.unwrap();
    }
    let mut secret = insert(OF_ACME + 1, &vector(&ACME, OF_ACME + 1), &[("owner", "acme")]);
    secret.namespace = "secret".into();
    client.insert(by(&ACME, secret)).await.unwrap();
    for id in 1..=OF_BETA {
        put(client, &BETA, id).await.unwrap();
    }
}

/// All documents of a tenant, read by id: each is its own.
async fn all_of(client: &mut Client, entry: &Entry<'_>) -> Vec<u64> {
    let request = SearchRequest { exact: true, ..search(&vector(entry, 1), 1_000) };
    let found = client.search(by(entry, request)).await.unwrap().into_inner();
    assert!(found.results.iter().all(|result| result.metadata["owner"] == entry.tenant));
    let mut ids: Vec<u64> = found.results.iter().map(|result| result.doc_id).collect();
    ids.sort_unstable();
    ids
}

async fn reads(client: &mut Client) {
    for id in 1..=OF_ACME + 1 {
        let found = client.query(by(&BETA, query(id))).await.unwrap().into_inner();
        assert_eq!((found.found, found.doc_id), (id <= OF_BETA, id));
        let owner = found.metadata.get("owner").map(String::as_str);
        assert_eq!(owner, (id <= OF_BETA).then_some("beta_2"));
        assert_eq!(found.embedding.is_empty(), id > OF_BETA);
    }
    let bulk = BulkQueryRequest {
        doc_ids: (1..=OF_ACME + 1).collect(),
        include_embeddings: true,
        namespace: String::new(),
    };
    let found = client.bulk_query(by(&BETA, bulk.clone())).await.unwrap().into_inner();
    assert_eq!(u64::from(found.total_found), OF_BETA);
    let secret = BulkQueryRequest { namespace: "secret".into(), ..bulk };
    let found = client.bulk_query(by(&BETA, secret)).await.unwrap().into_inner();
    assert_eq!(found.total_found, 0);
    let stream = tokio_stream::iter(searches());
    let mut streamed = client.bulk_search(by(&BETA, stream)).await.unwrap().into_inner();
    for request in searches() {
        let alone = client.search(by(&BETA, request.clone())).await.unwrap().into_inner();
        let next = streamed.message().await.unwrap().unwrap();
        assert_eq!(alone.results, next.results);
        assert!(alone.results.len() as u64 <= OF_BETA, "{request:?}");
        assert_eq!(alone.total_found as usize, alone.results.len(), "{request:?}");
        for result in alone.results {
            assert_eq!(result.metadata["owner"], "beta_2", "{request:?}");
            assert!(result.metadata.keys().all(|key| !key.starts_with("__")));
            assert!((1..=OF_BETA).contains(&result.doc_id));
        }
    }
    for namespace in ["", "secret"] {
        let request = ListDocumentsRequest {
            limit: 10_000,
            include_embeddings: true,
            namespace: namespace.into(),
            ..Default::default()
        };
        let page = client.list_documents(by(&BETA, request)).await.unwrap().into_inner();
        let ids: Vec<u64> = page.documents.iter().map(|document| document.doc_id).collect();
        let own: Vec<u64> = if namespace.is_empty() { (1..=OF_BETA).collect() } else { Vec::new() };
        assert_eq!((ids, page.has_more), (own, false));
        for document in page.documents {
            assert_eq!(document.metadata["owner"], "beta_2");
            assert!(document.metadata.keys().all(|key| !key.starts_with("__")));
        }
    }
    let theirs = MetadataFilter { filter_type: exact("owner", "acme").filter_type };
    let request = ListDocumentsRequest { filter: Some(theirs), ..Default::default() };
    let page = client.list_documents(by(&BETA, request)).await.unwrap().into_inner();
    assert!(page.documents.is_empty() && !page.has_more);
    // As if the document did not exist: the error text equals that for an unknown id.
    let like = |id| SearchRequest { k: 3, query_doc_id: id, ..SearchRequest::default() };
    let theirs = client.search(by(&BETA, like(OF_ACME))).await.unwrap_err();
    let nobodys = client.search(by(&BETA, like(999))).await.unwrap_err();
    assert_eq!(theirs.code(), Code::InvalidArgument);
    assert_eq!(theirs.message().replace(&OF_ACME.to_string(), "999"), nobodys.message());
}

async fn writes(client: &mut Client) {
    let update = |doc_id, namespace: &str| UpdateMetadataRequest {
        doc_id,
        metadata: HashMap::from([("owner".into(), "nobody".into())]),
        merge: false,
        namespace: namespace.into(),
    };
    let delete = |doc_id, namespace: &str| DeleteRequest { doc_id, namespace: namespace.into() };
    for namespace in ["", "secret"] {
        for id in [OF_BETA + 1, OF_ACME, OF_ACME + 1] {
            let updated = client.update_metadata(by(&BETA, update(id, namespace))).await.unwrap();
            let deleted = client.delete(by(&BETA, delete(id, namespace))).await.unwrap();
            assert!(!updated.into_inner().existed && !deleted.into_inner().existed);
        }
    }
    // Ids that would be another tenant's without a check: tenant numbers are the upper half.
    for id in [1 << 32 | 7, u64::MAX] {
        let message = insert(id, &vector(&BETA, 1), &[]);
        let refused = [
            client.query(by(&BETA, query(id))).await.unwrap_err(),
            client.insert(by(&BETA, message)).await.unwrap_err(),
            client.delete(by(&BETA, delete(id, ""))).await.unwrap_err(),
            client.update_metadata(by(&BETA, update(id, ""))).await.unwrap_err(),
        ];
        for refused in refused {
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().contains("DOC_ID_OUT_OF_RANGE"), "{refused:?}");
        }
    }
    let batch = |delete_criteria| BatchDeleteRequest {
        delete_criteria: Some(delete_criteria),
        namespace: String::new(),
    };
    let filters = [exact("owner", "acme"), exact("__tenant_id__", "acme")];
    for filter in filters {
        let criteria = DeleteCriteria::Filter(filter);
        let done = client.batch_delete(by(&BETA, batch(criteria))).await.unwrap().into_inner();
        assert_eq!(done.deleted_count, 0);
    }
    let doc_ids = (2..=OF_ACME + 1).collect();
    let criteria = DeleteCriteria::Ids(IdList { doc_ids });
    let done = client.batch_delete(by(&BETA, batch(criteria))).await.unwrap().into_inner();
    assert_eq!(done.deleted_count, OF_BETA - 1);
    assert_eq!(all_of(client, &BETA).await, [1]);
    let everything = DeleteCriteria::Filter(MetadataFilter::default());
    let done = client.batch_delete(by(&BETA, batch(everything))).await.unwrap().into_inner();
    assert_eq!(done.deleted_count, 1);
}

#[test]
fn a_tenant_neither_sees_nor_changes_documents_of_another() {
    for partitions in ["1", "2"] {
        let place = Place::new(&[ACME, BETA, ROOT], &[("runtime.partitions", partitions)]);
        let mut process = place.start();
        runtime().block_on(async {
            let mut client = process.client().await;
            fill(&mut client).await;
            reads(&mut client).await;
            client.flush_hot_tier(by(&ROOT, FlushRequest { force: true })).await.unwrap();
            reads(&mut client).await;
            // An operator has no documents but its own.
            assert!(all_of(&mut client, &ROOT).await.is_empty());
        });
        // Unchanged after a crash, from the log and from a snapshot.
        process.kill();
        process = place.start();
        runtime().block_on(async {
            let mut client = process.client().await;
            reads(&mut client).await;
            client.create_snapshot(by(&ROOT, SnapshotRequest::default())).await.unwrap();
        });
        process.kill();
        process = place.start();
        runtime().block_on(async {
            let mut client = process.client().await;
            reads(&mut client).await;
            writes(&mut client).await;
            assert_eq!(all_of(&mut client, &ACME).await, (1..=OF_ACME + 1).collect::<Vec<_>>());
            let found = client.query(by(&ACME, query(OF_ACME))).await.unwrap().into_inner();
            assert_eq!(found.metadata["owner"], "acme");
        });
        process.stop();
    }
}

/// Result of every RPC, with a request that is valid in itself.
async fn every_rpc(client: &mut Client, entry: Option<&str>) -> Vec<(&'static str, Code)> {
    fn request<T>(key: Option<&str>, message: T) -> Request<T> {
        match key {
            None => Request::new(message),
            Some(key) => crate::with_key(key, message),
        }
    }
    fn code<T>(answer: Result<T, Status>) -> Code {
        answer.err().map_or(Code::Ok, |status| status.code())
    }
    let document = || insert(1, &vector(&BETA, 1), &[]);
    let documents = || tokio_stream::iter([document()]);
    let one = || search(&vector(&BETA, 1), 1);
    let streamed = match client.bulk_search(request(entry, tokio_stream::iter([one()]))).await {
        Ok(stream) => code(stream.into_inner().message().await),
        Err(status) => status.code(),
    };
    let criteria = Some(DeleteCriteria::Ids(IdList { doc_ids: vec![9] }));
    let batch = BatchDeleteRequest { delete_criteria: criteria, namespace: String::new() };
    let update = UpdateMetadataRequest { doc_id: 9, ..Default::default() };
    let bulk = BulkQueryRequest { doc_ids: vec![9], ..Default::default() };
    let delete = DeleteRequest { doc_id: 9, namespace: String::new() };
    let (load, all) = (request(entry, documents()), request(entry, documents()));
    vec![
        ("Insert", code(client.insert(request(entry, document())).await)),
        ("BulkInsert", code(client.bulk_insert(all).await)),
        ("BulkLoadHnsw", code(client.bulk_load_hnsw(load).await)),
        ("Delete", code(client.delete(request(entry, delete)).await)),
        ("UpdateMetadata", code(client.update_metadata(request(entry, update)).await)),
        ("BatchDelete", code(client.batch_delete(request(entry, batch)).await)),
        ("Query", code(client.query(request(entry, query(9))).await)),
        ("BulkQuery", code(client.bulk_query(request(entry, bulk)).await)),
        (
            "ListDocuments",
            code(client.list_documents(request(entry, ListDocumentsRequest::default())).await),
        ),
        ("Search", code(client.search(request(entry, one())).await)),
        ("BulkSearch", streamed),
        ("Health", code(client.health(request(entry, HealthRequest::default())).await)),
        ("Metrics", code(client.metrics(request(entry, MetricsRequest::default())).await)),
        (
            "FlushHotTier",
            code(client.flush_hot_tier(request(entry, FlushRequest::default())).await),
        ),
        (
            "CreateSnapshot",
            code(client.create_snapshot(request(entry, SnapshotRequest::default())).await),
        ),
        ("GetConfig", code(client.get_config(request(entry, ConfigRequest {})).await)),
    ]
}

/// RPCs that only operators may call.
const OPERATORS: [&str; 4] = ["Metrics", "FlushHotTier", "CreateSnapshot", "GetConfig"];

#[test]
fn every_rpc_asks_for_a_key_and_some_for_that_of_an_operator() {
    let place = Place::new(&[ACME, BETA, ROOT], &[]);
    let process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        let unknown = crate::key("acme", 'x');
        for bad in [None, Some(unknown.as_str()), Some("kyro"), Some("")] {
            for (rpc, code) in every_rpc(&mut client, bad).await {
                assert_eq!(code, Code::Unauthenticated, "{rpc} {bad:?}");
            }
        }
        for (rpc, code) in every_rpc(&mut client, Some(&BETA.key())).await {
            let is_for_operators = OPERATORS.contains(&rpc);
            let wanted = if is_for_operators { Code::PermissionDenied } else { Code::Ok };
            assert_eq!(code, wanted, "{rpc}");
        }
        for (rpc, code) in every_rpc(&mut client, Some(&ROOT.key())).await {
            assert_eq!(code, Code::Ok, "{rpc}");
        }
        // The two refusals differ, and the other header works as well.
        let missing = client.query(query(1)).await.unwrap_err();
        let invalid = client.query(crate::with_key(&unknown, query(1))).await.unwrap_err();
        assert!(missing.message().contains("x-api-key") && missing.message() != invalid.message());
        for (header, wanted) in [
            (format!("Bearer {}", BETA.key()), Code::Ok),
            (format!("bearer {}", BETA.key()), Code::Unauthenticated),
            (BETA.key(), Code::Unauthenticated),
        ] {
            let mut request = Request::new(query(1));
            request.metadata_mut().insert("authorization", header.parse().unwrap());
            let code = client.query(request).await.err().map_or(Code::Ok, |status| status.code());
            assert_eq!(code, wanted, "{header}");
        }
        let mut both = by(&BETA, query(1));
        both.metadata_mut().insert("authorization", format!("Bearer {unknown}").parse().unwrap());
        assert!(client.query(both).await.is_ok(), "x-api-key wins");
    });
    // No log line contains a key.
    let log = process.log();
    assert!([ACME.key(), BETA.key(), ROOT.key()].iter().all(|key| !log.contains(key)));
    process.stop();
}

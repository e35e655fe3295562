//! BatchDelete: by ids, by filter, within a namespace; all of it or nothing.

use kyrodb::proto::{BatchDeleteRequest, InsertRequest, MetadataFilter, SearchRequest};
use tonic::Code;

use super::SETTINGS;
use super::common::documents::{delete_ids, delete_where, query};
use super::common::filters::{and, empty, exact, gte, lt, not, or};
use super::common::{Client, Inside, bad_field, ids, insert, runtime, search, vector};

async fn delete(client: &mut Client, request: BatchDeleteRequest) -> u64 {
    let answer = client.batch_delete(request).await.unwrap().into_inner();
    assert!(answer.success && answer.error.is_empty(), "{answer:?}");
    answer.deleted_count
}

/// Ids of the remaining documents.
async fn left(client: &mut Client) -> Vec<u64> {
    let mut left = ids(&client.search(search(&vector(1, 8), 1_000)).await.unwrap().into_inner());
    left.sort_unstable();
    left
}

/// Stores documents 1, 2, … with these values of `n`, the even ones in the namespace `even`.
async fn store(client: &mut Client, values: &[&str]) {
    for (id, value) in (1..).zip(values) {
        let namespace = if id % 2 == 0 { "even" } else { "" };
        let request = insert(id, &vector(id, 8), &[("n", value)]);
        client.insert(InsertRequest { namespace: namespace.into(), ..request }).await.unwrap();
    }
}

#[test]
fn ids_are_deleted_once_each_and_unknown_ones_ignored() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        assert_eq!(delete(&mut client, delete_ids(&[1, 2, 3], "")).await, 0, "of nothing");
        store(&mut client, &["x"; 8]).await;
        assert_eq!(delete(&mut client, delete_ids(&[], "")).await, 0);
        assert_eq!(delete(&mut client, delete_ids(&[1, 99, 1, 3, 1], "")).await, 2);
        assert_eq!(left(&mut client).await, [2, 4, 5, 6, 7, 8]);
        assert_eq!(delete(&mut client, delete_ids(&[1, 3], "")).await, 0, "they are gone");
        assert_eq!(delete(&mut client, delete_ids(&[2, 5], "even")).await, 1);
        assert_eq!(delete(&mut client, delete_ids(&[4, 6], "other")).await, 0);
        assert_eq!(left(&mut client).await, [4, 5, 6, 7, 8]);

        let mut many: Vec<u64> = (7..10_007).collect();
        assert_eq!(delete(&mut client, delete_ids(&many, "")).await, 2);
        many.push(4);
        let status = client.batch_delete(delete_ids(&many, "")).await.unwrap_err();
        assert_eq!(bad_field(&status), "ids");
        let status = client.batch_delete(delete_ids(&[4, 0], "")).await.unwrap_err();
        assert_eq!(bad_field(&status), "ids");
        assert_eq!(left(&mut client).await, [4, 5, 6]);
    });
}

#[test]
fn a_filter_deletes_every_match_in_scope_and_nothing_else() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let values = ["9", "10", "1e1", "abc", "5x", "-3", "nan", "10"];
        let cases: [(MetadataFilter, &str, &[u64]); 11] = [
            (exact("n", "10"), "", &[2, 8]),
            (exact("n", "10"), "even", &[2, 8]),
            (exact("n", "9"), "even", &[]),
            (exact("m", "9"), "", &[]),
            // Numbers as numbers, other values bytewise, in one request.
            (gte("n", "10"), "", &[2, 3, 4, 5, 8]),
            (gte("n", "10"), "even", &[2, 4, 8]),
            (and(&[gte("n", "9"), lt("n", "10.5")]), "", &[1, 2, 3, 8]),
            (or(&[exact("n", "nan"), lt("n", "0")]), "", &[6, 7]),
            (not(exact("n", "9")), "", &[2, 3, 4, 5, 6, 7, 8]),
            (empty(), "even", &[2, 4, 6, 8]),
            (empty(), "", &[1, 2, 3, 4, 5, 6, 7, 8]),
        ];
        for (filter, namespace, expected) in cases {
            store(&mut client, &values).await;
            let request = delete_where(filter.clone(), namespace);
            assert_eq!(delete(&mut client, request).await, expected.len() as u64, "{filter:?}");
            let kept: Vec<u64> = (1..=8).filter(|id| !expected.contains(id)).collect();
            assert_eq!(left(&mut client).await, kept, "{filter:?} in `{namespace}`");
            assert_eq!(delete(&mut client, delete_where(filter, namespace)).await, 0);
        }
    });
}

#[test]
fn a_delete_without_criterion_is_refused() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, &["x"; 4]).await;
        for namespace in ["", "even"] {
            let namespace = namespace.into();
            let request = BatchDeleteRequest { delete_criteria: None, namespace };
            let status = client.batch_delete(request).await.unwrap_err();
            assert_eq!(
                (status.code(), bad_field(&status)),
                (Code::InvalidArgument, "delete_criteria".to_owned())
            );
        }
        assert_eq!(left(&mut client).await, [1, 2, 3, 4]);
    });
}

/// In one shard a batch is one change, whatever its number of documents.
#[test]
fn a_large_batch_is_seen_whole_or_not_at_all_and_survives_a_restart() {
    const COUNT: u64 = 9_000;
    let settings = [("hnsw.distance", "euclidean"), ("runtime.shards", "1")];
    let mut server = Inside::start(&settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        let requests = (1..=COUNT + 10).map(|id| {
            let group = if id <= COUNT { "gone" } else { "kept" };
            insert(id, &vector(id, 8), &[("group", group)])
        });
        for chunk in requests.collect::<Vec<_>>().chunks(5_000) {
            let stream = tokio_stream::iter(chunk.to_vec());
            assert!(client.bulk_insert(stream).await.unwrap().into_inner().success);
        }
        let count = |mut client: Client| async move {
            let filter = Some(exact("group", "gone"));
            // A beam so wide that all passing documents are looked at, and counted.
            let request = SearchRequest { filter, ef_search: 1_000, ..search(&vector(1, 8), 1) };
            let answer = client.search(request).await.unwrap().into_inner();
            assert_eq!(answer.coverage_reasons, [""; 0]);
            answer.total_found
        };
        let mut deleter = client.clone();
        let request = delete_where(exact("group", "gone"), "");
        let deleted = tokio::spawn(async move { delete(&mut deleter, request).await });
        let mut counts = Vec::new();
        let mut is_done = false;
        while !is_done {
            is_done = deleted.is_finished();
            counts.push(count(client.clone()).await);
        }
        assert_eq!(deleted.await.unwrap(), COUNT);
        counts.dedup();
        let whole = counts == [COUNT as u32, 0] || counts == [0];
        assert!(whole, "a part of the batch was seen: {counts:?}");
        let kept: Vec<u64> = (COUNT + 1..=COUNT + 10).collect();
        assert_eq!(left(&mut client).await, kept);
    });
    server.restart(&settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        assert_eq!(left(&mut client).await, (COUNT + 1..=COUNT + 10).collect::<Vec<_>>());
        assert!(!query(&mut client, 1, "").await.found);
    });
}

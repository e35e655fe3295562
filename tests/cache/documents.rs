//! Everything that an answer depends on: the query, writes, and the shards that can answer.

use std::sync::atomic::Ordering;

use kyrodb::proto::batch_delete_request::DeleteCriteria;
use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::{
    BatchDeleteRequest, DeleteRequest, ExactMatch, FlushRequest, IdList, InsertRequest,
    MetadataFilter, SearchRequest, UpdateMetadataRequest,
};

use crate::common::{Client, ids, insert, runtime, search, vector};
use crate::{DIMENSION, find, find_twice, is_hit, start};

fn exact(key: &str, value: &str) -> Option<MetadataFilter> {
    let exact = ExactMatch { key: key.into(), value: value.into() };
    Some(MetadataFilter { filter_type: Some(FilterType::Exact(exact)) })
}

fn document(id: u64, namespace: &str) -> InsertRequest {
    let namespace = namespace.to_owned();
    InsertRequest { namespace, ..insert(id, &vector(id, DIMENSION), &[("n", &id.to_string())]) }
}

async fn put(client: &mut Client, id: u64, namespace: &str) {
    client.insert(document(id, namespace)).await.unwrap();
}

async fn delete(client: &mut Client, doc_id: u64) {
    let request = DeleteRequest { doc_id, ..DeleteRequest::default() };
    client.delete(request).await.unwrap();
}

async fn update(client: &mut Client, doc_id: u64, value: &str) {
    let metadata = [("n".to_owned(), value.to_owned())].into();
    let request = UpdateMetadataRequest { doc_id, metadata, merge: true, ..Default::default() };
    assert!(client.update_metadata(request).await.unwrap().into_inner().existed);
}

async fn delete_batch(client: &mut Client, criteria: DeleteCriteria) {
    let delete_criteria = Some(criteria);
    let request = BatchDeleteRequest { delete_criteria, namespace: String::new() };
    assert_eq!(client.batch_delete(request).await.unwrap().into_inner().deleted_count, 1);
}

#[test]
fn each_question_has_an_answer_of_its_own() {
    let inside = start(&[]);
    runtime().block_on(async {
        let mut client = inside.client().await;
        for id in 1..=40 {
            put(&mut client, id, if id % 2 == 0 { "a" } else { "" }).await;
        }
        let plain = search(&vector(1, DIMENSION), 5);
        let questions = [
            plain.clone(),
            search(&vector(2, DIMENSION), 5),
            SearchRequest { k: 6, ..plain.clone() },
            SearchRequest { ef_search: 60, ..plain.clone() },
            SearchRequest { min_score: 0.2, ..plain.clone() },
            SearchRequest { include_embeddings: true, ..plain.clone() },
            SearchRequest { exact: true, ..plain.clone() },
            SearchRequest { namespace: "a".into(), ..plain.clone() },
            SearchRequest { filter: exact("n", "4"), ..plain.clone() },
            SearchRequest { metadata_filters: [("n".into(), "5".into())].into(), ..plain.clone() },
        ];
        for question in &questions {
            find_twice(&mut client, question).await;
        }
        // All answers are still there.
        for question in &questions {
            assert!(is_hit(&find(&mut client, question).await));
        }
        // An equal query in other terms: the default beam, a vector of another length, the vector of a document, a
        // least score without effect.
        let longer: Vec<f32> = vector(1, DIMENSION).iter().map(|value| 2.0 * value).collect();
        let same = [
            SearchRequest { ef_search: 50, ..plain.clone() },
            search(&longer, 5),
            SearchRequest { query_doc_id: 1, ..search(&[], 5) },
            SearchRequest { min_score: -0.5, ..plain.clone() },
        ];
        for question in same {
            assert!(is_hit(&find(&mut client, &question).await), "{question:?}");
        }
        // Searches of a stream use the cache too.
        let stream = client.bulk_search(tokio_stream::iter([plain.clone(), plain]));
        let mut answers = stream.await.unwrap().into_inner();
        for _ in 0..2 {
            assert!(is_hit(&answers.message().await.unwrap().unwrap()));
        }
    });
}

#[test]
fn every_write_is_seen_by_the_next_search() {
    let inside = start(&[]);
    runtime().block_on(async {
        let mut client = inside.client().await;
        let question =
            SearchRequest { include_embeddings: true, ..search(&vector(3, DIMENSION), 3) };
        let mut seen = vec![find_twice(&mut client, &question).await];
        assert!(seen[0].results.is_empty(), "nothing is stored yet");
        let mut turn = 0;
        loop {
            match turn {
                0 => put(&mut client, 3, "").await,
                1 => put(&mut client, 3, "a").await,
                2 => update(&mut client, 3, "changed").await,
                3 => {
                    client.bulk_insert(tokio_stream::iter([document(53, "")])).await.unwrap();
                }
                4 => {
                    client.bulk_load_hnsw(tokio_stream::iter([document(103, "")])).await.unwrap();
                }
                5 => delete(&mut client, 3).await,
                6 => {
                    delete_batch(&mut client, DeleteCriteria::Ids(IdList { doc_ids: vec![53] }))
                        .await
                }
                7 => {
                    delete_batch(&mut client, DeleteCriteria::Filter(exact("n", "103").unwrap()))
                        .await
                }
                _ => break,
            }
            let found = find_twice(&mut client, &question).await;
            // An upsert into another namespace is the only change that this query does not show.
            let is_new = seen.last().unwrap().results != found.results;
            assert_eq!(is_new, turn != 1, "turn {turn}");
            seen.push(found);
            turn += 1;
        }
        assert!(seen.last().unwrap().results.is_empty());
        // Linking changes no answer, and neither does a write without effect.
        put(&mut client, 3, "").await;
        find_twice(&mut client, &question).await;
        client.flush_hot_tier(FlushRequest { force: true }).await.unwrap();
        delete(&mut client, 1_000).await;
        assert!(is_hit(&find(&mut client, &question).await));
    });
}

#[test]
fn writes_to_other_namespaces_invalidate_no_answer() {
    let inside = start(&[]);
    runtime().block_on(async {
        let mut client = inside.client().await;
        put(&mut client, 1, "a").await;
        put(&mut client, 2, "b").await;
        let in_realm = |namespace: &str| SearchRequest {
            namespace: namespace.into(),
            ..search(&vector(1, DIMENSION), 10)
        };
        let (a, b, any) = (in_realm("a"), in_realm("b"), in_realm(""));
        for question in [&a, &b, &any] {
            find_twice(&mut client, question).await;
        }
        put(&mut client, 3, "b").await;
        assert!(is_hit(&find(&mut client, &a).await));
        assert_eq!(ids(&find_twice(&mut client, &b).await).len(), 2);
        assert_eq!(ids(&find_twice(&mut client, &any).await).len(), 3);
        // A document that moves leaves one namespace and enters the other.
        put(&mut client, 3, "a").await;
        assert_eq!(ids(&find_twice(&mut client, &a).await).len(), 2);
        assert_eq!(ids(&find_twice(&mut client, &b).await), [2]);
        find_twice(&mut client, &any).await;
        delete(&mut client, 3).await;
        assert_eq!(ids(&find_twice(&mut client, &a).await), [1]);
        assert!(is_hit(&find(&mut client, &b).await));
        update(&mut client, 2, "changed").await;
        assert!(is_hit(&find(&mut client, &a).await));
        find_twice(&mut client, &b).await;
        find_twice(&mut client, &any).await;
    });
}

#[test]
fn only_whole_answers_are_kept_and_only_while_all_shards_answer() {
    let inside = start(&[("runtime.partitions", "3")]);
    let shards = inside.server().observed().shards();
    let fence = |is_fenced| shards[1].is_fenced.store(is_fenced, Ordering::Relaxed);
    runtime().block_on(async {
        let mut client = inside.client().await;
        for id in 1..=20 {
            put(&mut client, id, "").await;
        }
        let [known, unknown] = [1, 2].map(|id| search(&vector(id, DIMENSION), 20));
        find_twice(&mut client, &known).await;
        fence(true);
        for question in [&known, &unknown, &unknown] {
            let found = find(&mut client, question).await;
            assert!(!is_hit(&found) && found.shards_answered < found.shards_asked, "{found:?}");
        }
        fence(false);
        assert!(is_hit(&find(&mut client, &known).await));
        assert_eq!(find_twice(&mut client, &unknown).await.results.len(), 20);
    });
}

#[test]
fn answers_are_bounded_and_single_queries_evict_none() {
    let inside = start(&[("cache.query_cache_capacity", "10")]);
    let cache = &inside.server().observed().gateway.cache;
    runtime().block_on(async {
        let mut client = inside.client().await;
        put(&mut client, 1, "").await;
        let question = |number| search(&vector(number, DIMENSION), 1);
        for number in 0..10 {
            find_twice(&mut client, &question(number)).await;
        }
        for number in 10..500 {
            assert!(!is_hit(&find(&mut client, &question(number)).await));
        }
        assert_eq!((cache.entries.get(), cache.evictions.get()), (10, 0));
        for number in 0..10 {
            assert!(is_hit(&find(&mut client, &question(number)).await));
        }
        // A repeated query is kept.
        for number in 10..20 {
            assert!(!is_hit(&find(&mut client, &question(number)).await), "it is kept now");
            // Unless another query has replaced its fingerprint since.
            let again = find(&mut client, &question(number)).await;
            assert!(is_hit(&again) || is_hit(&find(&mut client, &question(number)).await));
        }
        assert_eq!((cache.entries.get(), cache.evictions.get()), (10, 10));
        assert_eq!(cache.missed_repeats.get(), 10);
    });
}

#[test]
fn large_answers_are_not_kept() {
    let inside = start(&[("cache.query_cache_max_bytes", "8000")]);
    let cache = &inside.server().observed().gateway.cache;
    runtime().block_on(async {
        let mut client = inside.client().await;
        for id in 1..=100 {
            put(&mut client, id, "").await;
        }
        let large = search(&vector(1, DIMENSION), 100);
        for _ in 0..4 {
            assert!(!is_hit(&find(&mut client, &large).await));
        }
        assert_eq!(cache.entries.get(), 0);
        for number in 0..50 {
            for _ in 0..3 {
                find(&mut client, &search(&vector(number, DIMENSION), 1)).await;
            }
        }
        assert!(cache.entries.get() > 3 && cache.bytes.get() <= 8_000, "{}", cache.bytes.get());
    });
}

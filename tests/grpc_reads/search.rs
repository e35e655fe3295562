//! Search: bounds of requests, and the coverage and cost in answers.

use kyrodb::proto::search_response::SearchPath;
use kyrodb::proto::{InsertRequest, SearchRequest};

use super::common::{Inside, bad_field, ids, insert, runtime, search, vector};
use super::{SETTINGS, find, store};

#[test]
fn an_empty_server_finds_nothing_and_says_so() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let answer = find(&mut client, search(&vector(1, 8), 10)).await;
        assert_eq!((answer.results.len(), answer.total_found), (0, 0));
        assert_eq!(answer.search_path(), SearchPath::Unknown);
        assert_eq!((answer.shards_asked, answer.shards_answered), (3, 3));
    });
}

#[test]
fn an_answer_reports_its_sources_and_coverage() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        client.insert(insert(1, &vector(1, 8), &[])).await.unwrap();
        let answer = find(&mut client, search(&vector(1, 8), 10)).await;
        let fresh = [SearchPath::HotTierOnly, SearchPath::ColdTierOnly];
        assert!(fresh.contains(&answer.search_path()), "{answer:?}");
        store(&mut client, (2..=300).map(|id| insert(id, &vector(id, 8), &[])).collect()).await;
        let answer = find(&mut client, search(&vector(1, 8), 10)).await;
        assert_eq!(answer.search_path(), SearchPath::ColdTierOnly);
        assert!(answer.search_latency_ms > 0.0 && answer.search_latency_ms < 60_000.0);
        assert!(answer.error.is_empty());
        assert_eq!((answer.shards_asked, answer.shards_answered), (3, 3));
        assert_eq!(answer.coverage_reasons, [""; 0]);
        assert!((10..=300).contains(&answer.documents_considered), "{answer:?}");
        assert!((10..=300).contains(&answer.total_found), "{answer:?}");
    });
}

#[test]
fn k_and_ef_search_are_taken_up_to_their_bounds() {
    // The default beam must not be answered from the cache of an equal explicit one.
    let without_cache = [("cache.query_cache_enabled", "false")];
    let server = Inside::start(&[SETTINGS, &without_cache].concat());
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, (1..=3_000).map(|id| insert(id, &vector(id, 8), &[])).collect()).await;
        let query = vector(5_000, 8);
        let exact = find(&mut client, SearchRequest { ef_search: 10_000, ..search(&query, 1_000) });
        let exact = ids(&exact.await);
        assert_eq!(exact.len(), 1_000);
        for k in [1, 2, 999] {
            let request = SearchRequest { ef_search: 10_000, ..search(&query, k) };
            assert_eq!(ids(&find(&mut client, request).await), exact[..k as usize]);
        }
        let mut considered = 0;
        for ef_search in [1, 50, 10_000] {
            let answer = find(&mut client, SearchRequest { ef_search, ..search(&query, 1) }).await;
            assert!(answer.documents_considered > considered, "ef_search {ef_search} is ignored");
            considered = answer.documents_considered;
        }
        let default = find(&mut client, search(&query, 1)).await.documents_considered;
        let same = find(&mut client, SearchRequest { ef_search: 50, ..search(&query, 1) }).await;
        assert_eq!(default, same.documents_considered, "0 stands for hnsw.ef_search");
    });
}

#[test]
fn results_come_best_first_and_equal_scores_by_id() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        // Ten documents on each of thirty points, with ids in a mixed order.
        let place = |id: u64| vector(id * 7 % 30, 8);
        store(&mut client, (1..=300).map(|id| insert(id, &place(id), &[])).collect()).await;
        for seed in 0..10 {
            let answer = find(&mut client, search(&vector(seed, 8), 300)).await;
            assert_eq!(answer.results.len(), 300);
            for pair in answer.results.windows(2) {
                let (a, b) = (&pair[0], &pair[1]);
                let is_ordered = a.score > b.score || a.score == b.score && a.doc_id < b.doc_id;
                assert!(is_ordered, "{a:?} before {b:?}");
            }
            let mut closest: Vec<u64> = (1..=300).filter(|id| id * 7 % 30 == seed).collect();
            closest.sort_unstable();
            assert_eq!(ids(&answer)[..10], closest);
            let few = find(&mut client, search(&vector(seed, 8), 4)).await;
            assert_eq!(ids(&few), closest[..4], "the cut to k does not keep the lowest ids");
        }
    });
}

#[test]
fn a_search_may_name_a_stored_document_instead_of_a_vector() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        let request = |query_doc_id| SearchRequest { query_doc_id, ..search(&[], 10) };
        let status = client.search(request(1)).await.unwrap_err();
        assert_eq!(bad_field(&status), "query_doc_id", "there is no document at all");
        let document = |id: u64| InsertRequest {
            namespace: if id <= 100 { "low".into() } else { String::new() },
            ..insert(id, &vector(id, 8), &[])
        };
        store(&mut client, (1..=300).map(document).collect()).await;
        for id in [1, 150, 300] {
            let named = find(&mut client, request(id)).await;
            let sent = find(&mut client, search(&vector(id, 8), 10)).await;
            assert_eq!(named.results, sent.results);
            assert_eq!(named.results[0].doc_id, id);
        }
        let low = |id| SearchRequest { namespace: "low".into(), ..request(id) };
        let found = find(&mut client, low(1)).await;
        assert!(ids(&found).iter().all(|id| *id <= 100) && ids(&found).len() == 10);
        let both = SearchRequest { query_embedding: vector(1, 8), ..request(1) };
        for request in [both, low(150), request(301)] {
            let status = client.search(request).await.unwrap_err();
            assert_eq!(bad_field(&status), "query_doc_id");
        }
        let status = client.search(request(0)).await.unwrap_err();
        assert_eq!(bad_field(&status), "query_embedding", "neither is given");
    });
}

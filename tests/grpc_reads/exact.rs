//! `exact`: the true neighbours, whatever the beam, beside a walk that misses some.

use kyrodb::proto::{MetadataFilter, SearchRequest, SearchResponse};
use kyrodb::types::mix;

use super::common::documents::{delete_ids, delete_where};
use super::common::filters::{exact, lt};
use super::common::{Client, Inside, ids, insert, runtime, search};
use super::{SETTINGS, find, store};

const WIDTH: u64 = 24;
const COUNT: u64 = 6_000;
const QUERIES: u64 = 40;
const K: u32 = 10;

/// All distances differ, and there are no clusters: the worst case for a narrow beam.
fn place(id: u64) -> Vec<f32> {
    (0..WIDTH).map(|d| (mix(id << 8 | d) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn query(number: u64) -> Vec<f32> {
    place(1 << 32 | number)
}

fn page(id: u64) -> u64 {
    mix(id) % 10
}

/// Ids of the nearest existing documents.
fn truth(query: &[f32], is_there: impl Fn(u64) -> bool) -> Vec<u64> {
    let distance = |id: u64| -> f64 {
        let place = place(id);
        place.iter().zip(query).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    let mut near: Vec<(f64, u64)> =
        (1..=COUNT).filter(|&id| is_there(id)).map(|id| (distance(id), id)).collect();
    near.sort_by(|a, b| a.0.total_cmp(&b.0));
    near.into_iter().take(K as usize).map(|(_, id)| id).collect()
}

/// The narrowest beam: `ef_search` has no effect on an exact scan.
fn request(number: u64, filter: Option<MetadataFilter>, exact: bool) -> SearchRequest {
    SearchRequest { ef_search: 1, filter, exact, ..search(&query(number), K) }
}

fn assert_whole(answer: &SearchResponse) {
    assert_eq!((answer.shards_asked, answer.shards_answered), (3, 3), "{answer:?}");
    assert_eq!(answer.coverage_reasons, [""; 0]);
}

/// Searches with and without `exact`; returns how many true neighbours those without miss.
async fn compare(
    client: &mut Client,
    filter: Option<MetadataFilter>,
    is_there: impl Fn(u64) -> bool,
) -> usize {
    let there = (1..=COUNT).filter(|&id| is_there(id)).count();
    let mut missed = 0;
    for number in 0..QUERIES {
        let truth = truth(&query(number), &is_there);
        let answer = find(client, request(number, filter.clone(), true)).await;
        assert_whole(&answer);
        assert_eq!(ids(&answer), truth, "query {number}");
        assert_eq!(answer.total_found as usize, there);
        assert_eq!(answer.documents_considered as usize, there, "each one, once");
        let walked = find(client, request(number, filter.clone(), false)).await;
        assert_whole(&walked);
        let found = ids(&walked);
        missed += truth.iter().filter(|id| !found.contains(id)).count();
    }
    missed
}

#[test]
fn an_exact_search_finds_the_true_neighbours_where_a_walk_misses_some() {
    for codes in ["none", "sq8"] {
        let mut settings = SETTINGS.to_vec();
        settings.push(("hnsw.codes", codes));
        let server = Inside::start(&settings);
        runtime().block_on(async {
            let mut client = server.client().await;
            let document =
                |id: u64| insert(id, &place(id), &[("page", page(id).to_string().as_str())]);
            store(&mut client, (1..=COUNT).map(document).collect()).await;
            assert!(compare(&mut client, None, |_| true).await > 0, "the walk finds everything");
            // Deleted documents are not found; unlinked ones are.
            client.batch_delete(delete_where(exact("page", "9"), "")).await.unwrap();
            let first: Vec<u64> = (1..=500).collect();
            client.batch_delete(delete_ids(&first, "")).await.unwrap();
            for id in 1..=20 {
                client.insert(document(id)).await.unwrap();
            }
            let is_live = |id: u64| id <= 20 || id > 500 && page(id) != 9;
            assert!(compare(&mut client, None, is_live).await > 0, "the walk finds everything");
            // Enough documents pass for a walk.
            let filter = Some(lt("page", "6"));
            let passes = |id| is_live(id) && page(id) < 6;
            assert!(compare(&mut client, filter, passes).await > 0, "the walk finds everything");
        });
    }
}

#[test]
fn exact_searches_go_over_a_stream_and_keep_to_the_score_asked() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        store(&mut client, (1..=COUNT).map(|id| insert(id, &place(id), &[])).collect()).await;
        let requests: Vec<_> = (0..QUERIES).map(|n| request(n, None, true)).collect();
        let answers = client.bulk_search(tokio_stream::iter(requests)).await.unwrap();
        let mut answers = answers.into_inner();
        for number in 0..QUERIES {
            let answer = answers.message().await.unwrap().unwrap();
            assert_whole(&answer);
            assert_eq!(ids(&answer), truth(&query(number), |_| true));
            let min_score = answer.results[4].score;
            let near = SearchRequest { min_score, ..request(number, None, true) };
            let near = find(&mut client, near).await;
            assert_eq!(ids(&near), ids(&answer)[..5]);
            assert_eq!(near.total_found, 5, "only what has the score counts");
        }
    });
}

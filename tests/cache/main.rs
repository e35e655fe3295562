//! The query cache from outside: cached answers are those that a search would find, whatever was written, by any
//! client, for any client.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod documents;
mod model;
mod on_disk;
mod pages;
mod tenants;
mod writers;

use common::{Client, Inside, Settings};
use kyrodb::proto::search_response::SearchPath;
use kyrodb::proto::{SearchRequest, SearchResponse};

const DIMENSION: usize = 8;

/// The server compares no hit with a search of its own, unless a test wants that.
const SETTINGS: Settings<'static> =
    &[("runtime.shards", "3"), ("cache.query_cache_checks_per_second", "0")];

fn start(settings: Settings<'_>) -> Inside {
    Inside::start(&[SETTINGS, settings].concat())
}

async fn find(client: &mut Client, request: &SearchRequest) -> SearchResponse {
    client.search(request.clone()).await.unwrap().into_inner()
}

fn is_hit(response: &SearchResponse) -> bool {
    response.search_path() == SearchPath::CacheHit
}

/// The results, without the cost.
fn answer(response: &SearchResponse) -> SearchResponse {
    SearchResponse {
        search_latency_ms: 0.0,
        search_path: 0,
        documents_considered: 0,
        ..response.clone()
    }
}

/// Searches twice: the first answer has to be fresh, the second an equal one from the cache.
async fn find_twice(client: &mut Client, request: &SearchRequest) -> SearchResponse {
    let fresh = find(client, request).await;
    assert!(!is_hit(&fresh), "{request:?} has an answer of before: {fresh:?}");
    let again = find(client, request).await;
    assert!(is_hit(&again), "{request:?}: {again:?}");
    assert_eq!(again.documents_considered, 0);
    assert_eq!(answer(&fresh), answer(&again));
    fresh
}

//! The cache of queries from outside: answers that are given again are those that a search would find,
//! whatever is written, by whomever, for whomever.

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

/// No hit is compared with a search of the server's own, unless a test wants that.
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

/// What was found, without what it cost.
fn answer(response: &SearchResponse) -> SearchResponse {
    SearchResponse {
        search_latency_ms: 0.0,
        search_path: 0,
        documents_considered: 0,
        ..response.clone()
    }
}

/// Searches twice: the first answer has to be fresh, the second one the same from the cache.
async fn find_twice(client: &mut Client, request: &SearchRequest) -> SearchResponse {
    let fresh = find(client, request).await;
    assert!(!is_hit(&fresh), "{request:?} has an answer of before: {fresh:?}");
    let again = find(client, request).await;
    assert!(is_hit(&again), "{request:?}: {again:?}");
    assert_eq!(again.documents_considered, 0);
    assert_eq!(answer(&fresh), answer(&again));
    fresh
}

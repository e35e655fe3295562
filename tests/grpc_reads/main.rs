//! Every read of `kyrodb.v1` as its clients see it: by id, by vector, by filter, and in streams.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod completeness;
mod exact;
mod list;
mod query;
mod scores;
mod search;
mod stream;
mod timing;
mod truth;

use common::{Client, Settings};
use kyrodb::proto::{InsertRequest, SearchRequest, SearchResponse};

/// Vectors are kept as they are sent, and documents are spread over several shards.
const SETTINGS: Settings<'static> = &[("hnsw.distance", "euclidean"), ("runtime.shards", "3")];

async fn store(client: &mut Client, requests: Vec<InsertRequest>) {
    let count = requests.len() as u64;
    let answer = client.bulk_load_hnsw(tokio_stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!((answer.success, answer.total_loaded), (true, count), "{answer:?}");
}

async fn find(client: &mut Client, request: SearchRequest) -> SearchResponse {
    client.search(request).await.unwrap().into_inner()
}

//! Bounds on the cost of a search and an insert, in a form that does not depend on the machine: work that is counted,
//! and ratios of times inside one run. The bounds are in `perf/slo.toml`.
//!
//! `cargo test --test slo -- --nocapture` shows every figure beside its bound.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod allocations;
mod beside;
mod bounds;
mod cache;
mod engine;
mod filters;
mod searches;
mod syscalls;
mod threads;
mod vectors;
mod writes;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use common::clustered::Data;
use common::{Client, Settings, insert};
use kyrodb::proto::FlushRequest;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// Settings of all servers here: one core, no snapshots except on request, and no query cache, since searches are
/// measured.
const SETTINGS: Settings<'static> = &[
    ("runtime.cores", "1"),
    // The only environment in which snapshots may be disabled.
    ("environment.type", "benchmark"),
    ("persistence.snapshot_interval_mutations", "0"),
    ("cache.query_cache_enabled", "false"),
];

/// Lock that keeps other measurements from disturbing this one.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 20,000 documents and 500 queries.
fn data() -> &'static Data {
    static DATA: OnceLock<Data> = OnceLock::new();
    DATA.get_or_init(|| Data::new(20_000, 500))
}

/// Stores all documents, and waits until they are linked.
async fn load(client: &mut Client) {
    let documents: Vec<_> =
        (1..).zip(&data().documents).map(|(id, vector)| insert(id, vector, &[])).collect();
    let count = documents.len() as u64;
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap().into_inner();
    assert_eq!((loaded.total_loaded, loaded.total_failed), (count, 0));
    client.flush_hot_tier(FlushRequest { force: true }).await.unwrap();
}

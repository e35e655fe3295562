//! Every write of `kyrodb.v1` as its clients see it: its answer, its effects, and that all of them persist after a
//! restart.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod batch;
mod bulk;
mod pacing;
mod restart;
mod single;

use std::time::{SystemTime, UNIX_EPOCH};

use common::Settings;

/// Vectors are kept as they are sent, and documents are spread over several logs.
const SETTINGS: Settings<'static> = &[("hnsw.distance", "euclidean"), ("runtime.shards", "3")];

fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

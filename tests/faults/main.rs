//! Faults while the real program runs: a disk that fills, permissions that are revoked, files that are removed. Errors
//! of clients, pages of operators, and recovery without a restart.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod breaker;
mod files;
mod full;
mod reserve;

use std::time::Duration;

use common::documents::query;
use common::{Client, Process, Settings, get, insert, vector};
use tonic::{Code, Status};

const DIMENSION: usize = 8;

/// One log, so that it is known which one a write goes to.
const ONE_SHARD: Settings<'static> = &[("runtime.shards", "1")];

async fn put(client: &mut Client, id: u64) -> Result<(), Status> {
    let request = insert(id, &vector(id, DIMENSION), &[("n", &id.to_string())]);
    client.insert(request).await.map(|_| ())
}

/// Stores the documents 1 to `count`, each acknowledged.
async fn store(client: &mut Client, count: u64) {
    for id in 1..=count {
        put(client, id).await.unwrap();
    }
}

/// Which of the documents 1 to `count` are stored.
async fn stored(client: &mut Client, count: u64) -> Vec<u64> {
    let mut stored = Vec::new();
    for id in 1..=count {
        if query(client, id, "").await.found {
            stored.push(id);
        }
    }
    stored
}

/// Asserts that a request was refused with this code; returns the time after which to retry.
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> Duration {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status:?}");
    common::retry_delay(&status)
}

fn metrics(process: &Process) -> String {
    get(process.http, "/metrics").unwrap().1
}

/// Asserts that health is degraded with this reason; requests should still be sent to this server.
fn assert_degraded(process: &Process, why: &str) {
    let (code, body) = get(process.http, "/health").unwrap();
    assert_eq!(code, 200, "{body}");
    assert!(body.contains("\"status\":\"degraded\"") && body.contains(why), "{body}");
    assert_eq!(get(process.http, "/ready").unwrap().0, 200);
}

fn assert_healthy(process: &Process) {
    let (_, body) = get(process.http, "/health").unwrap();
    assert!(body.contains("\"status\":\"healthy\""), "{body}");
}

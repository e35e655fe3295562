//! What operators do: each call acts on POST, and says what has become of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};

use super::allocator;
use super::aside::aside;
use super::http::Pages;
use super::pages::Parameters;
use super::process::memory_bytes;
use crate::error::Error;
use crate::observe::counters::BreakerState;
use crate::shard::breaker::{Command, Report};
use crate::shard::rotate::Rotated;
use crate::shard::truncate::Truncated;

/// How long a compaction is waited for; it goes on afterwards.
const COMPACT_PATIENCE: Duration = Duration::from_secs(60);

fn answer(code: StatusCode, body: Value) -> Response {
    (code, Json(body)).into_response()
}

fn refuse(code: StatusCode, why: impl Into<String>) -> Response {
    answer(code, json!({ "error": why.into() }))
}

fn starting() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the server is starting: try again in a moment")
}

/// How the breakers of the logs are, after doing to all of them as an operator says.
pub(super) async fn breakers(
    State(pages): State<Arc<Pages>>,
    command: Option<Command>,
) -> Response {
    let Some(shards) = pages.shards.get() else { return starting() };
    let reports = shards.breakers(command).await;
    let states = reports.iter().flatten().map(|report| report.state);
    let worst = states.fold(BreakerState::Closed, BreakerState::worse);
    let is_whole = reports.iter().all(Option::is_some);
    let shards: Vec<_> = reports.iter().enumerate().map(|(shard, r)| breaker(shard, *r)).collect();
    let body = json!({ "state": worst.word(), "shards": shards });
    // Some core did not answer, so it did not do as it was told either.
    answer(if is_whole { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

fn breaker(shard: usize, report: Option<Report>) -> Value {
    let Some(report) = report else {
        return json!({ "shard": shard, "state": "unknown", "reason": "its core does not answer" });
    };
    let mut body = json!({
        "shard": shard,
        "state": report.state.word(),
        "recent_failures": report.failures,
    });
    if let Some(cause) = report.cause {
        body["reason"] = cause.words().into();
    }
    if !report.open_for.is_zero() {
        body["retry_after_ms"] = (report.open_for.as_millis() as u64).into();
    }
    body
}

/// Whether `?on` or `?off`, or `?state=on`, is asked for.
fn switch(parameters: &BTreeMap<String, String>) -> Result<bool, String> {
    let pairs: Vec<(&str, &str)> =
        parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    match pairs.as_slice() {
        [("on", "") | ("state", "on")] => Ok(true),
        [("off", "") | ("state", "off")] => Ok(false),
        _ => Err("say ?state=on or ?state=off".into()),
    }
}

/// Which modes are on.
pub(super) async fn modes(State(pages): State<Arc<Pages>>) -> Response {
    let modes = &pages.health.modes;
    let body = json!({
        "read_only": modes.is_read_only(),
        "maintenance": modes.is_maintenance(),
    });
    answer(StatusCode::OK, body)
}

/// Refuses writes, or takes them again; until it is switched off, over restarts.
pub(super) async fn read_only(pages: State<Arc<Pages>>, Query(parameters): Parameters) -> Response {
    match switch(&parameters) {
        Err(why) => refuse(StatusCode::BAD_REQUEST, why),
        Ok(is_on) => {
            let (health, data_dir) = (pages.health.clone(), pages.data_dir.clone());
            match aside(move || health.modes.set_read_only(&data_dir, is_on)).await {
                Ok(Ok(())) => modes(pages).await,
                Ok(Err(error)) => {
                    let why = format!("the switch could not be made durable: {error}");
                    refuse(StatusCode::INTERNAL_SERVER_ERROR, why)
                }
                Err(refused) => refused,
            }
        }
    }
}

/// Refuses reads and writes, or takes them again; until it is switched off or the server restarts.
pub(super) async fn maintenance(
    pages: State<Arc<Pages>>,
    Query(parameters): Parameters,
) -> Response {
    match switch(&parameters) {
        Err(why) => refuse(StatusCode::BAD_REQUEST, why),
        Ok(is_on) => {
            pages.health.set_maintenance(is_on);
            modes(pages).await
        }
    }
}

/// Limits the rate of all tenants together, until the configuration is loaded again.
pub(super) async fn rate_limit(
    State(pages): State<Arc<Pages>>,
    Query(parameters): Parameters,
) -> Response {
    let wanted = parameters.get("ops_per_sec").map(|text| text.parse::<u32>());
    match (wanted, parameters.len()) {
        (Some(Ok(per_second)), 1) => {
            pages.access.limit_all(per_second);
            answer(StatusCode::OK, json!({ "ops_per_sec": per_second }))
        }
        _ => refuse(
            StatusCode::BAD_REQUEST,
            "say ?ops_per_sec=N, a number of requests a second; 0 lifts the limit",
        ),
    }
}

/// Takes a snapshot of every shard.
pub(super) async fn snapshot(State(pages): State<Arc<Pages>>) -> Response {
    let Some(shards) = pages.shards.get() else { return starting() };
    match shards.snapshot().await {
        Ok(taken) => {
            let shards: Vec<Value> = taken
                .iter()
                .map(|shard| {
                    json!({
                        "file": shard.file,
                        "documents": shard.documents,
                        "bytes": shard.bytes,
                    })
                })
                .collect();
            answer(StatusCode::OK, json!({ "shards": shards }))
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Response {
    match error {
        Error::Busy { .. } | Error::Unavailable { .. } => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        _ => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Takes dead documents out of the graphs now, however few they are, so that their slots are free.
pub(super) async fn compact(State(pages): State<Arc<Pages>>) -> Response {
    let Some(shards) = pages.shards.get() else { return starting() };
    match tokio::time::timeout(COMPACT_PATIENCE, shards.compact()).await {
        Ok(Ok(count)) => answer(StatusCode::OK, json!({ "reclaimed": count, "is_done": true })),
        Ok(Err(error)) => failed(&error),
        // It goes on all the same.
        Err(_) => answer(StatusCode::ACCEPTED, json!({ "is_done": false })),
    }
}

/// Drops the segments of the log that snapshots cover, and says what is left and why.
pub(super) async fn truncate(State(pages): State<Arc<Pages>>) -> Response {
    let Some(shards) = pages.shards.get() else { return starting() };
    match shards.truncate().await {
        Ok(logs) => {
            let shard = |(shard, log): (usize, &Truncated)| {
                json!({
                    "shard": shard,
                    "removed": log.removed,
                    "kept_segments": log.kept,
                    "kept_bytes": log.kept_bytes,
                    "needed_from_lsn": log.needed_from,
                })
            };
            let shards: Vec<Value> = logs.iter().enumerate().map(shard).collect();
            answer(StatusCode::OK, json!({ "shards": shards }))
        }
        Err(error) => failed(&error),
    }
}

/// Begins a fresh segment of every log, so that the one before is complete.
pub(super) async fn rotate(State(pages): State<Arc<Pages>>) -> Response {
    let Some(shards) = pages.shards.get() else { return starting() };
    match shards.rotate().await {
        Ok(logs) => {
            let shard = |(shard, log): (usize, &Rotated)| {
                let (segment, is_new) = (&log.segment, log.is_new);
                json!({ "shard": shard, "segment": segment, "is_new": is_new })
            };
            let shards: Vec<Value> = logs.iter().enumerate().map(shard).collect();
            answer(StatusCode::OK, json!({ "shards": shards }))
        }
        Err(error) => failed(&error),
    }
}

/// Gives back memory that is not needed: answers that the cache of queries keeps, what profiles have
/// read of the program's symbols, and what the allocator keeps free, those two among it. Documents and
/// the graph stay as they are.
pub(super) async fn gc(State(pages): State<Arc<Pages>>) -> Response {
    let answers = pages.shards.get().map_or(0, |shards| shards.drop_answers());
    let looked = aside(|| {
        let before = memory_bytes().0;
        backtrace::clear_symbol_cache();
        let is_trimmed = allocator::trim();
        (before, memory_bytes().0, is_trimmed)
    });
    match looked.await {
        Ok((before, after, is_trimmed)) => answer(
            StatusCode::OK,
            json!({
                "resident_bytes_before": before,
                "resident_bytes_after": after,
                "answers_dropped": answers,
                "allocator_trimmed": is_trimmed,
            }),
        ),
        Err(refused) => refused,
    }
}

/// Reads the configuration and the API keys again, as SIGHUP does.
pub(super) async fn reload(State(pages): State<Arc<Pages>>) -> Response {
    let Some(reload) = pages.reload.get().cloned() else { return starting() };
    let Ok(turn) = pages.reloading.clone().try_lock_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "another reload is under way");
    };
    // It reads files, on file systems that may take their time.
    let reloaded = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        reload()
    });
    match reloaded.await {
        Ok(Ok(done)) => answer(StatusCode::OK, json!({ "reloaded": done })),
        Ok(Err(why)) => refuse(StatusCode::BAD_REQUEST, why),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the reload has panicked"),
    }
}

/// Ends the server: in good order, or at once.
pub(super) async fn shutdown(
    State(pages): State<Arc<Pages>>,
    Query(parameters): Parameters,
) -> Response {
    let is_emergency = match parameters.get("mode").map_or("graceful", String::as_str) {
        "graceful" => false,
        "emergency" => true,
        other => {
            let why = format!("mode `{other}` is neither graceful nor emergency");
            return refuse(StatusCode::BAD_REQUEST, why);
        }
    };
    if is_emergency {
        pages.health.modes.set_emergency();
    }
    // The way that an operator's own signal takes.
    let process = rustix::process::getpid();
    match rustix::process::kill_process(process, rustix::process::Signal::TERM) {
        Ok(()) => answer(StatusCode::ACCEPTED, json!({ "shutting_down": true })),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

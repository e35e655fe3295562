//! Pages that are read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};

use super::aside::aside;
use super::health::Verdict;
use super::http::{Pages, forbidden, unauthorized};
use super::metrics::{Facts, render};
use super::slo::{self, Service};
use super::slow::page;
use crate::access::{Caller, TenantUsage};
use crate::clock::unix_ms;
use crate::observe::counters::{MemoryPart, ShardCounters};

/// What stands after the `?`.
pub(super) type Parameters = Query<BTreeMap<String, String>>;

pub(super) async fn health(State(pages): State<Arc<Pages>>) -> Response {
    let (code, status, reason) = match pages.health.verdict() {
        // Scripts that wait for a server look for the word `ok`.
        Verdict::Healthy => (StatusCode::OK, "healthy", None),
        Verdict::Degraded(why) => (StatusCode::OK, "degraded", Some(why)),
        Verdict::Starting(progress) => {
            (StatusCode::SERVICE_UNAVAILABLE, "starting", Some(progress))
        }
        Verdict::Unhealthy(why) => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", Some(why)),
    };
    let mut body = json!({
        "status": status,
        "uptime_seconds": pages.health.uptime().as_secs(),
    });
    if status == "healthy" {
        body["ok"] = true.into();
    }
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    if let Some(note) = pages.health.note() {
        body["note"] = note.into();
    }
    (code, Json(body)).into_response()
}

/// True if a restart of the process would help.
pub(super) async fn alive(State(pages): State<Arc<Pages>>) -> Response {
    let (code, body) = match pages.health.deadlock() {
        None => (StatusCode::OK, json!({ "alive": true })),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "alive": false, "reason": why })),
    };
    (code, Json(body)).into_response()
}

pub(super) async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    let is_ready = pages.health.is_ready();
    let status = if is_ready { "ready" } else { "not_ready" };
    let mut body = json!({ "ready": is_ready, "status": status });
    match pages.health.verdict() {
        Verdict::Starting(progress) => body["progress"] = progress.into(),
        Verdict::Unhealthy(why) | Verdict::Degraded(why) => body["reason"] = why.into(),
        Verdict::Healthy => {}
    }
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

pub(super) async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let queues = pages
        .shards
        .get()
        .map(|router| (0..pages.health.hearts().len()).map(|core| router.queue_of(core)).collect());
    let text = render(&Facts {
        observed: &pages.observed,
        health: &pages.health,
        fsync_policy: pages.running.load().config.persistence.fsync_policy.word(),
        queues: queues.unwrap_or_default(),
    });
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

pub(super) async fn slo(State(pages): State<Arc<Pages>>) -> Response {
    Json(slo::page(&Service::of(&pages.observed), &pages.health.objectives())).into_response()
}

pub(super) async fn slow(State(pages): State<Arc<Pages>>) -> Response {
    Json(page(&pages.observed, &pages.health)).into_response()
}

pub(super) async fn usage(
    State(pages): State<Arc<Pages>>,
    caller: Option<Extension<Caller>>,
    Query(parameters): Parameters,
) -> Response {
    let error = |code, what: &str| (code, Json(json!({ "error": what }))).into_response();
    if !pages.access.is_on() {
        return error(StatusCode::NOT_FOUND, "usage is counted where auth.enabled is true");
    }
    let grant = caller.as_ref().and_then(|Extension(caller)| caller.grant());
    let Some(grant) = grant else { return unauthorized() };
    let scope = parameters.get("scope").map_or("self", String::as_str).to_ascii_lowercase();
    let of = match scope.as_str() {
        "self" => Some(grant.tenant_id.as_str()),
        "all" if grant.is_admin() => None,
        "all" => return forbidden(),
        other => {
            let what = format!("scope `{other}` is neither self nor all");
            return error(StatusCode::BAD_REQUEST, &what);
        }
    };
    let (access, of) = (pages.access.clone(), of.map(str::to_owned));
    // While keys are read from a disk that hangs, this waits, and no other page.
    let tenants = match aside(move || access.usage(of.as_deref())).await {
        Ok(tenants) => tenants,
        Err(refused) => return refused,
    };
    let sum = |of: fn(&TenantUsage) -> u64| tenants.iter().map(of).sum::<u64>();
    let seconds = i64::try_from(unix_ms() / 1_000).unwrap_or_default();
    let generated_at = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    Json(json!({
        "generated_at": generated_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        "totals": {
            "query_count": sum(|usage| usage.query_count),
            "vector_count": sum(|usage| usage.vector_count),
            "storage_bytes": sum(|usage| usage.storage_bytes),
            "billable_events": sum(|usage| usage.billable_events),
        },
        "tenants": tenants,
    }))
    .into_response()
}

/// Figures for people, shard by shard and core by core.
pub(super) async fn stats(State(pages): State<Arc<Pages>>) -> Response {
    let (observed, health) = (&pages.observed, &pages.health);
    let shards = observed.shards();
    let sum = |of: fn(&ShardCounters) -> u64| shards.iter().map(|shard| of(shard)).sum::<u64>();
    let router = pages.shards.get();
    let by_shard: Vec<Value> =
        shards.iter().enumerate().map(|(index, s)| shard(index, s)).collect();
    let cores = health.hearts().iter().enumerate().map(|(index, heart)| {
        let queue = router.map(|router| router.queue_of(index));
        let stalled: Duration = heart.stalled();
        json!({
            "core": index,
            "queue": queue,
            "is_running": !heart.is_stopped(),
            "stalled_ms": stalled.as_millis() as u64,
        })
    });
    let (used, peak) = (observed.host.resident_bytes.get(), observed.host.peak_bytes.get());
    let memory_max = Some(observed.memory.max()).filter(|&max| max < u64::MAX);
    let (counts, window) = observed.recent();
    let per_second =
        |count: u64| (count as f64 / window.as_secs_f64().max(1e-3) * 10.0).round() / 10.0;
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "git_commit": env!("KYRODB_GIT_COMMIT"),
        "uptime_seconds": health.uptime().as_secs(),
        "documents": sum(|s| s.documents.get()),
        "hot_documents": sum(|s| s.hot_documents.get()),
        "partitions": router.map(|router| router.partitions()),
        "searches_in_flight": router.map(|router| router.searches_in_flight()),
        "queries_per_second": per_second(counts.queries),
        "inserts_per_second": per_second(counts.inserts),
        "cpu_percent": (100.0 * counts.cpu.as_secs_f64() / window.as_secs_f64().max(1e-3)).round(),
        "memory": { "resident_bytes": used, "peak_bytes": peak, "max_bytes": memory_max },
        "disk": {
            "used_bytes": observed.host.disk_used_bytes.get(),
            "available_bytes": observed.space.available(),
            "reserve_bytes": observed.space.reserve(),
        },
        "shards": by_shard,
        "cores": cores.collect::<Vec<_>>(),
    }))
    .into_response()
}

fn shard(index: usize, shard: &ShardCounters) -> Value {
    let memory: serde_json::Map<String, Value> = MemoryPart::ALL
        .iter()
        .map(|&part| (part.word().to_owned(), shard.memory[part as usize].get().into()))
        .collect();
    json!({
        "shard": index,
        "documents": shard.documents.get(),
        "hot_documents": shard.hot_documents.get(),
        "linked_nodes": shard.linked_nodes.get(),
        "dead_nodes": shard.dead_nodes.get(),
        "searches": shard.searches.get(),
        "writes_waiting": shard.writes_waiting.get(),
        "log": {
            "unsynced_bytes": shard.unsynced_bytes.get(),
            "records": shard.wal_records.get(),
            "bytes": shard.wal_bytes.get(),
            "syncs": shard.wal_syncs.get(),
            "failures": shard.wal_failures.get(),
            "breaker": shard.breaker().word(),
        },
        "memory_bytes": memory,
        "is_fenced": shard.is_fenced(),
        "is_read_only": shard.is_read_only(),
    })
}

/// What is in force, and where each value comes from.
pub(super) async fn config(State(pages): State<Arc<Pages>>) -> Response {
    let mut values = BTreeMap::new();
    let running = pages.running.load();
    for (key, value) in running.config.leaves() {
        let origin = running.origins.get(&key).map_or("default", String::as_str);
        values.insert(key, json!({ "value": value, "origin": origin }));
    }
    Json(values).into_response()
}

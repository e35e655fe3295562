//! HTTP for operators: `/health`, `/ready`, `/metrics`, `/debug/slow`, and `/admin/circuit-breaker`.
//! On a thread of its own, so that it answers from the first moment and while the cores are busy.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::sync::oneshot;

use super::health::{Health, Verdict};
use super::metrics::render;
use super::slow::page;
use crate::observe::Observed;
use crate::observe::counters::BreakerState;
use crate::router::Router as Shards;
use crate::shard::breaker::{Command, Report};

/// Between two moves of the recent latency windows.
const TICK: Duration = Duration::from_secs(10);

/// What the pages tell about.
pub struct Pages {
    /// How the server is.
    pub health: Arc<Health>,
    /// What was counted.
    pub observed: Arc<Observed>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The way to the shards, once they are there.
    pub shards: OnceLock<Arc<Shards>>,
}

/// The thread that serves. Ends when dropped.
pub struct Http {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Http {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "pages do not panic");
        }
    }
}

/// Serves on `listener`.
///
/// # Errors
/// If the thread can't be made.
pub fn spawn(listener: std::net::TcpListener, pages: Arc<Pages>) -> std::io::Result<Http> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("kyro-http".into()).spawn(move || {
        runtime.block_on(async move {
            let observed = pages.observed.clone();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(TICK);
                ticks.tick().await;
                loop {
                    ticks.tick().await;
                    observed.tick();
                }
            });
            let serve = async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, router(pages)).await
            };
            tokio::select! {
                _ = stopped => {}
                served = serve => {
                    if let Err(error) = served {
                        tracing::error!("HTTP is not served any more: {error}");
                    }
                }
            }
        });
    })?;
    Ok(Http { stop: Some(stop), thread: Some(thread) })
}

fn router(pages: Arc<Pages>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/debug/slow", get(slow))
        .route("/admin/circuit-breaker/status", get(|pages| breakers(pages, None)))
        .route("/admin/circuit-breaker/reset", post(|pages| breakers(pages, Some(Command::Reset))))
        .route("/admin/circuit-breaker/trip", post(|pages| breakers(pages, Some(Command::Trip))))
        .with_state(pages)
}

async fn health(State(pages): State<Arc<Pages>>) -> Response {
    let (code, status, reason) = match pages.health.verdict() {
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
    if let Some(reason) = reason {
        body["reason"] = reason.into();
    }
    (code, Json(body)).into_response()
}

async fn ready(State(pages): State<Arc<Pages>>) -> Response {
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

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    let text = render(&pages.observed, &pages.health, &pages.data_dir);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn slow(State(pages): State<Arc<Pages>>) -> Response {
    Json(page(&pages.observed, &pages.health)).into_response()
}

/// How the breakers of the logs are, after doing to all of them as an operator says.
async fn breakers(State(pages): State<Arc<Pages>>, command: Option<Command>) -> Response {
    let Some(shards) = pages.shards.get() else {
        let body = json!({ "error": "the server is starting: there are no logs yet" });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    };
    let reports = shards.breakers(command).await;
    let states = reports.iter().flatten().map(|report| report.state);
    let worst = states.fold(BreakerState::Closed, BreakerState::worse);
    let is_whole = reports.iter().all(Option::is_some);
    let shards: Vec<_> = reports.iter().enumerate().map(|(shard, r)| breaker(shard, *r)).collect();
    let body = json!({ "state": worst.word(), "shards": shards });
    // Some core did not answer, so it did not do as it was told either.
    let code = if is_whole { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

fn breaker(shard: usize, report: Option<Report>) -> serde_json::Value {
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

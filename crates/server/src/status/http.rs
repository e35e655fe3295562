//! HTTP for operators and their programs. On a thread of its own, so that it answers from the first
//! moment and while the cores are busy.
//!
//! | Path | Who may, where keys are asked for | Where not |
//! |---|---|---|
//! | `/`, `/health`, `/ready`, `/healthz`, `/readyz`, `/livez` | anybody, or a key (`observability_auth` all) | anybody |
//! | `/metrics`, `/slo` | anybody, or a key (metrics_and_slo, all) | anybody |
//! | `/usage` | a key; an admin key for all tenants | no one: 404 |
//! | `/stats`, `/config`, `/debug/slow` | an admin key | anybody |
//! | `/debug/pprof/…`, `/admin/…` | an admin key | this machine |
//!
//! Before that, requests of other sites' pages, and without a key those by a name that is none of the
//! server's (`hosts`), are refused.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::http::header::ORIGIN;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::sync::oneshot;

use super::health::Health;
use super::incoming::{Limits, serve};
use super::look::Look;
use super::{admin, aside, hosts, index, pages, profile, scrub, threads, transitions};
use crate::access::{Access, Caller};
use crate::config::{ObservabilityAuth, Running};
use crate::observe::Observed;
use crate::observe::origin::{Origin, REQUEST_ID};
use crate::router::Router as Shards;
use crate::shard::breaker::Command;
use crate::tls::Tls;

/// Between two moves of the recent latency windows.
const TICK: Duration = Duration::from_secs(10);

/// What the pages tell about.
pub struct Pages {
    /// What is in force.
    pub running: Arc<ArcSwap<Running>>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// How the server is.
    pub health: Arc<Health>,
    /// What was counted.
    pub observed: Arc<Observed>,
    /// Who may see what.
    pub access: Arc<Access>,
    /// The way to the shards, once they are there.
    pub shards: OnceLock<Arc<Shards>>,
    /// Reads the configuration again, once that can be done.
    pub reload: OnceLock<Arc<Reload>>,
    /// Held while a page reads it.
    pub reloading: Arc<tokio::sync::Mutex<()>>,
}

/// Reads the configuration again: what has become of that, or why it can't be used.
pub type Reload = dyn Fn() -> Result<String, String> + Send + Sync;

/// The thread that serves. Ends when dropped.
pub struct Http {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _look: Look,
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

/// Serves on `listener`. Connections are bounded by the argument, and by those of `Limits`.
///
/// # Errors
/// If the thread can't be made.
pub fn spawn(
    listener: std::net::TcpListener,
    tls: Option<Arc<Tls>>,
    pages: Arc<Pages>,
    connections_max: usize,
) -> std::io::Result<Http> {
    listener.set_nonblocking(true)?;
    let look = Look::start(&pages.observed, pages.data_dir.clone())?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(aside::THREADS).thread_name("kyro-aside");
    let runtime = runtime.build()?;
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
            tokio::spawn(transitions::tell(pages.health.clone()));
            let observed = pages.observed.clone();
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!("HTTP is not served: {error}"),
            };
            let limits = Limits::default();
            let connections_max = connections_max.min(limits.connections_max);
            let limits = Limits { connections_max, ..limits };
            tokio::select! {
                _ = stopped => {}
                never = serve(listener, tls, router(pages), limits, observed) => match never {},
            }
        });
        // A reload that waits for a file system does not hold up the end of the server.
        runtime.shutdown_background();
    })?;
    Ok(Http { stop: Some(stop), thread: Some(thread), _look: look })
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

fn router(pages: Arc<Pages>) -> Router {
    let breakers = |command| move |pages| admin::breakers(pages, command);
    Router::new()
        .route("/", get(index::index))
        .route("/health", get(pages::health))
        .route("/healthz", get(pages::health))
        .route("/livez", get(pages::alive))
        .route("/ready", get(pages::ready))
        .route("/readyz", get(pages::ready))
        .route("/metrics", get(pages::metrics))
        .route("/slo", get(pages::slo))
        .route("/usage", get(pages::usage))
        .route("/stats", get(pages::stats))
        .route("/config", get(pages::config))
        .route("/debug/slow", get(pages::slow))
        .route("/debug/pprof/", get(threads::index))
        .route("/debug/pprof/threads", get(threads::threads))
        .route("/debug/pprof/goroutine", get(threads::threads))
        .route("/debug/pprof/profile", get(profile::profile))
        .route("/debug/pprof/heap", get(profile::heap))
        .route("/admin/circuit-breaker/status", get(breakers(None)))
        .route("/admin/circuit-breaker/reset", post(breakers(Some(Command::Reset))))
        .route("/admin/circuit-breaker/trip", post(breakers(Some(Command::Trip))))
        .route("/admin/read-only", get(admin::modes).post(admin::read_only))
        .route("/admin/maintenance", get(admin::modes).post(admin::maintenance))
        .route("/admin/rate-limit", post(admin::rate_limit))
        .route("/admin/snapshot", post(admin::snapshot))
        .route("/admin/compact", post(admin::compact))
        .route("/admin/wal/truncate", post(admin::truncate))
        .route("/admin/wal/rotate", post(admin::rotate))
        .route("/admin/gc", post(admin::gc))
        .route("/admin/scrub", get(scrub::page).post(scrub::scrub))
        .route("/admin/reload", post(admin::reload))
        .route("/admin/shutdown", post(admin::shutdown))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(pages.clone(), guard))
        .with_state(pages)
}

async fn no_such_page() -> Response {
    let error = "no such page. There are /, /health, /ready, /livez, /metrics, /slo, /usage, /stats, \
                 /config, /debug/slow, /debug/pprof/ and /admin/…";
    (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
}

async fn no_such_method() -> Response {
    let error = "not with this method: pages are read with GET, and /admin/… acts on POST";
    (StatusCode::METHOD_NOT_ALLOWED, Json(json!({ "error": error }))).into_response()
}

/// What a page asks of who reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Key,
    /// An admin key; where there are no keys, nothing.
    Admin,
    /// An admin key; where there are no keys, to be on this machine.
    Operator,
}

fn need(path: &str, auth: ObservabilityAuth) -> Need {
    let key_if = |is_needed| if is_needed { Need::Key } else { Need::Nothing };
    match path {
        "/" | "/health" | "/healthz" | "/livez" | "/ready" | "/readyz" => {
            key_if(auth == ObservabilityAuth::All)
        }
        "/metrics" | "/slo" => key_if(auth != ObservabilityAuth::Disabled),
        "/stats" | "/config" => Need::Admin,
        _ if path.starts_with("/debug/pprof/") => Need::Operator,
        _ if path.starts_with("/debug/") => Need::Admin,
        _ if path.starts_with("/admin/") => Need::Operator,
        // It looks for itself; and what is not there is not guarded.
        _ => Need::Nothing,
    }
}

/// Lets a request through, if who sends it may; and keeps a line of what operators do.
async fn guard(
    State(pages): State<Arc<Pages>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut origin = Origin::read(request.headers());
    let need = need(request.uri().path(), pages.running.load().config.server.observability_auth);
    let caller = pages.access.caller(request.headers());
    let refused = refusal(&pages, &request, caller.as_ref().ok());
    let refused = refused.or_else(|| judge(need, &caller, &pages, peer, &request));
    let line = (need == Need::Operator).then(|| {
        let tenant =
            caller.as_ref().ok().and_then(Caller::grant).map(|grant| grant.tenant_id.clone());
        // Without what stands after a `?` of somebody who was not let in.
        let asked = request.uri().path_and_query().map_or("", |asked| asked.as_str());
        let asked = if refused.is_none() { asked } else { request.uri().path() };
        (request.method().to_string(), asked.to_owned(), tenant.unwrap_or_default())
    });
    let mut response = match refused {
        None => {
            if let Ok(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Some(refused) => refused,
    };
    if let Some((method, asked, tenant)) = line {
        let status = response.status().as_u16();
        origin.named();
        tracing::info!(
            target: "kyrodb::audit",
            request_id = origin.request_id(),
            trace_id = origin.trace_id(),
            %peer,
            tenant,
            method,
            asked,
            status,
            "admin call",
        );
    }
    if let Some(id) = origin.request_id {
        response.headers_mut().insert(REQUEST_ID, id.value());
    }
    response
}

/// The answer to who may not see a page; `None` to who may.
fn judge(
    need: Need,
    caller: &crate::error::Result<Caller>,
    pages: &Pages,
    peer: SocketAddr,
    request: &Request,
) -> Option<Response> {
    match (need, caller) {
        (Need::Nothing, _) => None,
        (_, Err(_)) => Some(unauthorized()),
        (Need::Key, Ok(_)) => None,
        (Need::Operator, Ok(_)) if !pages.access.is_on() && !is_at_hand(peer, request) => {
            Some(forbidden())
        }
        (Need::Admin | Need::Operator, Ok(caller)) if !caller.is_admin() => Some(forbidden()),
        (Need::Admin | Need::Operator, Ok(_)) => None,
    }
}

/// Why a request is refused wherever it is from and whatever it asks for.
fn refusal(pages: &Pages, request: &Request, caller: Option<&Caller>) -> Option<Response> {
    let refuse =
        |why: &str| Some((StatusCode::FORBIDDEN, Json(json!({ "error": why }))).into_response());
    let (headers, path) = (request.headers(), request.uri().path());
    if hosts::is_cross_site(headers) {
        return refuse(
            "asked for by a page of another site: open it yourself, or ask by a program",
        );
    }
    // No page has a key.
    if caller.is_some_and(|caller| caller.grant().is_some()) {
        return None;
    }
    let running = pages.running.load();
    let server = &running.config.server;
    // In a network, monitors come by names that only they know; they see what all of it may see.
    let is_for_monitors = is_monitored(path) && !server.is_http_on_loopback();
    if !is_for_monitors && let Some(why) = hosts::refusal(headers, request.uri(), server) {
        return refuse(&why);
    }
    let is_guarded = matches!(need(path, server.observability_auth), Need::Admin | Need::Operator);
    if is_guarded && !pages.access.is_on() && hosts::is_forwarded(headers) {
        return refuse(
            "asked for through a proxy, for a client that may be anywhere: this page needs \
             auth.enabled there, or a request to the server itself",
        );
    }
    None
}

/// Read by monitors and orchestrators.
fn is_monitored(path: &str) -> bool {
    matches!(path, "/health" | "/healthz" | "/livez" | "/ready" | "/readyz" | "/metrics" | "/slo")
}

/// Sent by a program on this machine; not by a browser on it that some page has told to.
fn is_at_hand(peer: SocketAddr, request: &Request) -> bool {
    let headers = request.headers();
    let is_page = headers.contains_key(ORIGIN) || headers.contains_key(hosts::SEC_FETCH_SITE);
    peer.ip().to_canonical().is_loopback() && !is_page
}

/// As the contract has it: without a content type.
pub(super) fn unauthorized() -> Response {
    bare(StatusCode::UNAUTHORIZED, "unauthorized")
}

pub(super) fn forbidden() -> Response {
    bare(StatusCode::FORBIDDEN, "forbidden")
}

fn bare(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

//! Connections of HTTP, with TLS or without, and what holds clients to their part: how many there may be,
//! how long one may take for the head of a request or do nothing, how large a head and a body may be.
//!
//! Slow and hostile clients can so hold a place for a bounded time only, and delay no other client: a
//! connection is a task, and a task that agrees on keys or waits for a client uses no CPU.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::either::Either;
use tokio_util::io::InspectReader;
use tower::ServiceExt;

use super::http::Peer;
use crate::observe::Observed;
use crate::tls::{Protocol, Stream, Tls};

/// After a failure to accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Bytes of the head of a request: more is 431.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of a request: more is 431.
const HEADERS_MAX: usize = 100;

/// Bytes of the body of a request, which no page reads: more is 413.
const BODY_BYTES_MAX: u64 = 64 << 10;

/// What is read ahead, and written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Open at once.
    pub(super) connections_max: usize,
    /// For the head of a request, from its first byte on.
    pub(super) head: Duration,
    /// Without a request in work: for the next request to begin and the last answer to be taken.
    pub(super) idle: Duration,
    /// Shorter limit in place of `idle`, while more than half of all places are taken.
    pub(super) idle_crowded: Duration,
    /// Longest time between two looks.
    pub(super) look: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            head: Duration::from_secs(10),
            // Longer than the usual minute between two scrapes.
            idle: Duration::from_secs(75),
            idle_crowded: Duration::from_secs(5),
            look: Duration::from_secs(1),
        }
    }
}

/// Serves `router` to who connects, for as long as it is polled.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    limits: Limits,
    observed: Arc<Observed>,
) -> Infallible {
    let mut refused_logged: Option<Instant> = None;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection of HTTP could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let counters = &observed.gateway;
        let open = counters.http_connections.load(Ordering::Relaxed);
        if open >= limits.connections_max as u64 {
            counters.http_connections_refused.add(1);
            if refused_logged.is_none_or(|logged| logged.elapsed() > Duration::from_secs(10)) {
                refused_logged = Some(Instant::now());
                tracing::warn!("connections of HTTP are refused: {open} are open");
            }
            continue;
        }
        counters.http_connections.fetch_add(1, Ordering::Relaxed);
        let connection = Connection { peer, limits, observed: observed.clone() };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            match secured(tls, stream).await {
                Ok(stream) => connection.run(stream, router).await,
                Err(error) => tracing::debug!(%peer, "no TLS with a client of HTTP: {error}"),
            }
        });
    }
}

/// Agrees on keys with a client, where there are any.
async fn secured(tls: Option<Arc<Tls>>, stream: TcpStream) -> io::Result<Stream> {
    match tls {
        None => Ok(Either::Left(stream)),
        Some(tls) => tls.accept(Protocol::Http, stream).await.map(Either::Right),
    }
}

/// A place, until this is dropped.
struct Connection {
    peer: SocketAddr,
    limits: Limits,
    observed: Arc<Observed>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.observed.gateway.http_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    async fn run(self, stream: Stream, router: Router) {
        let (peer, activity) = (self.peer, Arc::new(Activity::default()));
        let noted = activity.clone();
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let in_work = InWork::begin(&noted);
            let answer = answer(router.clone(), request, peer);
            async move {
                let _in_work = in_work;
                Ok::<_, Infallible>(answer.await)
            }
        });
        let read = activity.clone();
        let note = move |bytes: &[u8]| {
            if !bytes.is_empty() {
                read.note_bytes();
            }
        };
        let io = TokioIo::new(InspectReader::new(stream, note));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // That one would run between requests as well, and end every scrape's connection.
            .header_read_timeout(None)
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        loop {
            let left = activity.left(&self.limits, self.is_crowded());
            if left.is_zero() {
                tracing::debug!(%peer, "a client of HTTP took its time");
                return;
            }
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, "a connection of HTTP ended: {error}");
                    }
                    return;
                }
                () = tokio::time::sleep(left.min(self.limits.look)) => {}
            }
        }
    }

    fn is_crowded(&self) -> bool {
        let open = self.observed.gateway.http_connections.load(Ordering::Relaxed);
        open > self.limits.connections_max as u64 / 2
    }
}

async fn answer(router: Router, mut request: Request<Incoming>, peer: SocketAddr) -> Response {
    if body_bytes(request.headers()) > BODY_BYTES_MAX {
        let error = format!("a body may have {BODY_BYTES_MAX} bytes, and is not read");
        let body = Json(json!({ "error": error }));
        let close = [(header::CONNECTION, "close")];
        return (StatusCode::PAYLOAD_TOO_LARGE, close, body).into_response();
    }
    request.extensions_mut().insert(ConnectInfo(Peer(peer)));
    router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {})
}

/// As announced. One that comes in chunks is of any length; it is not read either, and ends the
/// connection.
fn body_bytes(headers: &HeaderMap) -> u64 {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

/// What a connection is at.
struct Activity {
    begun: Instant,
    /// When there was nothing to do for it any more, in milliseconds since it began.
    idle_ms: AtomicU64,
    /// When the head of a request began to come, and a bit more than that; 0 while none does.
    head_ms: AtomicU64,
    /// Requests that are being worked on.
    requests: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            idle_ms: AtomicU64::new(0),
            head_ms: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Bytes have come.
    fn note_bytes(&self) {
        if self.requests.load(Ordering::Relaxed) == 0 && self.head_ms.load(Ordering::Relaxed) == 0 {
            self.head_ms.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// How long the client may still take.
    fn left(&self, limits: &Limits, is_crowded: bool) -> Duration {
        if self.requests.load(Ordering::Relaxed) > 0 {
            return Duration::MAX;
        }
        let since = |ms| Duration::from_millis(self.now_ms().saturating_sub(ms));
        let idle_max = if is_crowded { limits.idle_crowded } else { limits.idle };
        let idle = idle_max.saturating_sub(since(self.idle_ms.load(Ordering::Relaxed)));
        match self.head_ms.load(Ordering::Relaxed) {
            0 => idle,
            begun_ms => idle.min(limits.head.saturating_sub(since(begun_ms))),
        }
    }
}

/// A request that is being worked on, until this is dropped.
struct InWork(Arc<Activity>);

impl InWork {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        activity.head_ms.store(0, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.idle_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NEVER: Duration = Duration::from_secs(3_600);

    /// Limits that end nothing.
    const LIMITS: Limits = Limits {
        connections_max: 100,
        head: NEVER,
        idle: NEVER,
        idle_crowded: NEVER,
        look: Duration::from_millis(5),
    };

    /// Serves a page, one that takes its time, and one that has more to say than is taken.
    async fn listen(limits: Limits) -> (SocketAddr, Arc<Observed>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let observed = Arc::new(Observed::default());
        let slow = async || {
            tokio::time::sleep(MS * 200).await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/slow", get(slow))
            .route("/long", get(async || vec![b'x'; 64 << 20]));
        tokio::spawn(serve(listener, None, router, limits, observed.clone()));
        (address, observed)
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.unwrap()
    }

    /// What comes until the server closes the connection.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        stream.read_to_end(&mut bytes).await.ok();
        String::from_utf8(bytes).unwrap()
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut bytes) = (String::new(), [0; 1_024]);
        while !answer.ends_with("here") && !answer.ends_with("slow") {
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "it was closed after: {answer}");
            answer.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        answer
    }

    #[tokio::test]
    async fn one_that_sends_its_head_byte_by_byte_is_ended() {
        let (address, _) = listen(Limits { head: MS * 100, ..LIMITS }).await;
        let (mut reader, mut writer) = connect(address).await.into_split();
        let trickle = tokio::spawn(async move {
            let mut sent = 0_u64;
            // Each byte is in time for the one before.
            while writer.write_all(b"G").await.is_ok() {
                sent += 1;
                tokio::time::sleep(MS * 10).await;
            }
            sent
        });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.ok();
        assert!(answer.is_empty());
        assert!(trickle.await.unwrap() > 1);
        // A client that sends nothing at all has begun no head.
        let mut other = connect(address).await;
        tokio::time::sleep(MS * 200).await;
        assert!(ask(&mut other, "/").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn one_that_does_nothing_is_ended_and_one_that_waits_is_not() {
        let (address, observed) = listen(Limits { idle: MS * 100, ..LIMITS }).await;
        let mut silent = connect(address).await;
        assert_eq!(rest(&mut silent).await, "");
        // The answer takes longer than an idle connection may live, and the next request comes soon.
        let mut working = connect(address).await;
        for _ in 0..3 {
            assert!(ask(&mut working, "/slow").await.ends_with("slow"));
        }
        assert_eq!(rest(&mut working).await, "");
        while observed.gateway.http_connections.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(MS).await;
        }
    }

    #[tokio::test]
    async fn one_that_does_not_take_its_answer_is_ended() {
        let (address, observed) = listen(Limits { idle: MS * 200, ..LIMITS }).await;
        let mut stream = connect(address).await;
        stream.write_all(b"GET /long HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        let open = || observed.gateway.http_connections.load(Ordering::Relaxed);
        while open() == 0 {
            tokio::time::sleep(MS).await;
        }
        while open() > 0 {
            tokio::time::sleep(MS).await;
        }
        drop(stream);
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_they_are_given_back() {
        let (address, observed) = listen(Limits { connections_max: 3, ..LIMITS }).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut stream = connect(address).await;
            ask(&mut stream, "/").await;
            open.push(stream);
        }
        assert_eq!(rest(&mut connect(address).await).await, "");
        assert_eq!(observed.gateway.http_connections_refused.get(), 1);
        assert!(ask(&mut open[0], "/").await.ends_with("here"), "the others go on");
        open.pop();
        while observed.gateway.http_connections.load(Ordering::Relaxed) > 2 {
            tokio::time::sleep(MS).await;
        }
        ask(&mut connect(address).await, "/").await;
    }

    #[tokio::test]
    async fn idle_ones_make_room_where_it_is_crowded() {
        let limits = Limits { connections_max: 4, idle_crowded: MS * 50, ..LIMITS };
        let (address, observed) = listen(limits).await;
        let mut idle = Vec::new();
        for _ in 0..4 {
            idle.push(connect(address).await);
        }
        // Two are no crowd, and stay.
        while observed.gateway.http_connections.load(Ordering::Relaxed) != 2 {
            tokio::time::sleep(MS).await;
        }
        ask(&mut connect(address).await, "/").await;
    }

    #[tokio::test]
    async fn heads_and_bodies_have_a_size() {
        let (address, _) = listen(LIMITS).await;
        let head =
            |length: usize| format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}", "x".repeat(length));
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        let length = BODY_BYTES_MAX + 1;
        let cases = [
            (head(HEAD_BYTES_MAX), "431"),
            // It is refused before its end has come.
            (head(HEAD_BYTES_MAX + 100) + "\r\n\r\n", "431"),
            (format!("GET / HTTP/1.1\r\nHost: test\r\n{many}\r\n"), "431"),
            (format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"), "413"),
            (format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(HEAD_BYTES_MAX)), "4"),
        ];
        for (request, code) in cases {
            let mut stream = connect(address).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = rest(&mut stream).await;
            let begin = format!("HTTP/1.1 {code}");
            assert!(answer.starts_with(&begin), "{code}: {answer} for {:.60}", request);
        }
        let mut stream = connect(address).await;
        stream.write_all((head(8_000) + "\r\n\r\n").as_bytes()).await.unwrap();
        assert!(ask(&mut stream, "/").await.starts_with("HTTP/1.1 200"));
    }

    /// A body in chunks that has no end is not read, and its connection is not used again.
    #[tokio::test]
    async fn a_body_without_end_is_not_waited_for() {
        let (address, _) = listen(Limits { idle: MS * 500, ..LIMITS }).await;
        let (mut reader, mut writer) = connect(address).await.into_split();
        let head = b"GET / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        writer.write_all(head).await.unwrap();
        let sending = tokio::spawn(async move {
            let chunk = format!("400\r\n{}\r\n", "x".repeat(1_024));
            while writer.write_all(chunk.as_bytes()).await.is_ok() {}
        });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.ok();
        assert!(String::from_utf8(answer).unwrap().starts_with("HTTP/1.1 200"));
        sending.await.unwrap();
    }
}

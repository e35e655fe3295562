//! Accepts connections and speaks HTTP/2 on them.
//!
//! Not tonic's own transport server: that one answers deadlines itself (and so cuts off partial
//! answers), knows no limit on connections, and closes none that is idle.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::either::Either;
use tokio_util::io::{InspectReader, InspectWriter};
use tower::Service;

use crate::observe::Observed;
use crate::tls::{Protocol, Stream, Tls};

/// Flow-control windows: large enough that a bulk load is not held up by round trips.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Requests in flight on one connection.
const STREAMS_MAX: u32 = 1_024;

/// Bytes of headers of one request.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// After a failure to accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Least time between two looks at whether a connection is idle.
const IDLE_LOOK_MIN: Duration = Duration::from_millis(50);

/// A connection that is told to go, has no request to be answered and does not move a byte for
/// so long is closed. What holds it is a stream that only the client would end, such as a watch.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open at once.
    pub connections_max: usize,
    /// One without a request being worked on, and without a byte in either direction, for so
    /// long is closed.
    pub idle: Duration,
}

/// Ends the serving: sent once, when the server begins to shut down.
pub type Drain = watch::Receiver<bool>;

/// Where clients come from.
pub struct Door {
    /// What they connect to.
    pub listener: TcpListener,
    /// How they agree on keys; `None` if they do not.
    pub tls: Option<Arc<Tls>>,
}

/// Serves until `drain` is set, then until every request in flight has been answered. Dropping
/// the future ends it at once.
pub async fn serve<S>(
    Door { listener, tls }: Door,
    service: S,
    limits: Limits,
    observed: Arc<Observed>,
    mut drain: Drain,
) where
    S: Service<
            http::Request<Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    // Every connection holds a sender: when the last is gone, so is the last connection.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut refused_logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = drain.wait_for(|drain| *drain) => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let open = observed.gateway.connections.load(Ordering::Relaxed);
        if open >= limits.connections_max as u64 {
            observed.gateway.connections_refused.add(1);
            if refused_logged.is_none_or(|logged| logged.elapsed() > Duration::from_secs(10)) {
                refused_logged = Some(Instant::now());
                tracing::warn!("connections are refused: {open} are open (server.max_connections)");
            }
            continue;
        }
        let connection = Connection { limits, observed: observed.clone(), drain: drain.clone() };
        observed.gateway.connections.fetch_add(1, Ordering::Relaxed);
        let (tls, service, alive) = (tls.clone(), service.clone(), alive.clone());
        tokio::spawn(async move {
            match secured(tls, stream, connection.drain.clone()).await {
                Ok(stream) => connection.run(stream, service, alive).await,
                Err(error) => tracing::debug!("no TLS with a client: {error}"),
            }
        });
    }
    drop((listener, alive));
    all_gone.recv().await;
}

/// Agrees on keys with a client, where there are any. A server at its end does not wait for that.
async fn secured(tls: Option<Arc<Tls>>, stream: TcpStream, mut drain: Drain) -> io::Result<Stream> {
    let Some(tls) = tls else { return Ok(Either::Left(stream)) };
    tokio::select! {
        accepted = tls.accept(Protocol::Grpc, stream) => accepted.map(Either::Right),
        _ = drain.wait_for(|drain| *drain) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Accepts a connection, and sets it up.
async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    // Nagle's algorithm would hold back small answers for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY could not be set: {error}");
    }
    Ok(stream)
}

struct Connection {
    limits: Limits,
    observed: Arc<Observed>,
    drain: Drain,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.observed.gateway.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    async fn run<S>(mut self, stream: Stream, service: S, _alive: mpsc::Sender<()>)
    where
        S: Service<
                http::Request<Incoming>,
                Response = http::Response<tonic::body::Body>,
                Error = Infallible,
            > + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let activity = Arc::new(Activity::default());
        let (read, written) = (activity.clone(), activity.clone());
        let stream = InspectReader::new(stream, move |_: &[u8]| read.touch());
        let io = TokioIo::new(InspectWriter::new(stream, move |_: &[u8]| written.touch()));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .serve_connection(
                io,
                TowerToHyperService::new(Counted { service, activity: activity.clone() }),
            );
        let mut connection = pin!(connection);
        let mut is_draining = false;
        loop {
            let patience = if is_draining { DRAIN_QUIET } else { self.limits.idle };
            let left = patience.saturating_sub(activity.idle()).max(IDLE_LOOK_MIN);
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended: {error}");
                    }
                    return;
                }
                _ = self.drain.wait_for(|drain| *drain), if !is_draining => {
                    is_draining = true;
                    activity.touch();
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep(left) => {
                    if activity.idle() < patience {
                        continue;
                    }
                    if is_draining {
                        return;
                    }
                    is_draining = true;
                    activity.touch();
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// When something last happened on a connection.
struct Activity {
    begun: Instant,
    last_ms: AtomicU64,
    /// Requests that are being worked on.
    requests: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Self {
        let begun = Instant::now();
        Self { begun, last_ms: AtomicU64::new(0), requests: AtomicUsize::new(0) }
    }
}

impl Activity {
    fn touch(&self) {
        self.last_ms.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// For how long nothing has happened; not at all while a request is being worked on.
    fn idle(&self) -> Duration {
        if self.requests.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

/// A request that is being worked on, until this is dropped.
struct InWork(Arc<Activity>);

impl InWork {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.touch();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A service that notes which requests are being worked on.
#[derive(Clone)]
struct Counted<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S, B> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let in_work = InWork::begin(&self.activity);
        let answer = self.service.call(request);
        Box::pin(async move {
            let _in_work = in_work;
            answer.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The server's end; and the default of the clients that the programs make, which keep it.
    #[tokio::test(flavor = "current_thread")]
    async fn small_messages_are_not_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), accept(&listener));
        assert!(accepted.unwrap().nodelay().unwrap(), "TCP_NODELAY is not set on the server's end");
        let client = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        assert!(client.get_tcp_nodelay(), "TCP_NODELAY is not set on the client's end");
    }
}

//! Accepts connections and serves HTTP/2 on them.
//!
//! Not tonic's own transport server: that one answers deadlines itself (and so cuts off partial answers), has no limit
//! on connections, and does not close idle ones. And not hyper's: it ends a connection whose client sends small
//! messages ahead, and opens windows without being asked.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use h2::Reason;
use h2::server::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::either::Either;
use tokio_util::io::{InspectReader, InspectWriter};
use tower::Service;

use super::activity::Activity;
use super::exchange::{ANSWER_PATIENCE, Link, exchange};
use super::inbox::RequestBody;
use super::pings::Pings;
use super::places::{Full, Place, Places};
use super::purse::{Chunk, Purses};
use crate::observe::Observed;
use crate::observe::in_flight::Fault;
use crate::tls::{Protocol, Stream, Tls};

/// Flow-control windows, in bytes: large enough that a bulk load is not held up by round trips. They open as handlers
/// take bytes, so the second one bounds the undecoded bytes of all requests of a connection, except parts of messages,
/// which [`super::purse`] bounds.
pub(super) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Memory that h2 may use for DATA frames that were not taken out of it yet, at some 256 bytes for each small one:
/// enough for a window of frames of 8 bytes each, which is less than a gRPC message with a field. Frames are taken out
/// as they come ([`super::inbox`]), so this much is never in use for long.
const SMALL_FRAMES_BYTES: usize = CONNECTION_WINDOW_BYTES as usize / 8 * 256;

/// Most requests in flight on one connection.
const STREAMS_MAX: u32 = 1_024;

/// Most reset streams for which frames may still arrive.
const STREAMS_RESET_MAX: usize = 4 * STREAMS_MAX as usize;

/// Most frames per connection for streams that are long over.
const STREAM_ERRORS_MAX: usize = 1 << 20;

/// Most bytes of headers of one request.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Pause after a failure to accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Time for a new connection to complete TLS, if any, and begin HTTP/2.
const SETUP_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes with which a client begins: the preface, and the head of a SETTINGS frame.
const SETUP_BYTES: u64 = 24 + 9;

/// Silence of a peer after which TCP keepalive probes it.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Least period of checking whether a connection is idle.
const IDLE_LOOK_MIN: Duration = Duration::from_millis(50);

/// A draining connection that has no request in work, no byte of an answer to send, and moves no byte for this time is
/// closed. A stream that only the client would end, such as a watch, holds such a connection.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// Least time between two log lines about connections that are refused or ended.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most open connections.
    pub connections_max: usize,
    /// Most open connections from one address; 0: a share once half of all are open, and no limit for loopback.
    pub address_max: usize,
    /// Time without a request in work and without a byte in either direction after which a connection is closed.
    pub idle: Duration,
}

/// A service that answers requests; each connection has a copy.
pub trait Answering:
    Service<
        http::Request<RequestBody>,
        Response = http::Response<tonic::body::Body>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
}

impl<S> Answering for S where
    S: Service<
            http::Request<RequestBody>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static
{
}

/// Shutdown signal of serving: set once.
pub type Drain = watch::Receiver<bool>;

/// A port with its TLS settings.
pub struct Door {
    /// Listening socket.
    pub listener: TcpListener,
    /// TLS settings; `None` for plain text.
    pub tls: Option<Arc<Tls>>,
}

/// Serves until `drain` is set, then until every request in flight has been answered. Dropping the future ends it at
/// once.
pub async fn serve<S: Answering>(
    Door { listener, tls }: Door,
    service: S,
    limits: Limits,
    observed: Arc<Observed>,
    mut drain: Drain,
) {
    // Every connection holds a sender: once all are dropped, no connection is left.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let places = Places::new(limits.connections_max, limits.address_max);
    let mut refused_logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = drain.wait_for(|drain| *drain) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let place = match places.take(peer.ip()) {
            Ok(place) => place,
            Err(full) => {
                refuse(full, peer.ip(), &observed, &mut refused_logged);
                continue;
            }
        };
        keep_alive(&stream, limits.idle);
        let connection = Connection::new(limits, &observed, drain.clone(), place);
        let (tls, service, alive) = (tls.clone(), service.clone(), alive.clone());
        tokio::spawn(connection.serve(tls, stream, service, alive));
    }
    drop((listener, alive));
    all_gone.recv().await;
}

/// Completes the TLS handshake with a client, if TLS is on. A draining server does not wait for that.
async fn secured(tls: Option<Arc<Tls>>, stream: TcpStream, mut drain: Drain) -> io::Result<Stream> {
    let Some(tls) = tls else { return Ok(Either::Left(stream)) };
    tokio::select! {
        accepted = tls.accept(Protocol::Grpc, stream) => accepted.map(Either::Right),
        _ = drain.wait_for(|drain| *drain) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Counts a refused connection, and logs refusals at a bounded rate.
fn refuse(
    full: Full,
    address: std::net::IpAddr,
    observed: &Observed,
    refused_logged: &mut Option<Instant>,
) {
    observed.gateway.connections_refused.add(1);
    if full == Full::Address {
        observed.in_flight.peers_refused.add(1);
    }
    if refused_logged.is_some_and(|logged| logged.elapsed() < LINE_PERIOD) {
        return;
    }
    *refused_logged = Some(Instant::now());
    let open = observed.gateway.connections.load(Ordering::Relaxed);
    match full {
        Full::All => {
            tracing::warn!("connections are refused: {open} are open (server.max_connections)");
        }
        Full::Address => tracing::warn!(
            "connections from {address} are refused: it has its share of all places \
             (server.max_connections_per_address)"
        ),
    }
}

/// Accepts a connection, and sets it up.
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    // Nagle's algorithm would hold back small answers for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY could not be set: {error}");
    }
    Ok((stream, peer))
}

/// Makes the kernel detect a peer that is gone without a FIN, also while it owes an acknowledgement.
fn keep_alive(stream: &TcpStream, idle: Duration) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    let set = socket
        .set_tcp_keepalive(&keepalive)
        .and_then(|()| socket.set_tcp_user_timeout(Some(idle.max(KEEPALIVE))));
    if let Err(error) = set {
        tracing::debug!("keepalive could not be set: {error}");
    }
}

/// Spawns a task for each request until the connection ends; an error says why it ended.
async fn answer_all<T, S>(
    connection: &mut h2::server::Connection<T, Chunk>,
    service: S,
    link: Arc<Link>,
) -> Option<h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Answering,
{
    while let Some(accepted) = connection.accept().await {
        match accepted {
            Ok((request, respond)) => {
                tokio::spawn(exchange(request, respond, service.clone(), link.clone()));
            }
            Err(error) => return Some(error),
        }
    }
    None
}

/// Waits until the server begins to shut down, or is dropped.
async fn is_told(drain: &mut Drain) {
    let _ = drain.wait_for(|drain| *drain).await;
}

/// Settings of HTTP/2.
fn protocol() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .data_frame_budget(SMALL_FRAMES_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        // As many as there may be streams: a client may cancel all of them while the threads here are busy.
        .max_pending_accept_reset_streams(STREAMS_MAX as usize)
        .max_concurrent_reset_streams(STREAMS_RESET_MAX)
        .max_local_error_reset_streams(Some(STREAM_ERRORS_MAX))
        .max_header_list_size(HEADERS_BYTES_MAX);
    builder
}

struct Connection {
    limits: Limits,
    observed: Arc<Observed>,
    drain: Drain,
    link: Arc<Link>,
    // Dropped in this order: a connection that is not counted any more has given back its place.
    _place: Place,
    _counted: Counted,
}

/// Counts an open connection until it is dropped.
struct Counted(Arc<Observed>);

impl Counted {
    fn begin(observed: &Arc<Observed>) -> Self {
        observed.gateway.connections.fetch_add(1, Ordering::Relaxed);
        Self(observed.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.gateway.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    fn new(limits: Limits, observed: &Arc<Observed>, drain: Drain, place: Place) -> Self {
        let link = Link {
            purses: Arc::new(Purses::new(observed)),
            activity: Arc::new(Activity::default()),
            idle: limits.idle,
            stray: AtomicU64::new(0),
        };
        let (link, counted) = (Arc::new(link), Counted::begin(observed));
        Self { limits, observed: observed.clone(), drain, link, _place: place, _counted: counted }
    }

    async fn serve<S: Answering>(
        mut self,
        tls: Option<Arc<Tls>>,
        stream: TcpStream,
        service: S,
        _alive: mpsc::Sender<()>,
    ) {
        let (read, written) = (self.link.activity.clone(), self.link.activity.clone());
        let drain = self.drain.clone();
        let begin = async {
            let stream = secured(tls, stream, drain).await.map_err(|e| format!("no TLS: {e}"))?;
            let stream = InspectReader::new(stream, move |bytes: &[u8]| read.receive(bytes.len()));
            let stream = InspectWriter::new(stream, move |_: &[u8]| written.touch());
            protocol().handshake::<_, Chunk>(stream).await.map_err(|error| error.to_string())
        };
        let begun = tokio::select! {
            begun = tokio::time::timeout(SETUP_PATIENCE, begin) => begun,
            () = is_told(&mut self.drain) => return,
        };
        match begun {
            Ok(Ok(connection)) => self.run(connection, service).await,
            Ok(Err(error)) => tracing::debug!("a connection did not begin: {error}"),
            Err(_) => self.observed.in_flight.setups_expired.add(1),
        }
    }

    async fn run<T, S>(mut self, mut connection: h2::server::Connection<T, Chunk>, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin,
        S: Answering,
    {
        let activity = self.link.activity.clone();
        let mut pings = Pings::new(connection.ping_pong(), self.limits.idle);
        let mut is_draining = false;
        loop {
            let left = self.patience(is_draining).saturating_sub(activity.idle());
            let mut left = left.min(pings.left(&activity)).max(IDLE_LOOK_MIN);
            let is_set_up = activity.received() >= SETUP_BYTES;
            if !is_set_up {
                left = left.min(SETUP_PATIENCE.saturating_sub(activity.age())).max(IDLE_LOOK_MIN);
            }
            tokio::select! {
                ended = answer_all(&mut connection, service.clone(), self.link.clone()) => {
                    if let Some(error) = ended {
                        self.note(&error);
                    }
                    return;
                }
                () = is_told(&mut self.drain), if !is_draining => {
                    is_draining = true;
                    activity.touch();
                    connection.graceful_shutdown();
                }
                () = tokio::time::sleep(left) => {
                    if self.is_lost(&mut pings) {
                        return;
                    }
                    if activity.idle() < self.patience(is_draining) {
                        continue;
                    }
                    if is_draining {
                        return;
                    }
                    is_draining = true;
                    activity.touch();
                    connection.graceful_shutdown();
                }
            }
        }
    }

    /// Time without activity after which the connection is closed. A draining one stays while a client takes its
    /// answer: an answer that h2 holds is no longer a request in work.
    fn patience(&self, is_draining: bool) -> Duration {
        let idle = self.limits.idle;
        match (is_draining, self.link.purses.answers.held()) {
            (false, _) => idle,
            (true, 0) => DRAIN_QUIET,
            (true, _) => ANSWER_PATIENCE.min(idle).max(DRAIN_QUIET),
        }
    }

    /// True if its client has not begun in time, or does not answer pings; counts it.
    fn is_lost(&self, pings: &mut Pings) -> bool {
        let (activity, counters) = (&self.link.activity, &self.observed.in_flight);
        if activity.received() < SETUP_BYTES && activity.age() >= SETUP_PATIENCE {
            counters.setups_expired.add(1);
            return true;
        }
        let is_gone = pings.look(activity);
        if is_gone {
            counters.pings_expired.add(1);
            tracing::debug!("a client has not answered a ping");
        }
        is_gone
    }

    /// Counts and logs the error that ended a connection, if the server ended it.
    fn note(&self, error: &h2::Error) {
        if !(error.is_go_away() && error.is_library()) {
            tracing::debug!("a connection ended: {error}");
            return;
        }
        let fault = match error.reason() {
            Some(Reason::PROTOCOL_ERROR) => Fault::Protocol,
            Some(Reason::ENHANCE_YOUR_CALM) => Fault::Calm,
            Some(Reason::FLOW_CONTROL_ERROR) => Fault::FlowControl,
            _ => Fault::Other,
        };
        let faults = self.observed.in_flight.faults(fault);
        faults.add(1);
        // Logs each kind of fault at the first and at every power of two, so that the log is not filled.
        if faults.get().is_power_of_two() {
            tracing::warn!("a connection was ended, with all its requests: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends: the server's, and the default of tonic clients, which kyrodb's programs keep.
    #[tokio::test(flavor = "current_thread")]
    async fn small_messages_are_not_held_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), accept(&listener));
        assert!(
            accepted.unwrap().0.nodelay().unwrap(),
            "TCP_NODELAY is not set on the server's end"
        );
        let client = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        assert!(client.get_tcp_nodelay(), "TCP_NODELAY is not set on the client's end");
    }
}

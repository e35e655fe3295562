//! Accepts connections and speaks HTTP/2 on them.
//!
//! Not tonic's own transport server: that one answers deadlines itself (and so cuts off partial
//! answers), knows no limit on connections, and closes none that is idle. And not hyper's: it ends a connection
//! whose client sends small messages ahead, and opens windows without being asked.

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

/// Flow-control windows: large enough that a bulk load is not held up by round trips. They open as handlers
/// take what came, so the second one bounds what all requests of a connection have here and undecoded,
/// messages in part apart, which [`super::purse`] bounds.
pub(super) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// What h2 may spend on DATA frames that are not taken out of it yet, at some 256 bytes for each that is
/// small: enough for a window of frames of 8 bytes each, which is less than a message in gRPC with a field.
/// Frames are taken out as they come ([`super::inbox`]), so that much is never in use for long.
const SMALL_FRAMES_BYTES: usize = CONNECTION_WINDOW_BYTES as usize / 8 * 256;

/// Requests in flight on one connection.
const STREAMS_MAX: u32 = 1_024;

/// Streams that were reset and that frames may still come for.
const STREAMS_RESET_MAX: usize = 4 * STREAMS_MAX as usize;

/// Frames in the life of a connection that its client may send for streams that are long over.
const STREAM_ERRORS_MAX: usize = 1 << 20;

/// Bytes of headers of one request.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// After a failure to accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// A connection has to agree on keys, if there are any, and begin HTTP/2 within so long.
const SETUP_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes with which a client begins: the preface, and the head of a SETTINGS frame.
const SETUP_BYTES: u64 = 24 + 9;

/// A peer that is silent for so long is asked whether it is still there, by TCP.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Least time between two looks at whether a connection is idle.
const IDLE_LOOK_MIN: Duration = Duration::from_millis(50);

/// A connection that is told to go, has no request to be answered, no byte of an answer to be sent and does not
/// move a byte for so long is closed. What holds it is a stream that only the client would end, such as a watch.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// Least time between two lines about connections that are refused or ended.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open at once.
    pub connections_max: usize,
    /// Of these, from one address; 0 for a share once half are open, and any number from loopback.
    pub address_max: usize,
    /// One without a request being worked on, and without a byte in either direction, for so
    /// long is closed.
    pub idle: Duration,
}

/// A service that answers the requests of connections, each of which has a copy.
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
pub async fn serve<S: Answering>(
    Door { listener, tls }: Door,
    service: S,
    limits: Limits,
    observed: Arc<Observed>,
    mut drain: Drain,
) {
    // Every connection holds a sender: when the last is gone, so is the last connection.
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

/// Agrees on keys with a client, where there are any. A server at its end does not wait for that.
async fn secured(tls: Option<Arc<Tls>>, stream: TcpStream, mut drain: Drain) -> io::Result<Stream> {
    let Some(tls) = tls else { return Ok(Either::Left(stream)) };
    tokio::select! {
        accepted = tls.accept(Protocol::Grpc, stream) => accepted.map(Either::Right),
        _ = drain.wait_for(|drain| *drain) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Counts a connection that has no place, and tells of it now and then.
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

/// Has the kernel notice a peer that is gone without a word, also where it owes an acknowledgement.
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

/// Has a task answer each request that comes, until the connection ends; by what, if not well.
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

/// Waits until the server begins to shut down, or is gone.
async fn is_told(drain: &mut Drain) {
    let _ = drain.wait_for(|drain| *drain).await;
}

/// How HTTP/2 is spoken.
fn protocol() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .data_frame_budget(SMALL_FRAMES_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        // As many as there may be streams: clients cancel all at once while threads here are busy.
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
    // In this order: a connection that is not counted any more has left its place.
    _place: Place,
    _counted: Counted,
}

/// A connection that is counted as open, until this is dropped.
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

    /// For how long nothing may happen on the connection. One that is told to go stays while a client takes
    /// what it was answered: an answer that h2 holds is no request in work any more.
    fn patience(&self, is_draining: bool) -> Duration {
        let idle = self.limits.idle;
        match (is_draining, self.link.purses.answers.held()) {
            (false, _) => idle,
            (true, 0) => DRAIN_QUIET,
            (true, _) => ANSWER_PATIENCE.min(idle).max(DRAIN_QUIET),
        }
    }

    /// Its client has not begun in time, or does not answer any more: it is counted.
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

    /// A connection has ended by this: it is counted, and told, where the server ended it.
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
        // The first of each, and then those at every power of two, so that a log is not filled.
        if faults.get().is_power_of_two() {
            tracing::warn!("a connection was ended, with all its requests: {error}");
        }
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
        assert!(
            accepted.unwrap().0.nodelay().unwrap(),
            "TCP_NODELAY is not set on the server's end"
        );
        let client = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        assert!(client.get_tcp_nodelay(), "TCP_NODELAY is not set on the client's end");
    }
}

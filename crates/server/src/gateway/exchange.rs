//! One request and its answer, as a task: bytes of the request come in while the answer is computed and sent, each
//! within its bounds of time and memory.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;

use h2::RecvStream;
use h2::server::SendResponse;
use hyper::body::Body as HttpBody;
use tonic::body::Body;

use super::activity::{Activity, InWork};
use super::connection::Answering;
use super::deadline::timeout_of;
use super::inbox::{Pump, Terms};
use super::pieces::{Held, Uncounted};
use super::pipe::{Account, Pipe};
use super::purse::{Chunk, Purses};
use super::status::{count, status};

/// Time for the bytes of a unary request to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// Time without progress after which an answer of one message is ended.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// Time for a client that is answered before it has sent all to notice that and stop: then the stream is reset, without
/// an error.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that a request of one message may hold whatever other requests hold.
const MESSAGE_SPARE_BYTES: u64 = 64 << 10;

/// Bytes that a stream may hold whatever other requests hold: all that its window lets in.
const STREAM_SPARE_BYTES: u64 = super::connection::STREAM_WINDOW_BYTES as u64 + MESSAGE_SPARE_BYTES;

/// True for methods that count the vectors they read before there is an answer. Other methods need no account, and no
/// allocation for it.
fn reads_documents(method: &str) -> bool {
    ["BulkQuery", "ListDocuments"].contains(&method)
}

/// State that the exchanges of a connection share.
pub(super) struct Link {
    pub(super) purses: Arc<Purses>,
    pub(super) activity: Arc<Activity>,
    /// Time without activity after which a connection, or a stream, is idle.
    pub(super) idle: Duration,
    /// Bytes that came for requests after their answers and are not returned to the windows.
    pub(super) stray: AtomicU64,
}

/// True for methods whose clients send streams.
fn sends_stream(method: &str) -> bool {
    ["BulkInsert", "BulkLoadHnsw", "BulkSearch", "ServerReflectionInfo"].contains(&method)
}

/// True for methods whose clients receive streams.
fn takes_stream(method: &str) -> bool {
    ["BulkSearch", "ServerReflectionInfo", "Watch"].contains(&method)
}

/// Serves one request: receives it, calls the service, and sends the answer.
pub(super) async fn exchange<S: Answering>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Chunk>,
    mut service: S,
    link: Arc<Link>,
) {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    let (is_stream, is_answered_by_stream) = (sends_stream(method), takes_stream(method));
    let timeout = timeout_of(request.headers());
    let is_conversation = is_stream && is_answered_by_stream;
    let terms = match is_stream {
        true => Terms {
            whole: timeout,
            idle: link.idle,
            is_conversation,
            spare_bytes: STREAM_SPARE_BYTES,
            is_held: false,
        },
        false => Terms {
            whole: Some(timeout.map_or(BODY_PATIENCE, |timeout| timeout.min(BODY_PATIENCE))),
            idle: link.idle,
            is_conversation,
            spare_bytes: MESSAGE_SPARE_BYTES,
            is_held: true,
        },
    };
    let needs_account = reads_documents(method);
    let (mut head, from) = request.into_parts();
    if needs_account {
        head.extensions.insert(link.purses.clone());
    }
    let (mut pump, body) = Pump::new(from, &link, terms);
    // Most requests have arrived completely by now.
    poll_fn(|context| {
        pump.pump(context);
        Poll::Ready(())
    })
    .await;
    let call = async { service.call(http::Request::from_parts(head, body)).await };
    let mut answer = pin!(pump.handling(call));
    let mut in_work = None;
    let answered = poll_fn(|context| {
        pump.pump(context);
        if in_work.is_none() && (is_stream || pump.has_all()) {
            in_work = Some(InWork::begin(&link.activity));
        }
        let answered = answer.as_mut().poll(context);
        pump.settle(context);
        match answered {
            Poll::Ready(Ok(answer)) => Poll::Ready(Some(answer)),
            // A client that resets the stream does not want an answer.
            Poll::Pending => respond.poll_reset(context).map(|_| None),
        }
    });
    let Some(answer) = answered.await else { return };
    // A draining server waits until an answer of one message is sent: its client may pause.
    let in_work = in_work.filter(|_| !is_answered_by_stream);
    let patience = if is_answered_by_stream { link.idle } else { ANSWER_PATIENCE.min(link.idle) };
    match send(answer, respond, &mut pump, link.purses.clone(), patience).await {
        Ok(()) => {
            drop(in_work);
            linger(pump).await;
        }
        Err(error) => tracing::debug!("an answer was not sent: {error}"),
    }
}

/// Takes bytes that a client sends before it notices that it was answered.
async fn linger(mut pump: Pump) {
    if pump.is_open() {
        pump.end_call();
        let rest = poll_fn(|context| pump.poll_stray(context));
        let _ended = tokio::time::timeout(LINGER, rest).await;
    }
}

async fn send(
    answer: http::Response<Body>,
    mut respond: SendResponse<Chunk>,
    pump: &mut Pump,
    purses: Arc<Purses>,
    patience: Duration,
) -> Result<(), h2::Error> {
    let (mut head, body) = answer.into_parts();
    let let_in = head.extensions.remove::<Uncounted>();
    let is_let_in = let_in.is_some();
    let uncounted = let_in.map_or(0, |Uncounted(bytes)| bytes);
    let payer = pump.payer().cloned();
    let account = Some(&purses).filter(|_| uncounted > 0);
    let _held = match Held::admit(account, payer.as_ref(), uncounted) {
        Ok(held) => held,
        Err(error) => {
            count(&purses.observed, &error);
            let (head, ()) = status(&error).into_http().into_parts();
            respond.send_response(http::Response::from_parts(head, ()), true)?;
            return Ok(());
        }
    };
    let is_all = body.is_end_stream();
    let to = respond.send_response(http::Response::from_parts(head, ()), is_all)?;
    if is_all {
        return Ok(());
    }
    let account = Account { purses, payer, is_let_in };
    let mut pipe = Pipe::new(body, to, account, patience);
    poll_fn(|context| {
        pump.pump(context);
        let sent = pipe.poll(context);
        pump.settle(context);
        sent
    })
    .await
}

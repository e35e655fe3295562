//! One request and its answer, as a task: the bytes of the one come in while the other is worked on and goes
//! out, each within its bounds of time and memory.

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

/// The bytes of a request of one message have to be there within so long.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// An answer of one message whose client takes nothing of it for so long is ended.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// A client that is answered before it has sent all has so long to hear of it and to stop: then the stream is
/// reset, without an error.
const LINGER: Duration = Duration::from_secs(1);

/// What a request of one message may hold whatever others hold.
const MESSAGE_SPARE_BYTES: u64 = 64 << 10;

/// What a stream may: all that its window lets in.
const STREAM_SPARE_BYTES: u64 = super::connection::STREAM_WINDOW_BYTES as u64 + MESSAGE_SPARE_BYTES;

/// A method that counts what it reads, before it is an answer. Others have no need of the account, and no
/// allocation for it.
fn reads_documents(method: &str) -> bool {
    ["BulkQuery", "ListDocuments"].contains(&method)
}

/// What the exchanges of a connection share.
pub(super) struct Link {
    pub(super) purses: Arc<Purses>,
    pub(super) activity: Arc<Activity>,
    /// A connection, or a stream, on which nothing moves for so long is idle.
    pub(super) idle: Duration,
    /// Bytes that came for requests after their answers and are not given back to the windows.
    pub(super) stray: AtomicU64,
}

/// A method whose clients send streams.
fn sends_stream(method: &str) -> bool {
    ["BulkInsert", "BulkLoadHnsw", "BulkSearch", "ServerReflectionInfo"].contains(&method)
}

/// A method whose clients take streams.
fn takes_stream(method: &str) -> bool {
    ["BulkSearch", "ServerReflectionInfo", "Watch"].contains(&method)
}

/// Has the service answer a request.
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
    // Most requests are all there by now.
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
            // A client that resets the stream wants no answer.
            Poll::Pending => respond.poll_reset(context).map(|_| None),
        }
    });
    let Some(answer) = answered.await else { return };
    // A server at its end waits until an answer of one message is sent: its client may pause.
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

/// Takes what a client sends before it has heard that it is answered.
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

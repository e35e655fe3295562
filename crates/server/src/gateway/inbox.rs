//! Buffer of a request between the connection and its handler: bytes are taken out of h2 as they come, joined, and
//! given to the handler as it asks.
//!
//! h2 keeps some 256 bytes for each DATA frame that was not taken, however small, and ends connections with too many of
//! them. Most gRPC libraries write a frame per message. So the frames are taken out at once; the windows bound what a
//! client may send, and they open again only as the handler takes the bytes.
//!
//! A request may be answered before all of it is there. Its client continues to send until it notices that: those
//! frames, which no call reads, are *stray*. h2 counts small ones that come for a stream without a reader against the
//! connection for good, and ends it for them. So they are taken out and dropped, and the windows do not open for them:
//! at most a window of them comes, and it is given back when the stream ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use h2::RecvStream;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;

use super::exchange::Link;
use super::purse::{Over, Purses, Share};
use super::status::{count, status};
use crate::access::Tenant;
use crate::error::Error;

/// Frames of fewer bytes than this are joined.
const JOINED_BELOW_BYTES: usize = 4 << 10;

/// Bytes of a buffer into which frames are joined.
const PIECE_BYTES: usize = 64 << 10;

/// Time after which to retry a request that was refused because too many bytes were held.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// Most stray bytes of all requests of a connection: a quarter of its window, which other requests need.
const STRAY_BYTES_MAX: u64 = super::connection::STREAM_WINDOW_BYTES as u64;

/// Most stray frames of one request: a window of the smallest frames that hold a message with a field.
const STRAY_FRAMES_MAX: u64 = STRAY_BYTES_MAX / 8;

/// Bytes before a message: a flag and its length.
const PREFIX_BYTES: usize = 5;

/// Limits of a request in time and bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Time from the headers to the last byte; `None` for a stream whose client sets none.
    pub(super) whole: Option<Duration>,
    /// Time from one byte to the next while the handler waits.
    pub(super) idle: Duration,
    /// The client may pause between two messages for as long as the connection lasts, to wait for an answer or for its
    /// user; only a message that has begun has to arrive.
    pub(super) is_conversation: bool,
    /// The request is not refused while it holds no more than this.
    pub(super) spare_bytes: u64,
    /// Its bytes count until the call is over, since decoding them takes as many. For a stream, only undecoded bytes
    /// count; its handler bounds the rest.
    pub(super) is_held: bool,
}

/// Tracks the messages in a body: number of bytes in an incomplete message.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    left: usize,
    open: u64,
}

impl Messages {
    /// Takes the next bytes; returns the bytes of messages that they complete.
    fn pass(&mut self, mut bytes: &[u8]) -> u64 {
        let mut complete = 0;
        while !bytes.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let taken = bytes.len().min(PREFIX_BYTES - self.prefix_bytes);
                let (prefix, rest) = bytes.split_at(taken);
                self.prefix[self.prefix_bytes..][..taken].copy_from_slice(prefix);
                self.prefix_bytes += taken;
                self.open += taken as u64;
                bytes = rest;
                if self.prefix_bytes < PREFIX_BYTES {
                    break;
                }
                let [_, a, b, c, d] = self.prefix;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
            }
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            self.open += taken as u64;
            bytes = &bytes[taken..];
            if self.left == 0 {
                complete += std::mem::take(&mut self.open);
                self.prefix_bytes = 0;
            }
        }
        complete
    }
}

tokio::task_local! {
    /// The request whose handler is being polled.
    static CALL: Arc<Inbox>;
}

/// Charges the bytes of the request, in whose handler this is called, to a tenant: also those that have come before
/// the tenant was known. A request beyond the share of the tenant fails when its handler reads it.
pub(super) fn charge_to(tenant: &Arc<Tenant>) {
    // Without a call, as in tests of handlers, there is no account.
    let _is_counted = CALL.try_with(|inbox| inbox.charge(tenant));
}

/// Contiguous bytes.
enum Piece {
    Whole(Bytes),
    Joined(Vec<u8>),
}

#[derive(Default)]
struct State {
    /// The first frame, which is all of most requests.
    first: Option<Bytes>,
    rest: VecDeque<Piece>,
    /// Bytes on the connection's account: those here, and those of the message being decoded.
    held: u64,
    /// These bytes on the account of the tenant, once it is known.
    share: Option<Share>,
    messages: Messages,
    /// Bytes given to the handler, and not to the windows yet.
    taken: usize,
    /// Why no more bytes come.
    failed: Option<Status>,
    has_ended: bool,
    /// The reader is gone.
    is_dropped: bool,
    /// The task that moves frames is running, and checks this state before it rests.
    is_pumping: bool,
    /// The reader that waits for bytes, and since when.
    reader: Option<Waker>,
    waits_since: Option<Instant>,
    /// Waker of the task that moves frames.
    pump: Option<Waker>,
}

impl State {
    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    fn push(&mut self, bytes: Bytes) {
        if self.is_empty() {
            self.first = Some(bytes);
        } else if bytes.len() >= JOINED_BELOW_BYTES {
            self.rest.push_back(Piece::Whole(bytes));
        } else if let Some(Piece::Joined(piece)) = self.rest.back_mut()
            && piece.len() + bytes.len() <= PIECE_BYTES
        {
            piece.extend_from_slice(&bytes);
        } else {
            self.rest.push_back(Piece::Joined(bytes.to_vec()));
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        Some(match self.rest.pop_front()? {
            Piece::Whole(bytes) => bytes,
            Piece::Joined(bytes) => bytes.into(),
        })
    }

    fn clear(&mut self) {
        self.first = None;
        self.rest = VecDeque::new();
    }

    /// Wakes the task that moves frames, unless it is running.
    fn wake_pump(&self) {
        if !self.is_pumping
            && let Some(pump) = &self.pump
        {
            pump.wake_by_ref();
        }
    }

    /// Wakes the reader, unless this task is about to poll it anyway.
    fn wake_reader(&mut self, context: &Context<'_>) {
        self.waits_since = None;
        if let Some(reader) = self.reader.take()
            && !reader.will_wake(context.waker())
        {
            reader.wake();
        }
    }
}

/// Bytes that a connection has received of one request.
struct Inbox {
    state: Mutex<State>,
    purses: Arc<Purses>,
    /// Tenant of the request: known once the request was admitted, if there are tenants.
    payer: OnceLock<Arc<Tenant>>,
    /// Received bytes count until the call is over, and not only until they are decoded.
    is_held: bool,
    /// The request is not refused while it holds no more than this.
    spare_bytes: u64,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, state: &mut State, bytes: u64) {
        let bytes = bytes.min(state.held);
        state.held -= bytes;
        self.purses.requests.give_back(bytes);
        if let Some(share) = &mut state.share {
            share.sub(bytes);
        }
    }

    /// Counts received bytes; an error names the bound that is exceeded now.
    fn take(&self, state: &mut State, bytes: u64) -> Result<(), Over> {
        state.held += bytes;
        let taken = self.purses.requests.take(bytes);
        let bank = &self.purses.observed.in_flight.requests;
        let shared = state.share.as_mut().map_or(Ok(()), |share| share.add(bytes, bank));
        taken.and(shared)
    }

    /// Counts the held bytes for the tenant too, from now on. Called by the handler, before it reads.
    fn charge(&self, payer: &Arc<Tenant>) {
        if self.payer.set(payer.clone()).is_err() {
            return;
        }
        let mut state = self.lock();
        let mut share = Share::hold(&payer.request_bytes, 0);
        let added = share.add(state.held, &self.purses.observed.in_flight.requests);
        state.share = Some(share);
        if let Err(over) = added
            && state.held > self.spare_bytes
        {
            self.refuse(&mut state, over);
        }
    }

    /// Ends the request: no more bytes come, and those held are dropped.
    fn fail(&self, state: &mut State, why: Status) {
        state.clear();
        state.failed = Some(why);
        state.has_ended = true;
        let held = state.held;
        self.give_back(state, held);
    }

    fn expire(&self, state: &mut State) {
        let observed = &self.purses.observed;
        observed.in_flight.requests_expired.add(1);
        let error = Error::Expired("while the bytes of the request were awaited");
        count(observed, &error);
        self.fail(state, status(&error));
    }

    fn refuse(&self, state: &mut State, over: Over) {
        let observed = &self.purses.observed;
        observed.in_flight.requests_refused.add(1);
        let what = match over {
            Over::Connection => "the requests of this connection",
            Over::Tenant => "the requests of this tenant",
            Over::Process => "requests",
        };
        let mib = observed.in_flight.requests.held() >> 20;
        let what = format!(
            "{what} hold more memory than they may ({mib} MiB are held in all): send fewer large ones \
             at once"
        );
        let error = Error::Busy { what, retry_after: ROOM_RETRY };
        count(observed, &error);
        self.fail(state, status(&error));
    }
}

/// The body of a request, for its handler.
pub struct RequestBody(Arc<Inbox>);

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let inbox = &self.0;
        let mut state = inbox.lock();
        if let Some(bytes) = state.pop() {
            state.taken += bytes.len();
            let complete = state.messages.pass(&bytes);
            if !inbox.is_held {
                inbox.give_back(&mut state, complete);
            }
            state.wake_pump();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Some(failed) = state.failed.take() {
            return Poll::Ready(Some(Err(failed)));
        }
        if state.has_ended {
            return Poll::Ready(None);
        }
        if state.waits_since.is_none() {
            state.waits_since = Some(Instant::now());
            state.wake_pump();
        }
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
            state.reader = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.has_ended && state.is_empty() && state.failed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.clear();
        state.is_dropped = true;
        if !self.0.is_held {
            let held = state.held;
            self.0.give_back(&mut state, held);
        }
        state.wake_pump();
    }
}

/// Stray bytes of a request, on the account of its connection until this is dropped.
struct Stray {
    link: Arc<Link>,
    bytes: u64,
    frames: u64,
}

impl Stray {
    /// Counts a frame; false if there are too many.
    fn take(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.frames += 1;
        let all = self.link.stray.fetch_add(bytes, Ordering::Relaxed) + bytes;
        all < STRAY_BYTES_MAX && self.frames < STRAY_FRAMES_MAX
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        self.link.stray.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Moves a request's frames from h2 to its inbox. Polled by the task of the request.
pub(super) struct Pump {
    /// `None` once there are no more frames to move.
    from: Option<RecvStream>,
    /// The client has ended the request, or no more of it will come.
    is_all: bool,
    stray: Stray,
    inbox: Arc<Inbox>,
    terms: Terms,
    begun: Instant,
    last_byte: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pump {
    pub(super) fn new(from: RecvStream, link: &Arc<Link>, terms: Terms) -> (Self, RequestBody) {
        let inbox = Arc::new(Inbox {
            state: Mutex::default(),
            purses: link.purses.clone(),
            payer: OnceLock::new(),
            is_held: terms.is_held,
            spare_bytes: terms.spare_bytes,
        });
        let now = Instant::now();
        let body = RequestBody(inbox.clone());
        let pump = Self {
            from: Some(from),
            is_all: false,
            stray: Stray { link: link.clone(), bytes: 0, frames: 0 },
            inbox,
            terms,
            begun: now,
            last_byte: now,
            alarm: None,
        };
        (pump, body)
    }

    /// Polls the handler of this request, which may [charge](charge_to) it to a tenant.
    pub(super) fn handling<F: Future>(
        &self,
        handler: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        CALL.scope(self.inbox.clone(), handler)
    }

    /// Tenant of the request, if there is one.
    pub(super) fn payer(&self) -> Option<&Arc<Tenant>> {
        self.inbox.payer.get()
    }

    /// True if all bytes of the request are here, or no more will come.
    pub(super) fn has_all(&self) -> bool {
        self.from.is_none() || self.inbox.lock().has_ended
    }

    /// True if its client may still send something.
    pub(super) fn is_open(&self) -> bool {
        self.from.is_some() && !self.is_all
    }

    /// Moves available frames. Call [`Self::settle`] after the handler has been polled.
    pub(super) fn pump(&mut self, context: &mut Context<'_>) {
        let Some(from) = &mut self.from else { return };
        let inbox = self.inbox.clone();
        let mut state = inbox.lock();
        state.is_pumping = true;
        if !state.pump.as_ref().is_some_and(|pump| pump.will_wake(context.waker())) {
            state.pump = Some(context.waker().clone());
        }
        let mut has_moved = false;
        while !self.is_all {
            match from.poll_data(context) {
                Poll::Ready(Some(Ok(bytes))) => {
                    has_moved = true;
                    self.is_all = from.is_end_stream();
                    let length = bytes.len() as u64;
                    if state.has_ended || state.is_dropped {
                        // Beyond the bound of stray frames the stream is dropped, which opens its windows.
                        self.is_all |= !self.stray.take(length);
                        continue;
                    }
                    state.has_ended = self.is_all;
                    if bytes.is_empty() {
                        continue;
                    }
                    state.push(bytes);
                    if let Err(over) = inbox.take(&mut state, length)
                        && state.held > inbox.spare_bytes
                    {
                        inbox.refuse(&mut state, over);
                    }
                }
                // Trailers of a request have no meaning in gRPC.
                Poll::Ready(None) => {
                    has_moved = true;
                    self.is_all = true;
                    state.has_ended = true;
                }
                Poll::Ready(Some(Err(error))) => {
                    (has_moved, self.is_all) = (true, true);
                    if !state.has_ended {
                        inbox.fail(&mut state, Status::from(error));
                    }
                }
                Poll::Pending => break,
            }
        }
        if has_moved {
            state.wake_reader(context);
        }
        if !state.has_ended && !state.is_dropped {
            let now = Instant::now();
            if has_moved {
                self.last_byte = now;
            } else if self.due(&state).is_some_and(|due| due <= now) {
                inbox.expire(&mut state);
                state.wake_reader(context);
            }
        }
    }

    /// Ends the call: held bytes are dropped, and a task that still reads the body elsewhere, as in reflection, does
    /// not wait for more.
    pub(super) fn end_call(&mut self) {
        let mut state = self.inbox.lock();
        let pump = state.pump.take();
        let is_over = state.is_dropped || state.has_ended && state.is_empty();
        if !is_over {
            state.clear();
            state.has_ended = true;
            state.failed = Some(Status::cancelled("the call has ended"));
        }
        let held = state.held;
        self.inbox.give_back(&mut state, held);
        let reader = state.reader.take();
        // Wakers and values dropped here may access the inbox.
        drop(state);
        drop(pump);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// After the call is over: takes bytes that the client still sends, until it has ended the request or sent too
    /// many.
    pub(super) fn poll_stray(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.pump(context);
        self.settle(context);
        if self.from.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Time at which bytes that the handler waits for are late.
    fn due(&self, state: &State) -> Option<Instant> {
        let since = state.waits_since?.max(self.last_byte);
        let may_be_quiet = self.terms.is_conversation && state.messages.open == 0;
        // A limit beyond the range of the clock means none.
        let idle = if may_be_quiet { None } else { since.checked_add(self.terms.idle) };
        let whole = self.terms.whole.and_then(|whole| self.begun.checked_add(whole));
        idle.into_iter().chain(whole).min()
    }

    /// Sets a timer that wakes the task at this time.
    fn set_alarm(&mut self, due: Instant, context: &mut Context<'_>) {
        let due = due.into();
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        if alarm.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }

    /// Opens the windows by the bytes that the handler has taken.
    pub(super) fn settle(&mut self, context: &mut Context<'_>) {
        if self.from.is_none() {
            return;
        }
        let mut state = self.inbox.lock();
        state.is_pumping = false;
        let taken = std::mem::take(&mut state.taken);
        let is_over = state.is_dropped || state.has_ended && state.is_empty();
        let due = if is_over { None } else { self.due(&state) };
        drop(state);
        if taken > 0
            && let Some(from) = &mut self.from
        {
            // Fails if the stream is gone, and its windows with it.
            let _ = from.flow_control().release_capacity(taken);
        }
        if is_over {
            self.alarm = None;
            if self.is_all {
                self.from = None;
            }
        } else if let Some(due) = due {
            self.set_alarm(due, context);
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.end_call();
    }
}

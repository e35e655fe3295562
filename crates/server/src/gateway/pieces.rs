//! Encoding of large list answers a piece at a time, as their clients take them.
//!
//! Meanwhile the results of the shards are kept: metadata that the store has anyway, and vectors, which are counted.
//! gRPC needs the length of a message before it, so lengths are added up first.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::{Response, Status};

use super::purse::{Over, Purses, Share};
use crate::access::Tenant;
use crate::engine::Document;
use crate::error::{Error, Result};

/// Least size of an answer that is encoded in pieces, in bytes.
pub(super) const LARGE_BYTES: usize = 256 << 10;

/// Bytes of a piece, not counting its last entry.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes of a piece with its last entry.
const LET_IN_BYTES: u64 = 2 * PIECE_BYTES as u64;

/// Entries whose lengths are added up between two yields to other requests.
const ENTRIES_AT_ONCE: usize = 64;

/// Protobuf tag of an entry: field 1, wire type 2.
const ENTRY_TAG: u8 = 1 << 3 | 2;

/// Time after which to retry a request whose answer was refused because too many bytes were held.
const ROOM_RETRY: Duration = Duration::from_secs(1);

/// The entries of a list.
trait Entries: Send + Sync {
    fn count(&self) -> usize;
    fn length(&self, index: usize) -> usize;
    fn put(&self, index: usize, into: &mut Vec<u8>);
}

struct Made<F> {
    count: usize,
    make: F,
}

impl<F, M> Entries for Made<F>
where
    F: Fn(usize) -> M + Send + Sync,
    M: Message,
{
    fn count(&self) -> usize {
        self.count
    }

    fn length(&self, index: usize) -> usize {
        let length = (self.make)(index).encoded_len();
        1 + prost::length_delimiter_len(length) + length
    }

    fn put(&self, index: usize, into: &mut Vec<u8>) {
        into.push(ENTRY_TAG);
        let put = (self.make)(index).encode_length_delimited(into);
        debug_assert!(put.is_ok(), "a vector has room");
    }
}

/// Bytes on the account of a connection, until this is dropped.
pub(super) struct Held {
    purses: Arc<Purses>,
    bytes: u64,
    _share: Option<Share>,
}

impl Held {
    /// Counts `bytes` of an answer, for a tenant if there is one, if they may be held. Without an account nothing is
    /// counted.
    pub(super) fn admit(
        purses: Option<&Arc<Purses>>,
        tenant: Option<&Arc<Tenant>>,
        bytes: u64,
    ) -> Result<Option<Self>> {
        let Some(purses) = purses else { return Ok(None) };
        let bank = &purses.observed.in_flight.answers;
        let share = tenant.map(|tenant| Share::take(&tenant.answer_bytes, bytes, bank)).transpose();
        match share.and_then(|share| purses.answers.admit(bytes).map(|()| share)) {
            Ok(_share) => Ok(Some(Self { purses: purses.clone(), bytes, _share })),
            Err(over) => {
                purses.observed.in_flight.answers_refused.add(1);
                Err(too_many(over, purses))
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.purses.answers.give_back(self.bytes);
    }
}

/// The error for an answer that can't be held.
pub(super) fn too_many(over: Over, purses: &Purses) -> Error {
    let what = match over {
        Over::Connection => "the answers of this connection",
        Over::Tenant => "the answers of this tenant",
        Over::Process => "answers",
    };
    let mib = purses.observed.in_flight.answers.held() >> 20;
    let what = format!(
        "{what} that their clients have not taken hold more memory than they may ({mib} MiB are held in \
         all): take answers before asking for more, or ask for less at once"
    );
    Error::Busy { what, retry_after: ROOM_RETRY }
}

/// Entries kept until a list is sent.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) held: Option<Held>,
    /// Bytes that are counted when the answer is sent.
    pub(super) uncounted: u64,
}

/// Bytes held until a response is sent; an extension of the response. The response is admitted as a whole by them: none
/// of its pieces is refused.
#[derive(Clone, Copy)]
pub(super) struct Uncounted(pub(super) u64);

/// The body of a large answer.
pub(super) struct Pieces {
    /// Bytes before the first entry: the length of the message, and its other fields.
    head: Vec<u8>,
    entries: Box<dyn Entries>,
    next: usize,
    has_ended: bool,
    kept: Kept,
}

impl Pieces {
    /// Adds up the lengths of entries, made by `make`, and of `others`, the message without them.
    ///
    /// # Errors
    /// If the message is too long for gRPC.
    pub(super) async fn of<M: Message + 'static>(
        others: &impl Message,
        count: usize,
        make: impl Fn(usize) -> M + Send + Sync + 'static,
        kept: Kept,
    ) -> Result<Self> {
        let entries: Box<dyn Entries> = Box::new(Made { count, make });
        let mut length = others.encoded_len();
        for index in 0..count {
            length += entries.length(index);
            if index % ENTRIES_AT_ONCE == ENTRIES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        let length = u32::try_from(length).map_err(|_| {
            Error::busy(format!("the answer would have {} MiB: ask for less", length >> 20))
        })?;
        let mut head = vec![0];
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(&others.encode_to_vec());
        Ok(Self { head, entries, next: 0, has_ended: false, kept })
    }

    /// Attaches this as the body of a response, in place of its message.
    pub(super) fn attach<T>(self, response: &mut Response<T>) {
        response.extensions_mut().insert(Attached(Arc::new(Mutex::new(Some(self)))));
    }
}

/// A list as its handler answers it: whole, or in pieces.
pub(super) struct Listed<T> {
    message: T,
    pieces: Option<Pieces>,
}

impl<T: Message> Listed<T> {
    pub(super) fn whole(message: T) -> Self {
        Self { message, pieces: None }
    }

    /// In pieces; see [`Pieces::of`].
    pub(super) async fn of<M: Message + 'static>(
        others: T,
        count: usize,
        make: impl Fn(usize) -> M + Send + Sync + 'static,
        kept: Kept,
    ) -> Result<Self> {
        let pieces = Pieces::of(&others, count, make, kept).await?;
        Ok(Self { message: others, pieces: Some(pieces) })
    }

    /// The response of a handler.
    pub(super) fn respond(response: Response<Self>) -> Response<T> {
        let mut pieces = None;
        let mut response = response.map(|listed| {
            pieces = listed.pieces;
            listed.message
        });
        if let Some(pieces) = pieces {
            pieces.attach(&mut response);
        }
        response
    }
}

/// Bytes that a document takes in an answer, estimated.
pub(super) fn bytes(document: Option<&Document>) -> usize {
    document.map_or(0, |document| {
        let values = document.embedding.as_ref().map_or(0, |values| values.len());
        document.payload.bytes().len() + values * size_of::<f32>()
    })
}

/// Extensions have to be `Clone`.
#[derive(Clone)]
struct Attached(Arc<Mutex<Option<Pieces>>>);

/// Replaces the body of a response by the attached pieces, if there are any.
pub(super) fn in_pieces(mut response: http::Response<Body>) -> http::Response<Body> {
    let Some(Attached(pieces)) = response.extensions_mut().remove() else { return response };
    match pieces.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(pieces) => {
            let Kept { held, uncounted } = &pieces.kept;
            let counted = held.as_ref().map_or(0, |held| held.bytes);
            // If nothing else is counted, a piece counts for the answer: one piece exists at a time.
            let bytes = if counted + uncounted == 0 { LET_IN_BYTES } else { *uncounted };
            response.extensions_mut().insert(Uncounted(bytes));
            response.map(|_| Body::new(pieces))
        }
        None => response,
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let mut piece = std::mem::take(&mut self.head);
        while piece.len() < PIECE_BYTES && self.next < self.entries.count() {
            self.entries.put(self.next, &mut piece);
            self.next += 1;
        }
        if !piece.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
        }
        self.has_ended = true;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::proto::{BulkQueryResponse, QueryResponse};

    fn entry(index: usize) -> QueryResponse {
        let metadata = (0..index % 3).map(|n| (format!("k{n}"), "v".repeat(index * 400)));
        QueryResponse {
            found: index.is_multiple_of(2),
            doc_id: index as u64,
            embedding: vec![index as f32; index],
            metadata: metadata.collect(),
            ..QueryResponse::default()
        }
    }

    #[tokio::test]
    async fn pieces_are_the_message() {
        for count in [0, 1, 100] {
            let others = BulkQueryResponse {
                total_found: 7,
                total_requested: count as u32,
                ..BulkQueryResponse::default()
            };
            let pieces = Pieces::of(&others, count, entry, Kept::default()).await.unwrap();
            let mut pieces = Box::pin(pieces);
            let (mut bytes, mut frames) = (Vec::new(), 0);
            loop {
                let frame = poll_fn(|context| pieces.as_mut().poll_frame(context)).await;
                match frame.unwrap().unwrap().into_data() {
                    Ok(data) => {
                        frames += 1;
                        assert!(data.len() < 2 * PIECE_BYTES);
                        bytes.extend_from_slice(&data);
                    }
                    Err(frame) => {
                        assert_eq!(frame.trailers_ref().unwrap()["grpc-status"], "0");
                        break;
                    }
                }
            }
            let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
            assert_eq!(length, bytes.len() - 5);
            assert!(count < 100 || frames > 10, "{frames}");
            let message = BulkQueryResponse::decode(&bytes[5..]).unwrap();
            let results = (0..count).map(entry).collect();
            assert_eq!(message, BulkQueryResponse { results, ..others });
        }
    }
}

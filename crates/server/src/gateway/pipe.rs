//! Sending of an answer from its body to the connection: a piece at a time, as its client takes it, counted until the
//! transport has it, and ended if its client takes nothing for too long.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Reason, SendStream};
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Bytes};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::pieces::too_many;
use super::purse::{Chunk, Over, Purses};
use super::status::{count, status};
use crate::access::Tenant;

/// Bytes of an answer that are given to h2 as soon as its client takes any; the rest of a larger answer follows as its
/// windows allow.
const WHOLE_BYTES: usize = 16 << 10;

/// Most bytes of an answer that are requested from flow control at once.
const CLAIM_BYTES: usize = 256 << 10;

/// Accounts that the bytes of an answer are counted on.
pub(super) struct Account {
    pub(super) purses: Arc<Purses>,
    /// Tenant of the answer, if there is one.
    pub(super) payer: Option<Arc<Tenant>>,
    /// The answer was admitted as a whole: no piece of it is refused.
    pub(super) is_let_in: bool,
}

impl Account {
    fn chunk_of(&self, data: Bytes) -> Result<Chunk, Over> {
        let payer = self.payer.as_ref();
        match self.is_let_in {
            true => Ok(Chunk::taken(data, &self.purses, payer)),
            false => Chunk::counted(data, &self.purses, payer),
        }
    }
}

/// An answer that is being sent.
pub(super) struct Pipe {
    body: Body,
    to: SendStream<Chunk>,
    /// Taken from the body, and not given to h2 yet.
    chunk: Option<Chunk>,
    account: Account,
    /// Time without progress after which the answer is ended.
    patience: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pipe {
    pub(super) fn new(
        body: Body,
        to: SendStream<Chunk>,
        account: Account,
        patience: Duration,
    ) -> Self {
        Self { body, to, chunk: None, account, patience, alarm: None }
    }

    /// Sends what the windows allow; ready once the answer is sent or ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Poll::Ready(reset) = self.to.poll_reset(context) {
                return Poll::Ready(reset.map(|_| ()));
            }
            if let Some(chunk) = &mut self.chunk {
                let Some(room) = room(&mut self.to, chunk.len(), context)? else {
                    return self.poll_stalled(context);
                };
                self.alarm = None;
                let is_last = chunk.len() <= WHOLE_BYTES.max(room);
                let piece = if is_last { self.chunk.take() } else { Some(chunk.split_to(room)) };
                self.to.send_data(piece.unwrap_or_else(Chunk::empty), false)?;
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(self.to.send_data(Chunk::empty(), true)),
                Some(Err(error)) => return Poll::Ready(self.fail(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match self.account.chunk_of(data) {
                        Ok(chunk) => self.chunk = Some(chunk).filter(|chunk| chunk.len() > 0),
                        Err(over) => return Poll::Ready(self.refuse(over)),
                    },
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Poll::Ready(self.to.send_trailers(trailers));
                    }
                },
            }
        }
    }

    /// Waits for a bounded time for a client that takes nothing.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let patience = self.patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(alarm.as_mut().poll(context));
        self.account.purses.observed.in_flight.answers_stalled.add(1);
        tracing::debug!("a client has taken nothing of an answer for {patience:?}");
        self.to.send_reset(Reason::CANCEL);
        Poll::Ready(Ok(()))
    }

    fn refuse(&mut self, over: Over) -> Result<(), h2::Error> {
        let purses = &self.account.purses;
        purses.observed.in_flight.answers_refused.add(1);
        let error = too_many(over, purses);
        count(&purses.observed, &error);
        self.fail(&status(&error))
    }

    /// Ends the answer with a status.
    fn fail(&mut self, why: &Status) -> Result<(), h2::Error> {
        let mut trailers = HeaderMap::new();
        match why.add_header(&mut trailers) {
            Ok(()) => self.to.send_trailers(trailers),
            Err(_) => {
                self.to.send_reset(Reason::INTERNAL_ERROR);
                Ok(())
            }
        }
    }
}

/// Number of the available bytes that the client takes now; `None` if it takes none, and the task is woken when it
/// does.
fn room(
    to: &mut SendStream<Chunk>,
    bytes: usize,
    context: &mut Context<'_>,
) -> Result<Option<usize>, h2::Error> {
    if to.capacity() == 0 {
        to.reserve_capacity(bytes.min(CLAIM_BYTES));
    }
    while to.capacity() == 0 {
        match to.poll_capacity(context) {
            Poll::Pending => return Ok(None),
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(None) => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(Some(to.capacity()))
}

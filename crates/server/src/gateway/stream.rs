//! The streaming RPCs. Order within a stream is kept: the later of two writes to one document wins, and answers come in
//! the order of requests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::{Request, Status, Streaming};

use super::Gateway;
use super::panics::log_fault;
use super::service::unix_secs;
use super::status::{count, status, told};
use super::subject::Subject;
use crate::engine::{Outcome, Write};
use crate::error::{Error, Result};
use crate::observe::counters::ErrorCategory;
use crate::proto;
use crate::proto::codec::UNREAD;
use crate::router::{Router, gone};
use crate::status::health::Phase;
use crate::types::ShardId;

/// Messages of one BulkInsert.
const BULK_INSERT_MAX: u64 = 10_000;

/// Messages of one BulkLoadHnsw.
const BULK_LOAD_MAX: u64 = 10_000_000;

/// Requests of one BulkSearch.
const BULK_SEARCH_MAX: usize = 10_000;

/// Most bulk loads, and most bulk inserts, that run at once. Bounds their memory, and the writes that wait in a shard.
/// More wait, but not for long.
pub(super) const BULK_STREAMS_MAX: usize = 16;
const PLACE_PATIENCE: Duration = Duration::from_secs(5);

/// During shutdown, time after which a stream whose client sends nothing is ended.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// Period of checking for shutdown, and of checking the client's key.
const DRAIN_LOOK: Duration = Duration::from_millis(250);

/// Documents sent to a shard at once, and most such batches in progress per shard.
const BATCH_DOCUMENTS: usize = 64;
const BATCHES_PER_SHARD: usize = 4;

/// Requests of one BulkSearch that are searched concurrently.
const SEARCHES_AHEAD: usize = 16;

/// Answers of a BulkSearch.
pub(super) type SearchStream =
    Pin<Box<dyn Stream<Item = Result<proto::SearchResponse, Status>> + Send>>;

/// Results of the documents of a stream.
#[derive(Default)]
struct Tally {
    done: u64,
    failed: u64,
    last_error: String,
    /// The quota is used up.
    over_quota: Option<Error>,
}

impl Tally {
    fn fail(&mut self, gateway: &Gateway, error: &Error) {
        count(&gateway.observed, error);
        self.failed += 1;
        self.last_error = told(error);
        if matches!(error, Error::Quota(_)) {
            self.over_quota = Some(error.clone());
        }
    }

    fn settle(&mut self, gateway: &Gateway, results: Result<Vec<Result<Outcome>>>, sent: usize) {
        match results {
            Ok(results) => {
                for result in results {
                    match result {
                        Ok(_) => self.done += 1,
                        Err(error) => self.fail(gateway, &error),
                    }
                }
            }
            Err(error) => (0..sent).for_each(|_| self.fail(gateway, &error)),
        }
    }
}

/// The answer of a shard to a batch, with the number of its documents.
type Answered = (ShardId, usize, Result<Vec<Result<Outcome>>>);

/// Sends documents to their shards in batches, a few in progress per shard at a time.
struct Loader<'a> {
    gateway: &'a Arc<Gateway>,
    router: &'a Router,
    /// Documents gathered for each shard.
    gathered: Vec<Vec<Write>>,
    /// Batches in progress per shard.
    under_way: Vec<usize>,
    sent: FuturesUnordered<Pin<Box<dyn Future<Output = Answered> + Send>>>,
    tally: Tally,
    subject: Subject,
}

impl<'a> Loader<'a> {
    fn new(gateway: &'a Arc<Gateway>, router: &'a Router, subject: Subject) -> Self {
        let shards = router.shards() as usize;
        Self {
            gateway,
            router,
            gathered: (0..shards).map(|_| Vec::new()).collect(),
            under_way: vec![0; shards],
            sent: FuturesUnordered::new(),
            tally: Tally::default(),
            subject,
        }
    }

    /// Takes a document; waits while its shard has enough batches in progress.
    async fn put(&mut self, write: Write) {
        let Write::Put { id, .. } = &write else { unreachable!("loads are puts") };
        let shard = id.shard(self.router.shards());
        self.gathered[shard.0 as usize].push(write);
        if self.gathered[shard.0 as usize].len() >= BATCH_DOCUMENTS {
            self.send(shard).await;
        }
    }

    async fn send(&mut self, shard: ShardId) {
        let index = shard.0 as usize;
        while self.under_way[index] >= BATCHES_PER_SHARD {
            self.settle_one().await;
        }
        let puts = std::mem::take(&mut self.gathered[index]);
        let count = puts.len();
        self.under_way[index] += 1;
        // Sent in order; only the answer is awaited later.
        let sent = self.router.send_load(shard, puts).await;
        self.sent.push(Box::pin(async move {
            let results = match sent {
                Ok(answers) => answers.one().await.ok_or_else(|| gone(shard)),
                Err(error) => Err(error),
            };
            (shard, count, results)
        }));
    }

    async fn settle_one(&mut self) {
        if let Some(answer) = self.sent.next().await {
            self.settle(answer);
        }
    }

    fn settle(&mut self, (shard, sent, results): Answered) {
        self.under_way[shard.0 as usize] -= 1;
        self.tally.settle(self.gateway, results, sent);
    }

    /// Sends the gathered documents.
    async fn send_all(&mut self) {
        for shard in (0..self.router.shards()).map(ShardId) {
            if !self.gathered[shard.0 as usize].is_empty() {
                self.send(shard).await;
            }
        }
    }

    /// Sends the remaining documents, and waits for every answer.
    async fn finish(mut self) -> Tally {
        self.send_all().await;
        while !self.sent.is_empty() {
            self.settle_one().await;
        }
        self.tally
    }

    /// Checks and takes one message of a stream.
    async fn take(&mut self, request: proto::InsertRequest) {
        let rate = &self.gateway.write_rate;
        rate.wait(rate.bytes_of(&request)).await;
        match self.gateway.checked_put(request, &self.subject).await {
            Ok(write) => self.put(write).await,
            Err(error) => self.tally.fail(self.gateway, &error),
        }
    }
}

impl Gateway {
    /// Always answers OK, unless no insert can be served at all: failed documents are counted.
    pub(super) async fn bulk_insert(
        self: &Arc<Self>,
        request: Request<Streaming<proto::InsertRequest>>,
    ) -> Result<proto::InsertResponse, Status> {
        let subject =
            self.admit_write(request.extensions()).map_err(|error| self.refuse(&error))?;
        let mut stream = request.into_inner();
        let router = self.router().map_err(|error| self.refuse(&error))?.clone();
        self.check_space().map_err(|error| self.refuse(&error))?;
        let _place = self.bulk_place(&self.bulk_inserts).await?;
        let mut loader = Loader::new(self, &router, subject);
        let mut messages = 0;
        loop {
            // A client that pauses does not wait for others to fill its batch.
            let next = match futures_util::poll!(stream.next()) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    loader.send_all().await;
                    self.next_message(&mut stream, &loader.subject).await
                }
            };
            let Some(message) = next else { break };
            messages += 1;
            if messages > BULK_INSERT_MAX {
                let why = format!("a BulkInsert has at most {BULK_INSERT_MAX} messages");
                loader.tally.fail(self, &Error::busy(why));
                break;
            }
            match self.charged(message, &loader.subject) {
                Ok(request) => loader.take(request).await,
                // The stream is broken, or its client is gone; documents before are kept.
                Err(error) => {
                    let tally = loader.finish().await;
                    self.count_bulk(&tally);
                    return Err(error);
                }
            }
        }
        let tally = loader.finish().await;
        self.count_bulk(&tally);
        Ok(proto::InsertResponse {
            success: tally.failed == 0,
            error: tally.last_error,
            inserted_at: unix_secs(),
            tier: proto::insert_response::Tier::ColdTier.into(),
            total_inserted: tally.done,
            total_failed: tally.failed,
        })
    }

    pub(super) async fn bulk_load(
        self: &Arc<Self>,
        request: Request<Streaming<proto::InsertRequest>>,
    ) -> Result<proto::BulkLoadResponse, Status> {
        let begun = Instant::now();
        let subject =
            self.admit_write(request.extensions()).map_err(|error| self.refuse(&error))?;
        let mut stream = request.into_inner();
        let router = self.router().map_err(|error| self.refuse(&error))?.clone();
        self.check_space().map_err(|error| self.refuse(&error))?;
        let _place = self.bulk_place(&self.bulk_loads).await?;
        let mut loader = Loader::new(self, &router, subject);
        let mut messages = 0;
        let mut ended = Ok(());
        while let Some(message) = self.next_message(&mut stream, &loader.subject).await {
            messages += 1;
            if messages > BULK_LOAD_MAX {
                let why = format!("a BulkLoadHnsw has at most {BULK_LOAD_MAX} messages");
                ended = Err(self.refuse(&Error::busy(why)));
                break;
            }
            // A full group costs one more token than its documents.
            let is_group_full = messages.is_multiple_of(BATCH_DOCUMENTS as u64);
            let charged = self.charged(message, &loader.subject).and_then(|message| {
                let more = if is_group_full { self.charge(&loader.subject) } else { Ok(()) };
                more.map(|()| message)
            });
            // Documents before are kept; further ones would be refused one by one.
            let message = charged.and_then(|message| {
                let room = match &loader.tally.over_quota {
                    None => self.check_space(),
                    Some(error) => Err(error.clone()),
                };
                room.map(|()| message).map_err(|error| self.refuse(&error))
            });
            match message {
                Ok(request) => loader.take(request).await,
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        let tally = loader.finish().await;
        self.count_bulk(&tally);
        ended?;
        if let Some(error) = &tally.over_quota {
            return Err(self.refuse(error));
        }
        router.flush(false).await.map_err(|error| self.refuse(&error))?;
        self.observed.gateway.flushes.add(1);
        let took = begun.elapsed();
        Ok(proto::BulkLoadResponse {
            success: tally.failed == 0,
            error: tally.last_error,
            total_loaded: tally.done,
            total_failed: tally.failed,
            load_duration_ms: took.as_secs_f32() * 1e3,
            avg_insert_rate: tally.done as f32 / took.as_secs_f32().max(1e-6),
            peak_memory_bytes: self.observed.host.peak_bytes.get(),
        })
    }

    /// A message of a stream of documents, if documents are taken, and its client has a token left for it.
    fn charged<T>(&self, message: Result<T, Status>, subject: &Subject) -> Result<T, Status> {
        let message = message?;
        self.health.modes.check_write().map_err(|error| self.refuse(&error))?;
        self.charge(subject).map(|()| message)
    }

    /// Takes a token.
    fn charge(&self, subject: &Subject) -> Result<(), Status> {
        self.access.charge(&subject.caller).map_err(|error| self.refuse(&error))
    }

    async fn bulk_place<'a>(&self, places: &'a Semaphore) -> Result<SemaphorePermit<'a>, Status> {
        match tokio::time::timeout(PLACE_PATIENCE, places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => {
                let what = format!("{BULK_STREAMS_MAX} streams of this kind are running");
                Err(self.refuse(&Error::busy(what)))
            }
        }
    }

    /// The next message of a stream. The wait for a silent client is bounded: a server that shuts down ends the stream
    /// soon, otherwise it ends when a connection would be idle. A stream whose key is disabled ends without waiting for
    /// a message.
    async fn next_message<T>(
        &self,
        stream: &mut Streaming<T>,
        subject: &Subject,
    ) -> Option<Result<T, Status>> {
        let idle_max = Duration::from_secs(self.config.server.connection_timeout_secs);
        let waiting = Instant::now();
        let mut draining: Option<Instant> = None;
        loop {
            if let Ok(next) = tokio::time::timeout(DRAIN_LOOK, stream.next()).await {
                return next;
            }
            if let Err(error) = self.access.check(&subject.caller) {
                return Some(Err(self.refuse(&error)));
            }
            if self.health.phase() == Phase::Draining {
                let since = *draining.get_or_insert_with(Instant::now);
                if since.elapsed() >= DRAIN_PATIENCE {
                    let what = "the server is shutting down; what was sent before is kept";
                    return Some(Err(self.refuse(&Error::planned(what))));
                }
            }
            if waiting.elapsed() >= idle_max {
                let error = Error::Expired("while the next message of the stream was awaited");
                return Some(Err(self.refuse(&error)));
            }
        }
    }

    /// The error that ends a stream of searches which waits for its next message, at the first check. A load has
    /// [`DRAIN_PATIENCE`] more, since the documents that it has sent are kept.
    fn ends(&self, subject: &Subject) -> Result<()> {
        self.access.check(&subject.caller)?;
        match self.health.phase() {
            Phase::Draining => {
                Err(Error::planned("the server is shutting down; all requests before are answered"))
            }
            _ => Ok(()),
        }
    }

    /// Searches several requests at once, and answers in their order. A bad request ends the stream with its status
    /// once all before it are answered; so does shutdown, or a disabled key. Each search is a task of its own: it ends,
    /// and holds nothing of the shards, whether or not its client reads the answers.
    pub(super) fn bulk_search(
        self: Arc<Self>,
        stream: Streaming<proto::SearchRequest>,
        subject: Subject,
        timeout: Option<Duration>,
    ) -> SearchStream {
        let opened = Instant::now();
        let ahead = SEARCHES_AHEAD.min(self.config.timeouts.max_concurrent_queries);
        let requests = until_told(stream, self.clone(), subject.clone());
        let searches = requests.enumerate().map(move |(index, message)| {
            let (gateway, subject) = (self.clone(), subject.clone());
            async move {
                let request = message.map_err(|status| gateway.unread(status))?;
                if index >= BULK_SEARCH_MAX {
                    let why = format!("a BulkSearch has at most {BULK_SEARCH_MAX} requests");
                    return Err(gateway.refuse(&Error::busy(why)));
                }
                let begun = Instant::now();
                let left = timeout.map(|timeout| timeout.saturating_sub(opened.elapsed()));
                // Aborted with the stream.
                let mut task = JoinSet::new();
                let (searched, origin) = (gateway.clone(), subject.origin.clone());
                task.spawn(async move {
                    searched.streamed_search(&subject, request, left, begun).await
                });
                let found = task.join_next().await.and_then(Result::ok).unwrap_or_else(|| {
                    gateway.observed.gateway.panics.add(1);
                    Err(Error::Internal("internal server panic".into()))
                });
                found.map_err(|error| {
                    if let Error::Internal(what) = &error {
                        log_fault("BulkSearch", &origin, what);
                    }
                    gateway.refuse(&error)
                })
            }
        });
        Box::pin(until_error(searches.buffered(ahead)))
    }

    /// Counts a message that was refused before it was decoded.
    fn unread(&self, mut status: Status) -> Status {
        if status.metadata_mut().remove(UNREAD).is_some() {
            self.observed.gateway.errors(ErrorCategory::Validation).add(1);
        }
        status
    }

    pub(super) fn refuse(&self, error: &Error) -> Status {
        count(&self.observed, error);
        status(error)
    }

    fn count_bulk(&self, tally: &Tally) {
        self.observed.gateway.inserts.add(tally.done);
        self.observed.gateway.inserts_failed.add(tally.failed);
    }
}

/// The messages of a stream, and the status that ends it when it must not wait for another one. No state is set up per
/// message: one timer serves the whole stream, and only while it waits.
fn until_told<T: Send + 'static>(
    mut messages: Streaming<T>,
    gateway: Arc<Gateway>,
    subject: Subject,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let mut looks = tokio::time::interval(DRAIN_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    futures_util::stream::poll_fn(move |context| {
        if let Poll::Ready(next) = messages.poll_next_unpin(context) {
            return Poll::Ready(next);
        }
        loop {
            ready!(looks.poll_tick(context));
            if let Err(error) = gateway.ends(&subject) {
                return Poll::Ready(Some(Err(gateway.refuse(&error))));
            }
        }
    })
}

/// The answers up to and with the first error.
fn until_error<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send {
    futures_util::stream::unfold(Some(Box::pin(answers)), |answers| async move {
        let mut answers = answers?;
        let answer = answers.next().await?;
        let rest = answer.is_ok().then_some(answers);
        Some((answer, rest))
    })
}

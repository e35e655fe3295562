//! Distribution of a request to the shards that have to answer it, and merging of their answers.
//!
//! The router decides which shard owns a document, how many requests may be in flight, and how an answer is reported
//! that misses some shards. It depends neither on the wire format nor on the executors of cores.

pub mod budget;
pub mod cached;
#[cfg(test)]
mod cached_tests;
pub mod check;
mod key;
pub mod merge;
pub mod near;
mod pace;
mod pick;
mod search;
mod sweeps;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use self::cached::QueryCache;
use self::pace::Pace;
use self::pick::Loads;
use self::sweeps::Sweeps;
use crate::access::fair::{Guest, Parties, Party, Seat};
use crate::engine::{Document, Hit, Outcome, Write};
use crate::error::{Error, Result};
use crate::graph::search::Work;
use crate::observe::Observed;
use crate::observe::counters::ShardCounters;
use crate::shard::breaker::{Command, Report};
use crate::shard::keeper::Change;
use crate::shard::mailbox::{Mailbox, Refused};
use crate::shard::pacing::check_insert;
use crate::shard::pulse::Activity;
use crate::shard::reply::{Answers, Reply, single};
use crate::shard::request::Request;
use crate::shard::rotate::Rotated;
use crate::shard::snapshot::Taken;
use crate::shard::truncate::Truncated;
use crate::types::layout::Layout;
use crate::types::realm::Realm;
use crate::types::{DocId, ShardId};

/// Time after the deadline for which the router still waits for a core, which stops at the deadline by itself.
const GRACE: Duration = Duration::from_millis(5);

/// Time between two attempts of a bulk load to enter a full mailbox.
const MAILBOX_RETRY: Duration = Duration::from_millis(1);

/// Longest wait for a core's report of its breakers.
const BREAKER_PATIENCE: Duration = Duration::from_secs(2);

/// Divisor of the time to the deadline: a search is refused if its predicted time exceeds half of it. The rest is for
/// queueing and merging, and an answer that comes too late costs as much as one in time.
const DEADLINE_SHARE: u32 = 2;

/// Time between two attempts of a waiting search to enter.
const PLACE_PAUSE: Duration = Duration::from_millis(5);

/// Searches admitted per core whatever the estimate says; without completed searches the estimate would never update.
const ALWAYS_PER_CORE: usize = 4;

/// Limits of requests in flight.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most searches in flight.
    pub searches_max: usize,
    /// Longest time of a search on the hot tier.
    pub hot_budget: Duration,
}

/// The shards, and the mailboxes of their cores.
pub struct Router {
    cores: Vec<Arc<Mailbox<Request>>>,
    layout: Layout,
    loads: Loads,
    limits: ArcSwap<Limits>,
    activity: Arc<Activity>,
    observed: Arc<Observed>,
    counters: Arc<[Arc<ShardCounters>]>,
    searches: AtomicUsize,
    parties: Parties,
    sweeps: Sweeps,
    pace: Pace,
    cache: Option<QueryCache>,
}

/// Result of a search over all shards.
#[derive(Debug, Default)]
pub struct Found {
    /// At most k documents, best first.
    pub hits: Vec<Hit>,
    /// Documents that passed all conditions before the cut to k.
    pub found: u64,
    /// Work of the search.
    pub work: Work,
    /// Shards asked.
    pub shards_asked: u32,
    /// Shards whose search completed.
    pub shards_answered: u32,
    /// One line for each shard whose search did not complete.
    pub reasons: Vec<String>,
}

/// Permit of a search in flight, returned when dropped.
struct Place<'a> {
    searches: &'a AtomicUsize,
    _party: Option<Seat<'a>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.searches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Router {
    /// A router to the shards of `layout` on these cores, whose counters `observed` already has.
    #[must_use]
    pub fn new(
        cores: Vec<Arc<Mailbox<Request>>>,
        layout: Layout,
        limits: Limits,
        activity: Arc<Activity>,
        observed: Arc<Observed>,
    ) -> Self {
        assert!(!cores.is_empty());
        let loads = Loads::new(cores.len());
        let (counters, searches) = (observed.shards(), AtomicUsize::new(0));
        let limits = ArcSwap::from_pointee(limits);
        let (parties, pace) = (Parties::default(), Pace::default());
        let cache = None;
        Self {
            cores,
            layout,
            loads,
            limits,
            activity,
            observed,
            counters,
            searches,
            parties,
            sweeps: Sweeps::default(),
            pace,
            cache,
        }
    }

    /// Sets the limits of requests in flight.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.layout.shards()
    }

    /// Number of graphs.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.layout.partitions()
    }

    /// Searches in flight.
    #[must_use]
    pub fn searches_in_flight(&self) -> usize {
        self.searches.load(Ordering::Relaxed)
    }

    /// Requests waiting for a core.
    #[must_use]
    pub fn queue_of(&self, core: usize) -> usize {
        self.cores[core].len()
    }

    /// Index of the core that serves a shard.
    #[must_use]
    pub fn core_of(&self, shard: ShardId) -> usize {
        self.layout.core_of(shard, self.cores.len())
    }

    /// Sends a request to the core that serves `shard`.
    ///
    /// # Errors
    /// If its mailbox is full, or the core is gone.
    pub fn send(&self, shard: ShardId, request: Request) -> Result<()> {
        self.activity.note();
        match self.cores[self.core_of(shard)].push(request) {
            Ok(()) => Ok(()),
            Err(Refused::Full(_)) => Err(Error::busy(format!(
                "{} requests wait for shard {}",
                self.cores[self.core_of(shard)].len(),
                shard.0
            ))),
            Err(Refused::Closed(_)) => Err(gone(shard)),
        }
    }

    /// Makes every core restart the training of its vector cache. A core whose mailbox is full continues as it is.
    pub fn restart_training(&self) {
        self.activity.note();
        for core in &self.cores {
            if core.push(Request::RestartTraining).is_err() {
                tracing::warn!("a core is too busy to begin its training anew");
            }
        }
    }

    /// Records the dimension of the collection, in values, in MANIFEST, and then tells every shard. The first document
    /// decides it. Calls must not overlap; only called while the dimension is unknown.
    ///
    /// # Errors
    /// If MANIFEST can't be written: then nothing has changed.
    pub async fn decide_dimension(&self, dimension: usize) -> Result<()> {
        let (answers, reply) = single();
        self.send(ShardId(0), Request::Keep(Change::Dimension(dimension as u32), reply))?;
        let kept = answers.one().await.unwrap_or_else(|| Err("the first core is gone".into()));
        kept.map_err(|why| {
            tracing::error!("the dimension could not be recorded in MANIFEST: {why}");
            Error::unavailable("the dimension could not be recorded in MANIFEST")
        })?;
        for shard in (0..self.shards()).map(ShardId) {
            self.set_dimension(shard, dimension).await;
        }
        Ok(())
    }

    /// Tells a shard the number of values in a vector, unless its core is gone.
    async fn set_dimension(&self, shard: ShardId, dimension: usize) {
        loop {
            let (answers, reply) = single();
            let sent = self.send(shard, Request::SetDimension { shard, dimension, reply });
            if matches!(sent, Err(Error::Busy { .. })) {
                tokio::time::sleep(MAILBOX_RETRY).await;
                continue;
            }
            answers.one().await;
            return;
        }
    }

    /// Refuses an insert into a shard whose core has published that it would wait too long, before anything of it is
    /// checked or charged. Called once for each insert.
    ///
    /// # Errors
    /// If the published wait is too long.
    pub fn check_insert(&self, id: DocId) -> Result<()> {
        check_insert(&self.counters[id.shard(self.shards()).0 as usize])
    }

    /// Makes one change, which is durable when this returns.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn write(&self, id: DocId, write: Write) -> Result<Outcome> {
        let shard = id.shard(self.shards());
        let (answers, reply) = single();
        self.send(shard, Request::Write { shard, write, reply })?;
        answers.one().await.unwrap_or_else(|| Err(gone(shard)))
    }

    /// Sends documents of one shard to be stored at the pace of linking. Waits for room in the mailbox, so that the
    /// order of calls is kept. The caller waits for the answer with [`Answers::one`].
    ///
    /// # Errors
    /// If the shard can't be asked.
    pub async fn send_load(
        &self,
        shard: ShardId,
        mut puts: Vec<Write>,
    ) -> Result<Answers<Vec<Result<Outcome>>>> {
        let mailbox = &self.cores[self.core_of(shard)];
        loop {
            self.activity.note();
            let (answers, reply) = single();
            match mailbox.push(Request::Load { shard, puts, reply }) {
                Ok(()) => return Ok(answers),
                Err(Refused::Full(Request::Load { puts: back, .. })) => puts = back,
                Err(_) => return Err(gone(shard)),
            }
            tokio::time::sleep(MAILBOX_RETRY).await;
        }
    }

    /// State of the breakers of all logs, by shard, after executing a command of an operator on all of them. `None` for
    /// a shard whose core does not answer in time.
    pub async fn breakers(&self, command: Option<Command>) -> Vec<Option<Report>> {
        let mut waiting = Vec::new();
        for shard in (0..self.shards()).map(ShardId) {
            let (answers, reply) = single();
            let sent = self.send(shard, Request::Breaker { shard, command, reply });
            waiting.push(sent.ok().map(|()| answers));
        }
        let patience = tokio::time::Instant::now() + BREAKER_PATIENCE;
        let mut reports = Vec::new();
        for answers in waiting {
            let report = match answers {
                Some(answers) => tokio::time::timeout_at(patience, answers.one()).await,
                None => Ok(None),
            };
            reports.push(report.unwrap_or(None));
        }
        reports
    }

    /// Reads documents, in the order of `ids`.
    ///
    /// # Errors
    /// If any shard can't answer.
    pub async fn get(
        &self,
        ids: &[DocId],
        realm: Realm,
        include_embeddings: bool,
    ) -> Result<Vec<Option<Document>>> {
        let realm = Arc::new(realm);
        let mut by_shard = vec![Vec::new(); self.shards() as usize];
        for (place, id) in ids.iter().enumerate() {
            by_shard[id.shard(self.shards()).0 as usize].push((place, *id));
        }
        let mut waiting = Vec::new();
        for (shard, ids) in by_shard.into_iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            let shard = ShardId(shard as u32);
            let (answers, reply) = single();
            let realm = realm.clone();
            self.send(shard, Request::Get { shard, ids, realm, include_embeddings, reply })?;
            waiting.push((shard, answers));
        }
        let mut documents = vec![None; ids.len()];
        for (shard, answers) in waiting {
            for (place, document) in answers.one().await.unwrap_or_else(|| Err(gone(shard)))? {
                documents[place] = Some(document);
            }
        }
        Ok(documents)
    }

    /// Sends a request to every shard, and waits for all answers.
    async fn ask_every<T>(
        &self,
        request: impl Fn(ShardId, Reply<Result<T>>) -> Request,
    ) -> Result<Vec<T>> {
        let mut waiting = Vec::new();
        for shard in (0..self.shards()).map(ShardId) {
            let (answers, reply) = single();
            self.send(shard, request(shard, reply))?;
            waiting.push((shard, answers));
        }
        let mut answered = Vec::new();
        for (shard, answers) in waiting {
            answered.push(answers.one().await.unwrap_or_else(|| Err(gone(shard)))?);
        }
        Ok(answered)
    }

    /// Links the documents in the hot tier; returns their number. With `only_start` it returns 0 without waiting.
    ///
    /// # Errors
    /// If any shard can't.
    pub async fn flush(&self, only_start: bool) -> Result<u64> {
        let request = |shard, reply| Request::Flush { shard, only_count: only_start, reply };
        Ok(self.ask_every(request).await?.into_iter().sum())
    }

    /// Takes a snapshot of every shard.
    ///
    /// # Errors
    /// If any shard can't.
    pub async fn snapshot(&self) -> Result<Vec<Taken>> {
        self.ask_every(|shard, reply| Request::Snapshot { shard, reply }).await
    }

    /// Removes all dead documents from the graphs; returns their number.
    ///
    /// # Errors
    /// If any shard can't.
    pub async fn compact(&self) -> Result<u64> {
        let counts = self.ask_every(|shard, reply| Request::Compact { shard, reply }).await?;
        Ok(counts.into_iter().sum())
    }

    /// Drops the log segments that snapshots cover; returns the remaining log of each shard.
    ///
    /// # Errors
    /// If any shard can't.
    pub async fn truncate(&self) -> Result<Vec<Truncated>> {
        self.ask_every(|shard, reply| Request::Truncate { shard, reply }).await
    }

    /// Begins a fresh log segment in every shard.
    ///
    /// # Errors
    /// If any shard can't.
    pub async fn rotate(&self) -> Result<Vec<Rotated>> {
        self.ask_every(|shard, reply| Request::Rotate { shard, reply }).await
    }

    /// Prepares a quick next start: every shard links unlinked documents and takes a snapshot, if enough has changed
    /// since the last one. Failures are only logged.
    pub async fn settle(&self) {
        let mut waiting = Vec::new();
        for shard in (0..self.shards()).map(ShardId) {
            let (answers, reply) = single();
            let sent = self.send(shard, Request::Settle { shard, reply });
            waiting.push((shard, sent.map(|()| answers)));
        }
        for (shard, answers) in waiting {
            let settled = match answers {
                Ok(answers) => answers.one().await.unwrap_or_else(|| Err(gone(shard))),
                Err(error) => Err(error),
            };
            if let Err(error) = settled {
                tracing::warn!(shard = shard.0, "the next start has more to do: {error}");
            }
        }
    }

    /// Takes a permit for a search, or waits for one if the guest waits.
    async fn place_of<'a>(&'a self, guest: Guest<'a>, deadline: Instant) -> Result<Place<'a>> {
        loop {
            match self.enter(guest.party, deadline) {
                Err(Error::Busy { .. })
                    if guest.waits && Instant::now() + PLACE_PAUSE < deadline =>
                {
                    tokio::time::sleep(PLACE_PAUSE).await;
                }
                entered => return entered,
            }
        }
    }

    /// Takes a permit for a search with this deadline.
    fn enter<'a>(&'a self, party: Option<&'a Party>, deadline: Instant) -> Result<Place<'a>> {
        let max = self.limits.load().searches_max;
        let seat = party.map(|party| self.parties.enter(party, max)).transpose();
        let seat = seat.map_err(|share| {
            let what = format!(
                "{share} searches of this tenant are in flight, its share of {max} \
                 (timeouts.max_concurrent_queries)"
            );
            Error::busy(what)
        })?;
        let is_free = |searches| (searches < max).then_some(searches + 1);
        let entered = self.searches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_free);
        let before = entered.map_err(|_| {
            let what = format!("{max} searches are in flight (timeouts.max_concurrent_queries)");
            Error::busy(what)
        })?;
        // A tenant is judged by the number in flight if all tenants had as many searches as it.
        let weight = seat.as_ref().map_or(before, |own| own.before * self.parties.count());
        let place = Place { searches: &self.searches, _party: seat };
        let expected = self.pace.expected(weight);
        let left = deadline.saturating_duration_since(Instant::now());
        if before >= ALWAYS_PER_CORE * self.cores.len() && expected > left / DEADLINE_SHARE {
            self.observed.gateway.searches_shed.add(1);
            return Err(Error::Busy {
                what: format!(
                    "{before} searches are in flight: another one would take some {} ms of the {} ms \
                     that it has",
                    expected.as_millis(),
                    left.as_millis()
                ),
                retry_after: expected,
            });
        }
        Ok(place)
    }
}

/// The error for a shard whose core has ended.
#[must_use]
pub fn gone(shard: ShardId) -> Error {
    Error::unavailable(format!(
        "shard {} dropped the request: its core has ended, or a fault; restart the server",
        shard.0
    ))
}

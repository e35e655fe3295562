//! Execution of a search: which shards are asked, and how their answers are combined.
//!
//! Without a filter one shard of each partition is asked, and searches the documents of the whole partition. With a
//! filter every shard is asked, since each indexes only its own documents. If few documents pass, the shard compares
//! them all; if a walk is faster, it lends the set of passing documents, and one shard of the partition is asked once
//! more, to walk among the lent sets. For an exact search every shard is asked too, since all cores together finish
//! sooner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::budget::beam_width;
use super::merge::merge;
use super::pick::UnderWay;
use super::{Found, GRACE, Router, gone};
use crate::access::fair::Guest;
use crate::engine::{Hit, Lent, Query, Scope, SearchOutcome};
use crate::error::{Error, Result};
use crate::observe::trace::{Asked, Stage, Trace};
use crate::shard::mailbox::Refused;
use crate::shard::reply::{Reply, gather};
use crate::shard::request::{Request, SearchAnswer, SearchRequest};
use crate::types::{DocId, ShardId};

/// Reasons why shards are missing in an answer.
const FENCED: &str = "it is fenced after a fault; restart the server";

impl Router {
    /// Searches all documents, for a tenant if there is one, until the deadline, and notes times in `trace`.
    ///
    /// # Errors
    /// If too many searches are in flight, or if no shard can answer.
    pub async fn search(
        &self,
        query: Query,
        guest: Guest<'_>,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Found> {
        trace.asked = asked(&query);
        self.search_as(query, None, guest, deadline, trace).await.map(|(found, _)| found)
    }

    /// As `search`, with documents known to be near. Also returns the query as sent to the shards. `trace` already has
    /// the client's parameters.
    pub(super) async fn search_as(
        &self,
        mut query: Query,
        starts: Option<Arc<[DocId]>>,
        guest: Guest<'_>,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<(Found, Arc<Query>)> {
        let entered = Instant::now();
        let _place = self.place_of(guest, deadline).await?;
        let (k, is_traced) = (query.k, trace.is_on());
        query.ef = query.ef.max(k);
        // With a filter, all passing documents may be in one shard.
        if query.filter.is_none() {
            query.ef = beam_width(query.ef, self.largest_share());
        }
        let scope = match (query.is_exact, query.filter.is_some()) {
            (true, _) => Scope::Shard,
            (false, true) if self.layout.partitions() < self.layout.shards() => Scope::Lending,
            (false, true) => Scope::Shard,
            (false, false) => Scope::Partition,
        };
        let parts = match scope {
            Scope::Partition => self.layout.partitions(),
            Scope::Shard | Scope::Lending => self.layout.shards(),
        };
        let query = Arc::new(query);
        let sent = Instant::now();
        trace.mark(Stage::Admission, sent);
        let hot_budget = self.limits.load().hot_budget;
        let request = |part, reply| SearchRequest {
            shard: ShardId(part),
            query: query.clone(),
            starts: starts.clone(),
            scope,
            lent: Vec::new(),
            deadline,
            hot_budget,
            sent,
            is_traced,
            reply,
        };
        let mut gathered = Gathered::new(self.layout.shards(), deadline);
        self.ask_all(&mut gathered, parts, trace, |part, reply| {
            let request = request(part, reply);
            match scope {
                Scope::Partition => self.ask_one_of(part, request),
                Scope::Shard | Scope::Lending => self.ask(request),
            }
        })
        .await?;
        let lent = std::mem::take(&mut gathered.lent);
        if !lent.is_empty() {
            let sent = Instant::now();
            trace.mark(Stage::Admission, sent);
            let lent: Vec<Vec<(ShardId, Arc<Lent>)>> = lent.into_values().collect();
            let parts = lent.len() as u32;
            self.ask_all(&mut gathered, parts, trace, |part, reply| {
                let lent = &lent[part as usize];
                let lenders: Vec<ShardId> = lent.iter().map(|(shard, _)| *shard).collect();
                let lent = lent.iter().map(|(_, lent)| lent.clone()).collect();
                let scope = Scope::Partition;
                let request = SearchRequest { scope, lent, sent, ..request(part, reply) };
                self.ask_one(&lenders, request)
            })
            .await?;
        }
        let begun = Instant::now();
        let found = self.finish(gathered, k, trace);
        let merged = Instant::now();
        self.observed.stages.merge.record(merged.duration_since(begun));
        trace.mark(Stage::Merge, merged);
        self.pace.note(merged.duration_since(entered));
        found.map(|found| (found, query))
    }

    /// Sends these requests, and gathers answers until their deadline.
    async fn ask_all<'a>(
        &'a self,
        gathered: &mut Gathered,
        parts: u32,
        trace: &mut Trace,
        ask: impl Fn(u32, Reply<SearchAnswer>) -> Result<UnderWay<'a>>,
    ) -> Result<()> {
        let (mut answers, replies) = gather(parts as usize);
        let mut under_way = Vec::with_capacity(parts as usize);
        for (part, reply) in (0..parts).zip(replies) {
            match ask(part, reply) {
                Ok(search) => under_way.push(search),
                // Shards of a core that is gone do not answer; the others do.
                Err(Error::Unavailable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let patience = tokio::time::Instant::from_std(gathered.deadline + GRACE);
        gathered.in_time = tokio::time::timeout_at(patience, answers.all()).await.is_ok();
        drop(under_way);
        let now = Instant::now();
        while let Some(answer) = answers.take() {
            self.observed.traffic.search_answers.add(1);
            trace.note(answer.span);
            self.note(gathered, answer, trace);
        }
        trace.answered(now);
        Ok(())
    }

    /// Sends a request to the shard that it names.
    fn ask(&self, request: SearchRequest) -> Result<UnderWay<'_>> {
        let shard = request.shard;
        let under_way = self.loads.begin(self.core_of(shard));
        self.send(shard, Request::Search(request)).map(|()| under_way)
    }

    /// Sends a request to a lightly loaded shard of a partition that can answer.
    fn ask_one_of(&self, partition: u32, mut request: SearchRequest) -> Result<UnderWay<'_>> {
        let members = self.layout.members(partition);
        if members.len() == 1 {
            request.shard = ShardId(members.start);
            return self.ask(request);
        }
        let members: Vec<ShardId> = members.map(ShardId).collect();
        self.ask_one(&members, request)
    }

    /// Sends a request to a lightly loaded one of these shards that can answer.
    fn ask_one(&self, shards: &[ShardId], mut request: SearchRequest) -> Result<UnderWay<'_>> {
        self.activity.note();
        let is_usable = |shard: &&ShardId| {
            let mailbox = &self.cores[self.core_of(**shard)];
            !self.counters[shard.0 as usize].is_fenced() && !mailbox.is_closed()
        };
        // One shard of each core, since shards of a core compete for its time.
        let mut usable: Vec<ShardId> = Vec::with_capacity(shards.len());
        for &shard in shards.iter().filter(is_usable) {
            if usable.last().is_none_or(|last| self.core_of(*last) != self.core_of(shard)) {
                usable.push(shard);
            }
        }
        let load = |index: usize| {
            let core = self.core_of(usable[index]);
            (self.loads.of(core), self.cores[core].len())
        };
        let Some((first, second)) = self.loads.two(usable.len(), load) else {
            return Err(Error::unavailable("no shard of the partition answers"));
        };
        let mut refused = Error::unavailable("no shard of the partition answers");
        for shard in [usable[first], usable[second]] {
            request.shard = shard;
            let core = self.core_of(shard);
            let under_way = self.loads.begin(core);
            request = match self.cores[core].push(Request::Search(request)) {
                Ok(()) => return Ok(under_way),
                Err(Refused::Full(Request::Search(back))) => {
                    let waiting = self.cores[core].len();
                    refused = Error::busy(format!("{waiting} requests wait for shard {}", shard.0));
                    back
                }
                Err(Refused::Closed(Request::Search(back))) => {
                    if !matches!(refused, Error::Busy { .. }) {
                        refused = gone(shard);
                    }
                    back
                }
                Err(_) => unreachable!("what was sent comes back"),
            };
        }
        Err(refused)
    }

    /// Largest share of all documents that one partition holds. Ids are hashed, so it is hardly more than an even
    /// share, unless clients choose ids to make it so.
    fn largest_share(&self) -> f64 {
        let (mut most, mut all) = (0, 0);
        for partition in 0..self.layout.partitions() {
            let members = self.layout.members(partition);
            let documents = |shard| self.counters[shard as usize].documents.get();
            let count: u64 = members.map(documents).sum();
            (most, all) = (count.max(most), all + count);
        }
        if all == 0 { 1.0 } else { most as f64 / all as f64 }
    }

    /// Adds an answer.
    fn note(&self, gathered: &mut Gathered, answer: SearchAnswer, trace: &mut Trace) {
        let SearchAnswer { shard, scope, outcome, .. } = answer;
        let partition = self.layout.partition_of(shard);
        let covered = match scope {
            Scope::Partition => self.layout.members(partition),
            Scope::Shard | Scope::Lending => shard.0..shard.0 + 1,
        };
        // Shards that have already answered for their own documents are not counted again.
        let covered = covered.filter(|&shard| !gathered.has_answered[shard as usize]);
        let covered: Vec<u32> = covered.collect();
        match outcome {
            Ok(SearchOutcome { lent: Some(lent), work, .. }) => {
                gathered.found.work += work;
                gathered.lent.entry(partition).or_default().push((shard, lent));
            }
            Ok(outcome) => {
                trace.counts.hot_scanned += outcome.hot_scanned;
                gathered.is_anything_whole |= outcome.complete;
                let first = self.layout.members(partition).start;
                note_coverage(gathered, &covered, first, scope, &outcome);
                gathered.found.found += outcome.found;
                gathered.found.work += outcome.work;
                gathered.parts.push(outcome.hits);
            }
            Err(error) => {
                for shard in covered {
                    gathered.has_answered[shard as usize] = true;
                    gathered.found.reasons.push(format!("shard {shard}: {error}"));
                }
                gathered.first_error.get_or_insert(error);
            }
        }
    }

    fn finish(&self, gathered: Gathered, k: usize, trace: &mut Trace) -> Result<Found> {
        let Gathered { mut found, has_answered, parts, is_anything_whole, mut first_error, .. } =
            gathered;
        let silent = (0..self.layout.shards()).filter(|&shard| !has_answered[shard as usize]);
        for shard in silent {
            if self.counters[shard as usize].is_fenced() {
                found.reasons.push(format!("shard {shard}: {FENCED}"));
                let error = Error::unavailable(format!("shard {shard}: {FENCED}"));
                first_error.get_or_insert(error);
            } else if gathered.in_time {
                let error = gone(ShardId(shard));
                found.reasons.push(format!("shard {shard}: {error}"));
                first_error.get_or_insert(error);
            } else {
                found.reasons.push(format!("shard {shard}: no answer by the deadline"));
                first_error.get_or_insert(Error::Expired("before any shard answered"));
            }
        }
        trace.counts.distances = found.work.distances;
        trace.counts.hops = found.work.hops;
        trace.counts.shards_asked = found.shards_asked;
        trace.counts.shards_answered = found.shards_answered;
        found.reasons.sort();
        found.hits = merge(parts, k);
        if found.hits.is_empty() && !is_anything_whole {
            return Err(first_error.unwrap_or(Error::Expired("before anything was found")));
        }
        Ok(found)
    }
}

/// Parameters of a query that determine its cost.
pub(super) fn asked(query: &Query) -> Asked {
    let Query { k, ef, is_exact, .. } = *query;
    let ef = ef.max(k);
    Asked { k, ef, is_filtered: query.filter.is_some(), is_exact }
}

/// Answers so far.
struct Gathered {
    found: Found,
    deadline: Instant,
    /// All shards asked last have answered, or never will.
    in_time: bool,
    /// By shard: its documents are covered by `parts`, or the reasons say why not.
    has_answered: Vec<bool>,
    parts: Vec<Vec<Hit>>,
    is_anything_whole: bool,
    first_error: Option<Error>,
    /// Sets lent to a search of their partition, by partition.
    lent: BTreeMap<u32, Vec<(ShardId, Arc<Lent>)>>,
}

impl Gathered {
    fn new(shards: u32, deadline: Instant) -> Self {
        Self {
            found: Found { shards_asked: shards, ..Found::default() },
            deadline,
            in_time: true,
            has_answered: vec![false; shards as usize],
            parts: Vec::new(),
            is_anything_whole: false,
            first_error: None,
            lent: BTreeMap::new(),
        }
    }
}

/// Counts the shards whose documents an answer covers completely, and adds a reason for each of the others. `first` is
/// the first shard of the partition.
fn note_coverage(
    gathered: &mut Gathered,
    covered: &[u32],
    first: u32,
    scope: Scope,
    outcome: &SearchOutcome,
) {
    for &shard in covered {
        gathered.has_answered[shard as usize] = true;
        let owner = shard - first;
        if let Some((_, count)) = outcome.lost.iter().find(|(lost, _)| *lost == owner) {
            gathered.found.reasons.push(format!(
                "shard {shard}: {count} documents were left out, since their vectors can't be read; the \
                 log of the server names them"
            ));
            continue;
        }
        let why = if scope == Scope::Partition && outcome.missing.contains(&owner) {
            FENCED
        } else if outcome.hot_cut {
            "the hot tier was not scanned to its end (timeouts.hot_tier_ms)"
        } else if !outcome.complete && outcome.awaits_disk {
            "stopped at the deadline, while it waited for vectors on disk"
        } else if !outcome.complete {
            "stopped at the deadline"
        } else {
            gathered.found.shards_answered += 1;
            continue;
        };
        gathered.found.reasons.push(format!("shard {shard}: {why}"));
    }
}

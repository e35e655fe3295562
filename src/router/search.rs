//! A search: who is asked, and what their answers come to.
//!
//! Without a filter one shard of each partition is asked, and searches what all of its shards have.
//! With one every shard is, since each knows of its own documents alone what passes; and where every
//! document is to be looked at, since all cores together are sooner done.

use std::sync::Arc;
use std::time::Instant;

use super::budget::beam_width;
use super::merge::merge;
use super::pick::UnderWay;
use super::{Found, GRACE, Router, gone};
use crate::engine::{Query, Scope, SearchOutcome};
use crate::error::{Error, Result};
use crate::observe::trace::{Asked, Stage, Trace};
use crate::shard::mailbox::Refused;
use crate::shard::reply::{Answers, gather};
use crate::shard::request::{Request, SearchAnswer, SearchRequest};
use crate::types::ShardId;

/// Why shards are missing in an answer.
const FENCED: &str = "it is fenced after a fault; restart the server";

impl Router {
    /// Searches all documents until the deadline, and notes in `trace` where the time goes.
    ///
    /// # Errors
    /// If too many searches are in flight, or if no shard has anything to answer.
    pub async fn search(
        &self,
        mut query: Query,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Found> {
        let _place = self.enter()?;
        let (k, is_traced) = (query.k, trace.is_on());
        query.ef = query.ef.max(k);
        trace.asked = Asked {
            k,
            ef: query.ef,
            is_filtered: query.filter.is_some(),
            is_exact: query.is_exact,
        };
        // What passes a filter may all be in one shard.
        if query.filter.is_none() {
            query.ef = beam_width(query.ef, self.largest_share());
        }
        let scope = match query.filter.is_some() || query.is_exact {
            true => Scope::Shard,
            false => Scope::Partition,
        };
        let parts = match scope {
            Scope::Shard => self.layout.shards(),
            Scope::Partition => self.layout.partitions(),
        };
        let query = Arc::new(query);
        let (mut answers, replies) = gather(parts as usize);
        let sent = Instant::now();
        trace.mark(Stage::Admission, sent);
        let mut under_way = Vec::with_capacity(parts as usize);
        for (part, reply) in (0..parts).zip(replies) {
            let hot_budget = self.limits.hot_budget;
            let (shard, query) = (ShardId(part), query.clone());
            let request =
                SearchRequest { shard, query, scope, deadline, hot_budget, sent, is_traced, reply };
            let asked = match scope {
                Scope::Shard => self.ask(request),
                Scope::Partition => self.ask_one_of(part, request),
            };
            match asked {
                Ok(search) => under_way.push(search),
                // A core that is gone does not answer; the others do.
                Err(Error::Unavailable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let patience = tokio::time::Instant::from_std(deadline + GRACE);
        let in_time = tokio::time::timeout_at(patience, answers.all()).await.is_ok();
        drop(under_way);
        let begun = Instant::now();
        let found = self.collect(&mut answers, k, in_time, trace);
        let merged = Instant::now();
        self.observed.stages.merge.record(merged.duration_since(begun));
        trace.answered(begun);
        trace.mark(Stage::Merge, merged);
        found
    }

    /// Asks the shard that the request names.
    fn ask(&self, request: SearchRequest) -> Result<UnderWay<'_>> {
        let shard = request.shard;
        let under_way = self.loads.begin(self.core_of(shard));
        self.send(shard, Request::Search(request)).map(|()| under_way)
    }

    /// Asks a shard of a partition that can answer and has little to do.
    fn ask_one_of(&self, partition: u32, mut request: SearchRequest) -> Result<UnderWay<'_>> {
        let members = self.layout.members(partition);
        if members.len() == 1 {
            request.shard = ShardId(members.start);
            return self.ask(request);
        }
        self.activity.note();
        let is_usable = |&shard: &u32| {
            let mailbox = &self.cores[self.core_of(ShardId(shard))];
            !self.counters[shard as usize].is_fenced() && !mailbox.is_closed()
        };
        let usable = || members.clone().filter(is_usable).map(ShardId);
        let nth = |index: usize| usable().nth(index).unwrap_or(ShardId(members.start));
        let load = |index: usize| {
            let core = self.core_of(nth(index));
            (self.loads.of(core), self.cores[core].len())
        };
        let Some((first, second)) = self.loads.two(usable().count(), load) else {
            return Err(gone(ShardId(members.start)));
        };
        let mut refused = Error::unavailable("no shard of the partition answers");
        for shard in [nth(first), nth(second)] {
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
                    refused = gone(shard);
                    back
                }
                Err(_) => unreachable!("what was sent comes back"),
            };
        }
        Err(refused)
    }

    /// The share of all documents that the partition with the most of them holds. Ids are hashed, so
    /// it is hardly more than an even share, unless clients choose ids to make it so.
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

    /// The shards that an answer of `shard` is for.
    fn covered(&self, shard: ShardId, scope: Scope) -> std::ops::Range<u32> {
        match scope {
            Scope::Shard => shard.0..shard.0 + 1,
            Scope::Partition => self.layout.members(self.layout.partition_of(shard)),
        }
    }

    fn collect(
        &self,
        answers: &mut Answers<SearchAnswer>,
        k: usize,
        in_time: bool,
        trace: &mut Trace,
    ) -> Result<Found> {
        let shards = self.layout.shards();
        let mut found = Found { shards_asked: shards, ..Found::default() };
        let mut has_answered: Vec<bool> = vec![false; shards as usize];
        let mut parts = Vec::new();
        let (mut is_anything_whole, mut first_error) = (false, None);
        while let Some(SearchAnswer { shard, scope, outcome, span }) = answers.take() {
            let covered = self.covered(shard, scope);
            for shard in covered.clone() {
                has_answered[shard as usize] = true;
            }
            self.observed.traffic.search_answers.add(1);
            trace.note(span);
            match outcome {
                Ok(outcome) => {
                    trace.counts.hot_scanned += outcome.hot_scanned;
                    is_anything_whole |= outcome.complete;
                    note_coverage(&mut found, covered, &outcome);
                    found.found += outcome.found;
                    found.work += outcome.work;
                    parts.push(outcome.hits);
                }
                Err(error) => {
                    let reason = |shard| format!("shard {shard}: {error}");
                    found.reasons.extend(covered.map(reason));
                    first_error.get_or_insert(error);
                }
            }
        }
        for shard in (0..shards).filter(|&shard| !has_answered[shard as usize]) {
            if in_time {
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

/// Counts the shards whose documents an answer is the whole truth of, and says why others are not
/// among them: a line for each.
fn note_coverage(found: &mut Found, covered: std::ops::Range<u32>, outcome: &SearchOutcome) {
    for (owner, shard) in (0..).zip(covered) {
        let why = if outcome.missing.contains(&owner) {
            FENCED
        } else if outcome.hot_cut {
            "the hot tier was not scanned to its end (timeouts.hot_tier_ms)"
        } else if !outcome.complete {
            "stopped at the deadline"
        } else {
            found.shards_answered += 1;
            continue;
        };
        found.reasons.push(format!("shard {shard}: {why}"));
    }
}

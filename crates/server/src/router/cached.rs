//! The cache of queries: it repeats complete search answers until a write invalidates them.
//!
//! One cache for all threads of the gateway, since a client's repeat may come to any of them. A miss costs a hash of
//! the query, a look at one counter of each shard, and a lookup in a table without waiting; nothing is allocated until
//! an answer is kept. An answer is kept if there is room, or at the second occurrence of its query
//! ([`crate::cache::seen`]).
//!
//! Answers are kept only if all shards completed the search, and given only while all shards could answer. Why a kept
//! answer hides no write: [`crate::types::changes`]. Identity of searches: `super::key`. Answers to queries that are
//! only near a cached one: [`super::near`]. Comparison of hits with fresh searches: [`super::check`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::DefaultHashBuilder;

use super::check::{Checks, Sample};
use super::key::{self, Asked, Key};
use super::near::{Near, Neighbourhood, Told};
use super::search::asked;
use super::{Found, Router};
use crate::access::fair::Guest;
use crate::cache::seen::Seen;
use crate::cache::table::Table;
use crate::engine::{Hit, Query};
use crate::error::Result;
use crate::graph::search::Work;
use crate::observe::trace::{Stage, Trace};
use crate::types::DocId;
use crate::types::changes::{Bucket, Stamp};
use crate::types::metric::Metric;
use crate::types::realm::Realm;

/// Most cached queries that a new one is compared with: some tens of microseconds.
const COMPARED_MAX: usize = 512;

/// Configuration of the query cache.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Most answers.
    pub entries_max: usize,
    /// Most bytes of answers, estimated.
    pub bytes_max: usize,
    /// Metric of the collection.
    pub metric: Metric,
    /// When a query counts as near a cached one; `None`: only identical queries are answered.
    pub near: Option<Near>,
    /// Hits per second, at most, that are compared with a fresh search.
    pub checks_per_second: f64,
    /// Least share of the documents of fresh searches that hits must have; below it the cache turns itself off.
    pub overlap_min: f64,
}

/// An answer that is kept.
pub struct Kept {
    pub(super) key: Key,
    /// Counters of all shards before the search began.
    pub(super) stamp: Stamp,
    /// The answer.
    pub found: Found,
    /// Documents around it, if near queries may be answered.
    around: Option<Neighbourhood>,
    /// The walk that found it began at documents of a near query.
    pub(super) began_near: bool,
}

/// The answer to a search, by its source.
pub enum Answer {
    /// Found by a search.
    Fresh(Found),
    /// Found by a search, and kept in the cache.
    Shared(Arc<Kept>),
    /// From the cache.
    Cached(Arc<Kept>),
    /// Proved from cached documents of a near query.
    Near(Found),
}

impl Answer {
    /// The documents found.
    #[must_use]
    pub fn found(&self) -> &Found {
        match self {
            Self::Fresh(found) | Self::Near(found) => found,
            Self::Shared(kept) | Self::Cached(kept) => &kept.found,
        }
    }

    /// True if it comes from the cache.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        matches!(self, Self::Cached(_) | Self::Near(_))
    }
}

/// The query cache.
pub(super) struct QueryCache {
    table: Table<Arc<Kept>>,
    seen: Seen,
    hasher: DefaultHashBuilder,
    near: Option<Near>,
    pub(super) metric: Metric,
    pub(super) checks: Checks,
}

impl QueryCache {
    pub(super) fn new(params: Params) -> Self {
        Self {
            table: Table::new(params.entries_max, params.bytes_max),
            seen: Seen::default(),
            hasher: DefaultHashBuilder::default(),
            near: params.near,
            metric: params.metric,
            checks: Checks::new(params.checks_per_second, params.overlap_min),
        }
    }
}

/// Result of a lookup.
enum Looked {
    /// The cache has the answer.
    Same(Arc<Kept>),
    /// The answer was proved from a near query.
    Near(Found),
    /// No answer; the result of a search may be kept.
    Missed(Missed),
    /// A write is in progress, or a shard can't answer.
    Unsettled,
}

/// A query without a cached answer.
struct Missed {
    hash: u64,
    bucket: Bucket,
    stamp: Stamp,
    /// The query was asked before.
    is_repeat: bool,
    realm: Realm,
    /// Documents near the query, if a near query has an answer.
    starts: Option<Arc<[DocId]>>,
}

impl Router {
    /// Adds a cache of answers.
    #[must_use]
    pub fn with_cache(mut self, params: Params) -> Self {
        let counters = &self.observed.gateway.cache;
        counters.capacity.set(params.entries_max as u64);
        counters.has_near.store(params.near.is_some(), Ordering::Relaxed);
        self.cache = Some(QueryCache::new(params));
        self
    }

    /// Answers a query from the cache, or searches the documents of a realm, which the query's filter selects, until
    /// the deadline. Notes times in `trace`.
    ///
    /// # Errors
    /// As [`Router::search`].
    pub async fn search_cached(
        &self,
        mut query: Query,
        realm: Realm,
        guest: Guest<'_>,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Answer> {
        let counters = &self.observed.gateway.cache;
        let now = Instant::now();
        // A request past its deadline is refused, even if the cache has its answer.
        let is_asked = counters.is_on() && now < deadline;
        let Some(cache) = self.cache.as_ref().filter(|_| is_asked) else {
            return self.search(query, guest, deadline, trace).await.map(Answer::Fresh);
        };
        trace.asked = asked(&query);
        trace.mark(Stage::Admission, now);
        let looked = self.look(cache, &query, realm);
        trace.mark(Stage::Cache, Instant::now());
        let hit = match looked {
            Looked::Same(kept) => Answer::Cached(kept),
            Looked::Near(found) => Answer::Near(found),
            Looked::Unsettled => {
                counters.misses.add(1);
                return self.search(query, guest, deadline, trace).await.map(Answer::Fresh);
            }
            Looked::Missed(mut missed) => {
                counters.misses.add(1);
                let asked = Asked::of(&query);
                let width = self.near(cache).and_then(|near| near.width(&query));
                if let Some(width) = width {
                    (query.k, query.include_embeddings) = (width, true);
                }
                let starts = missed.starts.clone();
                let (found, query) = self.search_as(query, starts, guest, deadline, trace).await?;
                let realm = std::mem::take(&mut missed.realm);
                let key = Key { query, asked, realm };
                let answer = self.keep(cache, missed, key, found, width.is_some());
                if let Answer::Shared(kept) = &answer
                    && kept.began_near
                {
                    cache.checks.offer(|| Sample::of(kept));
                }
                return Ok(answer);
            }
        };
        counters.hits.add(1);
        trace.counts.shards_asked = hit.found().shards_asked;
        trace.counts.shards_answered = hit.found().shards_answered;
        Ok(hit)
    }

    /// When a query counts as near, if near queries are answered.
    fn near(&self, cache: &QueryCache) -> Option<Near> {
        let is_off = self.observed.gateway.cache.is_near_off.load(Ordering::Relaxed);
        cache.near.filter(|_| !is_off)
    }

    /// Looks up the answer to a query.
    fn look(&self, cache: &QueryCache, query: &Query, realm: Realm) -> Looked {
        let bucket = Bucket::of(&realm);
        // Taken before anything is read: writes from here on may be missing in the answer.
        let Some(stamp) = self.stamp(bucket) else { return Looked::Unsettled };
        let hash = key::hash(&cache.hasher, query, &realm);
        let is_it = |kept: &Arc<Kept>| kept.stamp == stamp && kept.key.is_for(query, &realm);
        if let Some(kept) = cache.table.find(hash, is_it) {
            cache.checks.offer(|| Sample::of(&kept));
            return Looked::Same(kept);
        }
        let starts = match self.look_near(cache, query, &realm, stamp) {
            None => None,
            Some(Told::Answer(found)) => {
                cache.checks.offer(|| Sample::near(query, &realm, stamp, &found.hits));
                return Looked::Near(found);
            }
            Some(Told::Starts(starts)) => Some(starts),
        };
        let is_repeat = cache.seen.note(hash, stamp);
        self.observed.gateway.cache.missed_repeats.add(u64::from(is_repeat));
        Looked::Missed(Missed { hash, bucket, stamp, is_repeat, realm, starts })
    }

    /// Looks for a near query that proves the answer, or else gives start nodes.
    fn look_near(
        &self,
        cache: &QueryCache,
        query: &Query,
        realm: &Realm,
        stamp: Stamp,
    ) -> Option<Told<Found>> {
        let near = self.near(cache)?;
        near.width(query)?;
        let kept = cache.table.nearest(COMPARED_MAX, |kept| {
            let is_fit =
                kept.around.is_some() && kept.stamp == stamp && kept.key.is_beside(query, realm);
            is_fit.then(|| near.similarity(&query.vector, &kept.key.query.vector)).flatten()
        })?;
        let around = kept.around.as_ref()?;
        let told = near.answer(query, &kept.key.query.vector, &kept.found.hits, around);
        let counters = &self.observed.gateway.cache;
        let hits = match told {
            Told::Answer(hits) => hits,
            Told::Starts(starts) => {
                counters.near_misses.add(1);
                return Some(Told::Starts(starts));
            }
        };
        counters.near_hits.add(1);
        let Found { found, shards_asked, shards_answered, .. } = kept.found;
        let (work, reasons) = (Work::default(), Vec::new());
        Some(Told::Answer(Found { hits, found, work, shards_asked, shards_answered, reasons }))
    }

    /// Counters of all shards for a bucket; `None` while a write to it is in progress, or if a shard can't answer: then
    /// no kept answer is valid.
    pub(super) fn stamp(&self, bucket: Bucket) -> Option<Stamp> {
        let is_gone = self.cores.iter().any(|mailbox| mailbox.is_closed());
        if is_gone || self.counters.iter().any(|shard| shard.is_fenced()) {
            return None;
        }
        Stamp::read(self.counters.iter().map(|shard| &*shard.changes), bucket)
    }

    /// Keeps an answer, if it is complete and worth it. With `has_more` it contains more documents than were requested,
    /// with their vectors.
    fn keep(
        &self,
        cache: &QueryCache,
        missed: Missed,
        key: Key,
        mut found: Found,
        has_more: bool,
    ) -> Answer {
        let Missed { hash, bucket, stamp, is_repeat, ref starts, .. } = missed;
        let began_near = starts.is_some();
        let around = match cache.near.filter(|_| has_more) {
            None => None,
            Some(near) => {
                let (query, asked) = (&*key.query, key.asked);
                let (width, shows) = (query.k, asked.include_embeddings);
                Some(near.take(&query.vector, &mut found.hits, width, asked.k, shows))
            }
        };
        let is_whole = found.reasons.is_empty() && found.shards_answered == found.shards_asked;
        let more = around.as_ref().map_or(0, Neighbourhood::bytes);
        let bytes = key.bytes() + bytes(&found) + more;
        let is_same = |other: &Arc<Kept>| other.key.is_same(&key);
        let is_stale =
            |other: &Arc<Kept>| self.stamp(Bucket::of(&other.key.realm)) != Some(other.stamp);
        // A query near another one is never equal to it.
        let is_worth_it = is_repeat
            || has_more
            || cache.table.has_room(hash, bytes)
            || cache.table.has_place_of_stale(hash, bytes, is_same, is_stale);
        let is_fit = is_worth_it && bytes <= cache.table.entry_bytes_max();
        // After a write since, the answer would never be given, but would take up room.
        if !is_whole || !is_fit || self.stamp(bucket) != Some(stamp) {
            return Answer::Fresh(found);
        }
        let mut kept = Kept { key, stamp, found, around, began_near };
        // A kept hit must not keep memory alive that it shares with other documents.
        let others = kept.around.iter_mut().flat_map(|around| &mut around.others);
        for hit in kept.found.hits.iter_mut().chain(others) {
            hit.payload = hit.payload.alone();
        }
        let kept = Arc::new(kept);
        let is_same = |other: &Arc<Kept>| other.key.is_same(&kept.key);
        let mut gone = Vec::new();
        let evicted = cache.table.keep(hash, bytes, kept.clone(), is_same, is_stale, &mut gone);
        self.observed.gateway.cache.evictions.add(evicted.unwrap_or(0) as u64);
        self.note_size(cache);
        Answer::Shared(kept)
    }

    /// Turns a cache that has turned itself off on again: for an operator who has changed something.
    pub fn retry_cache(&self) {
        let Some(cache) = &self.cache else { return };
        cache.checks.forget();
        let counters = &self.observed.gateway.cache;
        let was_off = counters.is_off.swap(false, Ordering::Relaxed);
        if counters.is_near_off.swap(false, Ordering::Relaxed) || was_off {
            self.clear_cache(cache);
            tracing::info!("the cache of queries is on again");
        }
    }

    /// Drops all answers, which frees their memory; returns their number.
    pub fn drop_answers(&self) -> u64 {
        let Some(cache) = &self.cache else { return 0 };
        let count = self.observed.gateway.cache.entries.get();
        self.clear_cache(cache);
        count
    }

    /// Drops the answer to a query, if it is kept.
    pub(super) fn forget(&self, cache: &QueryCache, query: &Query, realm: &Realm) {
        let hash = key::hash(&cache.hasher, query, realm);
        drop(cache.table.forget(hash, |kept| kept.key.is_for(query, realm)));
        self.note_size(cache);
    }

    /// Drops all answers.
    pub(super) fn clear_cache(&self, cache: &QueryCache) {
        cache.table.clear();
        self.note_size(cache);
    }

    fn note_size(&self, cache: &QueryCache) {
        let (counters, (entries, bytes)) = (&self.observed.gateway.cache, cache.table.size());
        counters.entries.set(entries as u64);
        counters.bytes.set(bytes as u64);
    }
}

/// Bytes of memory of an answer, estimated.
fn bytes(found: &Found) -> usize {
    let of_hit = |hit: &Hit| {
        hit.payload.bytes().len()
            + hit.embedding.as_ref().map_or(0, |values| size_of_val(&**values))
    };
    size_of::<Kept>()
        + found.hits.capacity() * size_of::<Hit>()
        + found.hits.iter().map(of_hit).sum::<usize>()
}

//! The cache of queries: an answer that was found once is given again, as long as nothing has been
//! written that it rests on.
//!
//! One for all threads of the gateway, since a client's repeat may come to any of them. It costs a search
//! that it has no answer for a hash of the query, a look at one counter of each shard, and a look into a
//! table that it does not wait for; nothing is allocated until an answer is kept. That is where there is
//! room, or when the same question comes again ([`crate::cache::seen`]).
//!
//! What may be kept, and given: only what all shards have searched to the end, and only while all of them
//! could answer. Why an answer that is kept hides no write: [`crate::types::changes`]. What a search is
//! told apart by: `super::key`. How a question that is only nearly one of before may be answered:
//! [`super::near`]. How hits are seen to be what is found: [`super::check`].

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

/// Questions of before that a new one is compared with, at most: some tens of microseconds.
const COMPARED_MAX: usize = 512;

/// What shapes the cache.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Most answers.
    pub entries_max: usize,
    /// Most bytes of them, about.
    pub bytes_max: usize,
    /// How documents are compared.
    pub metric: Metric,
    /// When a question is near one of before; `None` if only the same one counts.
    pub near: Option<Near>,
    /// Hits compared with a fresh search, at most, a second.
    pub checks_per_second: f64,
    /// It turns itself off where its hits have less of what fresh searches find.
    pub overlap_min: f64,
}

/// An answer that is kept.
pub struct Kept {
    pub(super) key: Key,
    /// What the counters of all shards said before it was searched for.
    pub(super) stamp: Stamp,
    /// The answer.
    pub found: Found,
    /// What is around it, where questions near this one may be answered.
    around: Option<Neighbourhood>,
    /// The walk that found it began at what was found for a question that is near.
    pub(super) began_near: bool,
}

/// The answer to a search.
pub enum Answer {
    /// Found by a search.
    Fresh(Found),
    /// The same, and the cache has it too.
    Shared(Arc<Kept>),
    /// From the cache.
    Cached(Arc<Kept>),
    /// Of documents that the cache has, compared with this question.
    Near(Found),
}

impl Answer {
    /// What was found.
    #[must_use]
    pub fn found(&self) -> &Found {
        match self {
            Self::Fresh(found) | Self::Near(found) => found,
            Self::Shared(kept) | Self::Cached(kept) => &kept.found,
        }
    }

    /// It comes from the cache.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        matches!(self, Self::Cached(_) | Self::Near(_))
    }
}

/// The cache.
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

/// What the cache knows of a question.
enum Looked {
    /// It has the answer.
    Same(Arc<Kept>),
    /// It has what proves the answer.
    Near(Found),
    /// It has no answer, and may keep one.
    Missed(Missed),
    /// Something is being written, or a shard can't answer.
    Unsettled,
}

/// A question that the cache had no answer for.
struct Missed {
    hash: u64,
    bucket: Bucket,
    stamp: Stamp,
    /// It is not the first time.
    is_repeat: bool,
    realm: Realm,
    /// Documents that are near it, if a question that is near it has an answer.
    starts: Option<Arc<[DocId]>>,
}

impl Router {
    /// Keeps answers from now on.
    #[must_use]
    pub fn with_cache(mut self, params: Params) -> Self {
        let counters = &self.observed.gateway.cache;
        counters.capacity.set(params.entries_max as u64);
        counters.has_near.store(params.near.is_some(), Ordering::Relaxed);
        self.cache = Some(QueryCache::new(params));
        self
    }

    /// Searches the documents of a realm, which the query's filter asks for, until the deadline; or
    /// finds the answer in the cache. Notes in `trace` where the time goes.
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
        // Whoever has no time left is told so, whatever the cache has.
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

    /// When questions are near, if such are answered.
    fn near(&self, cache: &QueryCache) -> Option<Near> {
        let is_off = self.observed.gateway.cache.is_near_off.load(Ordering::Relaxed);
        cache.near.filter(|_| !is_off)
    }

    /// Looks for the answer to a question.
    fn look(&self, cache: &QueryCache, query: &Query, realm: Realm) -> Looked {
        let bucket = Bucket::of(&realm);
        // Before anything is looked at: what is written from here on may be missing.
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

    /// Looks for what proves the answer, or else tells where to search.
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

    /// What the counters of all shards say of a bucket; `None` while something is being written there,
    /// or where a shard can't answer: then nothing that is kept is the answer.
    pub(super) fn stamp(&self, bucket: Bucket) -> Option<Stamp> {
        let is_gone = self.cores.iter().any(|mailbox| mailbox.is_closed());
        if is_gone || self.counters.iter().any(|shard| shard.is_fenced()) {
            return None;
        }
        Stamp::read(self.counters.iter().map(|shard| &*shard.changes), bucket)
    }

    /// Keeps an answer, if it is whole and worth it. With `has_more` it has more documents than were
    /// asked for, and their vectors.
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
        // A question near another one never is the same.
        let is_worth_it = is_repeat
            || has_more
            || cache.table.has_room(hash, bytes)
            || cache.table.has_place_of_stale(hash, bytes, is_same, is_stale);
        let is_fit = is_worth_it && bytes <= cache.table.entry_bytes_max();
        // If something has been written since, nobody would be given it, but it would take a place.
        if !is_whole || !is_fit || self.stamp(bucket) != Some(stamp) {
            return Answer::Fresh(found);
        }
        let mut kept = Kept { key, stamp, found, around, began_near };
        // Memory that documents share must not be kept for the sake of one of them.
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

    /// Has the cache keep and give answers again, if it had turned itself off: for an operator who has
    /// changed something.
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

    /// Forgets all answers, so that their memory is free; how many there were.
    pub fn drop_answers(&self) -> u64 {
        let Some(cache) = &self.cache else { return 0 };
        let count = self.observed.gateway.cache.entries.get();
        self.clear_cache(cache);
        count
    }

    /// Forgets the answer to a question, if it is kept.
    pub(super) fn forget(&self, cache: &QueryCache, query: &Query, realm: &Realm) {
        let hash = key::hash(&cache.hasher, query, realm);
        drop(cache.table.forget(hash, |kept| kept.key.is_for(query, realm)));
        self.note_size(cache);
    }

    /// Forgets all answers.
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

/// Bytes of memory of an answer, about.
fn bytes(found: &Found) -> usize {
    let of_hit = |hit: &Hit| {
        hit.payload.bytes().len()
            + hit.embedding.as_ref().map_or(0, |values| size_of_val(&**values))
    };
    size_of::<Kept>()
        + found.hits.capacity() * size_of::<Hit>()
        + found.hits.iter().map(of_hit).sum::<usize>()
}

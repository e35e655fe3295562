//! The cache of queries: an answer that was found once is given again, as long as nothing has been
//! written that it rests on.
//!
//! One for all threads of the gateway, since a client's repeat may come to any of them. It costs a search
//! that it has no answer for a hash of the query, a look at one counter of each shard, and a look into a
//! table that it does not wait for; nothing is allocated until an answer is kept. That is where there is
//! room, or when the same question comes again ([`crate::cache::seen`]).
//!
//! What may be kept, and given: only what all shards have searched to the end, and only while all of them
//! could answer. Why an answer that is kept hides no write: [`crate::cache::changes`]. What a search is
//! told apart by: [`super::key`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hashbrown::DefaultHashBuilder;

use super::check::Checks;
use super::fair::Party;
use super::key::{self, Key};
use super::{Found, Router};
use crate::cache::changes::{Bucket, Stamp};
use crate::cache::seen::Seen;
use crate::cache::table::Table;
use crate::engine::{Hit, Query};
use crate::error::Result;
use crate::observe::trace::{Stage, Trace};
use crate::store::realm::Realm;

/// What shapes the cache.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Most answers.
    pub entries_max: usize,
    /// Most bytes of them, about.
    pub bytes_max: usize,
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
}

/// The answer to a search.
pub enum Answer {
    /// Found by a search.
    Fresh(Found),
    /// The same, and the cache has it too.
    Shared(Arc<Kept>),
    /// From the cache.
    Cached(Arc<Kept>),
}

impl Answer {
    /// What was found.
    #[must_use]
    pub fn found(&self) -> &Found {
        match self {
            Self::Fresh(found) => found,
            Self::Shared(kept) | Self::Cached(kept) => &kept.found,
        }
    }

    /// It comes from the cache.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        matches!(self, Self::Cached(_))
    }
}

/// The cache.
pub(super) struct QueryCache {
    table: Table<Arc<Kept>>,
    seen: Seen,
    hasher: DefaultHashBuilder,
    pub(super) checks: Checks,
}

impl QueryCache {
    pub(super) fn new(params: Params) -> Self {
        Self {
            table: Table::new(params.entries_max, params.bytes_max),
            seen: Seen::default(),
            hasher: DefaultHashBuilder::default(),
            checks: Checks::new(params.checks_per_second, params.overlap_min),
        }
    }
}

/// A question that the cache had no answer for.
struct Missed {
    hash: u64,
    bucket: Bucket,
    stamp: Stamp,
    /// It is not the first time.
    is_repeat: bool,
    realm: Realm,
}

impl Router {
    /// Keeps answers from now on.
    #[must_use]
    pub fn with_cache(mut self, params: Params) -> Self {
        self.observed.gateway.cache.capacity.set(params.entries_max as u64);
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
        query: Query,
        realm: Realm,
        party: Option<&Party>,
        deadline: Instant,
        trace: &mut Trace,
    ) -> Result<Answer> {
        let counters = &self.observed.gateway.cache;
        let Some(cache) = self.cache.as_ref().filter(|_| counters.is_on()) else {
            return self.search(query, party, deadline, trace).await.map(Answer::Fresh);
        };
        trace.mark(Stage::Admission, Instant::now());
        let looked = self.look(cache, &query, realm);
        trace.mark(Stage::Cache, Instant::now());
        let missed = match looked {
            Ok(kept) => {
                counters.hits.add(1);
                trace.counts.shards_asked = kept.found.shards_asked;
                trace.counts.shards_answered = kept.found.shards_answered;
                cache.checks.offer(&kept);
                return Ok(Answer::Cached(kept));
            }
            Err(missed) => missed,
        };
        counters.misses.add(1);
        let ef = query.ef;
        let (found, query) = self.search_as(query, party, deadline, trace).await?;
        Ok(match missed {
            Some(missed) => {
                self.keep(cache, missed, Key { query, ef, realm: Realm::default() }, found)
            }
            None => Answer::Fresh(found),
        })
    }

    /// The answer that is kept; or else what it takes to keep one, if it may be kept.
    fn look(
        &self,
        cache: &QueryCache,
        query: &Query,
        realm: Realm,
    ) -> std::result::Result<Arc<Kept>, Option<Missed>> {
        let bucket = Bucket::of(&realm);
        // Before anything is looked at: what is written from here on may be missing.
        let Some(stamp) = self.stamp(bucket) else { return Err(None) };
        let hash = key::hash(&cache.hasher, query, &realm);
        let is_it = |kept: &Arc<Kept>| kept.stamp == stamp && kept.key.is_for(query, &realm);
        if let Some(kept) = cache.table.find(hash, is_it) {
            return Ok(kept);
        }
        let is_repeat = cache.seen.note(hash, stamp);
        self.observed.gateway.cache.missed_repeats.add(u64::from(is_repeat));
        Err(Some(Missed { hash, bucket, stamp, is_repeat, realm }))
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

    /// Keeps an answer, if it is whole and worth it.
    fn keep(&self, cache: &QueryCache, missed: Missed, mut key: Key, mut found: Found) -> Answer {
        let is_whole = found.reasons.is_empty() && found.shards_answered == found.shards_asked;
        let Missed { hash, bucket, stamp, is_repeat, realm } = missed;
        key.realm = realm;
        let bytes = key.bytes() + bytes(&found);
        let is_worth_it = is_repeat || cache.table.has_room(hash, bytes);
        let is_fit = is_worth_it && bytes <= cache.table.entry_bytes_max();
        // If something has been written since, nobody would be given it, but it would take a place.
        if !is_whole || !is_fit || self.stamp(bucket) != Some(stamp) {
            return Answer::Fresh(found);
        }
        // Memory that documents share must not be kept for the sake of one of them.
        for hit in &mut found.hits {
            hit.payload = hit.payload.alone();
        }
        let kept = Arc::new(Kept { key, stamp, found });
        let is_same = |other: &Arc<Kept>| other.key.is_same(&kept.key);
        let is_stale =
            |other: &Arc<Kept>| self.stamp(Bucket::of(&other.key.realm)) != Some(other.stamp);
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
        if self.observed.gateway.cache.is_off.swap(false, Ordering::Relaxed) {
            self.clear_cache(cache);
            tracing::info!("the cache of queries is on again");
        }
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

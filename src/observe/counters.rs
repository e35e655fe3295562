//! Numbers that cores and gateway write and that metrics and health read. Each has one writer,
//! or is rare; nothing here takes a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::types::changes::Changes;

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Adds one; returns the value before.
    #[inline]
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that its owner sets.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether the log of a shard is written, as `kyrodb_wal_circuit_breaker_state` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakerState {
    /// It is.
    #[default]
    Closed,
    /// Writes are refused at once.
    Open,
    /// Writes are tried, to see whether they succeed again.
    HalfOpen,
}

impl BreakerState {
    /// The worse of two.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            (Self::HalfOpen, _) | (_, Self::HalfOpen) => Self::HalfOpen,
            (Self::Closed, Self::Closed) => Self::Closed,
        }
    }

    /// Its name in answers and messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The room on the file system of the data directory, and how much of it is kept for what must
/// go on when it runs out.
pub struct Space {
    available_bytes: AtomicU64,
    reserve_bytes: AtomicU64,
}

impl Default for Space {
    /// Plenty, until somebody has looked.
    fn default() -> Self {
        Self { available_bytes: AtomicU64::new(u64::MAX), reserve_bytes: AtomicU64::new(0) }
    }
}

impl Space {
    /// Sets what is available.
    pub fn set_available(&self, bytes: u64) {
        self.available_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets how much is kept.
    pub fn set_reserve(&self, bytes: u64) {
        self.reserve_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes available.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.available_bytes.load(Ordering::Relaxed)
    }

    /// Bytes kept.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        self.reserve_bytes.load(Ordering::Relaxed)
    }

    /// The reserve is reached: nothing that takes more room for good is let in.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.available() < self.reserve()
    }
}

/// A part of a shard's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryPart {
    /// Vectors.
    Vectors,
    /// Codes of them.
    Codes,
    /// Lists of neighbours.
    Links,
    /// Ids, lifetimes and the index of ids.
    Ids,
    /// Metadata.
    Metadata,
    /// The index of the metadata.
    MetadataIndex,
    /// The list of what is not linked yet.
    HotTier,
}

impl MemoryPart {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Vectors,
        Self::Codes,
        Self::Links,
        Self::Ids,
        Self::Metadata,
        Self::MetadataIndex,
        Self::HotTier,
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Codes => "codes",
            Self::Links => "links",
            Self::Ids => "ids",
            Self::Metadata => "metadata",
            Self::MetadataIndex => "metadata_index",
            Self::HotTier => "hot_tier",
        }
    }
}

/// What one shard has done, and how it is.
#[derive(Default)]
pub struct ShardCounters {
    /// Documents alive.
    pub documents: Gauge,
    /// Documents acknowledged but not linked.
    pub hot_documents: Gauge,
    /// Documents written since the start that may wait to be linked before writers wait.
    pub hot_documents_bound: Gauge,
    /// Writes that wait for the log, or for room in the hot tier.
    pub writes_waiting: Gauge,
    /// Times that the log waited for room in the hot tier.
    pub writes_paced: Counter,
    /// How long an insert that comes now would wait for room in the hot tier, in milliseconds; 0 while it
    /// may wait.
    pub insert_wait_ms: Gauge,
    /// Inserts that the router has judged while the shard said that they would wait too long.
    pub inserts_judged: Counter,
    /// Inserts refused since they would have waited too long for room in the hot tier.
    pub inserts_shed: Counter,
    /// Nodes in the graph, dead ones included.
    pub linked_nodes: Gauge,
    /// Slots ever used.
    pub slots: Gauge,
    /// Bytes of memory, by [`MemoryPart`].
    pub memory: [Gauge; MemoryPart::ALL.len()],
    /// Records read from the log at start.
    pub replayed_records: Counter,
    /// Nanoseconds that the scan of one hot document takes, measured at start.
    pub scan_ns: Gauge,
    /// Searches begun.
    pub searches: Counter,
    /// Distances computed by searches.
    pub search_distances: Counter,
    /// Of them, those for which a whole vector was read.
    pub search_full_distances: Counter,
    /// Rows that searches asked for ahead of their distance.
    pub search_prefetched: Counter,
    /// Nodes whose neighbours searches have read.
    pub search_hops: Counter,
    /// Documents of the hot tier that searches have looked at.
    pub search_hot_documents: Counter,
    /// Searches that were compared with an exact repetition.
    pub recall_sampled: Counter,
    /// Searches whose comparison was given up.
    pub recall_dropped: Counter,
    /// True nearest documents of the searches compared, and those of them that were found.
    pub recall_wanted: Counter,
    /// See `recall_wanted`.
    pub recall_hits: Counter,
    /// Found by wanted, in millionths, of the last searches compared.
    pub recall_recent_millionths: Gauge,
    /// What was wanted of vectors on disk.
    pub vectors: super::vectors::VectorCounters,
    /// Documents linked into the graph.
    pub links: Counter,
    /// Distances computed to link them, and to take dead ones out.
    pub link_distances: Gauge,
    /// Dead nodes in the graph.
    pub dead_nodes: Gauge,
    /// Dead nodes taken out of it.
    pub removed_nodes: Gauge,
    /// Live nodes that no walk could reach, until they were found.
    pub unreachable_nodes: Gauge,
    /// Times that the whole graph was looked through for such nodes.
    pub graph_checks: Gauge,
    /// Pairs of documents that are gone, found where the index would have taken them for those of
    /// others, and removed.
    pub stale_postings: Gauge,
    /// The share of the nearest that 8-bit codes do not have among the nearest, in millionths; and 1 if
    /// walks do not rely on codes for it.
    pub codes_indistinct_millionths: Gauge,
    /// See `codes_indistinct_millionths`.
    pub codes_passed_over: Gauge,
    /// Groups written to the log.
    pub wal_groups: Gauge,
    /// Records in them.
    pub wal_records: Gauge,
    /// Bytes of them, padding included.
    pub wal_bytes: Gauge,
    /// Syncs of the log.
    pub wal_syncs: Gauge,
    /// Bytes written to the log and not synced.
    pub unsynced_bytes: Gauge,
    /// Since when there are some, in Unix milliseconds; 0 if there are none.
    pub unsynced_since_ms: Gauge,
    /// Times that the log could not be written or synced.
    pub wal_failures: Counter,
    /// Fresh segments begun, or tried to, after a failure.
    pub wal_retries: Counter,
    /// Times that there was no room for the log.
    pub disk_full: Counter,
    /// Snapshots written.
    pub snapshots: Counter,
    /// Snapshots that could not be written.
    pub snapshot_failures: Counter,
    /// The last one that was tried could not be.
    pub is_snapshot_failing: AtomicBool,
    /// Bytes of snapshots written.
    pub snapshot_bytes: Counter,
    /// Of them, bytes of vectors and metadata, which follow what has changed.
    pub snapshot_written_bytes: Counter,
    /// Bytes of documents that had changed since the snapshot before.
    pub snapshot_changed_bytes: Counter,
    /// Snapshots that were found damaged at start.
    pub damaged_snapshots: Counter,
    /// Starts from an older snapshot and the log since, or from the log alone, in place of damaged ones.
    pub fallback_recoveries: Counter,
    /// Failures that count against the breaker.
    pub breaker_failures: Gauge,
    breaker: AtomicU8,
    /// Torn writes cut off at start.
    pub torn_writes: Counter,
    /// Requests that panicked.
    pub panics: Counter,
    /// The log is beyond mending: writes are refused, reads go on.
    pub is_read_only: AtomicBool,
    /// The state in memory may be half written: everything is refused.
    pub is_fenced: AtomicBool,
    /// What has been written, for whoever keeps answers.
    pub changes: Arc<Changes>,
}

impl ShardCounters {
    /// The state in memory may be half written: everything is refused.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    /// The log is beyond mending: writes are refused, reads go on.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    /// Sets the state of the log's breaker.
    pub fn set_breaker(&self, state: BreakerState) {
        self.breaker.store(state as u8, Ordering::Relaxed);
    }

    /// The state of the log's breaker.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        match self.breaker.load(Ordering::Relaxed) {
            0 => BreakerState::Closed,
            1 => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }
}

/// What passes between the gateway's threads and the cores.
#[derive(Default)]
pub struct Traffic {
    /// Messages put into the mailboxes of cores.
    pub messages: Counter,
    /// Those that had to wake the core.
    pub wakes: Counter,
    /// Answers of shards to searches.
    pub search_answers: Counter,
}

/// Why a request failed, as `kyrodb_errors_total` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCategory {
    /// The request was wrong.
    Validation,
    /// The deadline passed.
    Timeout,
    /// A bug, or a state in which nothing can be done.
    Internal,
    /// A bound was reached.
    ResourceExhausted,
    /// A rate, or the quota of a tenant, was used up by who asked: no fault of the server.
    Limited,
    /// An operator has asked for it: read-only, maintenance, shutdown.
    Planned,
}

/// What the cache of queries has done.
#[derive(Default)]
pub struct CacheCounters {
    /// Answers that it may keep; 0 where there is no cache.
    pub capacity: Gauge,
    /// Searches that it has answered.
    pub hits: Counter,
    /// Searches that it was asked about, and had no answer for.
    pub misses: Counter,
    /// Of them, those that had been asked lately, with nothing written since: more room, and it would
    /// have had the answer.
    pub missed_repeats: Counter,
    /// Answers that had to go for others.
    pub evictions: Counter,
    /// Answers that it has.
    pub entries: Gauge,
    /// Bytes of them.
    pub bytes: Gauge,
    /// Hits that were compared with a fresh search.
    pub checked: Counter,
    /// Hits whose comparison was given up.
    pub checks_dropped: Counter,
    /// What the fresh searches found, and what of it the hits had.
    pub check_wanted: Counter,
    /// See `check_wanted`.
    pub check_hits: Counter,
    /// Had by found, in millionths, of the last hits compared.
    pub overlap_millionths: Gauge,
    /// It has turned itself off, since its hits are not what a search finds.
    pub is_off: AtomicBool,
    /// It answers questions that are near those of before.
    pub has_near: AtomicBool,
    /// Such questions that it has answered; they are among the hits.
    pub near_hits: Counter,
    /// Those that were near one, whose answer could not be proved from it.
    pub near_misses: Counter,
    /// As `overlap_millionths`, of their answers.
    pub near_overlap_millionths: Gauge,
    /// It has turned that off, since what it answers is not what a search finds.
    pub is_near_off: AtomicBool,
}

impl CacheCounters {
    /// There is one, and it has not turned itself off.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.capacity.get() > 0 && !self.is_off.load(Ordering::Relaxed)
    }
}

/// What the gateway has done.
#[derive(Default)]
pub struct GatewayCounters {
    /// Connections open.
    pub connections: AtomicU64,
    /// Connections refused because there were too many.
    pub connections_refused: Counter,
    /// Connections of HTTP that are open.
    pub http_connections: AtomicU64,
    /// Connections of HTTP refused because there were too many.
    pub http_connections_refused: Counter,
    /// Searches whose spans a collector has taken.
    #[cfg(feature = "otel")]
    pub spans_exported: Counter,
    /// Searches whose spans it has not, or which there was no room for.
    #[cfg(feature = "otel")]
    pub spans_dropped: Counter,
    /// Searches refused because their answer would have come too late.
    pub searches_shed: Counter,
    /// Reads: searches and documents asked for.
    pub queries: Counter,
    /// Reads that failed.
    pub queries_failed: Counter,
    /// Documents written.
    pub inserts: Counter,
    /// Documents refused.
    pub inserts_failed: Counter,
    /// Documents deleted.
    pub deletes: Counter,
    /// Explicit and bulk-load flushes of the hot tier.
    pub flushes: Counter,
    /// The cache of queries.
    pub cache: CacheCounters,
    /// Results that came from it.
    pub cached_results: Counter,
    /// Results that came from the hot tier.
    pub hot_hits: Counter,
    /// Results that came from the graph.
    pub cold_hits: Counter,
    /// Searches answered without some shard.
    pub partial_searches: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
    errors: [Counter; 6],
}

impl GatewayCounters {
    /// The counter of a category.
    #[must_use]
    pub fn errors(&self, category: ErrorCategory) -> &Counter {
        &self.errors[category as usize]
    }
}

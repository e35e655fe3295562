//! Counters and gauges that cores and gateway write and that metrics and health read. Each has one writer, or is rarely
//! written; none takes a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::types::changes::Changes;

/// A counter that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
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

/// A value that its owner sets.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the value.
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

/// State of the circuit breaker of a shard's log, with the values of `kyrodb_wal_circuit_breaker_state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum BreakerState {
    /// Writes are logged.
    #[default]
    Closed,
    /// Writes are refused at once.
    Open,
    /// Writes are tried, to test whether they succeed again.
    HalfOpen,
}

impl BreakerState {
    /// The worse of two states.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            (Self::HalfOpen, _) | (_, Self::HalfOpen) => Self::HalfOpen,
            (Self::Closed, Self::Closed) => Self::Closed,
        }
    }

    /// Name in answers and messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Free space on the file system of the data directory, in bytes, and the reserve kept for work that must continue when
/// it runs out.
pub struct Space {
    available_bytes: AtomicU64,
    reserve_bytes: AtomicU64,
}

impl Default for Space {
    /// Unlimited until the first measurement.
    fn default() -> Self {
        Self { available_bytes: AtomicU64::new(u64::MAX), reserve_bytes: AtomicU64::new(0) }
    }
}

impl Space {
    /// Sets the free bytes.
    pub fn set_available(&self, bytes: u64) {
        self.available_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sets the reserve in bytes.
    pub fn set_reserve(&self, bytes: u64) {
        self.reserve_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Free bytes.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.available_bytes.load(Ordering::Relaxed)
    }

    /// Reserve in bytes.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        self.reserve_bytes.load(Ordering::Relaxed)
    }

    /// Free space has reached the reserve: requests that permanently take more space are refused.
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
    /// 8-bit codes of vectors.
    Codes,
    /// Neighbour lists of the graph.
    Links,
    /// Ids, lifetimes and the index of ids.
    Ids,
    /// Metadata.
    Metadata,
    /// The index of the metadata.
    MetadataIndex,
    /// List of the documents that are not linked yet.
    HotTier,
}

impl MemoryPart {
    /// All parts.
    pub const ALL: [Self; 7] = [
        Self::Vectors,
        Self::Codes,
        Self::Links,
        Self::Ids,
        Self::Metadata,
        Self::MetadataIndex,
        Self::HotTier,
    ];

    /// Name in metrics.
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

/// Counters and state of one shard.
#[derive(Default)]
pub struct ShardCounters {
    /// Live documents.
    pub documents: Gauge,
    /// Documents acknowledged but not linked.
    pub hot_documents: Gauge,
    /// Documents written since the start that may wait to be linked before writers have to wait.
    pub hot_documents_bound: Gauge,
    /// Writes that wait for the log, or for room in the hot tier.
    pub writes_waiting: Gauge,
    /// Waits of the log for room in the hot tier.
    pub writes_paced: Counter,
    /// Expected wait of an insert for room in the hot tier, in milliseconds; 0 if that wait is allowed.
    pub insert_wait_ms: Gauge,
    /// Inserts that the router judged while the shard published too long a wait.
    pub inserts_judged: Counter,
    /// Inserts refused because they would have waited too long for room in the hot tier.
    pub inserts_shed: Counter,
    /// Nodes in the graph, dead ones included.
    pub linked_nodes: Gauge,
    /// Slots ever used.
    pub slots: Gauge,
    /// Memory in bytes, by [`MemoryPart`].
    pub memory: [Gauge; MemoryPart::ALL.len()],
    /// Records read from the log at start.
    pub replayed_records: Counter,
    /// Time to scan one hot document, measured at start, in nanoseconds.
    pub scan_ns: Gauge,
    /// Searches begun.
    pub searches: Counter,
    /// Distances computed by searches.
    pub search_distances: Counter,
    /// Distances among them for which a whole vector was read.
    pub search_full_distances: Counter,
    /// Rows prefetched by searches.
    pub search_prefetched: Counter,
    /// Nodes whose neighbours searches have read.
    pub search_hops: Counter,
    /// Documents of the hot tier that searches have looked at.
    pub search_hot_documents: Counter,
    /// Searches that were compared with an exact repetition.
    pub recall_sampled: Counter,
    /// Sampled searches whose comparison was given up.
    pub recall_dropped: Counter,
    /// True nearest documents of the compared searches, and the number of those that were found.
    pub recall_wanted: Counter,
    /// See `recall_wanted`.
    pub recall_hits: Counter,
    /// Recall over the last compared searches, in millionths.
    pub recall_recent_millionths: Gauge,
    /// Reads of vectors on disk.
    pub vectors: super::vectors::VectorCounters,
    /// Documents linked into the graph.
    pub links: Counter,
    /// Distances computed for linking and for removing dead nodes.
    pub link_distances: Gauge,
    /// Dead nodes in the graph.
    pub dead_nodes: Gauge,
    /// Dead nodes removed from the graph.
    pub removed_nodes: Gauge,
    /// Live nodes that were found to be unreachable by any walk.
    pub unreachable_nodes: Gauge,
    /// Checks of the whole graph for such nodes.
    pub graph_checks: Gauge,
    /// Postings of removed documents that were found where the index would have attributed them to other documents, and
    /// removed.
    pub stale_postings: Gauge,
    /// Share of the nearest documents that 8-bit codes do not rank among the nearest, in millionths;
    /// `codes_passed_over` is 1 if walks do not rely on codes because of it.
    pub codes_indistinct_millionths: Gauge,
    /// See `codes_indistinct_millionths`.
    pub codes_passed_over: Gauge,
    /// Groups written to the log.
    pub wal_groups: Gauge,
    /// Records in these groups.
    pub wal_records: Gauge,
    /// Bytes of these groups, padding included.
    pub wal_bytes: Gauge,
    /// Syncs of the log.
    pub wal_syncs: Gauge,
    /// Bytes written to the log and not synced.
    pub unsynced_bytes: Gauge,
    /// Time since which unsynced bytes exist, in Unix milliseconds; 0 if there are none.
    pub unsynced_since_ms: Gauge,
    /// Failed writes or syncs of the log.
    pub wal_failures: Counter,
    /// Fresh segments begun after a failure, failed attempts included.
    pub wal_retries: Counter,
    /// Failures of the log because the disk was full.
    pub disk_full: Counter,
    /// Snapshots written.
    pub snapshots: Counter,
    /// Snapshots that could not be written.
    pub snapshot_failures: Counter,
    /// The last attempted snapshot failed.
    pub is_snapshot_failing: AtomicBool,
    /// Bytes of the snapshots written.
    pub snapshot_bytes: Counter,
    /// Bytes of vectors and metadata among them, which grow with the changed documents.
    pub snapshot_written_bytes: Counter,
    /// Bytes of documents that had changed since the snapshot before.
    pub snapshot_changed_bytes: Counter,
    /// Snapshots that were found damaged at start.
    pub damaged_snapshots: Counter,
    /// Starts from an older snapshot and the log after it, or from the log alone, in place of damaged snapshots.
    pub fallback_recoveries: Counter,
    /// Failures that count against the breaker.
    pub breaker_failures: Gauge,
    breaker: AtomicU8,
    /// Torn writes cut off at start.
    pub torn_writes: Counter,
    /// Requests that panicked.
    pub panics: Counter,
    /// The log can't be repaired: writes are refused, reads continue.
    pub is_read_only: AtomicBool,
    /// The state in memory may be half written: all requests are refused.
    pub is_fenced: AtomicBool,
    /// Write-version counters that invalidate the query cache.
    pub changes: Arc<Changes>,
}

impl ShardCounters {
    /// The state in memory may be half written: all requests are refused.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    /// The log can't be repaired: writes are refused, reads continue.
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

/// Messages between the gateway's threads and the cores.
#[derive(Default)]
pub struct Traffic {
    /// Messages put into the mailboxes of cores.
    pub messages: Counter,
    /// Messages that had to wake the core.
    pub wakes: Counter,
    /// Answers of shards to searches.
    pub search_answers: Counter,
}

/// Cause of a failed request, with the labels of `kyrodb_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCategory {
    /// The request was invalid.
    Validation,
    /// The deadline passed.
    Timeout,
    /// A bug, or a state in which the request can't be executed.
    Internal,
    /// A bound was reached.
    ResourceExhausted,
    /// The client used up its rate, or its tenant's quota: no fault of the server.
    Limited,
    /// An operator asked for it: read-only, maintenance, shutdown.
    Planned,
}

/// Counters of the query cache.
#[derive(Default)]
pub struct CacheCounters {
    /// Most answers that it may keep; 0 without a cache.
    pub capacity: Gauge,
    /// Searches answered from the cache.
    pub hits: Counter,
    /// Lookups without an answer.
    pub misses: Counter,
    /// Misses among them whose query was asked lately, with nothing written since: a larger cache would have had the
    /// answer.
    pub missed_repeats: Counter,
    /// Answers evicted for others.
    pub evictions: Counter,
    /// Answers in the cache.
    pub entries: Gauge,
    /// Bytes of these answers.
    pub bytes: Gauge,
    /// Hits that were compared with a fresh search.
    pub checked: Counter,
    /// Hits whose comparison was given up.
    pub checks_dropped: Counter,
    /// Documents that the fresh searches found, and how many of them the hits had.
    pub check_wanted: Counter,
    /// See `check_wanted`.
    pub check_hits: Counter,
    /// Overlap of the last compared hits with fresh searches, in millionths.
    pub overlap_millionths: Gauge,
    /// The cache has turned itself off because its hits differ from what searches find.
    pub is_off: AtomicBool,
    /// Queries near a cached one are answered too.
    pub has_near: AtomicBool,
    /// Such queries that were answered; they are among the hits.
    pub near_hits: Counter,
    /// Queries near a cached one whose answer could not be proved from it.
    pub near_misses: Counter,
    /// As `overlap_millionths`, for answers to near queries.
    pub near_overlap_millionths: Gauge,
    /// Answers to near queries were turned off because they differ from what searches find.
    pub is_near_off: AtomicBool,
}

impl CacheCounters {
    /// True if there is a cache that has not turned itself off.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.capacity.get() > 0 && !self.is_off.load(Ordering::Relaxed)
    }
}

/// Counters of the gateway.
#[derive(Default)]
pub struct GatewayCounters {
    /// Open connections.
    pub connections: AtomicU64,
    /// Connections refused at the bound of connections.
    pub connections_refused: Counter,
    /// Open HTTP connections.
    pub http_connections: AtomicU64,
    /// HTTP connections refused at the bound of connections.
    pub http_connections_refused: Counter,
    /// Searches whose spans a collector has accepted.
    #[cfg(feature = "otel")]
    pub spans_exported: Counter,
    /// Searches whose spans were not accepted, or did not fit into the queue.
    #[cfg(feature = "otel")]
    pub spans_dropped: Counter,
    /// Searches refused because their answer would have come too late.
    pub searches_shed: Counter,
    /// Reads: searches and requests for documents.
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
    /// Counters of the query cache.
    pub cache: CacheCounters,
    /// Results that came from the query cache.
    pub cached_results: Counter,
    /// Results that came from the hot tier.
    pub hot_hits: Counter,
    /// Results that came from the graph.
    pub cold_hits: Counter,
    /// Searches answered without at least one shard.
    pub partial_searches: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
    errors: [Counter; 6],
}

impl GatewayCounters {
    /// The counter of this category.
    #[must_use]
    pub fn errors(&self, category: ErrorCategory) -> &Counter {
        &self.errors[category as usize]
    }
}

//! Numbers that cores and gateway write and that metrics and health read. Each has one writer,
//! or is rare; nothing here takes a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
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

/// What one shard has done, and how it is.
#[derive(Default)]
pub struct ShardCounters {
    /// Documents alive.
    pub documents: Gauge,
    /// Documents acknowledged but not linked.
    pub hot_documents: Gauge,
    /// Nodes in the graph, dead ones included.
    pub linked_nodes: Gauge,
    /// Slots ever used.
    pub slots: Gauge,
    /// Records read from the log at start.
    pub replayed_records: Counter,
    /// Nanoseconds that the scan of one hot document takes, measured at start.
    pub scan_ns: Gauge,
    /// Searches begun.
    pub searches: Counter,
    /// Distances computed by searches.
    pub search_distances: Counter,
    /// Nodes whose neighbours searches have read.
    pub search_hops: Counter,
    /// Documents linked into the graph.
    pub links: Counter,
    /// Distances computed to link them.
    pub link_distances: Gauge,
    /// Groups written to the log.
    pub wal_groups: Gauge,
    /// Records in them.
    pub wal_records: Gauge,
    /// Bytes of them, padding included.
    pub wal_bytes: Gauge,
    /// Syncs of the log.
    pub wal_syncs: Gauge,
    /// Groups that could not be written or synced.
    pub wal_failures: Counter,
    /// Batches of writes refused because the log could not grow, as on a full disk.
    pub disk_full: Counter,
    /// Snapshots written.
    pub snapshots: Counter,
    /// Snapshots that could not be written.
    pub snapshot_failures: Counter,
    /// Bytes of snapshots written.
    pub snapshot_bytes: Counter,
    /// Snapshots that were found damaged at start.
    pub damaged_snapshots: Counter,
    /// Torn writes cut off at start.
    pub torn_writes: Counter,
    /// Requests that panicked.
    pub panics: Counter,
    /// The log has failed: writes are refused, reads go on.
    pub is_read_only: AtomicBool,
    /// The state in memory may be half written: everything is refused.
    pub is_fenced: AtomicBool,
}

impl ShardCounters {
    /// The state in memory may be half written: everything is refused.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    /// The log has failed: writes are refused, reads go on.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }
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
}

/// What the gateway has done.
#[derive(Default)]
pub struct GatewayCounters {
    /// Connections open.
    pub connections: AtomicU64,
    /// Connections refused because there were too many.
    pub connections_refused: Counter,
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
    /// Results that came from the hot tier.
    pub hot_hits: Counter,
    /// Results that came from the graph.
    pub cold_hits: Counter,
    /// Searches answered without some shard.
    pub partial_searches: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
    errors: [Counter; 4],
}

impl GatewayCounters {
    /// The counter of a category.
    #[must_use]
    pub fn errors(&self, category: ErrorCategory) -> &Counter {
        &self.errors[category as usize]
    }
}

//! Counters of vectors on disk.

use super::counters::{Counter, Gauge};

/// Vectors that searches of one shard and reads of its documents needed.
#[derive(Default)]
pub struct VectorCounters {
    /// Vectors found in the core's cache.
    pub cache_hits: Counter,
    /// Vectors that had to be read from disk.
    pub cache_misses: Counter,
    /// Vectors evicted from the cache.
    pub cache_evictions: Counter,
    /// Disk reads, each of one vector or of several adjacent ones.
    pub reads: Counter,
    /// Reads in flight or queued.
    pub pending: Gauge,
    /// Bytes read.
    pub read_bytes: Counter,
    /// Vectors that could not be read, or whose checksum was wrong.
    pub lost: Counter,
}

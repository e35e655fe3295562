//! What is read of vectors that are on disk.

use super::counters::{Counter, Gauge};

/// What the searches of one shard, and those who read documents of it, have wanted.
#[derive(Default)]
pub struct VectorCounters {
    /// Vectors that the core had read before.
    pub cache_hits: Counter,
    /// Vectors that had to be read.
    pub cache_misses: Counter,
    /// Vectors that made room for others.
    pub cache_evictions: Counter,
    /// Reads, each of one vector or of several that lie side by side.
    pub reads: Counter,
    /// Reads under way, and those that wait for their turn.
    pub pending: Gauge,
    /// Bytes read.
    pub read_bytes: Counter,
    /// Vectors that were not what was written, or that could not be read.
    pub lost: Counter,
}

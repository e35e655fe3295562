//! Counters of a core's cache of vectors on disk, and of the task that trains it.

use super::counters::{Counter, Gauge};

/// State of the training task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Training {
    /// No task: vectors are in memory, or the configuration does not want one.
    Off = 0,
    /// The task runs, or restarts in a moment.
    Runs = 1,
    /// The task crashed too often without completing a cycle, and is not restarted.
    GivenUp = 2,
}

/// Counters of one core, set only by that core.
#[derive(Default)]
pub struct DocumentCache {
    /// Rows in the cache.
    pub rows: Gauge,
    /// Bytes of these rows, with overhead.
    pub bytes: Gauge,
    /// Bound of these bytes.
    pub bytes_max: Gauge,
    /// Peak of reads in flight within the last second.
    pub reads_in_flight: Gauge,
    /// Uses in the log that wait for training.
    pub log_depth: Gauge,
    /// Uses that were dropped from the log before training took them.
    pub log_dropped: Gauge,
    /// 1 once the cache uses a learned model.
    pub is_trained: Gauge,
    /// Documents with a count, cached or not, estimated.
    pub tracked: Gauge,
    /// Rows that have been requested again while cached.
    pub hot: Gauge,
    /// 1 with `cache.strategy: learned`.
    pub learns: Gauge,
    /// Decisions between a new row and an old one.
    pub predictions: Gauge,
    /// Decisions among them by the worth of the region of the graph.
    pub predictions_by_region: Gauge,
    /// Decisions that have turned out to be right or wrong.
    pub resolved: Gauge,
    /// Rows admitted in place of others that left without a request.
    pub false_positives: Gauge,
    /// Rows turned away for others that were requested soon after.
    pub false_negatives: Gauge,
    /// Panics of the training task.
    pub crashes: Counter,
    /// Restarts of the training task.
    pub restarts: Counter,
    /// Training cycles: all logged uses have been learned.
    pub cycles: Counter,
    /// Cycles among them that changed nothing, because too few uses are known.
    pub skips: Counter,
    /// State of the task, a [`Training`].
    pub training: Gauge,
}

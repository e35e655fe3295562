//! What a core's cache of vectors on disk does, and the task that learns for it.

use super::counters::{Counter, Gauge};

/// How the task that learns is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Training {
    /// There is none: vectors are in memory, or the configuration wants none.
    Off = 0,
    /// It runs, or begins again in a moment.
    Runs = 1,
    /// It has crashed too often without completing a cycle, and is left alone.
    GivenUp = 2,
}

/// The numbers of one core, which is the only one that sets them.
#[derive(Default)]
pub struct DocumentCache {
    /// Rows that are kept.
    pub rows: Gauge,
    /// Bytes of them, and of what goes with them.
    pub bytes: Gauge,
    /// The most that there may be.
    pub bytes_max: Gauge,
    /// The most reads of vectors that were under way at a time in the last second.
    pub reads_in_flight: Gauge,
    /// Uses that wait to be learned from.
    pub log_depth: Gauge,
    /// Uses that were not learned from, because more came than were fetched.
    pub log_dropped: Gauge,
    /// 1 once the cache goes by what was learned.
    pub is_trained: Gauge,
    /// Documents of which something is known, about, whether or not they are kept.
    pub tracked: Gauge,
    /// Rows that have been asked for again while they were here.
    pub hot: Gauge,
    /// 1 if what is kept is decided by what was asked for (`cache.strategy: learned`).
    pub learns: Gauge,
    /// Decisions between a new row and an old one.
    pub predictions: Gauge,
    /// Of them, those by what the region of the graph is worth.
    pub predictions_by_region: Gauge,
    /// Decisions of which it has turned out whether they were right.
    pub resolved: Gauge,
    /// Rows let in for another, that left without having been asked for.
    pub false_positives: Gauge,
    /// Rows turned away for another, that were asked for soon after.
    pub false_negatives: Gauge,
    /// Times that learning panicked.
    pub crashes: Counter,
    /// Times that it began anew.
    pub restarts: Counter,
    /// Times that all that was logged had been learned from.
    pub cycles: Counter,
    /// Of them, those that changed nothing, as too little is known yet.
    pub skips: Counter,
    /// A [`Training`].
    pub training: Gauge,
}

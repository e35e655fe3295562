//! What is seen from outside.
pub mod counters;
pub mod latency;

use std::sync::Arc;

use self::counters::ShardCounters;
use self::latency::Latency;

/// Where the time of a request goes.
#[derive(Default)]
pub struct Stages {
    /// From the gateway until a core takes the request.
    pub queue: Latency,
    /// A core's work on a search.
    pub walk: Latency,
    /// Write and sync of a group of the log.
    pub commit: Latency,
}

/// All that is counted, for cores, gateway and HTTP alike.
#[derive(Default)]
pub struct Observed {
    /// Where the time goes.
    pub stages: Stages,
    /// The shards, by number.
    pub shards: Vec<Arc<ShardCounters>>,
}

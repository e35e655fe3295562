//! Counters and latencies, written on the hot path and read from outside. A leaf: anyone may
//! count, and nothing here knows who does.

pub mod counters;
pub mod latency;

use std::sync::{Arc, OnceLock};

use self::counters::{GatewayCounters, ShardCounters};
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
    /// Merging the answers of shards.
    pub merge: Latency,
}

/// The latency of each method, from the decoded request to the answer.
#[derive(Default)]
pub struct Methods {
    /// Insert.
    pub insert: Latency,
    /// Delete, BatchDelete and UpdateMetadata.
    pub change: Latency,
    /// Query and BulkQuery.
    pub query: Latency,
    /// Search, and each request of BulkSearch.
    pub search: Latency,
}

/// All that is counted, for cores, gateway and HTTP alike.
#[derive(Default)]
pub struct Observed {
    /// Where the time of a request goes.
    pub stages: Stages,
    /// How long requests take.
    pub methods: Methods,
    /// What the gateway does.
    pub gateway: GatewayCounters,
    /// The shards, by number, once their number is known.
    pub shards: OnceLock<Vec<Arc<ShardCounters>>>,
}

impl Observed {
    /// The shards, by number; none before their number is known.
    #[must_use]
    pub fn shards(&self) -> &[Arc<ShardCounters>] {
        self.shards.get().map_or(&[], Vec::as_slice)
    }

    /// Moves the recent windows on. Called every ten seconds.
    pub fn tick(&self) {
        let Methods { insert, change, query, search } = &self.methods;
        for latency in [insert, change, query, search] {
            latency.tick();
        }
    }
}

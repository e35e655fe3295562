//! Counters and latencies, written on the hot path and read from outside. A leaf: anyone may
//! count, and nothing here knows who does.

pub mod counters;
pub mod latency;

use std::sync::{Arc, PoisonError, RwLock};

use self::counters::{GatewayCounters, ShardCounters, Space, Traffic};
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
    /// What passes between the gateway and the cores.
    pub traffic: Arc<Traffic>,
    /// The room on the disk.
    pub space: Space,
    /// The shards, by number, once their number is known.
    shards: RwLock<Arc<[Arc<ShardCounters>]>>,
}

impl Observed {
    /// The shards, by number; none before their number is known.
    #[must_use]
    pub fn shards(&self) -> Arc<[Arc<ShardCounters>]> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to count for so many shards.
    pub fn set_shards(&self, count: usize) {
        let shards = (0..count).map(|_| Arc::default()).collect();
        *self.shards.write().unwrap_or_else(PoisonError::into_inner) = shards;
    }

    /// Moves the recent windows on. Called every ten seconds.
    pub fn tick(&self) {
        let Methods { insert, change, query, search } = &self.methods;
        for latency in [insert, change, query, search] {
            latency.tick();
        }
    }
}

//! Counters and latencies, written on the hot path and read from outside. A leaf module: any module may count, and this
//! one depends on none of them.

pub mod counters;
pub mod document_cache;
pub mod host;
pub mod in_flight;
pub mod latency;
pub mod log_queue;
pub mod origin;
pub mod rates;
pub mod scrub;
pub mod slow;
pub mod slow_log;
pub mod trace;
pub mod vectors;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use self::counters::{GatewayCounters, ShardCounters, Space, Traffic};
use self::document_cache::DocumentCache;
use self::host::Host;
use self::in_flight::InFlight;
use self::latency::Latency;
use self::origin::Origin;
use self::rates::{Counts, Rates};
use self::scrub::Scrub;
use self::slow::Recorder;
use self::slow_log::SlowLog;
use self::trace::{Stage, Trace};
use crate::types::headroom::Headroom;

/// Latencies of the stages of requests.
#[derive(Default)]
pub struct Stages {
    /// From the gateway to the core that takes the request.
    pub queue: Latency,
    /// Work of a core on a search.
    pub walk: Latency,
    /// From staging a write until its group is written to the log.
    pub log_wait: Latency,
    /// Write and sync of a group of the log.
    pub commit: Latency,
    /// Syncs of the log.
    pub fsync: Latency,
    /// Merging the answers of shards.
    pub merge: Latency,
    /// Stages of whole searches, by [`Stage`]; they add up to the total.
    pub search: [Latency; Stage::COUNT],
}

/// Latency per method, from the decoded request to the answer.
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

/// Receives the record of a search, its client's request ids, and the tenant whose documents were searched.
#[cfg(feature = "otel")]
pub type SpanSink = dyn Fn(&Trace, &origin::Origin, Option<&str>) + Send + Sync;

/// All counters and latencies, shared by cores, gateway and HTTP.
#[derive(Default)]
pub struct Observed {
    /// Latencies of stages.
    pub stages: Stages,
    /// Latencies of methods.
    pub methods: Methods,
    /// Latency of searches answered from a cache; `methods` contains them too.
    pub cached: Latency,
    /// Latency of reads of vectors.
    pub vector_reads: Latency,
    /// Counters of the gateway.
    pub gateway: GatewayCounters,
    /// Messages between the gateway and the cores.
    pub traffic: Arc<Traffic>,
    /// Free space on the disk.
    pub space: Space,
    /// Memory in use, and its limit.
    pub memory: Arc<Headroom>,
    /// End of the validity of the certificate in use, in Unix seconds, if there is one; `i64::MAX` if unknown.
    pub certificate_end: OnceLock<Arc<AtomicI64>>,
    /// Memory and files of the process.
    pub host: Host,
    /// The check of files while the server runs.
    pub scrub: Scrub,
    /// Bytes held by requests and answers.
    pub in_flight: InFlight,
    /// The slowest searches.
    pub slow: Recorder,
    /// Selects the slow searches that are logged.
    pub slow_log: SlowLog,
    /// Receiver of the spans of searches, if any.
    #[cfg(feature = "otel")]
    pub spans: OnceLock<Box<SpanSink>>,
    rates: Rates,
    is_recording_off: AtomicBool,
    /// Vectors are on disk, so metrics of reads and caches exist.
    pub has_vectors_on_disk: AtomicBool,
    /// Counters of each core's cache of vectors.
    document_caches: RwLock<Vec<Arc<DocumentCache>>>,
    /// The shards by number; empty until their number is known.
    shards: RwLock<Arc<[Arc<ShardCounters>]>>,
}

impl Observed {
    /// The shards by number; empty until their number is known.
    #[must_use]
    pub fn shards(&self) -> Arc<[Arc<ShardCounters>]> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Creates the counters of the cache of one more core.
    #[must_use]
    pub fn add_document_cache(&self) -> Arc<DocumentCache> {
        let mut caches = self.document_caches.write().unwrap_or_else(PoisonError::into_inner);
        caches.push(Arc::default());
        caches[caches.len() - 1].clone()
    }

    /// The caches of all cores, in no order.
    #[must_use]
    pub fn document_caches(&self) -> Vec<Arc<DocumentCache>> {
        self.document_caches.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Creates the counters of `count` shards.
    pub fn set_shards(&self, count: usize) {
        let shards = (0..count).map(|_| Arc::default()).collect();
        *self.shards.write().unwrap_or_else(PoisonError::into_inner) = shards;
    }

    /// Begins the record of a search that arrived at this moment.
    #[must_use]
    pub fn begin(&self, arrived: Instant) -> Trace {
        Trace::new(arrived, !self.is_recording_off.load(Ordering::Relaxed))
    }

    /// Ends a search: counts its stages, and keeps its record if it was slow.
    pub fn end(&self, trace: &Trace, origin: &Origin) {
        if !trace.is_on() {
            return;
        }
        for stage in Stage::ALL {
            self.stages.search[stage as usize].record(trace.spent(stage));
        }
        self.slow.offer(trace, origin);
    }

    /// Turns the recording of searches on or off; benches measure its cost with it.
    #[doc(hidden)]
    pub fn set_recording(&self, is_on: bool) {
        self.is_recording_off.store(!is_on, Ordering::Relaxed);
    }

    /// Moves the recent windows forward. Called every ten seconds.
    pub fn tick(&self) {
        let Methods { insert, change, query, search } = &self.methods;
        let Stages { queue, walk, log_wait, commit, fsync, merge, search: stages } = &self.stages;
        let methods = [insert, change, query, search];
        let steps = [queue, walk, log_wait, commit, fsync, merge, &self.cached];
        for latency in methods.into_iter().chain(steps).chain(stages) {
            latency.tick();
        }
        self.rates.tick(&self.gateway);
    }

    /// Counts of the last minute, or since the start if that is less; and the length of that time.
    #[must_use]
    pub fn recent(&self) -> (Counts, Duration) {
        self.rates.recent(&self.gateway)
    }

    /// Hit rate of the query cache over the last minute with lookups; `None` before the first.
    #[must_use]
    pub fn hit_rate_lately(&self) -> Option<f64> {
        self.rates.hit_rate_lately(&self.gateway)
    }

    /// Counts of the last five minutes, as [`Observed::recent`].
    #[must_use]
    pub fn recent_five(&self) -> (Counts, Duration) {
        self.rates.recent_five(&self.gateway)
    }
}

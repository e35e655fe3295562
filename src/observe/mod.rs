//! Counters and latencies, written on the hot path and read from outside. A leaf: anyone may
//! count, and nothing here knows who does.

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

/// Where the time of a request goes.
#[derive(Default)]
pub struct Stages {
    /// From the gateway until a core takes the request.
    pub queue: Latency,
    /// A core's work on a search.
    pub walk: Latency,
    /// From when a write is staged until its group is written to the log.
    pub log_wait: Latency,
    /// Write and sync of a group of the log.
    pub commit: Latency,
    /// Syncs of the log.
    pub fsync: Latency,
    /// Merging the answers of shards.
    pub merge: Latency,
    /// The stages of whole searches, by [`Stage`]: these add up.
    pub search: [Latency; Stage::COUNT],
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

/// Takes the record of a search, with how its client names it and whose documents were searched.
#[cfg(feature = "otel")]
pub type SpanSink = dyn Fn(&Trace, &origin::Origin, Option<&str>) + Send + Sync;

/// All that is counted, for cores, gateway and HTTP alike.
#[derive(Default)]
pub struct Observed {
    /// Where the time of a request goes.
    pub stages: Stages,
    /// How long requests take.
    pub methods: Methods,
    /// How long searches take that a cache answers: they are searches among `methods` too.
    pub cached: Latency,
    /// How long reads of vectors take.
    pub vector_reads: Latency,
    /// What the gateway does.
    pub gateway: GatewayCounters,
    /// What passes between the gateway and the cores.
    pub traffic: Arc<Traffic>,
    /// The room on the disk.
    pub space: Space,
    /// The memory that is used, and may be.
    pub memory: Arc<Headroom>,
    /// When the certificate in force ends, in Unix seconds, where there is one; `i64::MAX` if that
    /// can't be told.
    pub certificate_end: OnceLock<Arc<AtomicI64>>,
    /// What the system says of the process and its files.
    pub host: Host,
    /// The check of the files while the server runs.
    pub scrub: Scrub,
    /// What requests and answers hold.
    pub in_flight: InFlight,
    /// The slowest searches.
    pub slow: Recorder,
    /// Which slow searches have a line in the log.
    pub slow_log: SlowLog,
    /// Where spans of searches go, if anywhere.
    #[cfg(feature = "otel")]
    pub spans: OnceLock<Box<SpanSink>>,
    rates: Rates,
    is_recording_off: AtomicBool,
    /// Vectors are on disk: there is something to tell of reads and of caches.
    pub has_vectors_on_disk: AtomicBool,
    /// What each core's cache of vectors does.
    document_caches: RwLock<Vec<Arc<DocumentCache>>>,
    /// The shards, by number, once their number is known.
    shards: RwLock<Arc<[Arc<ShardCounters>]>>,
}

impl Observed {
    /// The shards, by number; none before their number is known.
    #[must_use]
    pub fn shards(&self) -> Arc<[Arc<ShardCounters>]> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts for the cache of one more core.
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

    /// Begins to count for so many shards.
    pub fn set_shards(&self, count: usize) {
        let shards = (0..count).map(|_| Arc::default()).collect();
        *self.shards.write().unwrap_or_else(PoisonError::into_inner) = shards;
    }

    /// The record of a search that arrived at this moment.
    #[must_use]
    pub fn begin(&self, arrived: Instant) -> Trace {
        Trace::new(arrived, !self.is_recording_off.load(Ordering::Relaxed))
    }

    /// A search has ended: its stages are counted, and it is kept if it was slow.
    pub fn end(&self, trace: &Trace, origin: &Origin) {
        if !trace.is_on() {
            return;
        }
        for stage in Stage::ALL {
            self.stages.search[stage as usize].record(trace.spent(stage));
        }
        self.slow.offer(trace, origin);
    }

    /// Has searches recorded or not, so that a bench can tell what that costs.
    #[doc(hidden)]
    pub fn set_recording(&self, is_on: bool) {
        self.is_recording_off.store(!is_on, Ordering::Relaxed);
    }

    /// Moves the recent windows on. Called every ten seconds.
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

    /// What happened in the last minute, or since the start if that is less; and how long it was.
    #[must_use]
    pub fn recent(&self) -> (Counts, Duration) {
        self.rates.recent(&self.gateway)
    }

    /// The share of searches that the cache of queries has answered, of those that it was asked about in
    /// the last minute that had any; `None` before there was one.
    #[must_use]
    pub fn hit_rate_lately(&self) -> Option<f64> {
        self.rates.hit_rate_lately(&self.gateway)
    }

    /// The same of the last five minutes.
    #[must_use]
    pub fn recent_five(&self) -> (Counts, Duration) {
        self.rates.recent_five(&self.gateway)
    }
}

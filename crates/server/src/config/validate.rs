//! Rules between and beyond types: ranges, settings that need each other, and what is not safe
//! in an environment.

use super::{
    Codes, Config, Distance, Environment, FsyncPolicy, ObservabilityAuth, RecoveryMode,
    VectorStorage, compat,
};
use crate::types::limits::BLOCK;
use crate::types::limits::GROUP_BYTES_MAX;
use crate::types::limits::LEVEL_MAX;

use crate::types::limits::DIMENSION_MAX;

/// Most shards of a directory, and most cores.
pub(super) const SHARDS_MAX: usize = crate::types::limits::SHARDS_MAX as usize;

/// Shortest log segment: room for some of the largest groups.
const SEGMENT_BYTES_MIN: u64 = 4 * GROUP_BYTES_MAX as u64;

/// Longest log segment.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Most searches a second that are compared with the truth: each costs a scan of its shard.
const RECALL_SAMPLES_MAX: f64 = 1_000.0;

/// Most answers in the cache of queries, and most of them that are checked a second.
const CACHE_ENTRIES_MAX: usize = 10_000_000;
const CACHE_CHECKS_MAX: f64 = 1_000.0;
/// Least bound on bytes of documents a second: below, a larger document would wait for minutes.
const WRITE_RATE_MIN: u64 = 64 << 10;
/// Least memory for vectors that wait for a snapshot: some of the largest groups of the log.
const UNSAVED_BYTES_MIN: u64 = 16 << 20;

const _: () = assert!(LEVEL_MAX < u8::MAX, "levels are stored plus one");

/// Collects faults.
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.0.push(fault());
        }
    }

    fn positive(&mut self, key: &str, value: u64) {
        self.unless(value > 0, || format!("{key}: has to be above 0"));
    }

    fn share(&mut self, key: &str, value: f64) {
        let holds = (0.0..=1.0).contains(&value);
        self.unless(holds, || format!("{key}: {value} is not between 0 and 1"));
    }
}

impl Config {
    /// All faults, each naming its key.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Faults(Vec::new());
        self.check_server(&mut faults);
        self.check_index(&mut faults);
        self.check_storage(&mut faults);
        self.check_cache(&mut faults);
        self.check_limits(&mut faults);
        self.check_safety(&mut faults);
        faults.0
    }

    /// Settings that are odd, but allowed.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notes.clone();
        if self.hnsw.ef_search > self.hnsw.ef_construction {
            warnings.push(format!(
                "hnsw.ef_search ({}) is above hnsw.ef_construction ({}): a graph built with a \
                 narrower beam than it is searched with limits what the search can find",
                self.hnsw.ef_search, self.hnsw.ef_construction
            ));
        }
        warnings.extend(compat::warnings(self));
        warnings
    }

    fn check_server(&self, faults: &mut Faults) {
        let server = &self.server;
        faults.positive("server.port", server.port.into());
        faults.positive("server.max_connections", server.max_connections as u64);
        faults.positive("server.connection_timeout_secs", server.connection_timeout_secs);
        faults.positive("server.max_message_bytes", server.max_message_bytes as u64);
        faults.unless(!server.host.trim().is_empty(), || "server.host: is empty".into());
        let http_host = server.http_host.as_deref();
        faults.unless(http_host.is_none_or(|host| !host.trim().is_empty()), || {
            "server.http_host: is blank".into()
        });
        let allowed = server.http_allowed_hosts.split(',').map(str::trim);
        for name in
            allowed.filter(|name| name.contains(['/', ' ']) || name.len() > 1 && name.contains('*'))
        {
            faults.unless(false, || {
                format!(
                    "server.http_allowed_hosts: `{name}` is no name of a host: names separated by \
                     commas, without scheme or path, or * for any"
                )
            });
        }
        let is_named = server.pid_file.as_ref().is_none_or(|path| !path.as_os_str().is_empty());
        faults.unless(is_named, || "server.pid_file: is empty".into());
        match server.http_port {
            None => faults.unless(server.port.checked_add(1_000).is_some(), || {
                format!(
                    "server.http_port: {} + 1000 is not a port; set server.http_port",
                    server.port
                )
            }),
            Some(port) => {
                faults.positive("server.http_port", port.into());
                let differs = port != server.port;
                faults.unless(differs, || format!("server.http_port: {port} is the gRPC port"));
            }
        }
    }

    fn check_index(&self, faults: &mut Faults) {
        let hnsw = &self.hnsw;
        faults.unless((5..=128).contains(&hnsw.m), || {
            format!("hnsw.m: {} is not between 5 and 128", hnsw.m)
        });
        faults.unless(hnsw.ef_construction >= hnsw.m, || {
            format!("hnsw.ef_construction: {} is below hnsw.m ({})", hnsw.ef_construction, hnsw.m)
        });
        faults.positive("hnsw.ef_search", hnsw.ef_search as u64);
        faults.unless(hnsw.dimension <= DIMENSION_MAX, || {
            format!("hnsw.dimension: {} is above {DIMENSION_MAX}", hnsw.dimension)
        });
        let samples = hnsw.recall_sample_per_second;
        faults.unless((0.0..=RECALL_SAMPLES_MAX).contains(&samples), || {
            format!(
                "hnsw.recall_sample_per_second: {samples} is not between 0 and {RECALL_SAMPLES_MAX}"
            )
        });
        let runtime = &self.runtime;
        let counts = [
            ("runtime.cores", runtime.cores),
            ("runtime.shards", runtime.shards),
            ("runtime.partitions", runtime.partitions),
        ];
        for (key, value) in counts {
            faults.unless(value <= SHARDS_MAX, || format!("{key}: {value} is above {SHARDS_MAX}"));
        }
        let is_fit = runtime.shards == 0 || runtime.partitions <= runtime.shards;
        faults.unless(is_fit, || {
            format!(
                "runtime.partitions: {} is above runtime.shards ({}); a graph has at least one shard",
                runtime.partitions, runtime.shards
            )
        });
        let persistence = &self.persistence;
        let is_named = !persistence.data_dir.as_os_str().is_empty();
        faults.unless(is_named, || "persistence.data_dir: is empty".into());
        let is_named = persistence.wal_dir.as_ref().is_none_or(|path| !path.as_os_str().is_empty());
        faults.unless(is_named, || "persistence.wal_dir: is empty; leave it out instead".into());
        faults.positive("persistence.max_wal_size_bytes", persistence.max_wal_size_bytes);
        faults.positive("persistence.wal_flush_interval_ms", persistence.wal_flush_interval_ms);
        let segment = persistence.wal_segment_bytes;
        let is_fit = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment)
            && segment.is_multiple_of(BLOCK as u64);
        faults.unless(is_fit, || {
            format!(
                "persistence.wal_segment_bytes: {segment} is not a multiple of {BLOCK} between \
                 {SEGMENT_BYTES_MIN} and {SEGMENT_BYTES_MAX}"
            )
        });
    }

    fn check_storage(&self, faults: &mut Faults) {
        let rate = self.storage.max_write_bytes_per_sec;
        faults.unless(rate == 0 || rate >= WRITE_RATE_MIN, || {
            format!(
                "storage.max_write_bytes_per_sec: {rate} is below {WRITE_RATE_MIN}; 0 is for no bound"
            )
        });
        if self.storage.vectors == VectorStorage::Memory {
            return;
        }
        let (hnsw, unsaved) = (&self.hnsw, self.storage.unsaved_bytes);
        let has_codes = hnsw.codes == Codes::Sq8
            || hnsw.codes == Codes::Auto && hnsw.distance == Distance::Cosine;
        faults.unless(has_codes, || {
            format!(
                "storage.vectors: nvme needs codes of the vectors in memory, and hnsw.codes {} means none \
                 under hnsw.distance {}; set hnsw.codes to sq8",
                hnsw.codes.word(),
                hnsw.distance.word()
            )
        });
        faults.unless(unsaved >= UNSAVED_BYTES_MIN, || {
            format!("storage.unsaved_bytes: {unsaved} is below {UNSAVED_BYTES_MIN}")
        });
        faults.unless(self.persistence.snapshot_interval_mutations > 0, || {
            "storage.vectors: nvme keeps vectors in snapshots, and \
             persistence.snapshot_interval_mutations 0 means none"
                .into()
        });
    }

    fn check_cache(&self, faults: &mut Faults) {
        let cache = &self.cache;
        let (admission, semantic) = (&cache.adaptive_admission, &cache.semantic);
        let positive = [
            ("cache.capacity", cache.capacity as u64),
            ("cache.training_interval_secs", cache.training_interval_secs),
            ("cache.logger_window_size", cache.logger_window_size as u64),
            ("cache.predictor_capacity_multiplier", cache.predictor_capacity_multiplier as u64),
            ("cache.query_cache_capacity", cache.query_cache_capacity as u64),
            ("cache.search_access_log_top_n", cache.search_access_log_top_n as u64),
            ("cache.hot_tier_max_age_secs", cache.hot_tier_max_age_secs.unwrap_or(1)),
            ("cache.adaptive_admission.control_interval_secs", admission.control_interval_secs),
            ("cache.semantic.max_cached_embeddings", semantic.max_cached_embeddings as u64),
            ("cache.semantic.similarity_scan_limit", semantic.similarity_scan_limit as u64),
        ];
        for (key, value) in positive {
            faults.positive(key, value);
        }
        faults.positive("cache.query_cache_max_bytes", cache.query_cache_max_bytes as u64);
        let entries = cache.query_cache_capacity;
        faults.unless(entries <= CACHE_ENTRIES_MAX, || {
            format!("cache.query_cache_capacity: {entries} is above {CACHE_ENTRIES_MAX}")
        });
        let is_near = cache.query_cache_enabled && cache.query_cache_similarity_threshold < 1.0;
        faults.unless(!is_near || self.hnsw.distance != Distance::InnerProduct, || {
            "cache.query_cache_similarity_threshold: below 1 it needs hnsw.distance cosine or \
             euclidean: of the inner product nothing can be proved about what is near"
                .into()
        });
        let checks = cache.query_cache_checks_per_second;
        faults.unless((0.0..=CACHE_CHECKS_MAX).contains(&checks), || {
            format!(
                "cache.query_cache_checks_per_second: {checks} is not between 0 and {CACHE_CHECKS_MAX}"
            )
        });
        faults.share("cache.query_cache_min_overlap", cache.query_cache_min_overlap);
        let shares = [
            ("cache.query_cache_similarity_threshold", cache.query_cache_similarity_threshold),
            ("cache.admission_threshold", cache.admission_threshold),
            ("cache.adaptive_admission.target_utilization", admission.target_utilization),
            ("cache.semantic.high_confidence_threshold", semantic.high_confidence_threshold),
            ("cache.semantic.low_confidence_threshold", semantic.low_confidence_threshold),
            (
                "cache.semantic.semantic_similarity_threshold",
                semantic.semantic_similarity_threshold,
            ),
        ];
        for (key, value) in shares {
            faults.share(key, value.into());
        }
        let samples = cache.min_training_samples;
        faults.unless((1..=cache.capacity).contains(&samples), || {
            format!("cache.min_training_samples: {samples} is not between 1 and cache.capacity")
        });
        let bias = admission.max_bias;
        faults.unless(bias > 0.0 && bias <= 0.5, || {
            format!("cache.adaptive_admission.max_bias: {bias} is not above 0 and at most 0.5")
        });
        let low_below_high =
            semantic.low_confidence_threshold <= semantic.high_confidence_threshold;
        faults.unless(low_below_high, || {
            "cache.semantic.low_confidence_threshold: is above high_confidence_threshold".into()
        });
        let scan_within = semantic.similarity_scan_limit <= semantic.max_cached_embeddings;
        faults.unless(scan_within, || {
            "cache.semantic.similarity_scan_limit: is above max_cached_embeddings".into()
        });
    }

    fn check_limits(&self, faults: &mut Faults) {
        let (slo, timeouts, rate) = (&self.slo, &self.timeouts, &self.rate_limit);
        let p99 = slo.p99_latency_ms;
        faults.unless(p99.is_finite() && p99 > 0.0, || {
            format!("slo.p99_latency_ms: {p99} is not above 0")
        });
        faults.share("slo.cache_hit_rate", slo.cache_hit_rate);
        faults.share("slo.error_rate", slo.error_rate);
        faults.share("slo.availability", slo.availability);
        faults.positive("slo.min_samples", slo.min_samples);
        faults.positive("timeouts.hot_tier_ms", timeouts.hot_tier_ms);
        faults.positive("timeouts.cold_tier_ms", timeouts.cold_tier_ms);
        let queries = timeouts.max_concurrent_queries as u64;
        faults.positive("timeouts.max_concurrent_queries", queries);
        if rate.enabled {
            faults
                .positive("rate_limit.max_qps_per_connection", rate.max_qps_per_connection.into());
            faults.positive("rate_limit.max_qps_global", rate.max_qps_global.into());
        }
        let lines = self.logging.slow_query_per_second;
        faults.positive("logging.slow_query_per_second", lines.into());
        faults.share("telemetry.sample_ratio", self.telemetry.sample_ratio);
        let has_spans = cfg!(feature = "otel") || self.telemetry.otlp_endpoint.is_none();
        faults.unless(has_spans, || {
            "telemetry.otlp_endpoint: this program was built without the feature otel".into()
        });
        faults.positive("logging.max_files", self.logging.max_files as u64);
        faults.positive("logging.max_file_size_bytes", self.logging.max_file_size_bytes);
    }

    /// Contract section 8.3.
    fn check_safety(&self, faults: &mut Faults) {
        let environment = self.environment.r#type;
        let (server, persistence) = (&self.server, &self.persistence);
        let tls = &server.tls;
        faults.unless(!tls.enabled || tls.cert_path.is_some() && tls.key_path.is_some(), || {
            "server.tls.enabled: needs server.tls.cert_path and server.tls.key_path".into()
        });
        faults.unless(!tls.require_client_cert || tls.ca_cert_path.is_some(), || {
            "server.tls.require_client_cert: needs server.tls.ca_cert_path".into()
        });
        faults.unless(!self.auth.enabled || self.auth.api_keys_file.is_some(), || {
            "auth.enabled: needs auth.api_keys_file".into()
        });
        let observability = server.observability_auth;
        faults.unless(observability == ObservabilityAuth::Disabled || self.auth.enabled, || {
            "server.observability_auth: needs auth.enabled".into()
        });
        if environment == Environment::Benchmark {
            return;
        }
        let word = environment.word();
        let mut refuse = |unsafe_: bool, what: &str| {
            faults.unless(!unsafe_, || {
                format!("{what} is refused in environment.type {word}; use benchmark to measure")
            });
        };
        refuse(persistence.fsync_policy == FsyncPolicy::None, "persistence.fsync_policy none");
        refuse(
            persistence.snapshot_interval_mutations == 0,
            "persistence.snapshot_interval_mutations 0",
        );
        let best_effort = persistence.recovery_mode == RecoveryMode::BestEffort;
        refuse(best_effort, "persistence.recovery_mode best_effort");
        let grpc_off_box = !is_loopback(&server.host);
        if environment == Environment::Production {
            refuse(grpc_off_box && !self.auth.enabled, "a gRPC host off loopback without auth");
            refuse(
                !is_loopback(server.http_host()) && observability == ObservabilityAuth::Disabled,
                "an HTTP host off loopback without server.observability_auth",
            );
        } else {
            refuse(!self.auth.enabled, "auth.enabled false");
            refuse(!self.rate_limit.enabled, "rate_limit.enabled false");
            refuse(
                observability == ObservabilityAuth::Disabled,
                "server.observability_auth disabled",
            );
            refuse(
                persistence.allow_fresh_start_on_recovery_failure,
                "persistence.allow_fresh_start_on_recovery_failure",
            );
            refuse(grpc_off_box && !tls.enabled, "a gRPC host off loopback without TLS");
        }
    }
}

/// `localhost`, `::1` with or without brackets and zone, or anything that begins `127.`.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim().trim_start_matches('[').trim_end_matches(']');
    let address = bare.split('%').next().unwrap_or(bare);
    bare.eq_ignore_ascii_case("localhost") || address == "::1" || bare.starts_with("127.")
}

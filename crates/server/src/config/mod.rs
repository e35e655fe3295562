//! The configuration: one validated, immutable tree. Every key is a field here, with its
//! default.
//!
//! [`load`] lays file, environment and command line over the defaults; [`Config::validate`]
//! names all faults at once.

mod compat;
mod load;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
mod validate;
mod variables;
mod words;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::load::{Origins, Overrides, Running, from_bytes, generate, load};
pub use self::variables::is_of_a_program;
pub use self::words::{
    CacheStrategy, Codes, Distance, Environment, FsyncPolicy, LogFormat, LogLevel,
    ObservabilityAuth, RecoveryMode, VectorStorage,
};

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the server is for.
    pub environment: EnvironmentSection,
    /// Addresses and connections.
    pub server: ServerSection,
    /// Cores and shards.
    pub runtime: RuntimeSection,
    /// The hot tier, the cache of queries, and the cache of vectors on disk.
    pub cache: CacheSection,
    /// The index.
    pub hnsw: HnswSection,
    /// Bounds on memory.
    pub memory: MemorySection,
    /// Where vectors are.
    pub storage: StorageSection,
    /// Files and durability.
    pub persistence: PersistenceSection,
    /// Objectives.
    pub slo: SloSection,
    /// Rate limits.
    pub rate_limit: RateLimitSection,
    /// Logs.
    pub logging: LoggingSection,
    /// Spans.
    pub telemetry: TelemetrySection,
    /// API keys.
    pub auth: AuthSection,
    /// Time limits.
    pub timeouts: TimeoutsSection,
    /// What is odd about where the values come from; no key.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// `environment`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnvironmentSection {
    /// Decides which settings are refused as unsafe.
    pub r#type: Environment,
}

/// `server`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    /// Name or address that gRPC listens on.
    pub host: String,
    /// Port that gRPC listens on.
    pub port: u16,
    /// Port that HTTP listens on; `port` + 1000 if not set.
    pub http_port: Option<u16>,
    /// Name or address that HTTP listens on; `host` if not set.
    pub http_host: Option<String>,
    /// Names that HTTP is asked for by, beside the machine's, separated by commas; `*` for any.
    pub http_allowed_hosts: String,
    /// Which HTTP endpoints need a key.
    pub observability_auth: ObservabilityAuth,
    /// Most gRPC connections at once.
    pub max_connections: usize,
    /// Most gRPC connections of one address at once: 0 for a quarter of all once half of all are open, and
    /// any number from loopback.
    pub max_connections_per_address: usize,
    /// Idle connections are closed after this.
    pub connection_timeout_secs: u64,
    /// How long a shutdown waits for requests in flight.
    pub shutdown_timeout_secs: u64,
    /// Largest message taken from a client.
    pub max_message_bytes: usize,
    /// Written with the number of the process at the start, removed at the end; none if not set.
    pub pid_file: Option<PathBuf>,
    /// Transport security.
    pub tls: TlsSection,
}

/// `server.tls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// Serve TLS.
    pub enabled: bool,
    /// PEM certificate.
    pub cert_path: Option<PathBuf>,
    /// PEM key.
    pub key_path: Option<PathBuf>,
    /// PEM certificate authority of clients.
    pub ca_cert_path: Option<PathBuf>,
    /// Refuse clients without a certificate.
    pub require_client_cert: bool,
}

/// `runtime`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSection {
    /// Pinned executors; 0 leaves a quarter of the CPUs, at least one, to the gateway.
    pub cores: usize,
    /// Shards that documents are placed on; 0 takes the number that the data directory was made
    /// with, or one a core for a new one.
    pub shards: usize,
    /// Graphs that the shards own together, each a part of them; 0 for one a NUMA node.
    pub partitions: usize,
}

/// `cache`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSection {
    /// Soft limit of the hot tier in documents: writers wait at half of it, and sooner beside
    /// searches. Twice as many is the hard limit.
    pub capacity: usize,
    /// Bytes of vectors read from files that all cores together keep, where vectors are in files.
    pub document_bytes: u64,
    /// Which vectors read from files are evicted.
    pub strategy: CacheStrategy,
    /// Longest time between two training cycles, and period at which their input is written to a file.
    pub training_interval_secs: u64,
    /// Whether the strategy `learned` goes on learning.
    pub enable_training_task: bool,
    /// Accesses that are kept to learn from, in all cores together.
    pub logger_window_size: usize,
    /// Documents tracked for each one that is kept.
    pub predictor_capacity_multiplier: usize,
    /// The cache of queries: whether there is one.
    pub query_cache_enabled: bool,
    /// Answers that it keeps, at most.
    pub query_cache_capacity: usize,
    /// Bytes of them, at most, about. An answer of more than a quarter of that is not kept.
    pub query_cache_max_bytes: usize,
    /// 1: an answer is given again to the same question alone. Below: a question whose vector has at
    /// least this score with that of one of before is answered from what was found around that one,
    /// compared with the new vector, but only where this proves the answer. Each search that is kept
    /// then takes memory for some `2k + 10` vectors.
    pub query_cache_similarity_threshold: f32,
    /// Hits compared with a fresh search while nothing else is to be done, at most, a second.
    pub query_cache_checks_per_second: f64,
    /// Where its last hits have a smaller share of what fresh searches find, it turns itself off.
    pub query_cache_min_overlap: f64,
    /// Results of a search that count as accesses.
    pub search_access_log_top_n: usize,
    /// Longest time of a document in the hot tier; `training_interval_secs` if not set.
    pub hot_tier_max_age_secs: Option<u64>,
    /// Age of accesses up to which they are learned from.
    pub training_window_secs: u64,
    /// Age at which an access counts half.
    pub recency_halflife_secs: u64,
    /// Accesses that it takes before anything learned counts.
    pub min_training_samples: usize,
    /// Least predicted use of a document that is kept.
    pub admission_threshold: f32,
    /// Changes of that threshold.
    pub adaptive_admission: AdaptiveAdmissionSection,
    /// Documents kept by similarity.
    pub semantic: SemanticSection,
}

/// `cache.adaptive_admission`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveAdmissionSection {
    /// Move the threshold of admission by how full the cache is.
    pub enabled: bool,
    /// Share of the cache that should be in use.
    pub target_utilization: f32,
    /// Time between two changes.
    pub control_interval_secs: u64,
    /// Largest change of the threshold.
    pub max_bias: f32,
}

/// `cache.semantic`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SemanticSection {
    /// Predicted use from which a document is kept without a look at its neighbours.
    pub high_confidence_threshold: f32,
    /// Predicted use below which it is not.
    pub low_confidence_threshold: f32,
    /// Similarity from which two documents count as alike.
    pub semantic_similarity_threshold: f32,
    /// Vectors kept to compare with.
    pub max_cached_embeddings: usize,
    /// Vectors compared for one decision.
    pub similarity_scan_limit: usize,
}

/// `hnsw`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HnswSection {
    /// Most documents alive; 0 for as many as memory allows.
    pub max_elements: usize,
    /// Links a new node makes on each level.
    pub m: usize,
    /// Beam width while linking.
    pub ef_construction: usize,
    /// Beam width of a search that names none.
    pub ef_search: usize,
    /// Values in a vector; 0 takes it from the first document.
    pub dimension: usize,
    /// How vectors are compared.
    pub distance: Distance,
    /// What walks compare: the vectors, or codes of them, kept beside them in memory. Results
    /// and scores always come from vectors.
    pub codes: Codes,
    /// Kept for clients that read it back; vectors are always scaled under cosine.
    pub disable_normalization_check: bool,
    /// Decides the levels of the graph, with the document ids.
    pub seed: u64,
    /// Searches that are repeated exactly in idle time, at most, a second, to see what they have
    /// found of what there was; 0 for none.
    pub recall_sample_per_second: f64,
}

/// `memory`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySection {
    /// Inserts are refused where the process uses more than this; 0 for nine tenths of what its
    /// control group, or the host, has.
    pub max_bytes: u64,
}

/// `storage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageSection {
    /// In memory, or in the files of snapshots: then memory has codes, graph and metadata alone, and
    /// what a search compares as vectors is read.
    pub vectors: VectorStorage,
    /// Bytes of vectors that may wait in memory for a snapshot, in all shards together, where vectors
    /// are in files: a snapshot begins long before, and inserts are refused beyond.
    pub unsaved_bytes: u64,
    /// Bytes of documents, as clients send them, that are taken in a second; 0 for no bound.
    pub max_write_bytes_per_sec: u64,
}

/// `persistence`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PersistenceSection {
    /// Where everything is.
    pub data_dir: PathBuf,
    /// Where the log gets a directory of its own; it is in `data_dir` without.
    pub wal_dir: Option<PathBuf>,
    /// Period of the sync under `periodic`.
    pub wal_flush_interval_ms: u64,
    /// When an acknowledged write is durable.
    pub fsync_policy: FsyncPolicy,
    /// Mutations between two snapshots.
    #[serde(alias = "snapshot_interval_inserts")]
    pub snapshot_interval_mutations: u64,
    /// Log size that asks for a snapshot.
    pub max_wal_size_bytes: u64,
    /// Length of one segment of a shard's log.
    pub wal_segment_bytes: u64,
    /// Inserts are refused where the file system has less than this left; 0 for 1 GiB or 5 % of
    /// the file system, whichever is less.
    pub disk_reserve_bytes: u64,
    /// false: start empty beside existing files.
    pub enable_recovery: bool,
    /// What damage does at start.
    pub recovery_mode: RecoveryMode,
    /// Move a directory that can't be opened aside, and start empty.
    pub allow_fresh_start_on_recovery_failure: bool,
}

/// `slo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SloSection {
    /// 99th percentile of search latency.
    pub p99_latency_ms: f64,
    /// Share of reads that a cache answers.
    pub cache_hit_rate: f64,
    /// Share of requests that fail.
    pub error_rate: f64,
    /// Share of time in which requests are served.
    pub availability: f64,
    /// Requests before an objective counts.
    pub min_samples: u64,
}

/// `rate_limit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitSection {
    /// Limit rates.
    pub enabled: bool,
    /// Default for each tenant.
    pub max_qps_per_connection: u32,
    /// All tenants together.
    pub max_qps_global: u32,
    /// Capacity of the global bucket.
    pub burst_capacity: u32,
}

/// `logging`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingSection {
    /// Least level that is written; `RUST_LOG` overrides it.
    pub level: LogLevel,
    /// Lines for people or for programs.
    pub format: LogFormat,
    /// Appended to; standard output if not set.
    pub file: Option<PathBuf>,
    /// Begin another file when this one is full.
    pub rotation: bool,
    /// When a file is full.
    pub max_file_size_bytes: u64,
    /// How many are kept.
    pub max_files: usize,
    /// A search that takes so long or longer has a line in the log; 0 for none.
    pub slow_query_ms: u64,
    /// Most of these lines a second. How many were left out stands in the next one.
    pub slow_query_per_second: u32,
}

/// `telemetry`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySection {
    /// Address of a collector that takes spans by OTLP over gRPC; none are made if it is not set. Needs
    /// the feature `otel`.
    pub otlp_endpoint: Option<String>,
    /// Of searches that come without a `traceparent`, the share that has spans; the others have them
    /// where their clients record them.
    pub sample_ratio: f64,
}

/// `auth`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// Ask for API keys.
    pub enabled: bool,
    /// Where they are.
    pub api_keys_file: Option<PathBuf>,
}

/// `timeouts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsSection {
    /// How long a search may scan the hot tier.
    pub hot_tier_ms: u64,
    /// Longest deadline of a search.
    pub cold_tier_ms: u64,
    /// Most searches in flight.
    pub max_concurrent_queries: usize,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 50051,
            http_port: None,
            http_host: None,
            http_allowed_hosts: String::new(),
            observability_auth: ObservabilityAuth::Disabled,
            max_connections: 10_000,
            max_connections_per_address: 0,
            connection_timeout_secs: 300,
            shutdown_timeout_secs: 30,
            max_message_bytes: 16 << 20,
            pid_file: None,
            tls: TlsSection::default(),
        }
    }
}

impl Default for CacheSection {
    fn default() -> Self {
        Self {
            capacity: 10_000,
            document_bytes: 256 << 20,
            strategy: CacheStrategy::Learned,
            training_interval_secs: 600,
            enable_training_task: true,
            logger_window_size: 1_000_000,
            predictor_capacity_multiplier: 4,
            query_cache_enabled: true,
            query_cache_capacity: 100,
            query_cache_max_bytes: 64 << 20,
            query_cache_similarity_threshold: 1.0,
            query_cache_checks_per_second: 1.0,
            query_cache_min_overlap: 0.95,
            search_access_log_top_n: 16,
            hot_tier_max_age_secs: None,
            training_window_secs: 3_600,
            recency_halflife_secs: 1_800,
            min_training_samples: 100,
            admission_threshold: 0.15,
            adaptive_admission: AdaptiveAdmissionSection::default(),
            semantic: SemanticSection::default(),
        }
    }
}

impl Default for AdaptiveAdmissionSection {
    fn default() -> Self {
        Self { enabled: true, target_utilization: 0.90, control_interval_secs: 15, max_bias: 0.18 }
    }
}

impl Default for SemanticSection {
    fn default() -> Self {
        Self {
            high_confidence_threshold: 0.60,
            low_confidence_threshold: 0.25,
            semantic_similarity_threshold: 0.80,
            max_cached_embeddings: 100_000,
            similarity_scan_limit: 2_000,
        }
    }
}

impl Default for HnswSection {
    fn default() -> Self {
        Self {
            max_elements: 0,
            m: 16,
            ef_construction: 200,
            ef_search: 50,
            dimension: 0,
            distance: Distance::Cosine,
            codes: Codes::Auto,
            disable_normalization_check: false,
            seed: 0,
            recall_sample_per_second: 1.0,
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        Self {
            vectors: VectorStorage::Memory,
            unsaved_bytes: 256 << 20,
            max_write_bytes_per_sec: 0,
        }
    }
}

impl Default for PersistenceSection {
    fn default() -> Self {
        Self {
            data_dir: "./data".into(),
            wal_dir: None,
            wal_flush_interval_ms: 100,
            fsync_policy: FsyncPolicy::DataOnly,
            snapshot_interval_mutations: 10_000,
            max_wal_size_bytes: 100 << 20,
            wal_segment_bytes: 32 << 20,
            disk_reserve_bytes: 0,
            enable_recovery: true,
            recovery_mode: RecoveryMode::Strict,
            allow_fresh_start_on_recovery_failure: false,
        }
    }
}

impl Default for SloSection {
    fn default() -> Self {
        Self {
            p99_latency_ms: 10.0,
            cache_hit_rate: 0.70,
            error_rate: 0.001,
            availability: 0.999,
            min_samples: 100,
        }
    }
}

impl Default for RateLimitSection {
    fn default() -> Self {
        Self {
            enabled: false,
            max_qps_per_connection: 1_000,
            max_qps_global: 100_000,
            burst_capacity: 10_000,
        }
    }
}

impl Default for LoggingSection {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Text,
            file: None,
            rotation: true,
            max_file_size_bytes: 100 << 20,
            max_files: 10,
            slow_query_ms: 100,
            slow_query_per_second: 10,
        }
    }
}

impl Default for TimeoutsSection {
    fn default() -> Self {
        Self { hot_tier_ms: 50, cold_tier_ms: 1_000, max_concurrent_queries: 1_000 }
    }
}

impl ServerSection {
    /// Port that HTTP listens on. The range was validated.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http_port.unwrap_or_else(|| self.port.saturating_add(1_000))
    }

    /// Name or address that HTTP listens on.
    #[must_use]
    pub fn http_host(&self) -> &str {
        self.http_host.as_deref().unwrap_or(&self.host)
    }

    /// HTTP listens on this machine alone.
    #[must_use]
    pub fn is_http_on_loopback(&self) -> bool {
        validate::is_loopback(self.http_host())
    }
}

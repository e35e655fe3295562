//! Settings of the cores, derived from a configuration.

use std::time::Duration;

use crate::config::{CacheStrategy, Config, FsyncPolicy, VectorStorage};
use crate::shard::breaker;
use crate::shard::core::{Settings, SyncPolicy};
use crate::shard::cpus::Placement;
use crate::shard::snapshot::Due;
use crate::shard::vectors::{CacheParams, Strategy, TrainingParams};

/// Capacity of a core's mailbox, in messages.
const MAILBOX_CAPACITY: usize = 8_192;

/// Hot documents in a shard at which a bulk load pauses: some 60 µs of scan at 384 values.
const BULK_HOT_MAX: usize = 2_048;

/// Period at which a core checks the disk.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// Settings that all cores share.
pub(super) fn settings(config: &Config, placement: &Placement, io_memory_bytes: usize) -> Settings {
    let persistence = &config.persistence;
    let sync = match persistence.fsync_policy {
        FsyncPolicy::DataOnly => SyncPolicy::DataOnly,
        FsyncPolicy::Full => SyncPolicy::Full,
        FsyncPolicy::Periodic => {
            SyncPolicy::Periodic(Duration::from_millis(persistence.wal_flush_interval_ms))
        }
        FsyncPolicy::None => SyncPolicy::Never,
    };
    let count = placement.cores.len();
    Settings {
        directory: persistence.data_dir.clone(),
        sync,
        segment_bytes: persistence.wal_segment_bytes,
        snapshots: Due {
            mutations: persistence.snapshot_interval_mutations,
            log_bytes: persistence.max_wal_size_bytes,
        },
        hot_soft_max: config.cache.capacity.div_ceil(count),
        bulk_hot_max: BULK_HOT_MAX,
        mailbox_capacity: MAILBOX_CAPACITY,
        io_memory_bytes,
        is_dedicated: placement.is_dedicated,
        breaker: breaker::Params::default(),
        watch_period: WATCH_PERIOD,
        recall_per_second: config.hnsw.recall_sample_per_second,
        document_cache: document_cache(config, count),
    }
}

/// True if a task trains the cache of vectors on disk.
pub(super) fn learns(config: &Config) -> bool {
    let cache = &config.cache;
    // Without room for any row there is nothing to decide.
    config.storage.vectors == VectorStorage::Nvme
        && cache.enable_training_task
        && cache.document_bytes > 0
}

/// Parameters of each core's cache of vectors on disk.
fn document_cache(config: &Config, cores: usize) -> CacheParams {
    let cache = &config.cache;
    let learns = learns(config);
    let training = TrainingParams {
        interval: Duration::from_secs(cache.training_interval_secs),
        history_max: cache.logger_window_size.div_ceil(cores),
        samples_min: cache.min_training_samples,
    };
    CacheParams {
        bytes_max: (cache.document_bytes / cores as u64) as usize,
        strategy: match cache.strategy {
            CacheStrategy::Lru => Strategy::Lru,
            CacheStrategy::Learned => Strategy::Learned,
        },
        training: learns.then_some(training),
        cores,
    }
}

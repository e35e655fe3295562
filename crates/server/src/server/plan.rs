//! `--plan`, and the check that a configuration can fit into memory.

use super::open::{engine_params, vector_storage};
use crate::config::{Config, VectorStorage};
use crate::engine;
use crate::shard::cpus;
use crate::sizing::{DataSet, Plan, human, memory_max};
use crate::types::payload::PAYLOAD_BYTES_MAX;

/// Plans for a data set on this host with this configuration.
///
/// # Errors
/// If the configuration does not say how many values a vector has, or has more cores than the host.
pub fn plan(config: &Config, data: DataSet) -> Result<Plan, String> {
    if config.hnsw.dimension == 0 {
        return Err("how many values has a vector? Say --dim, or set hnsw.dimension".into());
    }
    if data.metadata_bytes > PAYLOAD_BYTES_MAX {
        return Err(format!(
            "--metadata-bytes {}: a document has at most {PAYLOAD_BYTES_MAX}",
            data.metadata_bytes
        ));
    }
    let placement = cpus::place(&cpus::allowed(), config.runtime.cores);
    let cores = placement.map_err(|error| error.to_string())?.cores.len();
    let shards = if config.runtime.shards == 0 { cores } else { config.runtime.shards };
    let vectors = vector_storage(config, shards);
    let params = engine::Params { vectors, ..engine_params(config, config.hnsw.dimension, shards) };
    Ok(Plan::new(config, params, data, cores, shards))
}

/// Refuses a configuration that reserves more memory for vectors than there is, or that promises more documents than
/// fit, even without metadata.
///
/// # Errors
/// The memory that they would need.
pub(super) fn check_memory(config: &Config) -> Result<(), String> {
    let (cached, unsaved) = (config.cache.document_bytes, config.storage.unsaved_bytes);
    let max = memory_max(&config.memory);
    let is_on_disk = config.storage.vectors == VectorStorage::Nvme;
    if is_on_disk && cached.saturating_add(unsaved) >= max {
        return Err(format!(
            "cache.document_bytes, storage.unsaved_bytes: {} and {} do not fit into the {} that this \
             server may use (memory.max_bytes, or nine tenths of what there is), beside all else; lower \
             them, or allow more memory",
            human(cached),
            human(unsaved),
            human(max)
        ));
    }
    let rows = config.hnsw.max_elements as u64;
    if rows == 0 || config.hnsw.dimension == 0 {
        return Ok(());
    }
    let plan = plan(config, DataSet { rows, metadata_bytes: 0 })?;
    if plan.fits() {
        return Ok(());
    }
    Err(format!(
        "hnsw.max_elements: so many documents do not fit into memory; allow fewer, or more memory \
         (memory.max_bytes)\n\n{plan}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_documents_than_fit_are_refused() {
        let mut config = Config::default();
        config.hnsw.max_elements = 1_000_000;
        assert!(check_memory(&config).is_ok(), "nobody knows how long vectors are");
        config.hnsw.dimension = 384;
        config.memory.max_bytes = 4 << 30;
        assert!(check_memory(&config).is_ok());
        config.memory.max_bytes = 2 << 30;
        let refusal = check_memory(&config).unwrap_err();
        assert!(refusal.contains("hnsw.max_elements") && refusal.contains("vectors"), "{refusal}");
    }

    #[test]
    fn more_set_aside_for_vectors_than_there_is_is_refused() {
        let mut config = Config::default();
        config.memory.max_bytes = 1 << 30;
        config.cache.document_bytes = u64::MAX;
        assert!(check_memory(&config).is_ok(), "vectors are in memory: there is no such cache");
        config.storage.vectors = VectorStorage::Nvme;
        let refusal = check_memory(&config).unwrap_err();
        assert!(
            refusal.contains("cache.document_bytes") && refusal.contains("1.0 GiB"),
            "{refusal}"
        );
        config.cache.document_bytes = 512 << 20;
        config.storage.unsaved_bytes = 256 << 20;
        assert!(check_memory(&config).is_ok());
        config.storage.unsaved_bytes = u64::MAX;
        assert!(check_memory(&config).is_err());
        let data = DataSet { rows: 1, metadata_bytes: usize::MAX };
        assert!(plan(&config, data).unwrap_err().contains("hnsw.dimension"));
        config.hnsw.dimension = 8;
        assert!(plan(&config, data).unwrap_err().contains("--metadata-bytes"));
    }
}

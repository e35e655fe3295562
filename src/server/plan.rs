//! `--plan`, and whether what is configured can fit into memory at all.

use super::open::{engine_params, vector_storage};
use crate::config::Config;
use crate::engine;
use crate::shard::cpus;
use crate::sizing::{DataSet, Plan};

/// Plans for a data set on this host with this configuration.
///
/// # Errors
/// If the configuration does not say how many values a vector has, or its cores are not there.
pub fn plan(config: &Config, data: DataSet) -> Result<Plan, String> {
    if config.hnsw.dimension == 0 {
        return Err("how many values has a vector? Say --dim, or set hnsw.dimension".into());
    }
    let placement = cpus::place(&cpus::allowed(), config.runtime.cores);
    let cores = placement.map_err(|error| error.to_string())?.cores.len();
    let shards = if config.runtime.shards == 0 { cores } else { config.runtime.shards };
    let vectors = vector_storage(config, shards);
    let params = engine::Params { vectors, ..engine_params(config, config.hnsw.dimension, shards) };
    Ok(Plan::new(config, params, data, cores, shards))
}

/// Refuses a configuration that promises more documents than fit, even without metadata.
///
/// # Errors
/// What they would need.
pub(super) fn check_memory(config: &Config) -> Result<(), String> {
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
}

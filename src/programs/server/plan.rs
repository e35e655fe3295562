//! `--plan`: what a data set needs, before anyone buys a machine for it.

use std::process::ExitCode;

use crate::config::VectorStorage;
use crate::server;
use crate::sizing::{DataSet, human};

use super::{Arguments, check};

/// Prints the plan; fails if the data does not fit here.
pub(super) fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let data = DataSet {
        rows: arguments.rows.unwrap_or_default(),
        metadata_bytes: arguments.metadata_bytes,
    };
    let dimension = arguments.dim;
    let mut config = check::configuration(arguments)?;
    if let Some(dimension) = dimension {
        config.hnsw.dimension = dimension;
    }
    let faults = config.validate();
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let plan = server::plan(&config, data)?;
    #[expect(clippy::print_stdout, reason = "this is what was asked for")]
    {
        println!("{plan}");
        config.storage.vectors = match config.storage.vectors {
            VectorStorage::Memory => VectorStorage::Nvme,
            VectorStorage::Nvme => VectorStorage::Memory,
        };
        if config.validate().is_empty() {
            let other = server::plan(&config, data)?;
            let (mode, bytes) = (config.storage.vectors.word(), human(other.memory_bytes()));
            println!("\nWith storage.vectors = {mode} it needs {bytes} of memory.");
        }
    }
    Ok(if plan.fits() && plan.fits_on_disk() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

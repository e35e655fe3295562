//! Dimension of a directory without documents: that of the configuration, whatever an earlier start with another
//! configuration recorded.

use crate::config::Config;
use crate::disk::blocking::BlockingDisk;
use crate::disk::view::run;
use crate::manifest::{LoadError, Manifest};
use crate::shard::open::Refusal;
use crate::verify::verify;

/// Removes the dimension from MANIFEST if it differs from the configured one and no write was ever logged. Reads the
/// open segments only if MANIFEST does not show that there were writes.
pub(super) fn forget_if_empty(config: &Config) -> Result<(), Refusal> {
    let disk = BlockingDisk::new(&config.persistence.data_dir);
    let manifest = match run(Manifest::load(&disk)) {
        Ok(Some(manifest)) => manifest,
        Err(error @ LoadError::Disk(_)) => return Err(error.into()),
        // No directory, or one that the start will refuse.
        Ok(None) | Err(_) => return Ok(()),
    };
    let (found, asked) = (manifest.dimension, config.hnsw.dimension as u32);
    let mut sealed = manifest.segments.iter().filter_map(|segment| segment.sealed);
    let has_records = sealed.any(|sealed| sealed.last_lsn >= sealed.first_lsn);
    if found == 0 || found == asked || has_records || !manifest.snapshots.is_empty() {
        return Ok(());
    }
    let report = run(verify(&disk, &mut |_, _, _| {}))?;
    let is_empty = report.is_some_and(|report| {
        report.is_clean && report.segments.iter().all(|segment| segment.records == 0)
    });
    if !is_empty {
        return Ok(());
    }
    tracing::info!(
        before = found,
        now = asked,
        "no document was ever stored: the dimension is free"
    );
    let manifest = Manifest { dimension: 0, ..manifest };
    let published = run(manifest.publish(&disk));
    published.map_err(|why| Refusal::other(format!("MANIFEST can't be written: {why}")))
}

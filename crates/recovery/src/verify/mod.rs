//! Checks the logs and snapshots of a data directory without opening it, and changes nothing.
//!
//! Recovery stops at the first fault, because it must not go on; this check reports all of them. Good and bad data
//! are told apart by the same code, [`wal::reader`](crate::wal::reader); this module adds which files there should
//! be, where reading goes on behind damage, and the texts of the report.
//!
//! The snapshots that MANIFEST names are read as well; if there are some, a log may begin after LSN 1. The data that
//! their parts have on documents is compared: lifetimes, metadata and the index of ids.
//!
//! No process may write to the directory meanwhile: half of a write would be taken for damage. Memory holds one
//! window of one file, a line for each segment and fault, and some bits for each slot.

mod documents;
#[cfg(test)]
mod order_tests;
mod report;
mod segment;
mod shard;
mod snapshot;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;

pub use self::report::{Fault, Made, Report, SegmentReport, ShardReport, SnapshotReport, State};
pub use self::segment::FAULTS_MAX;

use self::segment::Expected;
use self::shard::{Candidate, Walk};
use crate::disk::{Disk, DiskError};
use crate::manifest::{MANIFEST_NAME, Manifest, Segment};
use crate::snapshot::reader::{self, ReadError};
use crate::snapshot::{parse_snapshot_name, snapshot_name};
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};
use crate::wal::reader::{Head, Tail, read_head};
use crate::wal::{parse_segment_name, segment_name};

/// Files of a data directory that are neither log, snapshot nor MANIFEST.
const OTHER_NAMES: [&str; 3] = ["LOCK", "access_log.bin", "tenants.json"];

/// Most notes about files that nothing refers to.
const NOTES_MAX: usize = 50;

/// Called before a segment is read, with its name, the number of segments read before, and their total.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Called with each record and its LSN.
pub type OnRecord<'a> = &'a mut dyn FnMut(Lsn, Record);

/// Checks the logs in `disk`; `None` if there is no database.
///
/// # Errors
/// If the directory can't be listed. Files that can't be read are in the report.
pub async fn verify<D: Disk>(
    disk: &D,
    progress: Progress<'_>,
) -> Result<Option<Report>, DiskError> {
    let names = disk.list().await?;
    let is_ours = |name: &String| name.starts_with("wal_") || name.starts_with("snapshot_");
    let mut report = Report::default();
    let manifest = match Manifest::load(disk).await {
        Ok(None) if !names.iter().any(is_ours) => return Ok(None),
        Ok(None) => {
            report.faults.push(about_manifest("it is missing, but there are files that it names"));
            None
        }
        Ok(Some(manifest)) => Some(manifest),
        Err(error) => {
            report.faults.push(about_manifest(&error.to_string()));
            None
        }
    };
    report.manifest = manifest.as_ref().map(made);
    let shards = candidates(&names, manifest.as_ref(), &mut report);
    let total = shards.values().map(Vec::len).sum();
    let mut expected = Expected::by(manifest.as_ref());
    let mut done = 0;
    for (shard, candidates) in shards {
        let mut each = |file: &str| {
            progress(file, done, total);
            done += 1;
        };
        let manifest = manifest.as_ref();
        let walk = Walk::new(disk, shard, manifest, &mut expected, &mut report, None);
        walk.check(candidates, &mut each).await;
    }
    if let Some(manifest) = &manifest {
        snapshot::check(disk, &names, manifest, &mut report).await;
    }
    note_others(&names, &mut report);
    report.is_clean = report.faults.is_empty();
    Ok(Some(report))
}

/// Reads all readable records of the log of `shard`, and hands them over in the order in which they lie there.
/// Unreadable ones are in the report; LSNs tell where they should be.
///
/// # Errors
/// If the directory can't be listed.
pub async fn read_log<D: Disk>(
    disk: &D,
    manifest: Option<&Manifest>,
    shard: ShardId,
    on_record: OnRecord<'_>,
) -> Result<Report, DiskError> {
    let names = disk.list().await?;
    let mut report = Report::default();
    let candidates = candidates(&names, manifest, &mut report).remove(&shard).unwrap_or_default();
    let mut expected = Expected::by(manifest);
    let walk = Walk::new(disk, shard, manifest, &mut expected, &mut report, Some(on_record));
    walk.check(candidates, &mut |_| {}).await;
    Ok(report)
}

/// Checks one complete segment that MANIFEST names, by itself; returns its faults. A server may run.
///
/// # Errors
/// If it can't be read.
pub async fn check_sealed<D: Disk>(
    disk: &D,
    manifest: &Manifest,
    segment: &Segment,
) -> Result<Vec<Fault>, DiskError> {
    let Some(sealed) = segment.sealed else { return Ok(Vec::new()) };
    let about = |what: &str| Fault { offset: Some(0), what: what.into(), ..Fault::default() };
    let file = disk.open(&segment.file).await?;
    let Head::Good(header) = read_head(&file).await? else {
        return Ok(vec![about("the segment header is damaged")]);
    };
    if (header.shard, header.number) != (ShardId(segment.shard), segment.number) {
        return Ok(vec![about("the file is another segment under this name")]);
    }
    let mut expected = Expected::by(Some(manifest));
    let tail = Tail::Sealed(sealed);
    let first = header.first();
    Ok(segment::check(&file, &header, tail, first, &mut expected, None).await?.faults)
}

/// Checks all extents in one file of snapshots, by itself; returns their faults. A server may run.
///
/// # Errors
/// If it can't be read.
pub async fn check_snapshot_file<D: Disk>(
    disk: &D,
    shard: ShardId,
    number: u64,
) -> Result<Vec<Fault>, DiskError> {
    match reader::verify(disk, &snapshot_name(shard, number), shard, number).await {
        Ok(_) => Ok(Vec::new()),
        Err(ReadError::Disk(error)) => Err(error),
        Err(ReadError::Damaged { offset, why, .. }) => {
            Ok(vec![Fault { offset: Some(offset), what: why, ..Fault::default() }])
        }
        Err(newer @ ReadError::Newer { .. }) => {
            Ok(vec![Fault { offset: Some(0), what: newer.to_string(), ..Fault::default() }])
        }
    }
}

fn made(manifest: &Manifest) -> Made {
    Made {
        shards: manifest.shards,
        dimension: manifest.dimension,
        distance: manifest.distance.clone(),
        epoch: hex(manifest.epoch),
        segments: manifest.segments.len(),
    }
}

fn hex(epoch: u64) -> String {
    format!("{epoch:016x}")
}

fn about_manifest(what: &str) -> Fault {
    Fault { file: MANIFEST_NAME.into(), what: what.into(), ..Fault::default() }
}

/// The segments that exist and those that MANIFEST names, by shard and number.
fn candidates(
    names: &[String],
    manifest: Option<&Manifest>,
    report: &mut Report,
) -> BTreeMap<ShardId, Vec<Candidate>> {
    let mut candidates = BTreeMap::new();
    for name in names {
        if let Some(place) = parse_segment_name(name) {
            candidates.insert(place, Candidate { number: place.1, is_there: true, named: None });
        }
    }
    for segment in manifest.iter().flat_map(|manifest| &manifest.segments) {
        let place = (ShardId(segment.shard), segment.number);
        if segment.file != segment_name(place.0, place.1) {
            let what = format!("it gives {} another shard or number", segment.file);
            report.faults.push(about_manifest(&what));
            continue;
        }
        let fresh = Candidate { number: place.1, is_there: false, named: None };
        let named = &mut candidates.entry(place).or_insert(fresh).named;
        if named.replace(segment.clone()).is_some() {
            report.faults.push(about_manifest(&format!("it names {} twice", segment.file)));
        }
    }
    let mut shards: BTreeMap<ShardId, Vec<Candidate>> = BTreeMap::new();
    for shard in 0..manifest.map_or(0, |manifest| manifest.shards.min(u32::from(u16::MAX))) {
        shards.insert(ShardId(shard), Vec::new());
    }
    for ((shard, _), candidate) in candidates {
        shards.entry(shard).or_default().push(candidate);
    }
    shards
}

/// Notes the files that are no part of a database, or were left by an interrupted write.
fn note_others(names: &[String], report: &mut Report) {
    let is_known = |name: &&String| {
        *name == MANIFEST_NAME
            || OTHER_NAMES.contains(&name.as_str())
            || parse_segment_name(name).is_some()
            || parse_snapshot_name(name).is_some() && name.ends_with(".snap")
    };
    let others: Vec<&String> = names.iter().filter(|name| !is_known(name)).collect();
    for name in others.iter().take(NOTES_MAX) {
        let what = if name.ends_with(".tmp") {
            "left by a write that was cut off; nobody reads it"
        } else {
            "no file of a database; nobody names it"
        };
        report.notes.push(format!("{name}: {what}"));
    }
    if others.len() > NOTES_MAX {
        report.notes.push(format!("and {} more such files", others.len() - NOTES_MAX));
    }
}

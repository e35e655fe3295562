//! Check of the snapshots that MANIFEST names, and of the files in which their parts lie.

use std::collections::BTreeSet;

use super::documents;
use super::report::{Fault, Report, SnapshotReport};
use crate::disk::Disk;
use crate::manifest::{Manifest, Snapshot};
use crate::snapshot::reader::{self, ReadError};
use crate::snapshot::{parse_snapshot_name, snapshot_name};
use crate::types::position::Position;
use crate::types::{Lsn, ShardId};

/// Reads all snapshots of a directory, each file once.
pub(super) async fn check<D: Disk>(
    disk: &D,
    names: &[String],
    manifest: &Manifest,
    report: &mut Report,
) {
    let mut snapshots: Vec<&Snapshot> = manifest.snapshots.iter().collect();
    snapshots.sort_by_key(|snapshot| (snapshot.shard, snapshot.number));
    let needed: BTreeSet<(ShardId, u64)> = snapshots
        .iter()
        .flat_map(|s| s.files.iter().chain([&s.number]).map(|&file| (ShardId(s.shard), file)))
        .collect();
    let mut damaged = BTreeSet::new();
    for &(shard, number) in &needed {
        let named = snapshots.iter().find(|s| (ShardId(s.shard), s.number) == (shard, number));
        let file = snapshot_name(shard, number);
        let checked = if names.contains(&file) {
            check_file(disk, &file, (shard, number), named.copied()).await
        } else {
            Err((None, "the file is missing, but MANIFEST names it".into()))
        };
        if let Err((offset, what)) = checked {
            damaged.insert((shard, number));
            report.faults.push(Fault { file, offset, what, ..Fault::default() });
        }
    }
    for snapshot in snapshots {
        let shard = ShardId(snapshot.shard);
        let files = snapshot.files.iter().chain([&snapshot.number]);
        let is_whole = files.into_iter().all(|&file| !damaged.contains(&(shard, file)));
        let compared = if is_whole { compare(disk, snapshot, report).await } else { None };
        report.snapshots.push(SnapshotReport {
            file: snapshot.file.clone(),
            shard: snapshot.shard,
            number: snapshot.number,
            last_lsn: snapshot.next_lsn.saturating_sub(1),
            is_good: compared.is_some(),
            stale_metadata: compared.unwrap_or(0),
        });
    }
    let is_left = |name: &&String| {
        name.ends_with(".snap")
            && parse_snapshot_name(name).is_some_and(|place| !needed.contains(&place))
    };
    for name in names.iter().filter(is_left) {
        report.notes.push(format!("{name}: no snapshot that MANIFEST names needs it"));
    }
}

/// Compares the parts of a snapshot by document. `None` if they do not match; else the number of deleted documents
/// that have metadata.
async fn compare<D: Disk>(disk: &D, snapshot: &Snapshot, report: &mut Report) -> Option<u64> {
    let file = &snapshot.file;
    let (faults, stale) =
        match documents::compare(disk, (ShardId(snapshot.shard), snapshot.number)).await {
            Ok(compared) => (compared.faults, compared.stale),
            Err(error) => (vec![error.to_string()], 0),
        };
    if stale > 0 {
        report.notes.push(format!(
            "{file}: {stale} documents that are gone have metadata in it, as earlier versions kept it; a \
             start drops it"
        ));
    }
    let is_sound = faults.is_empty();
    let about = |what| Fault { file: file.clone(), what, ..Fault::default() };
    report.faults.extend(faults.into_iter().map(about));
    is_sound.then_some(stale)
}

/// Reads all extents in one file. Returns the faults, with their offsets.
async fn check_file<D: Disk>(
    disk: &D,
    file: &str,
    (shard, number): (ShardId, u64),
    named: Option<&Snapshot>,
) -> Result<(), (Option<u64>, String)> {
    if let Some(other) = named.filter(|snapshot| snapshot.file != file) {
        return Err((None, format!("MANIFEST calls it {}", other.file)));
    }
    match reader::verify(disk, file, shard, number).await {
        Ok(contents) => {
            let position = |s: &Snapshot| Position { next_lsn: Lsn(s.next_lsn), chain: s.chain };
            if named.is_none_or(|snapshot| position(snapshot) == contents.header.position) {
                return Ok(());
            }
            let lsn = contents.header.position.next_lsn.0.saturating_sub(1);
            Err((Some(0), format!("it was made at LSN {lsn}, MANIFEST has another place")))
        }
        Err(ReadError::Disk(error)) => Err((None, format!("it can't be read: {}", error.reason))),
        Err(ReadError::Damaged { offset, why, .. }) => Err((Some(offset), why)),
        Err(newer @ ReadError::Newer { .. }) => Err((Some(0), newer.to_string())),
    }
}

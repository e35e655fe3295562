//! Restoring a data directory from a backup, to its state or to an earlier moment.
//!
//! The target is not touched before everything is written beside it, durable, its checksums compared and every shard
//! opened for a trial. Then the new directory replaces the target atomically.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use super::log::{Cut, cut};
use super::progress::Progress;
use super::record::{Backup, Stored};
use super::storage::{Overlap, Storage, write_file};
use super::swap::Staged;
use super::time::show;
use super::verify::{Failed, Sums, chain, check_files, trial, view};
use super::{Result, count::count, shards};
use crate::directory::log::discard;
use crate::directory::{LOCK_NAME, Lock, user_of};
use crate::disk::blocks;
use crate::disk::folders::Folders;
use crate::disk::view::{View, Viewed, run};
use crate::manifest::{MANIFEST_NAME, Manifest, Snapshot};
use crate::snapshot::reader::contents;
use crate::snapshot::{parse_snapshot_name, snapshot_name};
use crate::types::position::Position;
use crate::types::{Lsn, ShardId};
use crate::wal::recover::recover;

/// State to restore.
#[derive(Clone, Debug)]
pub enum Point {
    /// State of this backup.
    Backup(String),
    /// State at the end of this Unix second.
    Second(u64),
}

/// Options of a restore.
#[derive(Clone, Debug)]
pub struct Restore {
    /// State to restore.
    pub point: Point,
    /// Change nothing.
    pub is_dry_run: bool,
    /// Existing data in the target may be removed.
    pub may_clear: bool,
}

/// Result of a restore, or of its dry run.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Id of the backup.
    pub id: String,
    /// Number of documents.
    pub vectors: u64,
    /// Number of files.
    pub files: usize,
    /// Bytes of these files.
    pub bytes: u64,
    /// The target had other data, which is removed, or would be.
    pub is_replaced: bool,
    /// Options that a real restore would need; only after a dry run.
    pub needs: Vec<String>,
}

/// Restores a data directory.
///
/// # Errors
/// If there is no such backup or state, it is damaged, or the target is in use, not empty, or can't be written. Then
/// the target is unchanged.
pub fn restore(storage: &Storage, target: &Path, restore: &Restore) -> Result<Restored> {
    let backup = choose(storage, &restore.point)?;
    chain(storage, &backup.id)?;
    let mut needs = Vec::new();
    for why in [check_unused(target), check_apart(storage, target), check_empty(target, restore)] {
        match why {
            Err(why) if restore.is_dry_run => needs.push(why),
            checked => checked?,
        }
    }
    let is_replaced = count_entries(target)? > 0;
    let manifest = match restore.point {
        Point::Backup(_) => backup.manifest.clone(),
        Point::Second(second) => at(&view(storage, &backup)?, &backup, second)?,
    };
    let files = needed(&backup, &manifest);
    let mut restored = Restored {
        id: backup.id.clone(),
        vectors: 0,
        files: files.len(),
        bytes: files.iter().map(|(_, bytes)| bytes).sum(),
        is_replaced,
        needs,
    };
    if restore.is_dry_run {
        check_files(storage, files.iter().map(|(file, _)| *file))?;
        restored.vectors = count(&cut_view(storage, &files)?, &manifest)?;
        return Ok(restored);
    }
    let lock = target.is_dir().then(|| Lock::acquire(target)).transpose()?;
    let staged = Staged::begin(target, &backup.id)?;
    write(storage, staged.path(), &files, &manifest)?;
    let mut written = View::default();
    for (file, _) in files.iter().filter(|(file, _)| file.is_of_a_shard()) {
        let opened = Viewed::open(&staged.path().join(&file.name), &file.name);
        written.put(opened.map_err(|error| error.to_string())?);
    }
    restored.vectors = trial(&written, &manifest)?;
    let is_outside =
        |log: &&Path| !target.canonicalize().is_ok_and(|target| log.starts_with(target));
    let former_log = Folders::of(target).log().filter(is_outside).map(Path::to_owned);
    let finished = staged.finish(lock.is_some());
    // The link to the former log may be gone by then, or will be removed with the old directory.
    finished.map_err(|why| match &former_log {
        Some(log) if Folders::of(target).log() != Some(log) => {
            format!("{why} The former log is in {}: remove that too.", log.display())
        }
        _ => why,
    })?;
    if let Some(log) = former_log
        && let Err(error) = discard(&log)
    {
        let log = log.display();
        return Err(format!(
            "it is restored, but the former log could not be removed: {error}. Remove {log}."
        ));
    }
    drop(lock);
    Ok(restored)
}

/// Checks that no server uses the target, without leaving a trace.
fn check_unused(target: &Path) -> Result<()> {
    match user_of(target) {
        Some(holder) => Err(format!(
            "the data directory {} is in use by another server (process {holder}). Stop that one, \
             or choose another directory with --data-dir PATH.",
            target.display()
        )),
        None => Ok(()),
    }
}

/// Refuses a target that is a backup, or contains backups: they would be replaced or removed.
fn check_apart(storage: &Storage, target: &Path) -> Result<()> {
    let shown = target.display();
    match storage.overlap(target) {
        Overlap::Apart => Ok(()),
        Overlap::Same | Overlap::Around => Err(format!(
            "the backups are in {shown}, which a restore would replace. Move them elsewhere, or \
             restore to another directory with --data-dir PATH."
        )),
        Overlap::InBackup(backup) => Err(format!(
            "{shown} lies in the backup {backup}, which a restore would destroy. Restore to another \
             directory with --data-dir PATH."
        )),
    }
}

/// Refuses a target with data that may not be replaced, and one that is not a directory.
fn check_empty(target: &Path, restore: &Restore) -> Result<()> {
    let shown = target.display();
    if target.exists() && !target.is_dir() {
        return Err(format!("{shown} is no directory. Choose another one with --data-dir PATH."));
    }
    let count = count_entries(target)?;
    if count > 0 && !restore.may_clear {
        return Err(format!(
            "{shown} is not empty: it has {count} entries, which a restore would remove. Restore \
             to another directory with --data-dir PATH; or, if they may go, say --allow-clear or \
             set BACKUP_ALLOW_CLEAR=true."
        ));
    }
    Ok(())
}

/// Number of entries of a directory, which may be missing; LOCK does not count.
fn count_entries(target: &Path) -> Result<usize> {
    let names: Vec<OsString> = match std::fs::read_dir(target) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Vec::new()
        }
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(|error| format!("{} can't be listed: {error}", target.display()))?,
    };
    Ok(names.iter().filter(|name| *name != LOCK_NAME).count())
}

/// The backup to restore from.
fn choose(storage: &Storage, point: &Point) -> Result<Backup> {
    let second = match point {
        Point::Backup(id) => return storage.load(&storage.named(id)?),
        Point::Second(second) => *second,
    };
    let listed = storage.list()?;
    for why in &listed.damaged {
        tracing::warn!("{why}");
    }
    let end_ms = end_ms(second);
    let has = |b: &&Backup| b.earliest_unix_ms <= end_ms && end_ms <= b.cut_unix_ms;
    // The oldest backup with the moment has the least to read.
    if let Some(backup) = listed.backups.iter().rev().find(has) {
        return Ok(backup.clone());
    }
    let asked = show(second);
    let shown = storage.shown();
    if listed.backups.is_empty() {
        return Err(format!("there are no backups in {shown}: say where with --backup-dir PATH."));
    }
    let range = |backup: &Backup| {
        // Whole seconds.
        let (from, to) = (backup.earliest_unix_ms / 1000, (backup.cut_unix_ms + 1) / 1000);
        let to = to.saturating_sub(1).max(from);
        format!("{} to {} ({from} to {to}), backup {}", show(from), show(to), backup.id)
    };
    let ranges: Vec<String> = listed.backups.iter().map(range).collect();
    Err(format!(
        "no backup in {shown} has the state of {asked} ({second}). What they have:\n  {}\nTake one \
         of these moments, or a whole backup with --backup-id ID.",
        ranges.join("\n  ")
    ))
}

/// The last millisecond of a second.
fn end_ms(second: u64) -> u64 {
    second.saturating_mul(1000).saturating_add(999)
}

/// MANIFEST of the state at the end of a second: the logs are cut there, and later snapshots are left out.
fn at(view: &View, backup: &Backup, second: u64) -> Result<Manifest> {
    let mut manifest =
        Manifest { segments: Vec::new(), snapshots: Vec::new(), ..backup.manifest.clone() };
    for shard in shards(&backup.manifest) {
        let ours = backup.manifest.snapshots.iter().filter(|s| s.shard == shard.0);
        let mut snapshots = Vec::new();
        let log = cut(view, shard, &backup.manifest.segments, end_ms(second), |_, _| false)?;
        for snapshot in ours {
            let is_early = match log.end {
                Some(end) if snapshot.next_lsn != end.next_lsn.0 => {
                    snapshot.next_lsn < end.next_lsn.0 && !log.segments.is_empty()
                }
                // Groups without records may lie between the snapshot and the end of the log, or after that end and
                // before the snapshot: whatever their stamps are after changes of the clock, the log has to have been
                // where the snapshot was made.
                Some(_) if !log.segments.is_empty() => leads_to(view, shard, &log, snapshot),
                // The log may not say when it was written.
                _ => is_made_by(view, shard, snapshot, second)?,
            };
            if is_early {
                snapshots.push(snapshot.clone());
            }
        }
        let from_start = log.first.is_none_or(|first| first.start == Position::START);
        let had_snapshots = backup.manifest.snapshots.iter().any(|s| s.shard == shard.0);
        if snapshots.is_empty() && (!from_start || log.first.is_none() && had_snapshots) {
            return Err(format!(
                "backup {}: the log of shard {} does not go back to {}",
                backup.id,
                shard.0,
                show(second)
            ));
        }
        manifest.snapshots.extend(snapshots);
        manifest.segments.extend(log.segments);
    }
    Ok(manifest)
}

/// True if a log that ends at the LSN of a snapshot is the log of that snapshot. A damaged log is not, and restoring
/// without the snapshot will show the damage.
fn leads_to(view: &View, shard: ShardId, log: &Cut, snapshot: &Snapshot) -> bool {
    let from = Position { next_lsn: Lsn(snapshot.next_lsn), chain: snapshot.chain };
    let mut files = View::default();
    let opened = log.segments.iter().filter_map(|segment| view.get(&segment.file));
    opened.for_each(|file| files.put(file.clone()));
    run(recover(&files, shard, &log.segments, Some(from), |_, _| {})).is_ok()
}

fn is_made_by(view: &View, shard: ShardId, snapshot: &Snapshot, second: u64) -> Result<bool> {
    let contents = run(contents(view, shard, snapshot.number));
    let contents = contents.map_err(|error| error.to_string())?;
    Ok(contents.header.unix_ms <= end_ms(second))
}

/// The files that a state needs, and the needed bytes of each.
fn needed<'a>(backup: &'a Backup, manifest: &Manifest) -> Vec<(&'a Stored, u64)> {
    let is_needed_snapshot = |name: &str| {
        manifest.snapshots.iter().any(|snapshot| {
            let shard = ShardId(snapshot.shard);
            snapshot.files.iter().any(|&number| snapshot_name(shard, number) == name)
        })
    };
    let needed = |file: &'a Stored| {
        let segment = manifest.segments.iter().find(|segment| segment.file == file.name);
        if let Some(sealed) = segment.and_then(|segment| segment.sealed) {
            return Some((file, sealed.end_bytes.min(file.bytes)));
        }
        let is_snapshot = parse_snapshot_name(&file.name).is_some();
        let is_needed = !file.is_of_a_shard() || is_snapshot && is_needed_snapshot(&file.name);
        is_needed.then_some((file, file.bytes))
    };
    backup.files.iter().filter_map(needed).collect()
}

/// The files of the shards, cut to the needed bytes.
fn cut_view(storage: &Storage, files: &[(&Stored, u64)]) -> Result<View> {
    let mut view = View::default();
    for (file, bytes) in files.iter().filter(|(file, _)| file.is_of_a_shard()) {
        view.put(storage.open(file)?.cut(*bytes));
    }
    Ok(view)
}

/// Writes the files and MANIFEST, comparing checksums.
fn write(
    storage: &Storage,
    directory: &Path,
    files: &[(&Stored, u64)],
    manifest: &Manifest,
) -> Result<()> {
    let progress = Progress::begin("restoring", files.iter().map(|(file, _)| file.bytes).sum());
    for (file, bytes) in files {
        let opened = storage.open(file)?;
        write_file(directory, &file.name, |put| {
            let (mut sums, mut rest) = (Sums::default(), *bytes);
            opened
                .read_all(|piece| -> std::result::Result<(), Failed> {
                    sums.add(piece);
                    progress.add(piece.len());
                    let kept = rest.min(piece.len() as u64);
                    rest -= kept;
                    Ok(put(&piece[..kept as usize])?)
                })
                .map_err(String::from)?;
            sums.check(file)
        })?;
    }
    let mut bytes = manifest.encode();
    bytes.resize(blocks(bytes.len()), b' ');
    write_file(directory, MANIFEST_NAME, |put| put(&bytes))
}

//! Check and repair of a whole data directory while no server uses it: for `--verify` and `--repair`, and for a start
//! that is configured to repair by itself.

use std::fmt::{Display, Formatter};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::open::{engine_params, next_epoch};
use super::verify::check_files;
use crate::clock::unix_ms;
use crate::config::Config;
use crate::directory::{Lock, Look};
use crate::disk::Disk;
use crate::disk::blocking::BlockingDisk;
use crate::disk::folders::Folders;
use crate::disk::owner::Owner;
use crate::disk::quarantine::QUARANTINE_NAME;
use crate::disk::read_only::ReadOnlyDisk;
use crate::disk::view::run;
use crate::manifest::{LoadError, Manifest};
use crate::recovery::Listed;
use crate::repair::{self, Inspected, RebuildError, Repaired, Resharded, Stamp};
use crate::shard::open::Refusal;
use crate::types::ShardId;
use crate::verify::{Progress, Report};

/// Result of checking a directory.
#[derive(Debug, Serialize)]
pub struct Whole {
    /// Report on its files. `is_clean` covers the shards as well.
    #[serde(flatten)]
    pub files: Report,
    /// Its shards, as a start would find them; none if MANIFEST can't be read.
    pub inspected: Vec<Inspected>,
}

/// Checks the files in `directory` as [`super::verify`] does, then restores every shard and checks its graph and its
/// documents. Changes nothing; memory holds one shard at a time.
///
/// # Errors
/// If nothing could be checked, and why.
pub fn verify_whole(
    directory: &Path,
    config: &Config,
    progress: Progress<'_>,
) -> Result<Whole, String> {
    let look = Look::take(directory)?;
    let mut files = check_files(directory, progress)?;
    let disk = ReadOnlyDisk::new(directory);
    let mut inspected = Vec::new();
    if let Ok(Some(manifest)) = run(Manifest::load(&disk)) {
        for shard in (0..manifest.shards).map(ShardId) {
            progress(&format!("shard {}", shard.0), shard.0 as usize, manifest.shards as usize);
            let (snapshots, segments) = (&manifest.snapshots, &manifest.segments);
            let listed = Listed { shard, snapshots, segments };
            let params =
                run(repair::params_of(&disk, &manifest, shard, &engine_params(config, 0, 1)));
            let found = params.map_err(|error| error.to_string()).and_then(|params| {
                run(repair::inspect(&disk, listed, params)).map_err(|error| error.to_string())
            })?;
            files.is_clean &= found.faults.is_empty();
            inspected.push(found);
        }
    }
    look.end()?;
    Ok(Whole { files, inspected })
}

impl Display for Whole {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { files, inspected } = self;
        files.fmt(f)?;
        for shard in inspected {
            let Inspected { documents, linked, unlinked, sought, found, pairs, .. } = shard;
            let state = if shard.faults.is_empty() { "sound" } else { "NOT SOUND" };
            writeln!(
                f,
                "shard {}: {state}; {documents} documents, {linked} nodes in the graph, {unlinked} \
                 to be linked; of {sought} sought by their own vectors {found} came first; {pairs} \
                 pairs of metadata in the index of filters, each a document's",
                shard.shard
            )?;
            if shard.stale_pairs > 0 {
                let stale = shard.stale_pairs;
                writeln!(
                    f,
                    "  its newest snapshot has {stale} pairs of documents that are gone, as earlier \
                     versions kept them; a start drops them"
                )?;
            }
            shard.faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))?;
        }
        writeln!(f, "\n{}", if files.is_clean { "SOUND" } else { "NOT SOUND" })
    }
}

/// Repairs a directory that no server uses; `None` if there is nothing to repair.
///
/// # Errors
/// If it is in use, or could not be repaired: then it is unchanged.
pub fn repair_directory(directory: &Path, config: &Config) -> Result<Option<Repaired>, String> {
    fs::read_dir(directory).map_err(|error| {
        format!("the data directory {} can't be read: {error}", directory.display())
    })?;
    let _lock = Lock::acquire(directory)?;
    repair_locked(directory, config)
}

/// Repairs a directory whose lock the caller holds.
pub(super) fn repair_locked(directory: &Path, config: &Config) -> Result<Option<Repaired>, String> {
    let disk = BlockingDisk::new(directory);
    let params = engine_params(config, 0, 1);
    let random = (next_epoch(0) >> 32) as u32;
    let mut keep = |names: &[String]| quarantine(directory, names);
    let repaired = run(repair::repair(&disk, &params, random, unix_ms(), &mut keep));
    repaired.map_err(|why| {
        format!("{} could not be repaired, and is what it was: {why}", directory.display())
    })
}

/// Links the files into quarantine, durably: the original names may then be removed.
fn quarantine(directory: &Path, names: &[String]) -> Result<(), String> {
    let outer = directory.join(QUARANTINE_NAME);
    let failed = |what: &Path, error: std::io::Error| {
        format!("{} can't be put into quarantine: {error}", what.display())
    };
    fs::create_dir_all(&outer).map_err(|error| failed(&outer, error))?;
    let inner = fresh_below(&outer).map_err(|error| failed(&outer, error))?;
    let folders = Folders::of(directory);
    let paths: Vec<PathBuf> = names.iter().map(|name| folders.find(name)).collect();
    // A file can't have a second name on another file system: those of the log stay in its directory.
    for folder in folders.all() {
        let outer = folder.join(QUARANTINE_NAME);
        let inner = outer.join(inner.file_name().unwrap_or_default());
        let mut of_here = paths.iter().filter(|path| path.parent() == Some(folder)).peekable();
        if of_here.peek().is_none() && folder != directory {
            continue;
        }
        fs::create_dir_all(&inner).map_err(|error| failed(&inner, error))?;
        let owner = Owner::of(folder);
        for made in [&outer, &inner] {
            owner.take(made).map_err(|error| failed(made, error))?;
        }
        for path in of_here {
            let kept = inner.join(path.file_name().unwrap_or_default());
            fs::hard_link(path, kept).map_err(|error| failed(path, error))?;
        }
        for made in [inner.as_path(), &outer, folder] {
            run(BlockingDisk::new(made).sync_dir()).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Creates a directory named after the time.
fn fresh_below(outer: &Path) -> std::io::Result<PathBuf> {
    let seconds = unix_ms() / 1_000;
    let mut number = 0;
    loop {
        let name = if number == 0 { seconds.to_string() } else { format!("{seconds}_{number}") };
        match fs::create_dir(outer.join(&name)) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|()| outer.join(name)),
        }
    }
}

/// Changes the directory to the number of shards that the configuration asks for. Other problems are left for the start
/// to report.
pub(super) fn reshard_as_asked(config: &Config) -> Result<Option<Resharded>, Refusal> {
    let disk = BlockingDisk::new(&config.persistence.data_dir);
    let asked = config.runtime.shards as u32;
    let manifest = match run(Manifest::load(&disk)) {
        Ok(Some(manifest)) => manifest,
        Err(error @ LoadError::Disk(_)) => return Err(error.into()),
        Ok(None) | Err(_) => return Ok(None),
    };
    let hnsw = &config.hnsw;
    let is_other = manifest.distance != hnsw.distance.word()
        || hnsw.dimension != 0 && manifest.dimension as usize != hnsw.dimension;
    if asked == 0 || asked == manifest.shards || manifest.shards == 0 || is_other {
        return Ok(None);
    }
    tracing::info!(
        "the data directory has {} shards; its documents are moved to {asked}",
        manifest.shards
    );
    let params = engine_params(config, manifest.dimension as usize, 1);
    let stamp = Stamp { epoch: next_epoch(manifest.epoch), unix_ms: unix_ms() };
    let resharded = run(repair::reshard(&disk, &manifest, params, asked, stamp));
    resharded.map(Some).map_err(|error| match error {
        RebuildError::Damage(why) => Refusal::damage(why),
        error => Refusal::other(format!(
            "the data directory could not be given {asked} shards, and is what it was: {error}. \
             Set runtime.shards to {} or 0, or make room for a second copy of the documents.",
            manifest.shards
        )),
    })
}

//! Verification of a backup: its files are as written, and a server could start with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::count::check_placement;
use super::progress::Progress;
use super::record::{Backup, Stored};
use super::storage::Storage;
use super::{Result, shards};
use crate::disk::view::{View, Viewed, run};
use crate::engine::{Capacity, Params, VectorStorage};
use crate::graph;
use crate::manifest::Manifest;
use crate::recovery::{Listed, home_of, recover};
use crate::snapshot::reader::contents;
use crate::types::ShardId;
use crate::types::limits::BLOCK;
use crate::types::metric::Metric;

/// Links per node if no snapshot says how many: nothing is linked in a trial.
const M_DEFAULT: usize = 16;

/// Result of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Backups in the chain.
    pub backups: usize,
    /// Files whose checksums were compared.
    pub files: usize,
    /// Documents found by the trial start.
    pub vectors: u64,
}

/// A backup and its parents, itself first.
///
/// # Errors
/// If one is missing or damaged.
pub fn chain(storage: &Storage, id: &str) -> Result<Vec<Backup>> {
    let mut chain = vec![storage.load(id)?];
    while let Some(parent) = chain.last().and_then(|last| last.parent_id.clone()) {
        if chain.iter().any(|backup| backup.id == parent) {
            return Err(format!("backup {id}: the chain of its parents has no beginning"));
        }
        let loaded = storage.load(&parent).map_err(|why| {
            format!(
                "backup {id} needs its parent {parent}, which can't be used: {why}. Bring {parent} \
                 back to {}, or take another backup.",
                storage.shown()
            )
        })?;
        chain.push(loaded);
    }
    let is_there = |file: &Stored| chain.iter().any(|backup| backup.id == file.backup);
    match chain[0].files.iter().find(|file| !is_there(file)) {
        Some(file) => Err(format!(
            "backup {id}: {} lies in the backup {}, which is not one of its parents",
            file.name, file.backup
        )),
        None => Ok(chain),
    }
}

/// Compares every checksum of a backup and of its parents, and opens every shard as a start would.
///
/// # Errors
/// All faults found.
pub fn verify(storage: &Storage, id: &str) -> Result<Verified> {
    let chain = chain(storage, id)?;
    let files = check_files(storage, chain.iter().flat_map(Backup::own_files))?;
    let backup = &chain[0];
    if Backup::checksum_of(&backup.files) != backup.checksum {
        return Err(format!("backup {id}: its list of files does not have its checksum"));
    }
    let view = view(storage, backup)?;
    let vectors = trial(&view, &backup.manifest).map_err(|why| format!("backup {id}: {why}"))?;
    if vectors != backup.vector_count {
        let wanted = backup.vector_count;
        return Err(format!("backup {id}: it opens with {vectors} vectors instead of {wanted}"));
    }
    Ok(Verified { backups: chain.len(), files, vectors })
}

/// Compares the checksums of files, each once; returns their number.
///
/// # Errors
/// Which of them are damaged or missing.
pub fn check_files<'a>(
    storage: &Storage,
    files: impl Iterator<Item = &'a Stored>,
) -> Result<usize> {
    let mut seen = BTreeSet::new();
    let files: Vec<&Stored> = files.filter(|f| seen.insert((&f.backup, &f.name))).collect();
    let progress = Progress::begin("checking", files.iter().map(|file| file.bytes).sum());
    let check = |file: &&Stored| {
        let mut sums = Sums::default();
        let opened = storage.open(file)?;
        opened.read_all(|piece| {
            progress.add(piece.len());
            sums.add(piece);
            Ok::<_, Failed>(())
        })?;
        sums.check(file)
    };
    let bad: Vec<String> = files.iter().filter_map(|file| check(file).err()).collect();
    drop(progress);
    if bad.is_empty() { Ok(files.len()) } else { Err(bad.join("\n  ")) }
}

/// The error of a disk, or another, as text.
pub(super) struct Failed(pub(super) String);

impl From<crate::disk::DiskError> for Failed {
    fn from(error: crate::disk::DiskError) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self(why)
    }
}

impl From<Failed> for String {
    fn from(failed: Failed) -> Self {
        failed.0
    }
}

/// Checksums of a file, updated while it is read.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) bytes: u64,
    pub(super) crc: u32,
    pub(super) head_crc: u32,
}

impl Sums {
    pub(super) fn add(&mut self, piece: &[u8]) {
        if self.bytes == 0 {
            self.head_crc = crc32c::crc32c(&piece[..piece.len().min(BLOCK)]);
        }
        self.bytes += piece.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, piece);
    }

    /// Compares them with the recorded ones.
    pub(super) fn check(&self, file: &Stored) -> Result<()> {
        check_length(file, self.bytes)?;
        if (self.crc, self.head_crc) == (file.crc32c, file.head_crc32c) {
            return Ok(());
        }
        Err(format!(
            "backup {}: {} is damaged: bad checksum. Whatever needs this file can't be restored; \
             take another backup.",
            file.backup, file.name
        ))
    }
}

/// Compares the length of a file with the recorded one.
pub(super) fn check_length(file: &Stored, bytes: u64) -> Result<()> {
    if bytes == file.bytes {
        return Ok(());
    }
    Err(format!(
        "backup {}: {} is damaged: it has {bytes} bytes instead of {}",
        file.backup, file.name, file.bytes
    ))
}

/// The checksum of a file's first block.
pub(super) fn head_crc(file: &Viewed) -> Result<u32> {
    let mut block = Vec::new();
    let read = run(crate::disk::File::read_at(file, 0, BLOCK, &mut block));
    read.map_err(|error| error.to_string())?;
    Ok(crc32c::crc32c(&block))
}

/// The files of a backup's shards.
///
/// # Errors
/// If one is missing.
pub fn view(storage: &Storage, backup: &Backup) -> Result<View> {
    let mut view = View::default();
    for file in backup.files.iter().filter(|file| file.is_of_a_shard()) {
        view.put(storage.open(file)?);
    }
    Ok(view)
}

/// Opens every shard as a start would, one at a time; returns the number of documents. A snapshot or a write that a
/// start would do without counts as damage here: a backup is complete.
///
/// # Errors
/// Why a server would not start with these files.
pub fn trial(view: &View, manifest: &Manifest) -> Result<u64> {
    let metrics = [Metric::Cosine, Metric::InnerProduct, Metric::Euclidean];
    let metric = metrics.into_iter().find(|metric| metric.word() == manifest.distance);
    let metric = metric.ok_or_else(|| format!("an unknown distance {}", manifest.distance))?;
    let _progress = Progress::wait("opening it for a trial");
    let mut vectors = 0;
    for shard in shards(manifest) {
        let m = links(view, manifest, shard);
        let (snapshots, segments) = (&manifest.snapshots, &manifest.segments);
        let listed = Listed { shard, snapshots, segments };
        let params = Params {
            metric,
            dimension: manifest.dimension as usize,
            codes: false,
            graph: graph::Params { m, ef_construction: m, seed: 0 },
            hot_documents_max: usize::MAX,
            capacity: Arc::new(Capacity::new(usize::MAX)),
            vectors: VectorStorage::Memory,
            home: run(home_of(view, &listed)),
        };
        let recovered = run(recover(view, listed, params, || {}));
        let recovered = recovered.map_err(|error| error.to_string())?;
        let log = &recovered.log;
        let of_log = log.losses.iter().chain(&log.torn).chain(&log.warnings);
        let mut faults = recovered.damaged.iter().chain(of_log);
        if let Some(why) = faults.next() {
            return Err(why.clone());
        }
        if let Some(engine) = recovered.engine {
            check_placement(engine.versions().map(|found| found.id), shard, manifest.shards)?;
            vectors += engine.live_count() as u64;
        }
    }
    Ok(vectors)
}

/// Links per node in the newest snapshot of a shard.
fn links(view: &View, manifest: &Manifest, shard: ShardId) -> usize {
    let ours = manifest.snapshots.iter().filter(|snapshot| snapshot.shard == shard.0);
    let newest = ours.max_by_key(|snapshot| snapshot.number);
    let found = newest.and_then(|newest| run(contents(view, shard, newest.number)).ok());
    found.map_or(M_DEFAULT, |contents| contents.header.shape.m.max(2) as usize)
}

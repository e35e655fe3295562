//! Offline work on a data directory: its shards are inspected as a whole, recovered from damage, or changed in
//! number.
//!
//! A start takes nothing for granted and refuses if anything is missing. A [`repair`] takes the data that is left: it
//! reads over damage (`salvage`), takes documents out of snapshots that are damaged elsewhere (`pieces`), writes a
//! state that a start accepts (`rebuild`), and reports exactly which data is lost. The former files go into
//! quarantine; nothing is deleted.

mod inspect;
mod pieces;
mod rebuild;
mod report;
mod reshard;
mod salvage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::inspect::{Inspected, inspect};
pub use self::rebuild::Stamp;
pub use self::report::{Loss, Repaired, RepairedShard};
pub use self::reshard::{Resharded, reshard};

use self::rebuild::{superseded, write_shard};
use self::salvage::{Salvaged, salvage};
use crate::disk::{Disk, DiskError};
use crate::engine::{Capacity, Engine, Params};
use crate::manifest::{LoadError, MANIFEST_NAME, MANIFEST_VERSION, Manifest, Snapshot};
use crate::recovery::{Listed, RecoverError};
use crate::snapshot::reader::{self, ReadError};
use crate::snapshot::{parse_snapshot_name, snapshot_name};
use crate::types::metric::Metric;
use crate::types::{Lsn, ShardId};
use crate::verify::{Fault, Report, State, verify};
use crate::wal::parse_segment_name;

/// The reason why a directory was not rebuilt. It is unchanged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RebuildError {
    /// The disk failed or is full.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The data in the directory can't be used.
    #[error("{0}")]
    Damage(String),
    /// Another obstacle.
    #[error("{0}")]
    Other(String),
}

impl From<RecoverError> for RebuildError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Disk(error) => Self::Disk(error),
            RecoverError::Damage(why) => Self::Damage(why),
            RecoverError::Newer(why) => Self::Other(why),
        }
    }
}

impl From<ReadError> for RebuildError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Disk(error) => Self::Disk(error),
            damage @ ReadError::Damaged { .. } => Self::Damage(damage.to_string()),
            newer @ ReadError::Newer { .. } => Self::Other(newer.to_string()),
        }
    }
}

/// These parameters, with a document count of their own.
fn blank(params: &Params) -> Params {
    Params { capacity: Arc::new(Capacity::new(usize::MAX)), ..params.clone() }
}

/// Called before anything is replaced, with the names of the files that will be: after the call they may be removed.
pub type Quarantine<'a> = &'a mut dyn FnMut(&[String]) -> Result<(), String>;

/// Repairs the directory in `disk`; `None` if there is nothing to repair. If MANIFEST can't be read, `params` are
/// those of the collection.
///
/// # Errors
/// If the disk fails or is full, the files can't be kept, or the directory is of another kind or version. Then the
/// directory is unchanged.
pub async fn repair<D: Disk>(
    disk: &D,
    params: &Params,
    random: u32,
    unix_ms: u64,
    quarantine: Quarantine<'_>,
) -> Result<Option<Repaired>, RebuildError> {
    let Some(report) = verify(disk, &mut |_, _, _| {}).await? else { return Ok(None) };
    let newer_segment = report.segments.iter().find(|segment| segment.state == State::Newer);
    let newer_segment = newer_segment.map(|segment| segment.file.clone());
    let names = disk.list().await?;
    let newer = match newer_segment {
        Some(segment) => Some(segment),
        None => newer_snapshot(disk, &names).await?,
    };
    if let Some(file) = newer {
        return Err(RebuildError::Other(format!(
            "{file} was made by a newer version of KyroDB: repair the directory with that version"
        )));
    }
    let manifest = match Manifest::load(disk).await {
        Ok(manifest) => manifest,
        Err(LoadError::Disk(error)) => return Err(error.into()),
        Err(other @ LoadError::OtherVersion(_)) => {
            return Err(RebuildError::Other(other.to_string()));
        }
        Err(LoadError::Damaged(_)) => None,
    };
    let mut directory = Directory::read(disk, &names, manifest, params).await?;
    let damaged = directory.damaged(disk, &report).await?;
    if damaged.is_empty() {
        return Ok(None);
    }
    let count = report.segments.iter().filter_map(|segment| segment.epoch.as_ref());
    let count = count.filter_map(|epoch| u64::from_str_radix(epoch, 16).ok());
    let count = count.map(|epoch| epoch as u32).fold(directory.epoch_count, u32::max);
    let epoch = u64::from(random) << 32 | u64::from(count.wrapping_add(1));
    let stamp = Stamp { epoch, unix_ms };
    let after = directory.rebuild(disk, &damaged, stamp).await?;
    let mut files = superseded(&names, &after);
    files.extend(names.iter().filter(|name| *name == MANIFEST_NAME).cloned());
    quarantine(&files).map_err(RebuildError::Other)?;
    after.publish(disk).await?;
    for name in files.iter().filter(|name| *name != MANIFEST_NAME) {
        disk.remove(name).await?;
    }
    disk.sync_dir().await?;
    let Directory { shards, manifest, .. } = directory;
    let is_intact = |shard: &u32| !damaged.contains_key(&ShardId(*shard));
    Ok(Some(Repaired {
        is_lossless: shards.iter().all(|shard| shard.loss.is_nothing()),
        is_certain: manifest.is_some(),
        intact: (0..after.shards).filter(is_intact).collect(),
        shards,
        quarantined: files,
    }))
}

/// The first snapshot among these files, by name, that a later version of this program made.
async fn newer_snapshot<D: Disk>(disk: &D, names: &[String]) -> Result<Option<String>, DiskError> {
    for name in names {
        let Some((shard, number)) = parse_snapshot_name(name) else { continue };
        if name.ends_with(".tmp") {
            continue;
        }
        match reader::contents(disk, shard, number).await {
            Err(ReadError::Newer { file, .. }) => return Ok(Some(file)),
            // Damage, and a sector that can't be read, are what a repair is for.
            Ok(_) | Err(ReadError::Damaged { .. } | ReadError::Disk(_)) => {}
        }
    }
    Ok(None)
}

/// The files of a directory, by kind.
struct Directory {
    manifest: Option<Manifest>,
    count: u32,
    params: Params,
    /// Snapshots by shard, oldest first.
    snapshots: BTreeMap<ShardId, Vec<Snapshot>>,
    epoch_count: u32,
    shards: Vec<RepairedShard>,
}

impl Directory {
    /// Reads the directory from MANIFEST, or else from the files.
    async fn read<D: Disk>(
        disk: &D,
        names: &[String],
        manifest: Option<Manifest>,
        params: &Params,
    ) -> Result<Self, RebuildError> {
        let mut directory = Self {
            count: manifest.as_ref().map_or(0, |manifest| manifest.shards),
            params: blank(params),
            snapshots: BTreeMap::new(),
            epoch_count: manifest.as_ref().map_or(0, |manifest| manifest.epoch as u32),
            shards: Vec::new(),
            manifest,
        };
        if let Some(manifest) = &directory.manifest {
            directory.params = collection_of(manifest, params)?;
            for snapshot in manifest.snapshots.clone() {
                directory.snapshots.entry(ShardId(snapshot.shard)).or_default().push(snapshot);
            }
        } else {
            directory.read_files(disk, names).await?;
        }
        directory.snapshots.values_mut().for_each(|s| s.sort_by_key(|made| made.number));
        Ok(directory)
    }

    async fn read_files<D: Disk>(
        &mut self,
        disk: &D,
        names: &[String],
    ) -> Result<(), RebuildError> {
        let logs = names.iter().filter_map(|name| parse_segment_name(name));
        self.count = logs.map(|(shard, _)| shard.0 + 1).max().unwrap_or(0);
        for name in names.iter().filter(|name| name.ends_with(".snap")) {
            let Some((shard, number)) = parse_snapshot_name(name) else { continue };
            self.count = self.count.max(shard.0 + 1);
            let Ok(contents) = reader::contents(disk, shard, number).await else { continue };
            let header = contents.header;
            self.params.metric = header.shape.metric;
            self.params.dimension = header.shape.dimension as usize;
            self.epoch_count = self.epoch_count.max(header.epoch as u32);
            let files: BTreeSet<u64> = contents.extents.iter().map(|extent| extent.file).collect();
            self.snapshots.entry(shard).or_default().push(Snapshot {
                shard: shard.0,
                number,
                file: snapshot_name(shard, number),
                next_lsn: header.position.next_lsn.0,
                chain: header.position.chain,
                file_bytes: header.file_bytes,
                files: files.into_iter().collect(),
            });
        }
        self.count = self.count.max(1);
        Ok(())
    }

    /// The shards that a start would refuse or that are not sound, with their faults.
    async fn damaged<D: Disk>(
        &self,
        disk: &D,
        report: &Report,
    ) -> Result<BTreeMap<ShardId, Vec<String>>, RebuildError> {
        let mut damaged: BTreeMap<ShardId, Vec<String>> = BTreeMap::new();
        let all = || (0..self.count).map(ShardId);
        for fault in &report.faults {
            let shards: Vec<ShardId> = match shard_of(fault) {
                Some(shard) if shard.0 < self.count => vec![shard],
                Some(_) => Vec::new(),
                None => all().collect(),
            };
            for shard in shards {
                damaged.entry(shard).or_default().push(fault.to_string());
            }
        }
        let Some(manifest) = &self.manifest else {
            for shard in all() {
                damaged.entry(shard).or_default();
            }
            return Ok(damaged);
        };
        for shard in all() {
            if damaged.contains_key(&shard) {
                continue;
            }
            let listed =
                Listed { shard, snapshots: &manifest.snapshots, segments: &manifest.segments };
            let inspected = inspect(
                disk,
                listed,
                made_with(disk, shard, self.snapshots_of(shard), &self.params).await,
            )
            .await?;
            if !inspected.faults.is_empty() {
                damaged.insert(shard, inspected.faults);
            }
        }
        Ok(damaged)
    }

    fn snapshots_of(&self, shard: ShardId) -> &[Snapshot] {
        self.snapshots.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// Recovers the damaged shards and writes them. Returns the MANIFEST for the new state.
    async fn rebuild<D: Disk>(
        &mut self,
        disk: &D,
        damaged: &BTreeMap<ShardId, Vec<String>>,
        stamp: Stamp,
    ) -> Result<Manifest, RebuildError> {
        let mut after = self.manifest.clone().unwrap_or_else(|| Manifest {
            version: MANIFEST_VERSION,
            shards: self.count,
            dimension: 0,
            distance: self.params.metric.word().into(),
            epoch: 0,
            snapshots: Vec::new(),
            segments: Vec::new(),
        });
        after.epoch = stamp.epoch;
        after.snapshots.retain(|snapshot| !damaged.contains_key(&ShardId(snapshot.shard)));
        after.segments.retain(|segment| !damaged.contains_key(&ShardId(segment.shard)));
        let mut waiting = Vec::new();
        for (&shard, faults) in damaged {
            let params = made_with(disk, shard, self.snapshots_of(shard), &self.params).await;
            let (manifest, snapshots) = (self.manifest.as_ref(), self.snapshots_of(shard));
            let salvaged = salvage(disk, manifest, shard, snapshots, params.clone()).await?;
            let Salvaged { engine, next_lsn, base, records, loss } = salvaged;
            let fresh = || (self.params.dimension > 0).then(|| Engine::new(params));
            let engine = engine.or_else(fresh);
            let documents = engine.as_ref().map_or(0, Engine::live_count);
            let was = faults.clone();
            self.shards.push(RepairedShard { shard: shard.0, documents, base, records, loss, was });
            let Some(engine) = engine else { continue };
            self.params.dimension = engine.params().dimension;
            after.dimension = engine.params().dimension as u32;
            if self.manifest.is_some() {
                write(disk, &mut after, shard, engine, next_lsn, stamp).await?;
            } else {
                waiting.push((shard, engine, next_lsn));
            }
        }
        for (shard, engine, next_lsn) in self.place(waiting) {
            write(disk, &mut after, shard, engine, next_lsn, stamp).await?;
        }
        Ok(after)
    }

    /// If the number of shards is unknown, documents may be in shards in which they are not looked for: then all are
    /// placed again.
    fn place(&self, shards: Vec<(ShardId, Engine, Lsn)>) -> Vec<(ShardId, Engine, Lsn)> {
        let is_home = |(shard, engine, _): &(ShardId, Engine, Lsn)| {
            engine.versions().all(|version| version.id.shard(self.count) == *shard)
        };
        if shards.iter().all(is_home) {
            return shards;
        }
        let next_lsn = shards.iter().map(|shard| shard.2).max().unwrap_or(Lsn(1));
        let fresh = |shard| {
            let mut engine = Engine::new(blank(&self.params));
            engine.skip_to(next_lsn);
            (ShardId(shard), engine, next_lsn)
        };
        let mut placed: Vec<_> = (0..self.count).map(fresh).collect();
        for (_, engine, _) in shards {
            for version in engine.versions() {
                placed[version.id.shard(self.count).0 as usize].1.adopt(version);
            }
        }
        placed
    }
}

/// Parameters of a shard by its newest readable snapshot, so that its graph stays.
async fn made_with<D: Disk>(
    disk: &D,
    shard: ShardId,
    snapshots: &[Snapshot],
    params: &Params,
) -> Params {
    let mut params = blank(params);
    for snapshot in snapshots.iter().rev() {
        if let Ok(contents) = reader::contents(disk, shard, snapshot.number).await {
            params.graph.m = contents.header.shape.m as usize;
            break;
        }
    }
    params
}

/// Parameters of a directory's shards; those not stored are taken from `params`.
///
/// # Errors
/// If MANIFEST has an unknown distance.
pub async fn params_of<D: Disk>(
    disk: &D,
    manifest: &Manifest,
    shard: ShardId,
    params: &Params,
) -> Result<Params, RebuildError> {
    let of_shard = manifest.snapshots.iter().filter(|snapshot| snapshot.shard == shard.0);
    let mut snapshots: Vec<Snapshot> = of_shard.cloned().collect();
    snapshots.sort_by_key(|snapshot| snapshot.number);
    Ok(made_with(disk, shard, &snapshots, &collection_of(manifest, params)?).await)
}

/// The collection's parameters in MANIFEST; others are taken from `params`.
fn collection_of(manifest: &Manifest, params: &Params) -> Result<Params, RebuildError> {
    let unknown = || format!("MANIFEST has an unknown distance, {}", manifest.distance);
    let metric = Metric::of_word(&manifest.distance);
    let metric = metric.ok_or_else(|| RebuildError::Other(unknown()))?;
    Ok(Params { metric, dimension: manifest.dimension as usize, ..blank(params) })
}

async fn write<D: Disk>(
    disk: &D,
    after: &mut Manifest,
    shard: ShardId,
    mut engine: Engine,
    next_lsn: Lsn,
    stamp: Stamp,
) -> Result<(), RebuildError> {
    let (snapshot, segment) = write_shard(disk, shard, &mut engine, next_lsn, stamp).await?;
    after.snapshots.push(snapshot);
    after.segments.push(segment);
    Ok(())
}

/// The shard whose file is damaged; `None` if it is MANIFEST.
fn shard_of(fault: &Fault) -> Option<ShardId> {
    let segment = parse_segment_name(&fault.file);
    segment.or_else(|| parse_snapshot_name(&fault.file)).map(|(shard, _)| shard)
}

//! Recovery of a shard from its files: the newest good snapshot, then the records of the log after it.

use crate::disk::{Disk, DiskError};
use crate::engine::partition::{Home, Joint};
use crate::engine::restore::Restore;
use crate::engine::{Engine, Params};
use crate::manifest::{Segment, Snapshot};
use crate::snapshot::parse_snapshot_name;
use crate::snapshot::reader::{self, Contents};
use crate::types::image::Extent;
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};
use crate::wal::reader::ReadError;
use crate::wal::recover::recover as read_log;
use crate::wal::{self, Position};

/// The reason why a shard can't be recovered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecoverError {
    /// The disk failed; the data on it may be good.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The data on the disk can't be used.
    #[error("{0}")]
    Damage(String),
    /// A later version of this program wrote the data on the disk.
    #[error("{0}")]
    Newer(String),
}

impl From<ReadError> for RecoverError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Disk(error) => Self::Disk(error),
            damage @ ReadError::Corrupt { .. } => Self::Damage(damage.to_string()),
            newer @ ReadError::Newer { .. } => Self::Newer(newer.to_string()),
        }
    }
}

/// A recovered shard, and the files that it was read from.
pub struct Recovered {
    /// State of the shard; `None` while the dimension is not known.
    pub engine: Option<Engine>,
    /// End of the log, and the state of its segments.
    pub log: wal::recover::Recovered,
    /// The good snapshots, oldest first: those that MANIFEST names, without the damaged ones.
    pub snapshots: Vec<Snapshot>,
    /// Extents of the newest good snapshot.
    pub extents: Vec<Extent>,
    /// Descriptions of the damage in the others.
    pub damaged: Vec<String>,
    /// Snapshot files that nothing refers to.
    pub unused: Vec<String>,
    /// A number that no snapshot file has, listed or not.
    pub next_snapshot: u64,
}

/// Place of a shard among the owners of its partition, by the newest of its snapshots that can be read, for a reader
/// of this shard alone; `None` if the shard had a graph of its own.
pub async fn home_of<D: Disk>(disk: &D, listed: &Listed<'_>) -> Option<Home> {
    let ours = listed.snapshots.iter().filter(|snapshot| snapshot.shard == listed.shard.0);
    let newest = ours.max_by_key(|snapshot| snapshot.number)?;
    let contents = reader::contents(disk, listed.shard, newest.number).await.ok()?;
    let stripe = contents.header.shape.stripe;
    (stripe.owners() > 1).then(|| Joint::new(stripe.owners()).home(stripe.owner()))
}

/// The entries of MANIFEST for a shard.
pub struct Listed<'a> {
    /// The shard.
    pub shard: ShardId,
    /// Snapshots of all shards.
    pub snapshots: &'a [Snapshot],
    /// Segments of all shards.
    pub segments: &'a [Segment],
}

/// Recovers a shard. `params` are the parameters that it has to have; a dimension of 0 is taken from the log.
/// `on_record` is called for each record that is read.
///
/// # Errors
/// If it can't be recovered without loss.
pub async fn recover<D: Disk>(
    disk: &D,
    listed: Listed<'_>,
    params: Params,
    on_record: impl FnMut(),
) -> Result<Recovered, RecoverError> {
    let Listed { shard, snapshots, segments } = listed;
    let mut snapshots: Vec<Snapshot> =
        snapshots.iter().filter(|s| s.shard == shard.0).cloned().collect();
    snapshots.sort_by_key(|snapshot| snapshot.number);
    let (unused, next_snapshot) = unused(disk, shard, &snapshots).await?;
    let (mut damaged, mut found) = (Vec::new(), None);
    while let Some(newest) = snapshots.last() {
        match restore(disk, shard, newest, params.clone()).await {
            Ok(restored) => {
                found = Some((position(newest), restored));
                break;
            }
            Err(RecoverError::Damage(why)) => {
                damaged.push(why);
                snapshots.pop();
            }
            Err(error) => return Err(error),
        }
    }
    let (from, restored) = found.unzip();
    let (engine, extents) = restored.unzip();
    // Once the dimension is known there is an engine, with documents or without.
    let fresh = || (params.dimension > 0).then(|| Engine::new(params.clone()));
    let engine = engine.or_else(fresh);
    let mut replay = Replay { params, engine, problem: None, on_record };
    let log = read_log(disk, shard, segments, from, |lsn, record| replay.apply(lsn, record)).await;
    let log = log.map_err(|error| explain(error.into(), &damaged))?;
    if let Some(problem) = replay.problem {
        return Err(explain(RecoverError::Damage(problem), &damaged));
    }
    let mut engine = replay.engine;
    if let Some(engine) = &mut engine {
        engine.finish_replay_in_slices(&async || disk.rest().await).await;
    }
    let extents = extents.unwrap_or_default();
    Ok(Recovered { engine, log, snapshots, extents, damaged, unused, next_snapshot })
}

/// Adds the snapshot damage to the error of a log that does not go back far enough, as the log itself is no fault
/// then.
fn explain(error: RecoverError, damaged: &[String]) -> RecoverError {
    match error {
        RecoverError::Damage(why) if !damaged.is_empty() => RecoverError::Damage(format!(
            "{}; and without it the log does not have everything: {why}",
            damaged.join("; ")
        )),
        error => error,
    }
}

fn position(snapshot: &Snapshot) -> Position {
    Position { next_lsn: Lsn(snapshot.next_lsn), chain: snapshot.chain }
}

/// Restores the state that a snapshot holds.
///
/// # Errors
/// If the disk fails, or the snapshot does not read back as it was written.
pub async fn restore<D: Disk>(
    disk: &D,
    shard: ShardId,
    snapshot: &Snapshot,
    params: Params,
) -> Result<(Engine, Vec<Extent>), RecoverError> {
    let Contents { header, extents } =
        reader::contents(disk, shard, snapshot.number).await.map_err(from_snapshot)?;
    let bad = |why: String| RecoverError::Damage(format!("{}: {why}", snapshot.file));
    if header.position != position(snapshot) {
        return Err(bad("it was made at another LSN than MANIFEST says".into()));
    }
    let applied = Lsn(snapshot.next_lsn.saturating_sub(1));
    let mut restore = Restore::begin(params, header.shape, applied, &extents).map_err(bad)?;
    let put = |extent: &Extent, bytes: &[u8]| restore.put(extent.part, extent.block, bytes);
    reader::read(disk, shard, &extents, put).await.map_err(from_snapshot)?;
    let engine = restore.finish_in_slices(&async || disk.rest().await).await;
    Ok((engine.map_err(bad)?, extents))
}

fn from_snapshot(error: reader::ReadError) -> RecoverError {
    match error {
        reader::ReadError::Disk(error) => RecoverError::Disk(error),
        damage @ reader::ReadError::Damaged { .. } => RecoverError::Damage(damage.to_string()),
        newer @ reader::ReadError::Newer { .. } => RecoverError::Newer(newer.to_string()),
    }
}

/// Snapshot files of this shard that nothing refers to: unfinished ones, and those that were about to be removed.
/// Also a number that no such file has: a file that is to be removed later must not be one that is made meanwhile.
async fn unused<D: Disk>(
    disk: &D,
    shard: ShardId,
    listed: &[Snapshot],
) -> Result<(Vec<String>, u64), DiskError> {
    let mut unused = Vec::new();
    let mut newest = listed.last().map_or(0, |snapshot| snapshot.number);
    for name in disk.list().await? {
        let ours = parse_snapshot_name(&name).filter(|(owner, _)| *owner == shard);
        let Some((_, number)) = ours else { continue };
        newest = newest.max(number);
        let is_needed = listed.iter().any(|snapshot| snapshot.files.contains(&number));
        if !is_needed || name.ends_with(".tmp") {
            unused.push(name);
        }
    }
    Ok((unused, newest + 1))
}

/// The state being rebuilt from the log.
struct Replay<F> {
    params: Params,
    engine: Option<Engine>,
    problem: Option<String>,
    on_record: F,
}

impl<F: FnMut()> Replay<F> {
    fn apply(&mut self, lsn: Lsn, record: Record) {
        if let Record::Put { vector, .. } = &record {
            let params = &self.params;
            let dimension = if params.dimension == 0 { vector.len() } else { params.dimension };
            let fresh = || Engine::new(Params { dimension, ..params.clone() });
            let dimension = self.engine.get_or_insert_with(fresh).params().dimension;
            if vector.len() != dimension && self.problem.is_none() {
                self.problem = Some(format!(
                    "the record with LSN {} has a vector of {} values in a collection of {dimension}",
                    lsn.0,
                    vector.len()
                ));
            }
        }
        if self.problem.is_some() {
            return;
        }
        let Some(engine) = &mut self.engine else {
            self.problem = Some(format!("the log begins with LSN {} before any document", lsn.0));
            return;
        };
        engine.apply_all(lsn, record);
        (self.on_record)();
    }
}

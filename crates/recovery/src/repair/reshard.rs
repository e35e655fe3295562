//! Change of a directory's number of shards: every document moves to the shard that its id has among the new ones.
//!
//! The shards are recovered one after the other as a start would do it, with all its refusals, and their documents go
//! into new shards, which become snapshots. The graphs are not kept: documents of one go into several others. The
//! documents are linked again after the start.

use std::sync::Arc;

use super::rebuild::{Stamp, superseded, write_shard};
use super::{RebuildError, blank};
use crate::disk::Disk;
use crate::engine::{Capacity, Engine, Params};
use crate::manifest::Manifest;
use crate::recovery::{Listed, recover};
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};

/// Result of resharding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resharded {
    /// Number of shards before.
    pub before: u32,
    /// Number of documents, equal before and after.
    pub documents: usize,
}

/// Makes `shards` new shards of the shards of the directory whose state is `manifest`. Memory holds all documents,
/// and one old shard beside them.
///
/// # Errors
/// If a shard can't be recovered without loss, or the disk fails or is full: the directory is unchanged then.
pub async fn reshard<D: Disk>(
    disk: &D,
    manifest: &Manifest,
    params: Params,
    shards: u32,
    stamp: Stamp,
) -> Result<Resharded, RebuildError> {
    let params = Params { capacity: Arc::new(Capacity::new(usize::MAX)), ..params };
    let (mut made, mut next_lsn) = (Vec::<Engine>::new(), Lsn(1));
    let mut documents = 0;
    for shard in (0..manifest.shards).map(ShardId) {
        let listed = Listed { shard, snapshots: &manifest.snapshots, segments: &manifest.segments };
        let recovered = recover(disk, listed, blank(&params), || {}).await?;
        next_lsn = next_lsn.max(recovered.log.position.next_lsn);
        let Some(engine) = recovered.engine else { continue };
        if made.is_empty() {
            let params = Params { dimension: engine.params().dimension, ..params.clone() };
            made.extend((0..shards).map(|_| Engine::new(params.clone())));
        }
        for version in engine.versions() {
            let engine = &mut made[version.id.shard(shards).0 as usize];
            let (id, vector, payload) = (version.id, version.vector.into(), version.payload);
            let record = Record::Put { id, vector, payload: payload.clone() };
            engine.apply_all(engine.applied().next(), record);
            documents += 1;
        }
    }
    let mut after = Manifest {
        shards,
        epoch: stamp.epoch,
        snapshots: Vec::new(),
        segments: Vec::new(),
        ..manifest.clone()
    };
    for (shard, mut engine) in (0..).map(ShardId).zip(made) {
        // The log goes on after every LSN that was given, and after all that are given here.
        let next_lsn = next_lsn.max(engine.applied().next());
        let (snapshot, segment) = write_shard(disk, shard, &mut engine, next_lsn, stamp).await?;
        after.snapshots.push(snapshot);
        after.segments.push(segment);
    }
    after.publish(disk).await?;
    for name in superseded(&disk.list().await?, &after) {
        disk.remove(&name).await?;
    }
    disk.sync_dir().await?;
    Ok(Resharded { before: manifest.shards, documents })
}

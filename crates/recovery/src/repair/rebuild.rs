//! Writes shards as the new state of a directory: a snapshot of each, and a MANIFEST that names them.
//!
//! Until that MANIFEST is published no file of the old state is touched, and new files have names that the old state
//! does not have and that the next start would remove. From then on the old files are the ones that nothing refers
//! to. So at every interruption there is one whole state or the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::RebuildError;
use crate::disk::{BLOCK, Disk};
use crate::engine::Engine;
use crate::manifest::{Manifest, Segment, Snapshot};
use crate::snapshot::writer::{Identity, Writer, discard};
use crate::snapshot::{parse_snapshot_name, snapshot_name};
use crate::types::{Lsn, ShardId};
use crate::wal::{Position, Prepared, parse_segment_name, segment_name};

/// Bytes of a segment that is never written: the log goes on in the one after it.
const PLACEHOLDER_BYTES: u64 = 2 * BLOCK as u64;

/// Epoch and time of new files.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// An epoch that the directory has not had.
    pub epoch: u64,
    /// The present time, Unix milliseconds.
    pub unix_ms: u64,
}

/// Writes a snapshot of `engine`, which nothing has opened, as the state of `shard` before the record `next_lsn`.
/// MANIFEST has to name the returned snapshot and segment.
///
/// # Errors
/// If the disk fails or is full, or gives back something else than was written.
pub(super) async fn write_shard<D: Disk>(
    disk: &D,
    shard: ShardId,
    engine: &mut Engine,
    next_lsn: Lsn,
    stamp: Stamp,
) -> Result<(Snapshot, Segment), RebuildError> {
    let names = disk.list().await?;
    let snapshots = names.iter().filter_map(|name| parse_snapshot_name(name));
    let segments = names.iter().filter_map(|name| parse_segment_name(name));
    let newest = |places: &mut dyn Iterator<Item = (ShardId, u64)>| {
        places.filter(|place| place.0 == shard).map(|place| place.1).max().unwrap_or(0)
    };
    let number = newest(&mut { snapshots }) + 1;
    // All segments before the one that MANIFEST names first may go.
    let segment = newest(&mut { segments }) + 1;
    engine.skip_to(next_lsn);
    // A chain that no log has had: no earlier log can be taken for the continuation of this snapshot.
    let made_of = [stamp.epoch, u64::from(shard.0), next_lsn.0].map(u64::to_le_bytes);
    let position = Position { next_lsn, chain: crc32c::crc32c(made_of.as_flattened()) };
    let Stamp { epoch, unix_ms } = stamp;
    let identity = Identity { shard, number, epoch, position, unix_ms };
    let file_bytes = match write(disk, engine, identity).await {
        Ok(bytes) => bytes,
        Err(error) => {
            discard(disk, identity).await;
            return Err(error);
        }
    };
    drop(Prepared::create(disk, shard, segment, PLACEHOLDER_BYTES).await?);
    let snapshot = Snapshot {
        shard: shard.0,
        number,
        file: snapshot_name(shard, number),
        next_lsn: next_lsn.0,
        chain: position.chain,
        file_bytes,
        files: vec![number],
    };
    let file = segment_name(shard, segment);
    Ok((snapshot, Segment { shard: shard.0, number: segment, file, sealed: None }))
}

/// Writes all pieces; returns the length of the file.
async fn write<D: Disk>(
    disk: &D,
    engine: &mut Engine,
    identity: Identity,
) -> Result<u64, RebuildError> {
    let mut writer = Writer::begin(disk, identity).await?;
    let mut checkpoint = engine.begin_checkpoint(Arc::default(), BTreeSet::new());
    while let Some(piece) = checkpoint.next(engine) {
        writer.put(disk, piece.part, piece.block, &piece.bytes).await?;
    }
    let written = writer.finish(disk, checkpoint.shape(), &[]).await?;
    engine.end_checkpoint(checkpoint);
    Ok(written.file_bytes)
}

/// Files of logs and snapshots that `manifest` does not name.
#[must_use]
pub(super) fn superseded(names: &[String], manifest: &Manifest) -> Vec<String> {
    let is_named = |name: &String| {
        let in_snapshot = |(shard, number): (ShardId, u64)| {
            let of = manifest.snapshots.iter().filter(|s| s.shard == shard.0);
            of.flat_map(|s| &s.files).any(|&file| file == number)
        };
        manifest.segments.iter().any(|segment| segment.file == *name)
            || !name.ends_with(".tmp") && parse_snapshot_name(name).is_some_and(in_snapshot)
    };
    let is_ours =
        |name: &&String| parse_segment_name(name).is_some() || parse_snapshot_name(name).is_some();
    names.iter().filter(is_ours).filter(|name| !is_named(name)).cloned().collect()
}

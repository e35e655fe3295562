//! Exact number of documents in a state, counted without opening it in memory: from the ids of the newest snapshots,
//! and the log after them.

use std::collections::HashSet;

use super::Result;
use crate::disk::view::{View, run};
use crate::manifest::{Manifest, Snapshot};
use crate::snapshot::reader::{contents, read};
use crate::types::image::{Part, SLOTS_IN_BLOCK};
use crate::types::position::Position;
use crate::types::record::Record;
use crate::types::{DocId, Lsn, ShardId};
use crate::wal::recover::recover;

/// Most slots of a shard.
const SLOTS_MAX: u32 = 1 << 26;

/// Counts the documents of a state. Reads every group of the logs after the newest snapshots, and checks them as a
/// start does.
///
/// # Errors
/// If a file is missing or damaged.
pub fn count(view: &View, manifest: &Manifest) -> Result<u64> {
    super::shards(manifest).map(|shard| count_shard(view, manifest, shard)).sum()
}

fn count_shard(view: &View, manifest: &Manifest, shard: ShardId) -> Result<u64> {
    let ours = manifest.snapshots.iter().filter(|snapshot| snapshot.shard == shard.0);
    let newest = ours.max_by_key(|snapshot| snapshot.number);
    let mut ids = Ids::default();
    if let Some(snapshot) = newest {
        ids.live = snapshot_ids(view, shard, snapshot)?;
    }
    let from = newest.map(position);
    let apply = |_: Lsn, record: Record| ids.apply(&record);
    let read = run(recover(view, shard, &manifest.segments, from, apply));
    let log = read.map_err(|error| error.to_string())?;
    if let Some(why) = log.losses.iter().chain(&log.torn).chain(&log.warnings).next() {
        return Err(format!("a segment is not whole: {why}"));
    }
    check_placement(ids.live.iter().map(|&id| DocId(id)), shard, manifest.shards)?;
    Ok(ids.live.len() as u64)
}

/// Refuses documents in a shard other than the one that `shards` shards would assign them to: a server would look for
/// them there, and not find them.
pub(super) fn check_placement(
    mut ids: impl Iterator<Item = DocId>,
    shard: ShardId,
    shards: u32,
) -> Result<()> {
    match ids.find(|id| id.shard(shards) != shard) {
        Some(id) => Err(format!(
            "document {} is in shard {}, where no directory of {shards} shards has it: the number of \
             shards is not that of the files",
            id.0, shard.0
        )),
        None => Ok(()),
    }
}

fn position(snapshot: &Snapshot) -> Position {
    Position { next_lsn: Lsn(snapshot.next_lsn), chain: snapshot.chain }
}

/// The live documents in a snapshot.
fn snapshot_ids(view: &View, shard: ShardId, snapshot: &Snapshot) -> Result<HashSet<u64>> {
    let found = run(contents(view, shard, snapshot.number)).map_err(|error| error.to_string())?;
    let bad = |why: &str| format!("{} is damaged: {why}", snapshot.file);
    let slots = found.header.shape.slots;
    if found.header.position != position(snapshot) || slots > SLOTS_MAX {
        return Err(bad("it is not the snapshot that MANIFEST names"));
    }
    let is_wanted = |part: Part| matches!(part, Part::Ids | Part::Index);
    let extents: Vec<_> = found.extents.into_iter().filter(|e| is_wanted(e.part)).collect();
    let (mut ids, mut live) = (vec![0_u64; slots as usize], Vec::new());
    let take = |extent: &crate::types::image::Extent, bytes: &[u8]| {
        if extent.part == Part::Index {
            let words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
            live.extend(words.filter(|&word| word != 0));
            return Ok(());
        }
        let start = extent.block as usize * SLOTS_IN_BLOCK as usize;
        let words = bytes.as_chunks().0;
        let target = ids.get_mut(start..start + words.len());
        let target = target.ok_or("a block of ids beyond the last slot")?;
        for (id, word) in target.iter_mut().zip(words) {
            *id = u64::from_le_bytes(*word);
        }
        Ok(())
    };
    run(read(view, shard, &extents, take)).map_err(|error| error.to_string())?;
    let id = |slot: u32| ids.get(slot as usize - 1).copied().filter(|&id| id != 0);
    let live: Option<HashSet<u64>> = live.into_iter().map(id).collect();
    let live = live.ok_or_else(|| bad("its index names a slot without a document"))?;
    if live.len() != found.header.shape.live as usize {
        return Err(bad("its index is not of as many documents as its header says"));
    }
    Ok(live)
}

/// Ids of a shard's documents, updated by the records of its log.
#[derive(Default)]
struct Ids {
    live: HashSet<u64>,
    /// Ids of a batch that is not complete yet.
    batch: Vec<u64>,
}

impl Ids {
    fn apply(&mut self, record: &Record) {
        if !matches!(record, Record::DeleteBatch { part: 1.., .. }) {
            self.batch.clear();
        }
        match record {
            Record::Put { id, .. } => {
                self.live.insert(id.0);
            }
            Record::Delete { id } => {
                self.live.remove(&id.0);
            }
            Record::SetPayload { .. } => {}
            Record::DeleteBatch { ids, more, .. } => {
                self.batch.extend(ids.iter().map(|id| id.0));
                if !more {
                    for id in self.batch.drain(..) {
                        self.live.remove(&id);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_counts_once_it_is_complete() {
        let mut ids = Ids { live: (1..=9).collect(), batch: Vec::new() };
        let part = |first: u64, part, more| Record::DeleteBatch {
            ids: vec![DocId(first), DocId(first + 1)],
            part,
            more,
        };
        ids.apply(&part(1, 0, true));
        assert_eq!(ids.live.len(), 9);
        // Cut off: another record follows.
        ids.apply(&Record::Delete { id: DocId(9) });
        assert_eq!(ids.live.len(), 8);
        ids.apply(&part(3, 1, false));
        assert_eq!(ids.live.len(), 6, "only what came after the cut");
        ids.apply(&part(1, 0, true));
        ids.apply(&part(5, 1, false));
        assert_eq!(ids.live.into_iter().collect::<std::collections::BTreeSet<_>>(), [7, 8].into());
    }
}

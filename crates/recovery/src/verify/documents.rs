//! Comparison of a snapshot's parts by document: each document has metadata and a place in the index of ids, and
//! there is no data of deleted documents.

use roaring::RoaringBitmap;

use crate::disk::Disk;
use crate::snapshot::reader::{self, ReadError};
use crate::store::{payloads, values};
use crate::types::ShardId;
use crate::types::image::{Extent, INDEX_IN_BLOCK, PAYLOADS_IN_BLOCK, Part, SLOTS_IN_BLOCK};

/// Slots of a snapshot, by the data that they have.
#[derive(Default)]
struct Slots {
    /// Slots with a live document.
    alive: RoaringBitmap,
    /// Slots with metadata.
    with_metadata: RoaringBitmap,
    /// Slots with a place in the index of ids.
    in_index: RoaringBitmap,
    /// Number of entries in the index, each of which should be of another slot.
    index_entries: u64,
}

/// Result of the comparison.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Number of slots of deleted documents that have metadata: an earlier version of this program left it there. A
    /// start drops it.
    pub(super) stale: u64,
    /// Descriptions of contradictions.
    pub(super) faults: Vec<String>,
}

/// Reads the parts of a snapshot that have data on documents; all of them are as they were written.
pub(super) async fn compare<D: Disk>(
    disk: &D,
    (shard, number): (ShardId, u64),
) -> Result<Compared, ReadError> {
    let contents = reader::contents(disk, shard, number).await?;
    let is_read =
        |extent: &&Extent| matches!(extent.part, Part::Lives | Part::Payloads | Part::Index);
    let extents: Vec<Extent> = contents.extents.iter().filter(is_read).copied().collect();
    let mut slots = Slots::default();
    reader::read(disk, shard, &extents, |extent, bytes| slots.read(extent, bytes)).await?;
    Ok(slots.compare(u64::from(contents.header.shape.live)))
}

impl Slots {
    fn read(&mut self, extent: &Extent, bytes: &[u8]) -> Result<(), String> {
        let first = |in_block: u32| {
            extent
                .block
                .checked_mul(in_block)
                .ok_or_else(|| "a block far beyond the last slot".to_owned())
        };
        match extent.part {
            Part::Lives => {
                let lives: Vec<u64> = values(bytes);
                for (slot, &[_, died]) in (first(SLOTS_IN_BLOCK)?..).zip(lives.as_chunks().0) {
                    if died == u64::MAX {
                        self.alive.insert(slot);
                    }
                }
            }
            Part::Payloads => {
                for (slot, payload) in (first(PAYLOADS_IN_BLOCK)?..).zip(payloads(bytes)?) {
                    if payload.is_some() {
                        self.with_metadata.insert(slot);
                    }
                }
            }
            Part::Index => {
                first(INDEX_IN_BLOCK)?;
                for slot in values::<u32>(bytes).iter().filter_map(|entry| entry.checked_sub(1)) {
                    self.in_index.insert(slot);
                    self.index_entries += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn compare(&self, live: u64) -> Compared {
        let mut compared =
            Compared { stale: (&self.with_metadata - &self.alive).len(), faults: Vec::new() };
        let mut fault = |count: u64, what: &str| {
            if count > 0 {
                compared.faults.push(format!("{count} {what}"));
            }
        };
        fault((&self.alive - &self.with_metadata).len(), "documents have no metadata");
        // An index without entries was given up, and a start uses the documents.
        if self.index_entries > 0 {
            fault((&self.alive - &self.in_index).len(), "documents are not in the index of ids");
        }
        fault(
            (&self.in_index - &self.alive).len(),
            "entries of the index of ids lead to no document",
        );
        let twice = self.index_entries - self.in_index.len();
        fault(twice, "entries of the index of ids lead where another one does");
        let alive = self.alive.len();
        fault(alive.abs_diff(live), "documents more or fewer than the header says");
        compared
    }
}

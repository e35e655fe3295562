//! Retention: two snapshots are kept, the files that their parts lie in, and as much of the log as the older of them
//! needs. If the newer one is found damaged, nothing is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::{EXTENTS_AT_ONCE, Extent};
use crate::disk::{Disk, blocks};
use crate::manifest::{Sealed, Snapshot};

/// Number of snapshots that are kept.
const KEPT: usize = 2;

/// Least share of a file in use; below it, the used extents of the file are written to a new file.
const USED_SHARE_MIN: f64 = 0.5;

/// The files that are kept after a new snapshot, and those that are not needed any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Snapshots that are kept, oldest first.
    pub live: Vec<Snapshot>,
    /// Numbers of snapshots that MANIFEST names no longer.
    pub snapshots: Vec<u64>,
    /// Numbers of segments that are not needed any more.
    pub segments: Vec<u64>,
    /// Numbers of snapshots whose files are not needed any more.
    pub files: Vec<u64>,
}

/// Decides about the snapshots `live`, oldest first, and the complete segments `sealed`, after the snapshot `newest`.
#[must_use]
pub fn retain(
    mut live: Vec<Snapshot>,
    newest: Snapshot,
    sealed: &BTreeMap<u64, Sealed>,
) -> Retained {
    live.push(newest);
    let dropped: Vec<Snapshot> = live.drain(..live.len().saturating_sub(KEPT)).collect();
    let segments = covered(&live, sealed);
    let needed: BTreeSet<u64> = live.iter().flat_map(|snapshot| snapshot.files.clone()).collect();
    let files: BTreeSet<u64> = dropped.iter().flat_map(|s| s.files.clone()).collect();
    Retained {
        live,
        snapshots: dropped.iter().map(|snapshot| snapshot.number).collect(),
        segments,
        files: files.difference(&needed).copied().collect(),
    }
}

/// The first LSN that a start from any of the snapshots `live`, oldest first, needs of the log.
#[must_use]
pub fn needed_from(live: &[Snapshot]) -> u64 {
    // With one snapshot alone, the log has to be able to stand in for it.
    if live.len() == KEPT { live[0].next_lsn } else { 1 }
}

/// Numbers of the complete segments that the snapshots `live`, oldest first, cover.
#[must_use]
pub fn covered(live: &[Snapshot], sealed: &BTreeMap<u64, Sealed>) -> Vec<u64> {
    let needed_from = needed_from(live);
    let is_covered = |(_, sealed): &(&u64, &Sealed)| sealed.last_lsn + 1 < needed_from;
    sealed.iter().filter(is_covered).map(|(number, _)| *number).collect()
}

/// Bytes of each file that the extents of a snapshot use, of parts that may stay where they are.
#[derive(Default)]
pub struct Usage(BTreeMap<u64, (u64, u64)>);

impl Usage {
    /// Counts all extents of a snapshot, in slices.
    pub async fn of<D: Disk>(disk: &D, extents: &[Extent]) -> Self {
        let mut usage = Self::default();
        for some in extents.chunks(EXTENTS_AT_ONCE) {
            some.iter().for_each(|extent| usage.add(extent));
            disk.rest().await;
        }
        usage
    }

    /// Counts an extent.
    pub fn add(&mut self, extent: &Extent) {
        let bytes = blocks(extent.bytes as usize) as u64;
        let (used, end) = self.0.entry(extent.file).or_default();
        *end = (*end).max(extent.offset + bytes);
        *used += if extent.part.is_carried() { bytes } else { 0 };
    }

    /// The files that are worn, and the bytes in use of each.
    fn worn(&self) -> impl Iterator<Item = (u64, u64)> {
        let is_worn =
            |(_, (used, end)): &(&u64, &(u64, u64))| (*used as f64) < *end as f64 * USED_SHARE_MIN;
        self.0.iter().filter(is_worn).map(|(file, (used, _))| (*file, *used))
    }

    /// Numbers of the snapshots in whose files the extents are, and that of the snapshot itself.
    #[must_use]
    pub fn files(&self, number: u64) -> Vec<u64> {
        let files: BTreeSet<u64> = self.0.keys().copied().chain([number]).collect();
        files.into_iter().collect()
    }

    /// Files of which the extents use so little that it is better to write that again than to keep the files.
    #[must_use]
    pub fn worn_files(&self) -> BTreeSet<u64> {
        self.worn().map(|(file, _)| file).collect()
    }

    /// Bytes in use of files that are worn.
    #[must_use]
    pub fn worn_bytes(&self) -> u64 {
        self.worn().map(|(_, used)| used).sum()
    }
}

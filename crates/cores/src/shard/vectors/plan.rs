//! Plan of the reads for a batch of rows: rows in adjacent pages are read together.

use crate::disk::BLOCK;
use crate::store::places::Spot;
use crate::types::{DocId, Slot};

/// Longest read of adjacent rows, in bytes.
const RUN_BYTES_MAX: u64 = 128 << 10;

/// A row to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Index of the row for the caller.
    pub(super) index: usize,
    /// Slot of the vector.
    pub(super) slot: Slot,
    /// Id of the document.
    pub(super) document: DocId,
    /// LSN of the write that made this version.
    pub(super) born: u64,
    /// Location on disk.
    pub(super) spot: Spot,
    /// Region of the graph in which the search is that needs it, 0 if unknown; `None`: the row is not cached.
    pub(super) region: Option<u32>,
}

/// Rows that one read covers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Owner of the file, and number of the file.
    pub(super) owner: u32,
    /// See `owner`.
    pub(super) file: u64,
    /// Offset of the read in the file, a multiple of the block size.
    pub(super) start: u64,
    end: u64,
    /// The rows, ordered by offset.
    pub(super) rows: Vec<Wanted>,
}

impl Run {
    /// Length of the read, a multiple of the block size.
    pub(super) fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// The reads for these rows, ordered by file and offset.
pub(super) fn runs(mut wanted: Vec<Wanted>) -> Vec<Run> {
    wanted.sort_unstable_by_key(|row| (row.spot.owner, row.spot.file, row.spot.offset));
    let block = BLOCK as u64;
    let mut runs: Vec<Run> = Vec::new();
    for row in wanted {
        let Spot { owner, file, offset, bytes, .. } = row.spot;
        let (start, end) =
            (offset / block * block, (offset + bytes as u64).next_multiple_of(block));
        if let Some(last) = runs.last_mut()
            && (last.owner, last.file) == (owner, file)
            && start <= last.end
            && end - last.start <= RUN_BYTES_MAX
        {
            last.end = end.max(last.end);
            last.rows.push(row);
            continue;
        }
        runs.push(Run { owner, file, start, end, rows: vec![row] });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(index: usize, owner: u32, file: u64, offset: u64) -> Wanted {
        let spot = Spot { owner, file, offset, bytes: 1_536, crc: 0 };
        Wanted {
            index,
            slot: Slot(index as u32),
            document: DocId(1),
            born: 1,
            spot,
            region: Some(0),
        }
    }

    #[test]
    fn neighbours_are_read_together_and_the_same_page_once() {
        let runs = runs(vec![
            wanted(0, 0, 3, 3 * 4_096),
            wanted(1, 0, 3, 9 * 4_096 + 4_000),
            wanted(2, 0, 3, 3 * 4_096 + 1_536),
            wanted(3, 0, 2, 3 * 4_096 + 3_072),
            wanted(4, 1, 3, 3 * 4_096 + 3_072),
            wanted(5, 0, 3, 4 * 4_096),
            wanted(6, 0, 3, 3 * 4_096 + 3_072),
            wanted(7, 0, 3, 6 * 4_096),
        ]);
        let shown: Vec<_> = runs
            .iter()
            .map(|run| {
                let rows: Vec<usize> = run.rows.iter().map(|row| row.index).collect();
                (run.owner, run.file, run.start / 4_096, run.bytes() / 4_096, rows)
            })
            .collect();
        assert_eq!(
            shown,
            [
                (0, 2, 3, 2, vec![3]),
                (0, 3, 3, 2, vec![0, 2, 6, 5]),
                (0, 3, 6, 1, vec![7]),
                (0, 3, 9, 2, vec![1]),
                (1, 3, 3, 2, vec![4]),
            ]
        );
    }

    #[test]
    fn a_read_is_not_longer_than_it_may_be() {
        let rows = (0..400).map(|index| wanted(index, 0, 1, 4_096 + 1_536 * index as u64));
        let runs = runs(rows.collect());
        assert!(runs.len() >= 5 && runs.len() <= 6, "{}", runs.len());
        assert!(runs.iter().all(|run| run.bytes() as u64 <= RUN_BYTES_MAX));
        assert_eq!(runs.iter().map(|run| run.rows.len()).sum::<usize>(), 400);
    }
}

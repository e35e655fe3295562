//! Vectors of an owner that are in memory because no snapshot on disk has them yet, and their release once one has.

use std::collections::VecDeque;

use super::Store;
use super::places::{Place, Places, crc_of};
use super::slabs::{Row, Slabs};
use crate::types::image::{Extent, Part, vectors_in_block};
use crate::types::{DocId, Lsn, Slot};

/// The rows in memory of one owner.
#[derive(Default)]
pub(super) struct Unsaved {
    /// Slots filled, with the LSN, in that order; some may have been filled again.
    filled: VecDeque<(Lsn, Slot)>,
    /// Memory of the rows.
    slabs: Slabs,
    /// Number of rows in memory that slots lead to.
    rows: usize,
    /// Rows that nothing leads to any more, with the epoch in which they may still be read.
    left: VecDeque<(u64, Row)>,
    /// LSN up to which a snapshot on disk has all vectors.
    saved: Lsn,
}

/// Source of a block of vectors, for a snapshot.
#[derive(Debug, PartialEq)]
pub enum SavedVectors {
    /// The rows of the block.
    Rows(Vec<u8>),
    /// Some rows have to be read from the block's position on disk.
    OnDisk,
    /// The row of this document on disk is not as it was written.
    Lost(DocId),
}

impl Store {
    /// Locations of vectors, if they are not all in memory.
    #[inline]
    #[must_use]
    pub fn places(&self) -> Option<&Places> {
        self.shared.places.as_ref()
    }

    /// Bytes of vectors in memory, if vectors do not all stay there: of those that no snapshot on disk has, and of
    /// those that are about to be freed.
    #[must_use]
    pub fn row_bytes_in_memory(&self) -> usize {
        let rows = self.unsaved.rows + self.unsaved.left.len();
        self.places().map_or(0, |places| rows * places.row_bytes())
    }

    /// True if there are rows that nothing leads to any more, but that a reader was using.
    #[must_use]
    pub fn has_rows_left(&self) -> bool {
        !self.unsaved.left.is_empty()
    }

    /// Bytes of vectors that no snapshot on disk has; each write counts, even if it was replaced since. 0 if all
    /// vectors stay in memory.
    #[must_use]
    pub fn unsaved_bytes(&self) -> usize {
        let Unsaved { filled, saved, .. } = &self.unsaved;
        let unsaved = filled.len() - filled.partition_point(|(lsn, _)| lsn <= saved);
        self.places().map_or(0, |places| unsaved * places.row_bytes())
    }

    /// Puts the vector of the write at `lsn` in memory.
    pub(super) fn put_unsaved(&mut self, lsn: Lsn, slot: Slot, vector: &[f32]) {
        let Self { shared, unsaved, .. } = self;
        let Some(places) = &shared.places else { return };
        match places.put(slot, vector, &mut unsaved.slabs) {
            Some(row) => unsaved.left.push_back((places.leave(), row)),
            None => unsaved.rows += 1,
        }
        unsaved.filled.push_back((lsn, slot));
    }

    /// Notes that a snapshot of the state at `lsn` is on disk, all of whose extents [`Store::note_extents`] has had:
    /// vectors written up to there need not stay in memory.
    pub fn set_saved(&mut self, lsn: Lsn) {
        self.unsaved.saved = lsn;
    }

    /// Notes the positions of vectors on disk from these extents.
    ///
    /// # Errors
    /// If an extent is at a position that can't be kept.
    pub fn note_extents(&self, extents: &[Extent]) -> Result<(), String> {
        let Some(places) = self.places() else { return Ok(()) };
        let rows = vectors_in_block(places.row_bytes());
        for extent in extents.iter().filter(|extent| extent.part == Part::Vectors) {
            let number = extent.block.checked_mul(rows).filter(|&number| number < self.count);
            let Some(number) = number else {
                return Err(format!("a block of vectors, number {}, of no slot", extent.block));
            };
            places.set_block(self.stripe.slot(number), extent.file, extent.offset)?;
        }
        Ok(())
    }

    /// True if a row of this block of vectors was found to be damaged at the block's present position.
    #[must_use]
    pub fn is_damaged(&self, block: u32) -> bool {
        let Some(places) = self.places() else { return false };
        let first = block.checked_mul(vectors_in_block(places.row_bytes()));
        first.is_some_and(|number| {
            number < self.count && places.is_damaged(self.stripe.slot(number))
        })
    }

    /// Frees rows that a snapshot on disk has and that have no reader, at most `rows_max` of each. Returns how many.
    pub fn let_rows_go(&mut self, rows_max: usize) -> usize {
        let stripe = self.stripe;
        let Self { shared, unsaved, .. } = self;
        let Some(places) = &shared.places else { return 0 };
        let mut gone = 0;
        while gone < rows_max
            && let Some(&(lsn, slot)) = unsaved.filled.front()
            && lsn <= unsaved.saved
        {
            unsaved.filled.pop_front();
            gone += 1;
            // A slot that has been filled again since stands further behind.
            if shared.life(slot)[0] != lsn.0 {
                continue;
            }
            let crc = match places.read(stripe.owner()).find(slot) {
                Place::Memory(row) => crc_of(row),
                Place::Nowhere | Place::Disk(_) => continue,
            };
            if let Some(row) = places.put_on_disk(slot, crc) {
                unsaved.rows -= 1;
                unsaved.left.push_back((places.leave(), row));
            }
        }
        if !unsaved.left.is_empty() {
            let oldest = places.oldest();
            let is_read = |(epoch, _): &(u64, Row)| *epoch >= oldest;
            let unread = unsaved.left.iter().take(rows_max).take_while(|left| !is_read(left));
            let count = unread.count();
            unsaved.left.drain(..count);
            gone += count;
        }
        gone
    }

    /// The rows of some local slots, padding included, as they were at `snapshot`: those on disk are taken from
    /// `base`, the block as it is there.
    #[must_use]
    pub(super) fn saved_from_places(
        &self,
        places: &Places,
        numbers: std::ops::Range<u32>,
        snapshot: Lsn,
        base: Option<&[u8]>,
    ) -> SavedVectors {
        let row_bytes = places.row_bytes();
        let mut bytes = Vec::with_capacity(numbers.len() * row_bytes);
        let reading = places.read(self.stripe.owner());
        for (index, slot) in numbers.map(|number| self.stripe.slot(number)).enumerate() {
            let spot = match reading.find(slot) {
                Place::Memory(row) => {
                    bytes.extend_from_slice(bytemuck::cast_slice(row));
                    continue;
                }
                Place::Disk(spot) => Some(spot),
                Place::Nowhere => None,
            };
            if let (Some(_), None) = (spot, base) {
                return SavedVectors::OnDisk;
            }
            let row = base.and_then(|base| base.get(index * row_bytes..(index + 1) * row_bytes));
            let is_row = |row: &&[u8]| spot.is_some_and(|spot| spot.is_row(row));
            match row.filter(is_row) {
                Some(row) => bytes.extend_from_slice(row),
                None if self.is_visible(slot, snapshot) => {
                    return SavedVectors::Lost(self.doc_id(slot));
                }
                // No view will see it again.
                None => bytes.resize(bytes.len() + row_bytes, 0),
            }
        }
        SavedVectors::Rows(bytes)
    }
}

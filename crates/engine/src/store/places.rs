//! Location of each vector, where vectors are not all in memory: a row in memory until a snapshot on disk has the
//! vector, and from then on an extent of that snapshot.
//!
//! A slot has one word, which points to its row in memory or holds the checksum of its row on disk: every row read
//! from disk is compared with it, whatever the disk says. The position of a block of rows in the files of its owner
//! is kept by block. It changes when another snapshot writes the block again; each of the positions that a block has
//! had holds the rows of all slots that a view may see.
//!
//! Rows in memory are written before their names are published, and never again. Their owner takes them away while
//! others may be reading them, so a reader announces itself (`super::readers`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::arena::Arena;
use super::readers::Readers;
use super::slabs::{Line, Row, Slabs};
use super::vectors::LINE_VALUES;
use crate::types::Slot;
use crate::types::image::vectors_in_block;
use crate::types::limits::BLOCK;
use crate::types::stripe::Stripe;

const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "a checksum fits beside a mark");

/// Mark in the word of a slot whose vector is on disk: no row is at an odd address.
const ON_DISK: usize = 1;

/// Most damaged blocks that are remembered; others are found again when they are read again.
const DAMAGED_MAX: usize = 1 << 16;

/// Location of a vector on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The owner in whose files the row is.
    pub owner: u32,
    /// Number of the snapshot in whose file it is.
    pub file: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Bytes of the row, padding included.
    pub bytes: usize,
    /// Checksum of the row.
    pub crc: u32,
}

impl Spot {
    /// True if these are the bytes of the row that was written there.
    #[must_use]
    pub fn is_row(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes && crc32c::crc32c(bytes) == self.crc
    }
}

/// Location of a vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place<'a> {
    /// The slot has no vector.
    Nowhere,
    /// In memory: the row, padding included.
    Memory(&'a [f32]),
    /// On disk alone.
    Disk(Spot),
}

/// Locations of vectors, by slot.
pub struct Places {
    stripe: Stripe,
    row_lines: usize,
    /// Rows of consecutive slots in an extent: a power of two that divides the number of consecutive slots of an
    /// owner.
    block_rows: u32,
    cells: Arena<AtomicPtr<Line>>,
    /// By block of slots: the number of a file, and the page in it. 0 for none.
    blocks: Arena<AtomicU64>,
    /// Blocks with a row that did not read back as it was written: the next snapshot has to write them again.
    damaged: Mutex<BTreeSet<u32>>,
    readers: Readers,
}

/// A read step of an owner: rows found by it stay while it exists.
pub struct Reading<'a> {
    places: &'a Places,
    reader: u32,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.places.readers.end(self.reader);
    }
}

impl Reading<'_> {
    /// The location of the vector of `slot`.
    #[must_use]
    pub fn find(&self, slot: Slot) -> Place<'_> {
        let cell = self.places.cells.get(slot.index()).load(Ordering::Acquire);
        if cell.is_null() {
            return Place::Nowhere;
        }
        if cell.addr() & ON_DISK != 0 {
            return match self.places.spot(slot, (cell.addr() >> 32) as u32) {
                Some(spot) => Place::Disk(spot),
                None => Place::Nowhere,
            };
        }
        #[expect(unsafe_code, reason = "rows are reached through an atomic pointer")]
        // SAFETY: the pointer came from a row of `row_lines` lines in `Places::put`, was published after they were
        // written, and no thread writes them again. The owner drops the row only once no reader is in an epoch in
        // which the pointer could be found, and this reader has announced itself before it looked.
        let lines = unsafe { std::slice::from_raw_parts(cell, self.places.row_lines) };
        Place::Memory(bytemuck::cast_slice(lines))
    }
}

impl Places {
    pub(super) fn new(dimension: usize, owners: u32) -> Self {
        let stripe = Stripe::new(0, owners);
        let (slots_max, row_lines) = (stripe.names_max(), dimension.div_ceil(LINE_VALUES));
        let block_rows = vectors_in_block(row_lines * size_of::<Line>());
        Self {
            stripe,
            row_lines,
            block_rows,
            cells: Arena::per_slot(slots_max),
            blocks: Arena::per_slot(slots_max.div_ceil(block_rows as usize)),
            damaged: Mutex::default(),
            readers: Readers::new(owners),
        }
    }

    /// Bytes of a row, padding included.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.row_lines * size_of::<Line>()
    }

    /// Begins a read step of this owner. One at a time.
    #[must_use]
    pub fn read(&self, reader: u32) -> Reading<'_> {
        self.readers.begin(reader);
        Reading { places: self, reader }
    }

    /// Makes room for `slot`.
    pub(super) fn reserve(&self, slot: Slot) {
        self.cells.reserve(slot.index());
        self.blocks.reserve((slot.0 / self.block_rows) as usize);
    }

    fn spot(&self, slot: Slot, crc: u32) -> Option<Spot> {
        let block = self.blocks.get((slot.0 / self.block_rows) as usize).load(Ordering::Acquire);
        let (file, page) = (block >> 32, block & u64::from(u32::MAX));
        let (owner, bytes) = (self.stripe.owner_of(slot), self.row_bytes());
        let start = u64::from(slot.0 % self.block_rows) * bytes as u64;
        let offset = page * BLOCK as u64 + start;
        (file != 0).then_some(Spot { owner, file, offset, bytes, crc })
    }

    /// Sets the position of the block that begins with `first`: `offset` bytes into this file. For the owner alone.
    ///
    /// # Errors
    /// If the position does not fit into a word.
    pub(super) fn set_block(&self, first: Slot, file: u64, offset: u64) -> Result<(), String> {
        let page = u32::try_from(offset / BLOCK as u64);
        let (Ok(file), Ok(page)) = (u32::try_from(file), page) else {
            return Err(format!("vectors at byte {offset} of snapshot {file}: too far to keep"));
        };
        let number = first.0 / self.block_rows;
        let place = u64::from(file) << 32 | u64::from(page);
        if self.blocks.get(number as usize).swap(place, Ordering::AcqRel) != place {
            self.damaged.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
        Ok(())
    }

    /// Notes that the row of `slot` on disk is not as it was written, or can't be read.
    pub fn note_damaged(&self, slot: Slot) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.len() < DAMAGED_MAX {
            damaged.insert(slot.0 / self.block_rows);
        }
    }

    /// True if a damaged row was found in the block that begins with `first`, at its present position.
    pub(super) fn is_damaged(&self, first: Slot) -> bool {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.contains(&(first.0 / self.block_rows))
    }

    /// Puts a vector in memory. Returns the row that was there before, which others may still be reading. For the
    /// owner alone.
    pub(super) fn put(&self, slot: Slot, vector: &[f32], slabs: &mut Slabs) -> Option<Row> {
        let row = slabs.row(self.row_lines, vector).into_raw();
        Self::take(self.cells.get(slot.index()).swap(row, Ordering::SeqCst))
    }

    /// Marks the vector of `slot` as the one on disk, with checksum `crc`. Returns the row that was in memory. For
    /// the owner alone.
    pub(super) fn put_on_disk(&self, slot: Slot, crc: u32) -> Option<Row> {
        let mark = std::ptr::without_provenance_mut((crc as usize) << 32 | ON_DISK);
        Self::take(self.cells.get(slot.index()).swap(mark, Ordering::SeqCst))
    }

    /// Removes the location of the vector of `slot`. For the owner alone.
    fn forget(&self, slot: Slot) -> Option<Row> {
        Self::take(self.cells.get(slot.index()).swap(std::ptr::null_mut(), Ordering::SeqCst))
    }

    /// Ends an epoch; returns it: rows just taken out may still be read in it.
    pub(super) fn leave(&self) -> u64 {
        self.readers.leave()
    }

    /// The oldest epoch in which a reader is: rows taken out in an earlier one have no reader.
    pub(super) fn oldest(&self) -> u64 {
        self.readers.oldest()
    }

    /// Removes all locations of an owner, which no thread reads.
    pub(super) fn clear(&self, stripe: Stripe) {
        let reserved = self.cells.reserved() as u32;
        for slot in (0..reserved).map(Slot).filter(|&slot| stripe.owns(slot)) {
            // Words that were never written stay without memory of their own.
            if !self.cells.get(slot.index()).load(Ordering::Relaxed).is_null() {
                drop(self.forget(slot));
            }
        }
    }

    /// The row in memory that a word pointed to, which nothing leads to any more.
    fn take(cell: *mut Line) -> Option<Row> {
        if cell.addr() & ON_DISK != 0 {
            return None;
        }
        #[expect(unsafe_code, reason = "rows are reached through an atomic pointer")]
        // SAFETY: the pointer came from a row in `put`, and the caller that swaps it out has it alone. Threads that
        // found it before may be reading the row: the caller keeps the row for them.
        unsafe {
            Row::from_raw(cell)
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        (0..self.cells.reserved() as u32).map(Slot).for_each(|slot| drop(self.forget(slot)));
    }
}

/// Checksum of a row.
pub(super) fn crc_of(row: &[f32]) -> u32 {
    crc32c::crc32c(bytemuck::cast_slice(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_in_memory_until_its_block_is_on_disk() {
        let places = Places::new(20, 2);
        // 128 bytes a row, 2,048 rows a block.
        let (slot, mut slabs) = (Slot(2 * 4_096 + 2_048 + 5), Slabs::default());
        places.reserve(slot);
        assert_eq!(places.read(0).find(slot), Place::Nowhere);
        assert!(places.put(slot, &[2.0; 20], &mut slabs).is_none());
        let crc = {
            let reading = places.read(1);
            let Place::Memory(row) = reading.find(slot) else { panic!("it is in memory") };
            assert_eq!((row[..20].to_vec(), row[20..].to_vec()), (vec![2.0; 20], vec![0.0; 12]));
            crc_of(row)
        };
        assert!(places.put_on_disk(slot, crc).is_some());
        assert_eq!(places.read(0).find(slot), Place::Nowhere, "nobody knows where");
        places.set_block(Slot(2 * 4_096 + 2_048), 7, 40_960).unwrap();
        let spot = Spot { owner: 0, file: 7, offset: 40_960 + 5 * 128, bytes: 128, crc };
        assert_eq!(places.read(0).find(slot), Place::Disk(spot));
        let mut row = [0.0_f32; 32];
        row[..20].fill(2.0);
        assert!(spot.is_row(bytemuck::cast_slice(&row)));
        row[3] = 2.5;
        assert!(!spot.is_row(bytemuck::cast_slice(&row)));
        assert!(places.set_block(slot, 1 << 32, 0).is_err());
        assert!(places.put(slot, &[1.0; 20], &mut slabs).is_none());
        assert!(places.put(slot, &[3.0; 20], &mut slabs).is_some());
    }

    /// Rows are taken away and made again while others read them: each row that they find is whole.
    #[test]
    fn a_row_stays_whole_until_its_reader_is_done() {
        let places = Places::new(33, 2);
        places.reserve(Slot(0));
        let rounds = 20_000_u32;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0.0;
                while seen + 1.0 < rounds as f32 {
                    let reading = places.read(1);
                    if let Place::Memory(row) = reading.find(Slot(0)) {
                        assert!(row[0] >= seen);
                        seen = row[0];
                        assert!(row[..33].iter().all(|&value| value == seen), "{row:?}");
                    }
                }
            });
            let (mut left, mut slabs) = (std::collections::VecDeque::new(), Slabs::default());
            for round in 0..rounds {
                if let Some(row) = places.put(Slot(0), &[round as f32; 33], &mut slabs) {
                    left.push_back((places.leave(), row));
                }
                let oldest = places.oldest();
                while left.front().is_some_and(|(epoch, _)| *epoch < oldest) {
                    let (_, mut row) = left.pop_front().unwrap();
                    Row::values_mut(&mut row, 3).fill(-1.0);
                }
            }
            reader.join().unwrap();
            assert!(left.iter().all(|(epoch, _)| *epoch < places.oldest()), "nobody reads");
        });
    }
}

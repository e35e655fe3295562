//! The documents as a snapshot on disk has them: what is given to it block by block, and put back.
//!
//! A snapshot on disk sees the shard at one LSN as a search does, over many steps:
//! [`Store::open_snapshot`] brackets it, and the lifetimes tell what was there. Blocks of
//! vectors and metadata that have not changed since the snapshot before are not asked for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::payload::Payload;
use super::{ALIVE, Ids, Index, PAYLOAD_CHUNK, Store};
use crate::snapshot::{PAYLOADS_IN_BLOCK, vectors_in_block};
use crate::types::{Lsn, Slot};

/// Blocks that have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Of vectors.
    pub vectors: BTreeSet<u32>,
    /// Of metadata.
    pub payloads: BTreeSet<u32>,
}

impl Changed {
    pub(super) fn note_vector(&mut self, slot: Slot, row_bytes: usize) {
        self.vectors.insert(slot.0 / vectors_in_block(row_bytes));
    }

    pub(super) fn note_payload(&mut self, slot: Slot) {
        self.payloads.insert(slot.0 / PAYLOADS_IN_BLOCK);
    }
}

impl Store {
    /// What has changed since the last time this was asked.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Gives back what was taken for a snapshot that has failed.
    pub fn give_back(&mut self, changed: &Changed) {
        self.changed.vectors.extend(&changed.vectors);
        self.changed.payloads.extend(&changed.payloads);
    }

    /// The rows of some slots, padding included.
    #[must_use]
    pub fn saved_vectors(&self, slots: Range<u32>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(slots.len() * self.vectors.row_bytes());
        for slot in slots.map(Slot) {
            bytes.extend_from_slice(bytemuck::cast_slice(self.vectors.row(slot)));
        }
        bytes
    }

    /// The metadata of a block of slots at `snapshot`: where each ends, then all of them. Slots
    /// that held nothing then have none.
    #[must_use]
    pub fn saved_payloads(&self, slots: Range<u32>, snapshot: Lsn) -> Vec<u8> {
        let (mut ends, mut bytes) = (Vec::with_capacity(PAYLOADS_IN_BLOCK as usize), Vec::new());
        for slot in slots.map(Slot) {
            if self.is_visible(slot, snapshot) {
                bytes.extend_from_slice(self.payload_at(slot, snapshot).bytes());
            }
            ends.push(bytes.len() as u32);
        }
        ends.resize(PAYLOADS_IN_BLOCK as usize, bytes.len() as u32);
        let mut block = bytemuck::cast_slice(&ends).to_vec();
        block.extend_from_slice(&bytes);
        block
    }

    /// The lifetimes of some slots as they were at `snapshot`: born and died of each.
    #[must_use]
    pub fn saved_lives(&self, slots: Range<u32>, snapshot: Lsn) -> Vec<u8> {
        let mut lives = Vec::with_capacity(2 * slots.len());
        for slot in slots {
            let life = self.lives.get(slot as usize);
            let (born, died) = (life[0].load(Ordering::Acquire), life[1].load(Ordering::Acquire));
            lives.extend(match born <= snapshot.0 {
                true if died > snapshot.0 => [born, ALIVE],
                true => [born, died],
                // The slot was free, and has been used since.
                false => [0, 0],
            });
        }
        bytemuck::cast_slice(&lives).to_vec()
    }

    /// The document ids of some slots as they were at `snapshot`; those that were alive then go
    /// into `index`.
    #[must_use]
    pub fn saved_ids(&self, slots: Range<u32>, snapshot: Lsn, index: &mut Index) -> Vec<u8> {
        let mut ids = Vec::with_capacity(slots.len());
        for slot in slots.map(Slot) {
            let id = self.doc_id(slot);
            if self.is_visible(slot, snapshot) {
                index.insert(id, slot);
            }
            ids.push(if self.born(slot) <= snapshot { id.0 } else { 0 });
        }
        bytemuck::cast_slice(&ids).to_vec()
    }

    /// Puts vectors back, from slot `start` on.
    ///
    /// # Errors
    /// If the bytes are no rows.
    pub fn restore_vectors(&mut self, start: u32, bytes: &[u8]) -> Result<(), String> {
        if !bytes.len().is_multiple_of(self.vectors.row_bytes()) {
            return Err("a block of vectors that does not hold whole ones".into());
        }
        self.vectors.restore(start, &values(bytes));
        if let Some(codes) = &mut self.codes {
            let rows = bytes.len() / self.vectors.row_bytes();
            for slot in (start..).take(rows).map(Slot) {
                codes.put(slot, self.vectors.values(slot));
            }
        }
        Ok(())
    }

    /// Puts metadata back, from slot `start` on.
    ///
    /// # Errors
    /// If the bytes are no block of metadata.
    pub fn restore_payloads(&mut self, start: u32, bytes: &[u8]) -> Result<(), String> {
        for (slot, payload) in (start..).map(Slot).zip(payloads(bytes)?) {
            if payload.is_some() {
                self.reserve_payload(slot);
                *self.payload_cell_mut(slot) = payload;
            }
        }
        Ok(())
    }

    /// Puts lifetimes back, from slot `start` on.
    ///
    /// # Errors
    /// If the bytes are no lifetimes.
    pub fn restore_lives(&mut self, start: u32, bytes: &[u8]) -> Result<(), String> {
        let lives: Vec<u64> = values(bytes);
        for (slot, life) in (start as usize..).zip(lives.chunks_exact(2)) {
            if life[0] > life[1] {
                return Err(format!("slot {slot} died before it was born"));
            }
            self.lives.reserve(slot);
            self.reserve_payload(Slot(slot as u32));
            let cell = self.lives.row_mut(slot);
            cell[0] = [life[0].into(), life[1].into()];
        }
        Ok(())
    }

    /// Puts document ids back, from slot `start` on.
    pub fn restore_ids(&mut self, start: u32, bytes: &[u8]) {
        for (slot, id) in (start as usize..).zip(values::<u64>(bytes)) {
            self.doc_ids.reserve(slot);
            *self.doc_ids.row_mut(slot)[0].get_mut() = id;
        }
    }

    /// All of it is back. `index` leads to the `live` documents; `is_linked` tells which slots
    /// the graph walks through. Returns the slots alive that are not linked, oldest first.
    ///
    /// # Errors
    /// If it does not fit together.
    pub fn finish_restore(
        &mut self,
        index: Index,
        live: usize,
        is_linked: impl Fn(Slot) -> bool,
    ) -> Result<Vec<Slot>, String> {
        let mut found = 0;
        let mut unlinked = Vec::new();
        self.free.clear();
        for slot in (0..self.slot_count()).map(Slot) {
            match (self.is_live(slot), is_linked(slot)) {
                (true, is_linked) => {
                    found += 1;
                    if self.payload_cell(slot).is_none() {
                        return Err(format!("slot {} has no metadata", slot.0));
                    }
                    if !is_linked {
                        unlinked.push(slot);
                    }
                }
                (false, true) => {}
                (false, false) => self.free.push(slot),
            }
        }
        if found != live {
            return Err(format!("{found} documents are alive; the header says {live}"));
        }
        unlinked.sort_by_key(|&slot| self.born(slot));
        self.ids = Ids::new(index, live);
        Ok(unlinked)
    }

    pub(super) fn reserve_payload(&mut self, slot: Slot) {
        while slot.index() / PAYLOAD_CHUNK >= self.payloads.len() {
            self.payloads.push((0..PAYLOAD_CHUNK).map(|_| None).collect());
        }
    }
}

/// The metadata in a block of [`Store::saved_payloads`], slot by slot.
///
/// # Errors
/// If the bytes are no such block.
pub fn payloads(bytes: &[u8]) -> Result<Vec<Option<Payload>>, String> {
    let ends_bytes = PAYLOADS_IN_BLOCK as usize * size_of::<u32>();
    let (ends, bytes) = bytes.split_at_checked(ends_bytes).ok_or("a block that is cut off")?;
    let ends: Vec<u32> = values(ends);
    if !ends.is_sorted() || ends.last().copied() != Some(bytes.len() as u32) {
        return Err("a block of metadata whose ends are not in order".into());
    }
    let block: Arc<[u8]> = bytes.into();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let part = |(index, (start, end)): (usize, (u32, u32))| match end - start {
        0 => Ok(None),
        1 => Err(format!("metadata number {index} of a block is too short")),
        _ => Ok(Some(Payload::part(&block, start..end))),
    };
    starts.zip(ends.iter().copied()).enumerate().map(part).collect()
}

/// Bytes as values, wherever they lie in memory.
pub fn values<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

//! Documents as a snapshot on disk stores them: blocks that are given to the snapshot, and restored from it.
//!
//! Files identify slots by their local numbers, whatever the global slots are in the partition
//! ([`stripe`](crate::types::stripe)).
//!
//! A snapshot on disk sees the shard at one LSN as a search does, over many steps: [`Store::open_snapshot`] brackets
//! it, and the lifetimes tell which versions were there. Blocks of vectors and metadata that have not changed since
//! the snapshot before are not asked for.

use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::ids::PROBES_MAX_EACH;
use super::places::crc_of;
use super::slices::{slices, sort};
use super::unsaved::SavedVectors;
use super::{ALIVE, Ids, Index, Lookup, Store};
use crate::types::image::{PAYLOADS_IN_BLOCK, vectors_in_block};
use crate::types::payload::Payload;
use crate::types::{DocId, Lsn, Slot};

/// Least number of ids for which the bound on probes is computed: a single id may be far from its place.
const SLOTS_MIN: usize = 64;

/// Changed blocks, as bitmaps: joining and dropping them is fast even if they are large.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// Changed blocks of vectors.
    pub vectors: RoaringBitmap,
    /// Changed blocks of metadata.
    pub payloads: RoaringBitmap,
}

impl Changed {
    /// Notes a change of the vector in local slot `number`.
    pub(super) fn note_vector(&mut self, number: u32, row_bytes: usize) {
        self.vectors.insert(number / vectors_in_block(row_bytes));
    }

    /// Notes a change of the metadata in local slot `number`.
    pub(super) fn note_payload(&mut self, number: u32) {
        self.payloads.insert(number / PAYLOADS_IN_BLOCK);
    }
}

impl Store {
    /// Numbers of blocks of vectors, and of metadata, changed since [`Store::take_changed`].
    #[must_use]
    pub fn changed_blocks(&self) -> [usize; 2] {
        [self.changed.vectors.len() as usize, self.changed.payloads.len() as usize]
    }

    /// Takes the blocks changed since the last call.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Gives back the blocks taken for a snapshot that has failed.
    pub fn give_back(&mut self, changed: &Changed) {
        self.changed.vectors |= &changed.vectors;
        self.changed.payloads |= &changed.payloads;
    }

    /// The rows of some local slots, padding included, as they were at `snapshot`. If vectors are not all in memory,
    /// `base` is the block as it is on disk.
    #[must_use]
    pub fn saved_vectors(
        &self,
        numbers: Range<u32>,
        snapshot: Lsn,
        base: Option<&[u8]>,
    ) -> SavedVectors {
        if let Some(places) = self.places() {
            return self.saved_from_places(places, numbers, snapshot, base);
        }
        let mut bytes = Vec::with_capacity(numbers.len() * self.vectors().row_bytes());
        for slot in self.named(numbers) {
            bytes.extend_from_slice(bytemuck::cast_slice(self.vectors().row(slot)));
        }
        SavedVectors::Rows(bytes)
    }

    /// The metadata of a block of slots at `snapshot`: the end of each, then all of them. Slots without a version
    /// then have none.
    #[must_use]
    pub fn saved_payloads(&self, numbers: Range<u32>, snapshot: Lsn) -> Vec<u8> {
        let (mut ends, mut bytes) = (Vec::with_capacity(PAYLOADS_IN_BLOCK as usize), Vec::new());
        for slot in self.named(numbers) {
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

    /// The lifetimes of some local slots as they were at `snapshot`: born and died of each.
    #[must_use]
    pub fn saved_lives(&self, numbers: Range<u32>, snapshot: Lsn) -> Vec<u8> {
        let mut lives = Vec::with_capacity(2 * numbers.len());
        for slot in self.named(numbers) {
            let [born, died] = self.shared.life(slot);
            lives.extend(match born <= snapshot.0 {
                true if died > snapshot.0 => [born, ALIVE],
                true => [born, died],
                // The slot was free, and has been used since.
                false => [0, 0],
            });
        }
        bytemuck::cast_slice(&lives).to_vec()
    }

    /// The document ids of some local slots as they were at `snapshot`. Documents that were alive then are added to
    /// `index`, with their local numbers; the index is given up if that would take long.
    #[must_use]
    pub fn saved_ids(&self, numbers: Range<u32>, snapshot: Lsn, index: &mut Index) -> Vec<u8> {
        let mut ids = Vec::with_capacity(numbers.len());
        let probes_max = index.probes() + PROBES_MAX_EACH * numbers.len().max(SLOTS_MIN) as u64;
        for slot in self.named(numbers) {
            let id = self.doc_id(slot);
            if self.is_visible(slot, snapshot) {
                index.insert(id, Slot(self.stripe.number(slot)));
                if index.probes() > probes_max {
                    index.give_up();
                }
            }
            ids.push(if self.born(slot) <= snapshot { id.0 } else { 0 });
        }
        bytemuck::cast_slice(&ids).to_vec()
    }

    /// The global slots of these local numbers.
    fn named(&self, numbers: Range<u32>) -> impl Iterator<Item = Slot> + use<> {
        let stripe = self.stripe;
        numbers.map(move |number| stripe.slot(number))
    }

    /// Restores vectors, from local slot `start` on. No thread reads this shard's slots until all is restored.
    ///
    /// # Errors
    /// If the bytes are no rows.
    pub fn restore_vectors(&mut self, start: u32, bytes: &[u8]) -> Result<(), String> {
        let row_bytes = self.vectors().row_bytes();
        if !bytes.len().is_multiple_of(row_bytes) {
            return Err("a block of vectors that does not hold whole ones".into());
        }
        let dimension = self.vectors().dimension();
        let rows: Vec<f32> = values(bytes);
        for (number, row) in (start..).zip(rows.chunks_exact(row_bytes / size_of::<f32>())) {
            let slot = self.stripe.slot(number);
            self.shared.reserve(slot);
            self.write_row(slot, &row[..dimension]);
            if let Some(places) = self.places() {
                drop(places.put_on_disk(slot, crc_of(row)));
            }
            self.count = self.count.max(number + 1);
        }
        Ok(())
    }

    /// Restores metadata, from local slot `start` on.
    ///
    /// # Errors
    /// If the bytes are no block of metadata.
    pub fn restore_payloads(&mut self, start: u32, bytes: &[u8]) -> Result<(), String> {
        for (number, payload) in (start..).zip(payloads(bytes)?) {
            if let Some(payload) = payload {
                let slot = self.stripe.slot(number);
                self.shared.reserve(slot);
                drop(self.shared.swap_payload(slot, Some(Box::new(payload))));
            }
        }
        Ok(())
    }

    /// Restores lifetimes, from local slot `start` on.
    ///
    /// # Errors
    /// If the bytes are no lifetimes.
    pub fn restore_lives(&mut self, start: u32, bytes: &[u8]) -> Result<(), String> {
        let lives: Vec<u64> = values(bytes);
        for (number, &[born, died]) in (start..).zip(lives.as_chunks().0) {
            if born > died {
                return Err(format!("slot {number} died before it was born"));
            }
            let slot = self.stripe.slot(number);
            self.shared.reserve(slot);
            self.shared.set_life(slot, [born, died]);
        }
        Ok(())
    }

    /// Restores document ids, from local slot `start` on.
    pub fn restore_ids(&mut self, start: u32, bytes: &[u8]) {
        for (number, id) in (start..).zip(values::<u64>(bytes)) {
            let slot = self.stripe.slot(number);
            self.shared.reserve(slot);
            self.shared.set_doc_id(slot, DocId(id));
        }
    }

    /// Completes the restore after all blocks, in slices. `index` leads to the `live` documents, by local slot;
    /// `is_linked` tells which slots are in the graph.
    ///
    /// Metadata in slots without a live version is dropped, and the next snapshot writes its block without it:
    /// earlier versions of this program kept such blocks, and the metadata index took it for that of a document that
    /// came to the slot later.
    ///
    /// # Errors
    /// If the parts contradict each other.
    pub async fn finish_restore(
        &mut self,
        mut index: Index,
        live: usize,
        is_linked: impl Fn(Slot) -> bool,
        rest: &impl AsyncFn(),
    ) -> Result<Restored, String> {
        let mut found = 0;
        let Restored { mut unlinked, mut stale_pairs } = Restored::default();
        self.free.clear();
        for slice in slices(self.count) {
            for slot in self.named(slice) {
                if !self.is_live(slot)
                    && let Some(stale) = self.take_stale(slot)
                {
                    stale_pairs += stale.pairs().count() as u64;
                    self.changed.note_payload(self.stripe.number(slot));
                }
                match (self.is_live(slot), is_linked(slot)) {
                    (true, is_linked) => {
                        found += 1;
                        if self.shared.payload(slot).is_none() {
                            let number = self.stripe.number(slot);
                            return Err(format!("slot {number} has no metadata"));
                        }
                        if !is_linked {
                            unlinked.push((self.born(slot), slot));
                        }
                    }
                    (false, true) => {}
                    (false, false) => self.free.push(slot),
                }
            }
            rest().await;
        }
        if found != live {
            return Err(format!("{found} documents are alive; the header says {live}"));
        }
        let unlinked = sort(unlinked, rest).await;
        let id = |slot| self.shared.doc_id(slot);
        index.settle(|number| self.stripe.slot(number.0), id, rest).await;
        self.ids = match index.is_given_up() {
            false => Ids::new(index, live),
            true => self.ids_of_live(rest).await?,
        };
        Ok(Restored { unlinked, stale_pairs })
    }
}

impl Store {
    /// All live documents, in tables.
    async fn ids_of_live(&self, rest: &impl AsyncFn()) -> Result<Ids, String> {
        let mut ids = Ids::default();
        for slice in slices(self.count) {
            for slot in self.named(slice).filter(|&slot| self.is_live(slot)) {
                let id = self.doc_id(slot);
                if !ids.try_insert(id, slot, &Lookup(&self.shared)) {
                    return Err(format!("document {} is in two slots", id.0));
                }
            }
            rest().await;
        }
        Ok(ids)
    }
}

/// Results of [`Store::finish_restore`].
#[derive(Debug, Default)]
pub struct Restored {
    /// Live slots that are not linked, with the LSNs of their birth, oldest first.
    pub unlinked: Vec<(Lsn, Slot)>,
    /// Pairs of metadata that were dropped, in slots without a live version.
    pub stale_pairs: u64,
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

/// Reads bytes as values, at any alignment.
pub fn values<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

//! Checkpoint of a shard: its state at one LSN, given away piece by piece while the shard goes on changing.
//!
//! Documents are seen as a search sees them, by their lifetimes; the graph keeps copies of lists that are overwritten
//! ([`crate::graph::frozen`]). A piece is some tens of microseconds of work.

use crate::pieces::in_pieces;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::{Engine, VectorStorage};
use crate::store::{Changed, Index, SavedVectors};
use crate::types::Lsn;
use crate::types::image::{
    Extent, INDEX_IN_BLOCK, PAYLOADS_IN_BLOCK, Part, SLOTS_IN_BLOCK, Shape, links_in_block,
    vectors_in_block,
};

/// Divisor: a snapshot begins once this part of the memory for unsaved vectors is taken; while it is written, as many
/// bytes again may be added.
const UNSAVED_PARTS: usize = 3;

/// Blocks of which one piece of work checks whether they stay where they are: some tens of microseconds.
fn blocks_at_once() -> usize {
    in_pieces(1_024, 4)
}

/// Ids inserted into the index per piece of work: each costs one or two cache misses.
fn ids_at_once() -> u32 {
    in_pieces(512, 64)
}

/// Number of parts of a snapshot.
const PARTS: usize = 9;

/// A block of rows of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The part.
    pub part: Part,
    /// Number of the block within the part.
    pub block: u32,
    /// The rows, as bytes.
    pub bytes: Vec<u8>,
}

/// The next step of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The end: all pieces have been given.
    Done,
    /// A piece to write.
    Piece(Piece),
    /// An extent to read: the next piece needs its contents, which are to be given in whatever state they are.
    Read(Extent),
    /// No piece yet: ask again, once other tasks have had their turn.
    More,
}

/// A snapshot in progress. [`Engine::end_checkpoint`] or [`Engine::abandon_checkpoint`] must follow.
pub struct Checkpoint {
    snapshot: Lsn,
    shape: Shape,
    changed: Changed,
    /// The previous snapshot, in the order of parts and blocks, and files of it that are to be given up.
    before: Arc<Vec<Extent>>,
    worn: BTreeSet<u64>,
    /// Extents of the previous snapshot that stay as they are.
    carried: Vec<Extent>,
    /// The parts to write, and the progress: the number of the part, and of the block in that part.
    parts: [(Part, u32, u32); PARTS],
    part: usize,
    block: u32,
    /// Index in `before` of the next extent of the part.
    next_before: usize,
    /// True if the present block has to be written.
    is_writing: bool,
    /// Ids of the present block read so far.
    ids: Vec<u8>,
    index: Index,
}

/// Decision about a block.
enum Fate {
    Stays,
    IsWritten(Part, u32),
    /// There are no more blocks.
    End,
}

impl Checkpoint {
    /// LSN of the last record that the snapshot contains.
    #[must_use]
    pub fn snapshot(&self) -> Lsn {
        self.snapshot
    }

    /// Parameters and counts of the snapshot's state.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Extents of the previous snapshot that stay as they are, in the order of parts and blocks; complete once all
    /// pieces were given.
    #[must_use]
    pub fn carried(&self) -> &[Extent] {
        &self.carried
    }

    /// The next piece of an engine whose vectors are in memory; `None` when all have been given.
    ///
    /// # Panics
    /// If vectors are on disk, and an extent has to be read.
    pub fn next(&mut self, engine: &Engine) -> Option<Piece> {
        loop {
            match self.next_over(engine, None) {
                Ok(Next::Piece(piece)) => return Some(piece),
                Ok(Next::Done) => return None,
                Ok(Next::More) => {}
                other => unreachable!("vectors are in memory: {other:?}"),
            }
        }
    }

    /// The next step, wherever vectors are. `base` is the content of the extent that the last call asked to read.
    ///
    /// # Errors
    /// If a vector that the snapshot should have can't be read any more. Then the snapshot can't be finished.
    pub fn next_over(&mut self, engine: &Engine, mut base: Option<&[u8]>) -> Result<Next, String> {
        for _ in 0..blocks_at_once() {
            match self.fate(engine) {
                Fate::End => return Ok(Next::Done),
                Fate::Stays => {}
                Fate::IsWritten(part, block) => {
                    if let Some(next) = self.next_of(engine, part, block, base.take())? {
                        return Ok(next);
                    }
                }
            }
        }
        Ok(Next::More)
    }

    /// Decides about the next block. A block that stays is done with.
    fn fate(&mut self, engine: &Engine) -> Fate {
        let Some(&(part, rows, in_block)) = self.parts.get(self.part) else { return Fate::End };
        if self.block >= rows.div_ceil(in_block) {
            self.part += 1;
            self.block = 0;
            let part = self.parts.get(self.part).map(|(part, ..)| *part);
            self.next_before = self.before.partition_point(|extent| Some(extent.part) < part);
            return Fate::Stays;
        }
        if !self.is_writing {
            let extent = self.before.get(self.next_before).copied();
            let extent = extent.filter(|e| (e.part, e.block) == (part, self.block));
            self.next_before += usize::from(extent.is_some());
            if let Some(extent) = extent.filter(|extent| self.is_same(engine, extent)) {
                self.carried.push(extent);
                self.block += 1;
                return Fate::Stays;
            }
            self.is_writing = true;
        }
        Fate::IsWritten(part, self.block)
    }

    /// True if a block of the previous snapshot may stay where it is.
    fn is_same(&self, engine: &Engine, extent: &Extent) -> bool {
        let (changed, block) = (&self.changed, extent.block);
        let is_changed = match extent.part {
            Part::Vectors => changed.vectors.contains(block) || engine.store.is_damaged(block),
            Part::Payloads => changed.payloads.contains(block),
            _ => true,
        };
        !is_changed && !self.worn.contains(&extent.file)
    }

    /// The extent of a block of vectors in the previous snapshot.
    fn base(&self, block: u32) -> Option<Extent> {
        let key = |extent: &Extent| (extent.part, extent.block);
        let found = self.before.binary_search_by_key(&(Part::Vectors, block), key);
        found.ok().map(|index| self.before[index])
    }

    /// Ends the block that was being written.
    fn finish_block(&mut self) {
        self.block += 1;
        self.is_writing = false;
    }

    /// The next step of a block; `None` if the block stays where it is.
    fn next_of(
        &mut self,
        engine: &Engine,
        part: Part,
        block: u32,
        base: Option<&[u8]>,
    ) -> Result<Option<Next>, String> {
        let slots = |in_block: u32| rows(block, in_block, self.shape.slots);
        let (store, stripe) = (&engine.store, engine.store.stripe());
        let bytes = match part {
            Part::Vectors => {
                let numbers = slots(vectors_in_block(store.vectors().row_bytes()));
                match store.saved_vectors(numbers, self.snapshot, base) {
                    SavedVectors::Rows(bytes) => bytes,
                    SavedVectors::OnDisk => {
                        let next = self.base(block).map(|base| Some(Next::Read(base)));
                        return next.ok_or_else(|| {
                            format!("nobody knows where block {block} of vectors is")
                        });
                    }
                    // The block is not written again without this vector; nor does the loss keep other blocks from
                    // being saved.
                    SavedVectors::Lost(_) if self.may_stay(block) => {
                        self.carried.extend(self.base(block));
                        self.finish_block();
                        return Ok(None);
                    }
                    SavedVectors::Lost(id) => {
                        return Err(format!(
                            "the vector of document {} can't be read any more; delete it, or store \
                             it again",
                            id.0
                        ));
                    }
                }
            }
            Part::Payloads => store.saved_payloads(slots(PAYLOADS_IN_BLOCK), self.snapshot),
            Part::Lives => store.saved_lives(slots(SLOTS_IN_BLOCK), self.snapshot),
            Part::Ids => match self.next_ids(engine, slots(SLOTS_IN_BLOCK)) {
                Some(ids) => ids,
                None => return Ok(Some(Next::More)),
            },
            Part::Levels => {
                let mut levels = Vec::new();
                engine
                    .graph
                    .frozen_nodes(stripe, slots(SLOTS_IN_BLOCK), |level, _| levels.push(level));
                levels
            }
            Part::UpperStarts => {
                let mut starts = Vec::new();
                engine
                    .graph
                    .frozen_nodes(stripe, slots(SLOTS_IN_BLOCK), |_, start| starts.push(start));
                bytemuck::cast_slice(&starts).to_vec()
            }
            Part::Links => bytemuck::cast_slice(&engine.graph.frozen_links(stripe, block)).to_vec(),
            Part::UpperLinks => {
                bytemuck::cast_slice(&engine.graph.frozen_upper_links(stripe, block)).to_vec()
            }
            Part::Index if self.index.is_given_up() => {
                self.finish_block();
                return Ok(None);
            }
            Part::Index => {
                let entries = self.index.entries();
                let entries = rows(block, INDEX_IN_BLOCK, entries.len() as u32);
                let entries = entries.start as usize..entries.end as usize;
                bytemuck::cast_slice(&self.index.entries()[entries]).to_vec()
            }
        };
        self.finish_block();
        Ok(Some(Next::Piece(Piece { part, block, bytes })))
    }

    /// Reads some more of the ids of these slots, which are a block; returns all of them once they are read.
    fn next_ids(&mut self, engine: &Engine, slots: Range<u32>) -> Option<Vec<u8>> {
        let start = slots.start + (self.ids.len() / size_of::<u64>()) as u32;
        let end = slots.end.min(start + ids_at_once());
        let ids = engine.store.saved_ids(start..end, self.snapshot, &mut self.index);
        self.ids.extend_from_slice(&ids);
        (end == slots.end).then(|| std::mem::take(&mut self.ids))
    }

    /// True if a block of vectors has not changed since it was written.
    fn may_stay(&self, block: u32) -> bool {
        !self.changed.vectors.contains(block) && self.base(block).is_some()
    }
}

/// Rows of a block, of a part with `count` rows in all.
fn rows(block: u32, in_block: u32, count: u32) -> Range<u32> {
    let start = block * in_block;
    start..count.min(start.saturating_add(in_block))
}

impl Engine {
    /// Rows in a block of links.
    pub(super) fn links_in_block(&self) -> u32 {
        links_in_block(self.graph.list_values() * size_of::<u32>())
    }

    /// True if a snapshot may begin now: no node is half linked and no batch half applied.
    #[must_use]
    pub fn may_checkpoint(&self) -> bool {
        self.linker.is_none() && self.batch.is_empty() && self.draining.1.is_empty()
    }

    /// Begins a snapshot of the present state of the shard, in time that does not depend on the shard's size.
    /// `before` are the extents of the newest snapshot on disk, in the order of parts and blocks; blocks stay where
    /// it has them, if they have not changed since, no damage was found in them, and they are in none of the files
    /// `worn`.
    ///
    /// # Panics
    /// If a snapshot may not begin now, or another one is in progress.
    pub fn begin_checkpoint(
        &mut self,
        before: Arc<Vec<Extent>>,
        worn: BTreeSet<u64>,
    ) -> Checkpoint {
        assert!(self.may_checkpoint());
        let snapshot = self.applied;
        self.store.open_snapshot(snapshot);
        let slots = self.store.slot_count();
        let stripe = self.store.stripe();
        let frame = self.graph.freeze(stripe, slots, self.links_in_block());
        let (live, graph) = (self.store.live_count(), self.graph.params());
        let shape = Shape {
            metric: self.params.metric,
            dimension: self.params.dimension as u32,
            m: graph.m as u32,
            slots,
            live: live as u32,
            linked: frame.linked,
            dead_linked: self.dead_linked as u32 - self.graph.left_of(stripe.owner()),
            upper_lists: frame.upper_lists,
            entry: frame.entry,
            stripe,
        };
        let index = Index::with_room(live);
        let parts = self.parts(&shape, index.entries().len() as u32);
        Checkpoint {
            snapshot,
            shape,
            changed: self.store.take_changed(),
            before,
            worn,
            carried: Vec::new(),
            parts,
            part: 0,
            block: 0,
            next_before: 0,
            is_writing: false,
            ids: Vec::new(),
            index,
        }
    }

    /// All parts, with the number of their rows, and of rows per block. In the order of writing: ids come before the
    /// index, which is made of them, and the graph, of which copies are kept until it is written, comes before the
    /// longest parts.
    pub(super) fn parts(&self, shape: &Shape, index_entries: u32) -> [(Part, u32, u32); PARTS] {
        let slots = shape.slots;
        let links = self.links_in_block();
        [
            (Part::Lives, slots, SLOTS_IN_BLOCK),
            (Part::Ids, slots, SLOTS_IN_BLOCK),
            (Part::Levels, slots, SLOTS_IN_BLOCK),
            (Part::UpperStarts, slots, SLOTS_IN_BLOCK),
            (Part::Links, slots, links),
            (Part::UpperLinks, shape.upper_lists, links),
            (Part::Vectors, slots, vectors_in_block(self.store.vectors().row_bytes())),
            (Part::Payloads, slots, PAYLOADS_IN_BLOCK),
            (Part::Index, index_entries, INDEX_IN_BLOCK),
        ]
    }

    /// Approximate bytes of vectors and metadata that a snapshot would write now: the blocks changed since the last
    /// one began.
    #[must_use]
    pub fn bytes_to_save(&self) -> usize {
        let row_bytes = self.store.vectors().row_bytes();
        let [vectors, payloads] = self.store.changed_blocks();
        let payload_bytes = self.index.payload_bytes() / self.index.payloads().max(1);
        let (slots, in_block) = (self.store.slot_count() as usize, vectors_in_block(row_bytes));
        // The last block of each part may be short, which matters if there are few blocks.
        (vectors * in_block as usize).min(slots) * row_bytes
            + (payloads * PAYLOADS_IN_BLOCK as usize).min(slots) * payload_bytes
    }

    /// True if the bytes of unsaved vectors call for a snapshot without further delay.
    #[must_use]
    pub fn is_pressed_to_save(&self) -> bool {
        let VectorStorage::Disk { unsaved_bytes_max } = self.params.vectors else {
            return false;
        };
        self.store.unsaved_bytes() >= unsaved_bytes_max / UNSAVED_PARTS
    }

    /// True if writes that can wait should, until a snapshot has vectors that are in memory or will be: well below
    /// the limit at which writes are refused.
    #[must_use]
    pub fn is_short_of_room_for_rows(&self) -> bool {
        let VectorStorage::Disk { unsaved_bytes_max } = self.params.vectors else {
            return false;
        };
        self.row_bytes_with_staged() >= unsaved_bytes_max / 2
    }

    /// Bytes of vectors in memory, and of those staged, if vectors do not all stay in memory.
    pub(super) fn row_bytes_with_staged(&self) -> usize {
        let staged = self.staged_puts * self.store.vectors().row_bytes();
        self.store.row_bytes_in_memory() + staged
    }

    /// Notes that a snapshot is durable, that MANIFEST names it, and that all of its extents have been
    /// [noted](Self::note_named): vectors that it has need not stay in memory.
    pub fn note_saved(&mut self, checkpoint: &Checkpoint) {
        self.store.set_saved(checkpoint.snapshot);
    }

    /// Notes that MANIFEST names a snapshot with these extents, or some of its extents: vectors on disk are read from
    /// there from now on, so that files which are not needed any more may be removed. Vectors in memory stay there.
    ///
    /// # Errors
    /// If an extent is at a position that can't be kept: then no file may be removed.
    pub fn note_named(&mut self, extents: &[Extent]) -> Result<(), String> {
        self.store.note_extents(extents)
    }

    /// Ends a snapshot that is durable.
    pub fn end_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.store.close_snapshot(checkpoint.snapshot);
        self.graph.thaw(self.store.stripe());
    }

    /// Ends a snapshot that has failed: the next one has to write the blocks that this one should have.
    pub fn abandon_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.store.give_back(&checkpoint.changed);
        self.end_checkpoint(checkpoint);
    }
}

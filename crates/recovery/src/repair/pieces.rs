//! Documents of a damaged snapshot: those of which every piece is whole.
//!
//! Each extent has a checksum of its own, so damage in one says nothing about the others. The graph and the index are
//! not read, as they can be derived.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::Disk;
use crate::engine::Engine;
use crate::engine::salvage::Version;
use crate::snapshot::reader::{self, Contents, ReadError};
use crate::store::{Vectors, payloads, values};
use crate::types::image::{
    Extent, PAYLOADS_IN_BLOCK, Part, SLOTS_IN_BLOCK, Shape, vectors_in_block,
};
use crate::types::payload::Payload;
use crate::types::{DocId, Lsn, ShardId};

/// `died` of a version that is alive.
const ALIVE: u64 = u64::MAX;

/// A snapshot whose table can be read.
pub(super) struct Pieces<'a, D> {
    disk: &'a D,
    shard: ShardId,
    extents: BTreeMap<(Part, u32), Extent>,
    pub(super) shape: Shape,
    pub(super) next_lsn: Lsn,
}

/// Result of putting a snapshot's documents into a shard.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Documents whose vector or metadata can't be read.
    pub(super) lost: BTreeSet<DocId>,
    /// Number of slots of which not even the ids are known.
    pub(super) unknown: u32,
}

/// A version in a snapshot.
struct Row {
    slot: u32,
    born: Lsn,
    id: DocId,
}

impl<'a, D: Disk> Pieces<'a, D> {
    /// Reads header and table.
    ///
    /// # Errors
    /// If they can't be read: then the place of every piece is unknown.
    pub(super) async fn open(disk: &'a D, shard: ShardId, number: u64) -> Result<Self, ReadError> {
        let Contents { header, extents } = reader::contents(disk, shard, number).await?;
        let extents = extents.into_iter().map(|e| ((e.part, e.block), e)).collect();
        Ok(Self { disk, shard, extents, shape: header.shape, next_lsn: header.position.next_lsn })
    }

    /// Changes `engine`, which has as much of the log before this snapshot as can be read, to the state of the shard
    /// in this snapshot. Documents that the engine has and the snapshot has not are removed: the change that deleted
    /// them is among those that can't be read.
    pub(super) async fn merge(&self, engine: &mut Engine) -> Merged {
        let (rows, unknown) = self.rows().await;
        let mut merged = Merged { unknown, ..Merged::default() };
        if unknown == 0 {
            let alive: BTreeSet<DocId> = rows.iter().map(|row| row.id).collect();
            let gone = engine.versions().map(|v| v.id).filter(|id| !alive.contains(id));
            for id in gone.collect::<Vec<_>>() {
                engine.evict(id);
            }
        }
        let (mut metadata, mut vectors) = (Loaded::NOTHING, Loaded::NOTHING);
        let row_bytes = Vectors::row_values(self.shape.dimension as usize) * size_of::<f32>();
        let vectors_in_block = vectors_in_block(row_bytes);
        for row in rows {
            let block = row.slot / PAYLOADS_IN_BLOCK;
            let read = || async move { payloads(&self.extent(Part::Payloads, block).await?).ok() };
            let block = metadata.load(block, read).await;
            let index = (row.slot % PAYLOADS_IN_BLOCK) as usize;
            let payload = block.and_then(|block| block.get(index)?.clone());
            let block = row.slot / vectors_in_block;
            let block = vectors.load(block, || self.extent(Part::Vectors, block)).await;
            let from = (row.slot % vectors_in_block) as usize * row_bytes;
            let vector = block.and_then(|block| block.get(from..from + row_bytes));
            let vector = vector.map(values::<f32>);
            if !self.place(engine, &row, vector.as_deref(), payload) {
                merged.lost.insert(row.id);
            }
        }
        merged
    }

    /// Puts one version in. False if a part of it is missing: then the document is left out, older versions of it
    /// included.
    fn place(
        &self,
        engine: &mut Engine,
        row: &Row,
        vector: Option<&[f32]>,
        payload: Option<Payload>,
    ) -> bool {
        let Row { id, born, .. } = *row;
        let dimension = self.shape.dimension as usize;
        let known = engine.version(id).filter(|known| known.born == born);
        let same = known.map(|known| (known.payload.clone(), known.vector.to_vec()));
        match (vector, payload, same) {
            // The version of the log is the same, or lacks a change of its metadata.
            (_, Some(payload), Some((known, _))) if known.bytes() == payload.bytes() => true,
            (Some(vector), Some(payload), _) => {
                let vector = &vector[..dimension];
                engine.adopt(Version { id, born, vector, payload: &payload });
                true
            }
            (None, Some(payload), Some((_, vector))) => {
                engine.adopt(Version { id, born, vector: &vector, payload: &payload });
                true
            }
            _ => {
                engine.evict(id);
                false
            }
        }
    }

    /// The versions that were alive, by slot; and the number of slots for which that is not known.
    async fn rows(&self) -> (Vec<Row>, u32) {
        let (mut rows, mut unknown) = (Vec::new(), 0);
        for block in 0..self.shape.slots.div_ceil(SLOTS_IN_BLOCK) {
            let start = block * SLOTS_IN_BLOCK;
            let count = (self.shape.slots - start).min(SLOTS_IN_BLOCK);
            let lives = self.extent(Part::Lives, block).await;
            let ids = self.extent(Part::Ids, block).await;
            let lives = lives.map(|bytes| values::<u64>(&bytes)).unwrap_or_default();
            let ids = ids.map(|bytes| values::<u64>(&bytes)).unwrap_or_default();
            if lives.len() != 2 * count as usize || ids.len() != count as usize {
                unknown += count;
                continue;
            }
            for (slot, (life, id)) in (start..).zip(lives.chunks_exact(2).zip(ids)) {
                if life[1] == ALIVE && id != 0 && life[0] < self.next_lsn.0 {
                    rows.push(Row { slot, born: Lsn(life[0]), id: DocId(id) });
                }
            }
        }
        (rows, unknown)
    }

    /// The content of an extent, if it is as it was written.
    async fn extent(&self, part: Part, block: u32) -> Option<Vec<u8>> {
        let extent = *self.extents.get(&(part, block))?;
        let mut content = None;
        let take = |_: &Extent, bytes: &[u8]| {
            content = Some(bytes.to_vec());
            Ok(())
        };
        reader::read(self.disk, self.shard, &[extent], take).await.ok()?;
        content
    }
}

/// The block that was read last, if it could be.
struct Loaded<T> {
    block: Option<u32>,
    content: Option<T>,
}

impl<T> Loaded<T> {
    const NOTHING: Self = Self { block: None, content: None };

    async fn load<F: Future<Output = Option<T>>>(
        &mut self,
        block: u32,
        read: impl FnOnce() -> F,
    ) -> Option<&T> {
        if self.block != Some(block) {
            self.content = read().await;
            self.block = Some(block);
        }
        self.content.as_ref()
    }
}

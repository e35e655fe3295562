//! Restores a shard from the pieces of a snapshot, in any order.

use std::collections::BTreeMap;

use super::partition::Home;
use super::{Engine, Params};
use crate::graph::frozen::Frame;
use crate::store::Index;
use crate::store::slices::{at_once, slices, slots_at_once};
use crate::types::Lsn;
use crate::types::image::{
    EXTENTS_AT_ONCE, Extent, INDEX_IN_BLOCK, PAYLOADS_IN_BLOCK, Part, SLOTS_IN_BLOCK, Shape,
    vectors_in_block,
};
use crate::types::stripe::Stripe;

/// A restore in progress.
pub struct Restore {
    engine: Engine,
    shape: Shape,
    frame: Frame,
    index: Vec<u32>,
    /// True if the snapshot's graph is used.
    has_graph: bool,
    applied: Lsn,
    /// Extents of vectors, if vectors stay on disk.
    vectors: Vec<Extent>,
}

impl Restore {
    /// Begins with a snapshot of this shape, whose last record was `applied`, and which has these extents.
    ///
    /// # Errors
    /// If the shard asked for is of another kind.
    pub fn begin(
        params: Params,
        shape: Shape,
        applied: Lsn,
        extents: &[Extent],
    ) -> Result<Self, String> {
        if shape.metric != params.metric || shape.dimension as usize != params.dimension {
            return Err(format!(
                "a snapshot of {} vectors of {} values in a collection of {} vectors of {}",
                shape.metric.word(),
                shape.dimension,
                params.metric.word(),
                params.dimension
            ));
        }
        let stripe = params.home.as_ref().map_or(Stripe::WHOLE, Home::stripe);
        // A graph that is mostly dead is sooner linked again than healed. Links to slots of other owners mean nothing
        // to a shard that does not share its graph with them.
        let has_graph = shape.m as usize == params.graph.m
            && shape.dead_linked <= shape.live
            && shape.stripe == stripe;
        let Shape { slots, linked, upper_lists, entry, .. } = shape;
        let entries = extents.iter().filter(|extent| extent.part == Part::Index);
        let entries: u64 = entries.map(|extent| u64::from(extent.bytes) / 4).sum();
        if entries > 4 * (u64::from(shape.live) + 1) {
            return Err(format!("an index of {entries} entries for {} documents", shape.live));
        }
        let engine = Engine::new(params);
        let mut parts = engine.parts(&shape, entries as u32).to_vec();
        // With another number of links, links lie in other blocks, which are not read.
        parts.retain(|(part, ..)| has_graph || !matches!(part, Part::Links | Part::UpperLinks));
        check_table(&parts, extents)?;
        let is_kept =
            |extent: &&Extent| extent.part == Part::Vectors && engine.params.vectors.are_on_disk();
        let vectors = extents.iter().filter(is_kept).copied().collect();
        Ok(Self {
            engine,
            shape,
            frame: Frame { slots, linked, upper_lists, entry },
            index: vec![0; entries as usize],
            has_graph,
            applied,
            vectors,
        })
    }

    /// Restores a piece.
    ///
    /// # Errors
    /// If the bytes are no such piece.
    pub fn put(&mut self, part: Part, block: u32, bytes: &[u8]) -> Result<(), String> {
        let Self { engine, frame, index, has_graph, shape, .. } = self;
        let links_in_block = engine.links_in_block();
        let Engine { store, graph, .. } = engine;
        let stripe = store.stripe();
        let in_block = match part {
            Part::Vectors => vectors_in_block(store.vectors().row_bytes()),
            Part::Payloads => PAYLOADS_IN_BLOCK,
            Part::Lives | Part::Ids | Part::Levels | Part::UpperStarts => SLOTS_IN_BLOCK,
            Part::Links | Part::UpperLinks => links_in_block,
            Part::Index => INDEX_IN_BLOCK,
        };
        let start = block.checked_mul(in_block).ok_or("a block far beyond the last slot")?;
        check_rows(part, start, in_block, bytes.len(), shape, store.vectors().row_bytes())?;
        match part {
            Part::Vectors => store.restore_vectors(start, bytes),
            Part::Payloads => store.restore_payloads(start, bytes),
            Part::Lives => store.restore_lives(start, bytes),
            Part::Ids => {
                store.restore_ids(start, bytes);
                Ok(())
            }
            Part::Levels if *has_graph => (start..)
                .zip(bytes)
                .try_for_each(|(number, &level)| graph.restore_level(stripe.slot(number), level)),
            Part::UpperStarts if *has_graph => {
                for (number, start) in (start..).zip(words(bytes)) {
                    if start > shape.upper_lists {
                        return Err(format!("slot {number} has lists that are not there"));
                    }
                    graph.restore_upper_start(stripe, stripe.slot(number), start);
                }
                Ok(())
            }
            Part::Links if *has_graph => graph.restore_links(stripe, frame, start, &words(bytes)),
            Part::UpperLinks if *has_graph => {
                graph.restore_upper_links(stripe, frame, start, &words(bytes))
            }
            Part::Index => {
                let words = words(bytes);
                let end = start as usize + words.len();
                let target = index.get_mut(start as usize..end).ok_or("an index that is longer")?;
                target.copy_from_slice(&words);
                Ok(())
            }
            Part::Levels | Part::UpperStarts | Part::Links | Part::UpperLinks => Ok(()),
        }
    }

    /// Completes the restore after all pieces, in one piece of work.
    ///
    /// # Errors
    /// If the pieces do not fit together, or some are missing.
    pub fn finish(self) -> Result<Engine, String> {
        at_once(self.finish_in_slices(&async || ()))
    }

    /// Completes the restore after all pieces, in slices, with `rest` between them.
    ///
    /// # Errors
    /// As [`Restore::finish`].
    pub async fn finish_in_slices(self, rest: &impl AsyncFn()) -> Result<Engine, String> {
        let Self { mut engine, shape, frame, index, has_graph, applied, vectors } = self;
        let count = engine.store.slot_count();
        if count != shape.slots {
            return Err(format!("vectors for {count} slots; the header says {}", shape.slots));
        }
        for some in vectors.chunks(EXTENTS_AT_ONCE) {
            engine.store.note_extents(some)?;
            rest().await;
        }
        engine.store.set_saved(applied);
        let stripe = engine.store.stripe();
        if has_graph {
            engine.graph.finish_restore(stripe, &frame, rest).await?;
        } else {
            tracing::warn!(
                m_found = shape.m,
                m_asked = engine.params.graph.m,
                dead = shape.dead_linked,
                owners_found = shape.stripe.owners(),
                owners_asked = stripe.owners(),
                "the graph was made with another hnsw.m, or by another number of shards together, \
                 or is mostly dead: all documents are linked anew"
            );
        }
        let index = Index::restore(index, shape.live as usize, shape.slots)?;
        engine.finish_slots(index, shape.live as usize, rest).await?;
        engine.set_applied(applied);
        if has_graph {
            engine.add_dead(shape.dead_linked as usize);
        }
        engine.set_live_after_staged(engine.store.live_count());
        Ok(engine)
    }
}

impl Engine {
    /// Puts each slot where it belongs, in slices, after documents and graph are restored.
    async fn finish_slots(
        &mut self,
        index: Index,
        live: usize,
        rest: &impl AsyncFn(),
    ) -> Result<(), String> {
        let Self { store, graph, hot, healing, .. } = self;
        let (stripe, count) = (store.stripe(), store.slot_count());
        // Slots that are not linked are reserved too: other owners look up the node of every slot.
        for slice in slices(count) {
            slice.for_each(|number| graph.reserve(stripe.slot(number)));
            rest().await;
        }
        let is_linked = |slot| graph.level(slot).is_some();
        let restored = store.finish_restore(index, live, is_linked, rest).await?;
        for some in restored.unlinked.chunks(slots_at_once() as usize) {
            some.iter().for_each(|&(_, slot)| hot.push(store, slot));
            rest().await;
        }
        for slice in slices(count) {
            let slots = slice.map(|number| stripe.slot(number));
            slots
                .filter(|&slot| graph.level(slot).is_some() && !store.is_live(slot))
                .for_each(|slot| healing.bury(slot));
            rest().await;
        }
        self.stale_postings += restored.stale_pairs;
        Ok(())
    }
}

/// Checks that each block of each part is there once.
fn check_table(parts: &[(Part, u32, u32)], extents: &[Extent]) -> Result<(), String> {
    let mut blocks: BTreeMap<Part, Vec<u32>> = BTreeMap::new();
    for extent in extents {
        blocks.entry(extent.part).or_default().push(extent.block);
    }
    for &(part, rows, in_block) in parts {
        let mut found = blocks.remove(&part).unwrap_or_default();
        found.sort_unstable();
        if !found.into_iter().eq(0..rows.div_ceil(in_block)) {
            return Err(format!("the table does not have each block of {part:?} once"));
        }
    }
    Ok(())
}

/// Checks that a block has as many rows as it should: to its end, or to that of the part.
fn check_rows(
    part: Part,
    start: u32,
    in_block: u32,
    bytes: usize,
    shape: &Shape,
    vector_bytes: usize,
) -> Result<(), String> {
    let (count, row_bytes) = match part {
        Part::Vectors => (shape.slots, vector_bytes),
        Part::Lives => (shape.slots, 16),
        Part::Ids => (shape.slots, 8),
        Part::Levels => (shape.slots, 1),
        Part::UpperStarts => (shape.slots, 4),
        // Checked where their row is known, or where their own table is.
        Part::Payloads if start < shape.slots => return Ok(()),
        Part::Payloads => (0, 1),
        Part::Links | Part::UpperLinks | Part::Index => return Ok(()),
    };
    let rows = count.saturating_sub(start).min(in_block) as usize;
    if rows == 0 || bytes != rows * row_bytes {
        return Err(format!("a block of {part:?} with {bytes} bytes for {rows} rows"));
    }
    Ok(())
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

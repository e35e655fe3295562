//! Reconnects a node: gives it links that lead to it, from the nodes nearest to it, without removing a way to any
//! other node (`prune`), and links of its own if it has few.

use super::Graph;
use super::insert::Rows;
use super::prune::{LinkBack, Linked};
use super::search::{Beam, Scratch};
use super::space::{Between, ByCodes, ByVectors, Coded, Exact, Space};
use crate::kernels::Distance;
use crate::types::Slot;

/// Nodes that get a link to the adopted one: it may lose one of these links again to a document linked later.
const ADOPTERS: usize = 2;

/// Most of the nearest nodes that are tried.
const TRIED_MAX: usize = 16;

/// Hops per step.
const STEP_HOPS: u32 = 8;

/// The nodes that may lead to a node that is to be reachable again.
pub trait Adopters {
    /// True if a walk on level 0 reaches the node from the entry of the graph.
    fn is_reached(&self, slot: Slot) -> bool;

    /// True if the node may lead to the adopted one. All such nodes are reached.
    fn may_adopt(&self, slot: Slot) -> bool;

    /// True if the node is there to stay. Such nodes are taken first, and the adopted node links to no others.
    fn stays(&self, slot: Slot) -> bool;
}

/// A node that is being made reachable on level 0. Until that is done, the scratch passed to its steps must not be
/// used for anything else.
pub struct Adoption {
    slot: Slot,
    is_begun: bool,
}

impl Adoption {
    /// Begins with a node that is linked.
    #[must_use]
    pub fn new(slot: Slot) -> Self {
        Self { slot, is_begun: false }
    }

    /// The node.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Does a step; true when the node has links.
    pub fn step<D: Distance>(
        &mut self,
        graph: &Graph,
        rows: Rows<'_>,
        scratch: &mut Scratch,
        adopters: &impl Adopters,
    ) -> bool {
        let is_found = if let Some(codes) = rows.codes {
            let space = Coded::<D>::new(codes.get(self.slot), codes);
            self.walk(graph, space, scratch, adopters)
        } else {
            let vectors = rows.whole();
            let space = Exact::<D>::new(vectors.row(self.slot), vectors);
            self.walk(graph, space, scratch, adopters)
        };
        // Another thread may be changing its lists: then a later step does it.
        match rows.vectors {
            _ if !is_found => false,
            Some(vectors) => self.adopt(graph, ByVectors::<D>::new(vectors), scratch, adopters),
            None => self.adopt(graph, ByCodes::<D>::new(rows.coded()), scratch, adopters),
        }
    }

    fn walk<S: Space>(
        &mut self,
        graph: &Graph,
        space: S,
        scratch: &mut Scratch,
        adopters: &impl Adopters,
    ) -> bool {
        let may_adopt = |slot| slot != self.slot && adopters.may_adopt(slot);
        let width = graph.params().ef_construction;
        let beam = Beam { graph, space, level: 0, width };
        if !std::mem::replace(&mut self.is_begun, true) {
            let Some((entry, top)) = graph.entry() else {
                return true;
            };
            // Upper levels may lead into a part of level 0 that no walk from the entry reaches, and that leads to
            // none of the nodes that are reached.
            let nearest = beam.descend(entry, top, scratch);
            let start = if adopters.is_reached(nearest) { nearest } else { entry };
            beam.begin(scratch, &[start], may_adopt);
        }
        beam.advance(scratch, STEP_HOPS, may_adopt)
    }

    /// Links the node with the nodes found. False if another thread is changing one of the lists: the links made by
    /// then stay.
    fn adopt(
        &self,
        graph: &Graph,
        rows: impl Between,
        scratch: &mut Scratch,
        adopters: &impl Adopters,
    ) -> bool {
        let stays = |slot| adopters.stays(slot);
        if graph.entry().is_none() {
            return true;
        }
        let mut near: Vec<Slot> = scratch.nearest().take(TRIED_MAX).map(|key| key.slot()).collect();
        near.sort_by_key(|&slot| !stays(slot));
        let Some(held) = graph.hold(self.slot) else {
            return false;
        };
        let mut own = graph.neighbours(self.slot, 0);
        let few = graph.params().m / 2;
        if own.len() < few {
            let others = near.iter().filter(|&&slot| stays(slot) && !own.contains(&slot));
            let more: Vec<Slot> = others.copied().take(few - own.len()).collect();
            own.extend(more);
            graph.set_neighbours(&held, 0, &own);
        }
        drop(held);
        near.into_iter().take(ADOPTERS).all(|source| {
            let (target, is_live) = (self.slot, &stays);
            let (level, is_needed) = (0, true);
            let link = LinkBack { graph, rows, level, source, target, is_needed, is_live };
            link.link(&mut scratch.work) != Linked::Busy
        })
    }
}

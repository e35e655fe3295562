//! Gives a node links that lead to it, from the nodes nearest to it, without taking a way from any
//! other (`prune`), and links of its own if it has few.

use super::Graph;
use super::insert::Rows;
use super::prune::{LinkBack, Linked};
use super::search::{Beam, Scratch};
use super::space::{Between, ByCodes, ByVectors, Coded, Exact, Space};
use crate::kernels::Distance;
use crate::types::Slot;

/// Nodes that get a link to the adopted one: one may lose it again to a document linked later.
const ADOPTERS: usize = 2;

/// Of the nearest nodes, so many are tried.
const TRIED_MAX: usize = 16;

/// Hops in a step.
const STEP_HOPS: u32 = 8;

/// A node on its way to be reachable again on level 0. Until it is done, the scratch that it is
/// given is its own.
pub struct Adoption {
    slot: Slot,
    is_begun: bool,
}

impl Adoption {
    /// Begins for a node that is linked.
    #[must_use]
    pub fn new(slot: Slot) -> Self {
        Self { slot, is_begun: false }
    }

    /// The node.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Does a step; true when there are links. `may_adopt` tells which nodes may lead to it, and
    /// `stays` which of them are there to stay: those are taken first, and it links to no others.
    pub fn step<D: Distance>(
        &mut self,
        graph: &Graph,
        rows: Rows<'_>,
        scratch: &mut Scratch,
        may_adopt: impl Fn(Slot) -> bool,
        stays: impl Fn(Slot) -> bool,
    ) -> bool {
        let own = self.slot;
        let may_adopt = |slot| slot != own && may_adopt(slot);
        let is_found = if let Some(codes) = rows.codes {
            let space = Coded::<D>::new(codes.get(own), codes);
            self.walk(graph, space, scratch, may_adopt)
        } else {
            let vectors = rows.whole();
            let space = Exact::<D>::new(vectors.row(own), vectors);
            self.walk(graph, space, scratch, may_adopt)
        };
        // Somebody may be changing its lists: then a later step does it.
        match rows.vectors {
            _ if !is_found => false,
            Some(vectors) => self.adopt(graph, ByVectors::<D>::new(vectors), scratch, stays),
            None => self.adopt(graph, ByCodes::<D>::new(rows.coded()), scratch, stays),
        }
    }

    fn walk<S: Space>(
        &mut self,
        graph: &Graph,
        space: S,
        scratch: &mut Scratch,
        may_adopt: impl Fn(Slot) -> bool,
    ) -> bool {
        let width = graph.params().ef_construction;
        let beam = Beam { graph, space, level: 0, width };
        if !std::mem::replace(&mut self.is_begun, true) {
            let Some((entry, top)) = graph.entry() else {
                return true;
            };
            beam.enter(scratch, entry, top, &may_adopt);
        }
        beam.advance(scratch, STEP_HOPS, may_adopt)
    }

    /// Links the node with those found. False if somebody else is changing one of the lists: what is
    /// done by then stays.
    fn adopt(
        &self,
        graph: &Graph,
        rows: impl Between,
        scratch: &mut Scratch,
        is_live: impl Fn(Slot) -> bool,
    ) -> bool {
        if graph.entry().is_none() {
            return true;
        }
        let mut near: Vec<Slot> = scratch.nearest().take(TRIED_MAX).map(|key| key.slot()).collect();
        near.sort_by_key(|&slot| !is_live(slot));
        let Some(held) = graph.hold(self.slot) else {
            return false;
        };
        let mut own = graph.neighbours(self.slot, 0);
        let few = graph.params().m / 2;
        if own.len() < few {
            let others = near.iter().filter(|&&slot| is_live(slot) && !own.contains(&slot));
            let more: Vec<Slot> = others.copied().take(few - own.len()).collect();
            own.extend(more);
            graph.set_neighbours(&held, 0, &own);
        }
        drop(held);
        near.into_iter().take(ADOPTERS).all(|source| {
            let (target, is_live) = (self.slot, &is_live);
            let (level, is_needed) = (0, true);
            let link = LinkBack { graph, rows, level, source, target, is_needed, is_live };
            link.link(&mut scratch.work) != Linked::Busy
        })
    }
}

//! Linking a node: search its neighbours on each level, choose among them, link both ways.
//!
//! A [`Linker`] does this in steps of bounded work, so that a core can answer searches between
//! them. Each owner of a graph runs one at a time. The node's own lists are complete on every
//! level before the first link leads to it, and links are made from the bottom up: a walk that
//! meets the node half-linked can always go on from it.
//!
//! While it runs, its owner keeps a view open ([`crate::store::view`]): a node that was dead before it began is
//! linked to only if no live one is left (`dead_links`), and a node that dies after that stays in the graph until it
//! has ended.

use super::Graph;
use super::prune::{Choice, LinkBack, Linked, select};
use super::search::{Beam, Key, Scratch};
use super::space::{Between, ByCodes, ByVectors, Coded, Exact, Space};
use crate::kernels::Distance;
use crate::store::{Codes, Vectors};
use crate::types::{DocId, Slot};

/// Most hops in a step: some 20 µs of distances at a few hundred dimensions.
const STEP_HOPS: u32 = 8;

enum Phase {
    /// Walk down to the node's own top level.
    Descend,
    /// Find candidates on a level. `accept_dead` if there is no live one to be found.
    Search { level: u8, entry: Slot, begun: bool, accept_dead: bool },
    /// Choose among the candidates. Never lasts beyond the step that reaches it.
    Choose { level: u8 },
    /// Link back from the chosen neighbours of a level, one per step; at the end from the nearest in any case, if
    /// none of them leads to the node on level 0.
    LinkBack { level: u8, done: usize },
    /// Everything is linked.
    Done,
}

/// The vectors of the nodes, and their codes if there are any: then walks use the codes, and only the nodes they find
/// are compared as vectors. At least one of the two is there.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The vectors; `None` if they are not all in memory, and all distances are those of codes.
    pub vectors: Option<&'a Vectors>,
    /// The codes; `None` if there are none.
    pub codes: Option<&'a Codes>,
}

impl<'a> Rows<'a> {
    /// The vectors, if there are no codes.
    ///
    /// # Panics
    /// If there is neither.
    pub(super) fn whole(self) -> &'a Vectors {
        self.vectors.expect("there are vectors or codes")
    }

    /// The codes, if vectors are not all in memory.
    ///
    /// # Panics
    /// If there is neither.
    pub(super) fn coded(self) -> &'a Codes {
        self.codes.expect("there are vectors or codes")
    }
}

/// A node that is being linked into the graph.
pub struct Linker {
    slot: Slot,
    level: u8,
    phase: Phase,
    /// The neighbours chosen on each level searched so far, highest level first.
    chosen: Vec<Vec<Slot>>,
    /// True if it may link to dead nodes, and is counted in `DeadLinks`.
    accepts_dead: bool,
    /// True if a neighbour on level 0 leads to it.
    is_led_to: bool,
    /// The lowest of many copies of the node, which has room for nodes other than copies.
    lowest: Option<Slot>,
}

impl Linker {
    /// Begins to link `slot`, which holds document `id` and is not in the graph.
    #[must_use]
    pub fn new(graph: &Graph, slot: Slot, id: DocId) -> Self {
        assert!(graph.level(slot).is_none(), "slot {} is linked", slot.0);
        let level = graph.allocate(slot, graph.level_of(id));
        let (phase, chosen) = (Phase::Descend, Vec::new());
        Self { slot, level, phase, chosen, accepts_dead: false, is_led_to: false, lowest: None }
    }

    /// The slot being linked.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Gives up; links made so far stay. From then on the node is treated like any other, since lists may lead to it,
    /// and its own to nodes that will leave the graph.
    pub fn abandon(self, graph: &Graph) {
        graph.mark_linked(self.slot, self.level);
        if self.accepts_dead {
            graph.dead_links.end(self.slot);
        }
    }

    /// Does one step. True when the node is linked. `is_live` tells which nodes are worth a link; dead ones are
    /// walked through, and linked only if no others are left.
    pub fn step<D: Distance>(
        &mut self,
        graph: &Graph,
        rows: Rows<'_>,
        scratch: &mut Scratch,
        is_live: impl Fn(Slot) -> bool,
    ) -> bool {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::LinkBack { level, done } => {
                let place = (level, done);
                match rows.vectors {
                    Some(vectors) => {
                        let rows = ByVectors::<D>::new(vectors);
                        self.link_back(graph, rows, scratch, place, is_live)
                    }
                    None => {
                        let rows = ByCodes::<D>::new(rows.coded());
                        self.link_back(graph, rows, scratch, place, is_live)
                    }
                }
            }
            Phase::Done => Phase::Done,
            Phase::Descend if graph.entry().is_none() => {
                if graph.publish_first(self.slot, self.level) {
                    Phase::Done
                } else {
                    Phase::Descend
                }
            }
            walking => {
                let walked = if let Some(codes) = rows.codes {
                    let space = Coded::<D>::new(codes.get(self.slot), codes);
                    self.walk(graph, space, walking, scratch, &is_live)
                } else {
                    let vectors = rows.whole();
                    let space = Exact::<D>::new(vectors.row(self.slot), vectors);
                    self.walk(graph, space, walking, scratch, &is_live)
                };
                let codes = rows.codes;
                match (walked, rows.vectors) {
                    (Phase::Choose { level }, Some(vectors)) => {
                        let rows = ByVectors::<D>::new(vectors);
                        self.choose(graph, rows, codes, scratch, level, is_live)
                    }
                    (Phase::Choose { level }, None) => {
                        let rows = ByCodes::<D>::new(rows.coded());
                        self.choose(graph, rows, codes, scratch, level, is_live)
                    }
                    (other, _) => other,
                }
            }
        };
        let done = matches!(self.phase, Phase::Done);
        if done && graph.level(self.slot).is_none() {
            graph.publish(self.slot, self.level);
        }
        if done && std::mem::take(&mut self.accepts_dead) {
            graph.dead_links.end(self.slot);
        }
        done
    }

    /// Continues the phases that walk.
    fn walk<S: Space>(
        &mut self,
        graph: &Graph,
        space: S,
        phase: Phase,
        scratch: &mut Scratch,
        is_live: impl Fn(Slot) -> bool,
    ) -> Phase {
        let width = graph.params().ef_construction;
        let beam = |level| Beam { graph, space, level, width };
        match phase {
            Phase::Descend => match graph.entry() {
                None => Phase::Descend,
                Some((entry, top)) => {
                    let level = self.level.min(top);
                    let entry = beam(level).descend(entry, top, scratch);
                    Phase::Search { level, entry, begun: false, accept_dead: false }
                }
            },
            Phase::Search { level, entry, begun, accept_dead } => {
                let accept = |slot| accept_dead || is_live(slot);
                if !begun {
                    beam(level).begin(scratch, &[entry], accept);
                }
                if !beam(level).advance(scratch, STEP_HOPS, accept) {
                    Phase::Search { level, entry, begun: true, accept_dead }
                } else if scratch.nearest().len() == 0 && !accept_dead {
                    self.search_dead(graph, level, entry)
                } else {
                    Phase::Choose { level }
                }
            }
            other => other,
        }
    }

    /// Continues after no live node was found on `level` from `entry`: dead ones will do, but none that is leaving
    /// the graph, so the whole search begins again once the linker is counted in `DeadLinks`.
    fn search_dead(&mut self, graph: &Graph, level: u8, entry: Slot) -> Phase {
        if self.accepts_dead {
            return Phase::Search { level, entry, begun: false, accept_dead: true };
        }
        if !graph.dead_links.begin() {
            return Phase::Search { level, entry, begun: false, accept_dead: false };
        }
        self.accepts_dead = true;
        self.chosen.clear();
        (0..=self.level).for_each(|level| graph.first_write(self.slot, level, &[]));
        Phase::Descend
    }

    /// Links back from one of the neighbours chosen on `level`.
    fn link_back(
        &mut self,
        graph: &Graph,
        rows: impl Between,
        scratch: &mut Scratch,
        (level, done): (u8, usize),
        is_live: impl Fn(Slot) -> bool,
    ) -> Phase {
        // The levels were searched from the top down: the last one is level 0.
        let chosen = &self.chosen[self.chosen.len() - 1 - usize::from(level)];
        let is_needed = done == chosen.len();
        let source = if is_needed { chosen[0] } else { chosen[done] };
        if is_needed || self.lowest != Some(source) {
            let target = self.slot;
            let link = LinkBack { graph, rows, level, source, target, is_needed, is_live };
            match link.link(&mut scratch.work) {
                Linked::Busy => return Phase::LinkBack { level, done },
                Linked::Yes if level == 0 => self.is_led_to = true,
                Linked::Yes | Linked::No => {}
            }
        }
        let is_last = done + 1 >= chosen.len();
        if !is_last || level == 0 && !self.is_led_to {
            Phase::LinkBack { level, done: done + 1 }
        } else if usize::from(level) + 1 < self.chosen.len() {
            Phase::LinkBack { level: level + 1, done: 0 }
        } else {
            Phase::Done
        }
    }

    /// Chooses the node's neighbours on `level` among the nodes that the beam found.
    fn choose<B: Between>(
        &mut self,
        graph: &Graph,
        rows: B,
        codes: Option<&Codes>,
        scratch: &mut Scratch,
        level: u8,
        is_live: impl Fn(Slot) -> bool,
    ) -> Phase {
        let origin = rows.origin(self.slot);
        let mut candidates = rows.found(origin, codes.is_some(), scratch);
        if let Some(codes) = codes.filter(|_| level == 0) {
            rows.note_found(self.slot, codes, scratch, &candidates);
        }
        let nearest = candidates.first().expect("the entry at least was found").slot();
        self.look_beyond_copies(graph, rows, &mut candidates, level, is_live, scratch);
        let (node, links_max, first) = (self.slot, graph.params().m, None);
        let choice = Choice { node, links_max, first, keeps_lowest: graph.keeps_lowest() };
        let chosen = select(rows, choice, &candidates, &mut scratch.work);
        let to_itself = rows.between(origin, node);
        let is_lowest = candidates[0].distance() <= to_itself && candidates[0].slot() < node;
        let is_extra = choice.keeps_lowest && is_lowest && chosen[0] != candidates[0].slot();
        self.lowest = is_extra.then(|| candidates[0].slot());
        graph.first_write(self.slot, level, &chosen);
        self.chosen.push(chosen);
        match level.checked_sub(1) {
            Some(below) => {
                Phase::Search { level: below, entry: nearest, begun: false, accept_dead: false }
            }
            None => Phase::LinkBack { level: 0, done: 0 },
        }
    }

    /// If a walk has found only copies of the node, all in higher slots, walks will come to this node in place of the
    /// lowest of the copies: the neighbours of that copy join the candidates.
    fn look_beyond_copies<B: Between>(
        &self,
        graph: &Graph,
        rows: B,
        candidates: &mut Vec<Key>,
        level: u8,
        is_live: impl Fn(Slot) -> bool,
        scratch: &mut Scratch,
    ) {
        let [lowest, .., farthest] = candidates[..] else { return };
        let origin = rows.origin(self.slot);
        if candidates.len() < graph.params().ef_construction
            || self.slot > lowest.slot()
            || farthest.distance() > rows.between(origin, self.slot)
        {
            return;
        }
        let mut others = graph.neighbours(lowest.slot(), level);
        let is_new = |slot| slot != self.slot && candidates.iter().all(|key| key.slot() != slot);
        others.retain(|&slot| is_new(slot) && is_live(slot));
        B::count(&mut scratch.work, others.len());
        candidates.extend(others.into_iter().map(|slot| rows.key(origin, slot)));
        candidates.sort_unstable();
    }
}

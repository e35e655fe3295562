//! Linking a node: search its neighbours on each level, choose among them, link both ways.
//!
//! A [`Linker`] does this in steps of bounded work, so that a core can answer searches between
//! them. Each owner of a graph runs one at a time. The node's own lists are complete on every
//! level before the first link leads to it, and links are made from the bottom up: a walk that
//! meets the node half-linked can always go on from it.
//!
//! While it runs, its owner keeps a view open ([`crate::store::view`]): a node that was dead before
//! it began is linked to only where nothing else is left (`dead_links`),
//! and one that dies after that stays in the graph until it has ended.

use super::Graph;
use super::search::{Beam, Key, Scratch, Work};
use super::space::{Between, ByCodes, ByVectors, Coded, Exact, Space};
use crate::kernels::Distance;
use crate::store::{Codes, Vectors};
use crate::types::{DocId, Slot};

/// One part in so many of a list is for copies of the node's own vector.
const COPIES_SHARE: usize = 4;

/// Hops a step does at most: some 20 µs of distances at a few hundred dimensions.
const STEP_HOPS: u32 = 8;

enum Phase {
    /// Walk down to the node's own top level.
    Descend,
    /// Find candidates on a level. `accept_dead` when there is no live one to be found.
    Search { level: u8, entry: Slot, begun: bool, accept_dead: bool },
    /// Choose among them. Never lasts beyond the step that comes to it.
    Choose { level: u8 },
    /// Link back from the chosen neighbours of a level, one a step.
    LinkBack { level: u8, done: usize },
    /// Everything is linked.
    Done,
}

/// The vectors of the nodes, and their codes where there are any: then walks go by those, and
/// only what they find is compared as vectors. At least one of the two is there.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The vectors; `None` where they are not all in memory, and everything goes by codes.
    pub vectors: Option<&'a Vectors>,
    /// Their codes.
    pub codes: Option<&'a Codes>,
}

impl<'a> Rows<'a> {
    /// The vectors, where there are no codes.
    ///
    /// # Panics
    /// If there is neither.
    pub(super) fn whole(self) -> &'a Vectors {
        self.vectors.expect("there are vectors or codes")
    }

    /// The codes, where vectors are not all in memory.
    ///
    /// # Panics
    /// If there is neither.
    pub(super) fn coded(self) -> &'a Codes {
        self.codes.expect("there are vectors or codes")
    }
}

/// A node on its way into the graph.
pub struct Linker {
    slot: Slot,
    level: u8,
    phase: Phase,
    /// The neighbours chosen on each level searched so far, highest level first.
    chosen: Vec<Vec<Slot>>,
    /// It may link to dead nodes, and has said so.
    accepts_dead: bool,
}

impl Linker {
    /// Begins to link `slot`, which holds document `id` and is not in the graph.
    #[must_use]
    pub fn new(graph: &Graph, slot: Slot, id: DocId) -> Self {
        assert!(graph.level(slot).is_none(), "slot {} is linked", slot.0);
        let level = graph.allocate(slot, graph.level_of(id));
        Self { slot, level, phase: Phase::Descend, chosen: Vec::new(), accepts_dead: false }
    }

    /// The slot being linked.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Gives up, with whatever has been linked: from now on the node is looked after like any other,
    /// since lists may lead to it, and its own to nodes that will leave the graph.
    pub fn abandon(self, graph: &Graph) {
        graph.mark_linked(self.slot, self.level);
        if self.accepts_dead {
            graph.dead_links.end(self.slot);
        }
    }

    /// Does one step. True when the node is linked. `is_live` tells which nodes are worth a
    /// link; dead ones are walked through, and linked only where nothing else is left.
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
                    self.walk(graph, space, walking, scratch, is_live)
                } else {
                    let vectors = rows.whole();
                    let space = Exact::<D>::new(vectors.row(self.slot), vectors);
                    self.walk(graph, space, walking, scratch, is_live)
                };
                let has_codes = rows.codes.is_some();
                match (walked, rows.vectors) {
                    (Phase::Choose { level }, Some(vectors)) => {
                        let rows = ByVectors::<D>::new(vectors);
                        self.choose(graph, rows, has_codes, scratch, level)
                    }
                    (Phase::Choose { level }, None) => {
                        let rows = ByCodes::<D>::new(rows.coded());
                        self.choose(graph, rows, has_codes, scratch, level)
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

    /// Goes on with the phases that walk.
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

    /// Goes on where no live node was found on `level` from `entry`: dead ones will do, but none
    /// that is leaving the graph, so the whole search begins anew once it is said that they will.
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
        &self,
        graph: &Graph,
        rows: impl Between,
        scratch: &mut Scratch,
        (level, done): (u8, usize),
        is_live: impl Fn(Slot) -> bool,
    ) -> Phase {
        // The levels were searched from the top down: the last one is level 0.
        let chosen = &self.chosen[self.chosen.len() - 1 - usize::from(level)];
        let source = chosen[done];
        let (target, work) = (self.slot, &mut scratch.work);
        let is_linked = link_back(graph, rows, source, level, target, work, is_live);
        if !is_linked {
            return Phase::LinkBack { level, done };
        }
        if done + 1 < chosen.len() {
            Phase::LinkBack { level, done: done + 1 }
        } else if usize::from(level) + 1 < self.chosen.len() {
            Phase::LinkBack { level: level + 1, done: 0 }
        } else {
            Phase::Done
        }
    }

    /// Chooses the node's neighbours on `level` among what the beam found.
    fn choose<B: Between>(
        &mut self,
        graph: &Graph,
        rows: B,
        has_codes: bool,
        scratch: &mut Scratch,
        level: u8,
    ) -> Phase {
        let origin = rows.origin(self.slot);
        let candidates = rows.found(origin, has_codes, scratch);
        let nearest = candidates.first().expect("the entry at least was found").slot();
        let m = graph.params().m;
        let chosen = select(rows, self.slot, &candidates, m, &mut scratch.work);
        graph.first_write(self.slot, level, &chosen);
        self.chosen.push(chosen);
        match level.checked_sub(1) {
            Some(below) => {
                Phase::Search { level: below, entry: nearest, begun: false, accept_dead: false }
            }
            None => Phase::LinkBack { level: 0, done: 0 },
        }
    }
}

/// Adds `target` to the list of `source`, dropping what the heuristic finds dispensable if the
/// list is full. False if somebody else is changing one of the two: to be tried again.
fn link_back<B: Between>(
    graph: &Graph,
    rows: B,
    source: Slot,
    level: u8,
    target: Slot,
    work: &mut Work,
    is_live: impl Fn(Slot) -> bool,
) -> bool {
    let Some(held) = graph.hold(source) else {
        return false;
    };
    // Whoever gives links to nodes that few lead to may have been quicker.
    if graph.leads(source, level, target) {
        return true;
    }
    if graph.push_neighbour(&held, level, target) {
        return true;
    }
    let origin = rows.origin(source);
    let mut candidates: Vec<Key> = graph
        .neighbours(source, level)
        .into_iter()
        .chain([target])
        .map(|slot| rows.key(origin, slot))
        .collect();
    B::count(work, candidates.len());
    candidates.sort_unstable();
    let kept = select(rows, source, &candidates, graph.links_max(level), work);
    // A copy that made room for a later copy is linked to from there: `source` still leads to it.
    let to_itself = rows.between(origin, source);
    let is_copy = |key: &&Key| key.distance() <= to_itself;
    if kept.contains(&target) && candidates.iter().any(|k| k.slot() == target && is_copy(&k)) {
        let Some(held) = graph.hold(target) else {
            return false;
        };
        // Not one that is dead: it may be on its way out of the graph, and the list of `target` is
        // not looked through any more.
        let dropped = candidates.iter().filter(is_copy).map(|key| key.slot());
        let dropped = dropped.filter(|&slot| is_live(slot));
        for copy in dropped.filter(|slot| !kept.contains(slot)) {
            if !graph.leads(target, level, copy) {
                graph.push_neighbour(&held, level, copy);
            }
        }
    }
    graph.set_neighbours(&held, level, &kept);
    true
}

/// The neighbour selection heuristic (Algorithm 4 of the paper): nearest first, a candidate is
/// taken if it is nearer to the origin than to everything taken before it, so that links point
/// in different directions. `candidates` are sorted by their distance to `node`, the origin.
///
/// Copies of the origin would all be taken, and nothing else: where there are many, they would
/// link among themselves only, and to the oldest of them. So they get a part of the list, the
/// newest first; see [`link_back`] for those that lose their place.
fn select(
    rows: impl Between,
    node: Slot,
    candidates: &[Key],
    links_max: usize,
    work: &mut Work,
) -> Vec<Slot> {
    let mut taken: Vec<Slot> = Vec::with_capacity(links_max);
    if candidates.len() <= links_max {
        taken.extend(candidates.iter().map(|key| key.slot()));
        return taken;
    }
    let to_itself = rows.between(rows.origin(node), node);
    let copies = candidates.partition_point(|key| key.distance() <= to_itself);
    let (copies, others) = candidates.split_at(copies);
    let copies_max = (links_max / COPIES_SHARE).max(1);
    taken.extend(copies.iter().rev().take(copies_max).map(|key| key.slot()));
    let copies_taken = taken.len();
    for candidate in others {
        if taken.len() == links_max {
            break;
        }
        let origin = rows.origin(candidate.slot());
        // From the copies it is as far as from the origin.
        if rows.are_beyond(origin, &taken[copies_taken..], candidate.distance(), work) {
            taken.push(candidate.slot());
        }
    }
    taken
}

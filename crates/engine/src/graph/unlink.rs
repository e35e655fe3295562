//! Removal of dead nodes from the graph, many at once and in steps of bounded work, so that their slots can be used
//! again.
//!
//! Which lists lead to a node is not recorded, so all lists are looked through, once for all nodes being removed: a
//! list that leads to some of them leads to neighbours of theirs afterwards, chosen as at an insert. The nodes being
//! removed keep their own lists until nothing leads to them any more, so a walk that is under way is never stuck; and
//! before a list is changed, nodes that could be reached by them alone get links from elsewhere.
//!
//! 1. *Secure*: each live neighbour of a node being removed is linked to by one that stays.
//! 2. *Sweep*: every list of every node that stays.
//! 3. *Check*: which nodes can no walk reach? ([`Reach`])
//! 4. *Adopt*: these nodes, and those that have lost most of their links, are given others ([`Adoption`]).
//!
//! Then nothing leads to the removed nodes, and [`Unlinker::finish`] gives them back: they can be
//! [removed](Graph::remove) once no walk is at one of them.
//!
//! [`Unlinker::check`] does the last two alone. Each owner of a graph does this for its own dead nodes, and several
//! owners may do so together: a node being removed is marked, and each owner that finds the mark treats the node as
//! going. Their linkers go on: none that could have found such a node alive is still at work when this begins, and
//! linkers that link to dead nodes for want of others are looked after (`dead_links`). Meanwhile an owner keeps a
//! view open, so that no node which it has found alive goes before it is done. Steps of the owner's own
//! [`Linker`](super::insert::Linker) may not lie between steps of an adoption, as they share a scratch.

use std::sync::atomic::Ordering;

use super::Graph;
use super::adopt::{Adopters, Adoption};
use super::dead_links::LastLook;
use super::hold::Held;
use super::insert::Rows;
use super::reach::{Reach, Reached};
use super::search::{Scratch, Work};
use super::space::{Coded, Exact, Space};
use crate::kernels::Distance;
use crate::types::Slot;

/// Most neighbours looked at in a step of *Secure*.
const STEP_SECURED: usize = 8;

/// Nodes whose lists are looked through in a step, and lists that are changed in it.
const STEP_NODES: u32 = 256;
const STEP_MENDED: usize = 2;

/// Most dead nodes through which new neighbours of a list are looked for, and most candidates that are compared.
const THROUGH_MAX: usize = 24;
const CANDIDATES_MAX: usize = 96;

/// Distances of a candidate from those in the list that are computed before one is looked at.
const COMPARED_AT_ONCE: usize = 8;

enum Phase {
    /// Looking at neighbour `neighbour` of the node being removed at `index`.
    Secure { index: usize, neighbour: usize },
    /// Looking through the lists of node `next`.
    Sweep { next: Slot },
    /// Looking for nodes that can't be reached.
    Check(Box<Reach>),
    /// Giving links to nodes that have too few. Then nothing leads to the nodes being removed.
    Adopt,
}

/// Dead nodes that are being removed from the graph.
pub struct Unlinker {
    doomed: Vec<Slot>,
    /// True if the graph is searched for nodes that can't be reached.
    has_check: bool,
    phase: Phase,
    /// The node that is being given links.
    adoption: Option<Adoption>,
    /// Nodes that have few links, or that nothing leads to, and get more at the end.
    weak: Vec<Slot>,
    /// Nodes in `weak` that no walk reaches, by slot, and the nodes that are reached. The former may be a part of the
    /// graph that only links on upper levels lead into, with dead nodes among them: a link from within that part
    /// would change nothing.
    lost: Vec<Slot>,
    reached: Reached,
    /// Last pass, over nodes linked since the removal began that may link to nodes being removed.
    last_look: LastLook,
    unreachable_found: u64,
}

/// Data that the steps of an [`Unlinker`] need.
pub struct Context<'a, L> {
    /// The graph, which has `slot_count` slots.
    pub graph: &'a Graph,
    /// The vectors of its nodes.
    pub rows: Rows<'a>,
    /// Number of slots announced to the graph.
    pub slot_count: u32,
    /// Tells which nodes are alive.
    pub is_live: L,
}

/// The nodes that may lead to a node that is given links.
struct Staying<'a, L> {
    context: &'a Context<'a, L>,
    /// The reachable nodes, if the adopted one is not among them.
    reached: Option<&'a Reached>,
}

impl<L: Fn(Slot) -> bool> Adopters for Staying<'_, L> {
    fn is_reached(&self, slot: Slot) -> bool {
        self.reached.is_none_or(|reached| reached.contains(slot))
    }

    /// If no live node is reachable, dead ones lead to the adopted node until they go: then the nodes that they lead
    /// to are given other links first.
    fn may_adopt(&self, slot: Slot) -> bool {
        match self.reached {
            Some(reached) => reached.contains(slot) && !self.context.graph.is_doomed(slot),
            None => self.stays(slot),
        }
    }

    fn stays(&self, slot: Slot) -> bool {
        (self.context.is_live)(slot) && !self.context.graph.is_doomed(slot)
    }
}

impl Unlinker {
    /// Begins to remove `doomed`, which are linked and will not be wanted again; with `has_check` also looks for
    /// nodes that no walk can reach.
    #[must_use]
    pub fn new(graph: &Graph, doomed: Vec<Slot>, has_check: bool) -> Self {
        doomed.iter().for_each(|&slot| graph.set_doomed(slot, true));
        let phase = Phase::Secure { index: 0, neighbour: 0 };
        Self { doomed, has_check, ..Self::at(phase) }
    }

    /// Begins to look for nodes that no walk can reach, and to link to them; removes none.
    #[must_use]
    pub fn check(graph: &Graph, slot_count: u32) -> Self {
        Self::at(Phase::Check(Box::new(Reach::new(graph, slot_count))))
    }

    fn at(phase: Phase) -> Self {
        Self {
            doomed: Vec::new(),
            has_check: true,
            phase,
            adoption: None,
            weak: Vec::new(),
            lost: Vec::new(),
            reached: Reached::default(),
            last_look: LastLook::default(),
            unreachable_found: 0,
        }
    }

    /// True while no document may be linked between steps: the steps have state in the scratch, or keep linkers out
    /// that find only dead nodes.
    #[must_use]
    pub fn must_go_on(&self) -> bool {
        self.adoption.is_some() || self.last_look.has_begun()
    }

    /// Number of live nodes found that no walk could reach; all of them have links now.
    #[must_use]
    pub fn unreachable_found(&self) -> u64 {
        self.unreachable_found
    }

    /// Notes that `slot` was linked since this began.
    pub fn note_linked(&mut self, slot: Slot) {
        if let Phase::Check(reach) = &mut self.phase {
            reach.note_linked(slot);
        }
    }

    /// Does a step; true when [`Unlinker::finish`] has to follow.
    pub fn step<D: Distance>(
        &mut self,
        context: &Context<'_, impl Fn(Slot) -> bool>,
        scratch: &mut Scratch,
    ) -> bool {
        let Context { graph, rows, .. } = *context;
        if let Some(adoption) = &mut self.adoption {
            let is_lost = self.lost.binary_search(&adoption.slot()).is_ok();
            let adopters = Staying { context, reached: is_lost.then_some(&self.reached) };
            if adoption.step::<D>(graph, rows, scratch, &adopters) {
                self.adoption = None;
            }
            return false;
        }
        if let Some(slot) = self.last_look.next() {
            if self.mend_all::<D>(context, scratch, slot).is_none() {
                self.last_look.put_back(slot);
            }
            return false;
        }
        self.phase = match std::mem::replace(&mut self.phase, Phase::Adopt) {
            Phase::Secure { index, neighbour } => self.secure(context, index, neighbour),
            Phase::Sweep { next } => self.sweep::<D>(context, scratch, next),
            Phase::Check(mut reach) => {
                if reach.step(graph, &context.is_live) {
                    (self.lost, self.reached) = reach.finish();
                    self.unreachable_found += self.lost.len() as u64;
                    self.weak.extend_from_slice(&self.lost);
                    Phase::Adopt
                } else {
                    Phase::Check(reach)
                }
            }
            Phase::Adopt => {
                self.adoption = self.weak.pop().map(Adoption::new);
                if self.adoption.is_none() {
                    self.last_look.begin(&graph.dead_links);
                    return self.last_look.is_done();
                }
                Phase::Adopt
            }
        };
        false
    }

    /// Ends the removal: returns the nodes, to which nothing leads. They are still in the graph, with lists of their
    /// own, for walks that are at one.
    ///
    /// # Panics
    /// If something may still lead to one of them.
    pub fn finish(self, graph: &Graph, slot_count: u32) -> Vec<Slot> {
        assert!(self.last_look.is_done(), "nodes are taken out when nothing leads to them");
        // A node linked since may have become the entry, or no entry may have been left.
        self.hand_over_entry(graph, slot_count);
        self.doomed.iter().for_each(|&slot| graph.leave(slot));
        self.last_look.end(&graph.dead_links);
        self.doomed
    }

    /// Gives up: the nodes that were to go stay.
    pub fn abandon(self, graph: &Graph) -> Vec<Slot> {
        self.last_look.give_up(&graph.dead_links);
        self.doomed.iter().for_each(|&slot| graph.set_doomed(slot, false));
        self.doomed
    }

    /// True if it looks, or has looked, for nodes that no walk can reach.
    #[must_use]
    pub fn has_check(&self) -> bool {
        self.has_check
    }

    /// Ensures that walks begin at a node that stays, on the highest level there is then.
    fn hand_over_entry(&self, graph: &Graph, slot_count: u32) {
        let goes = |slot| graph.is_doomed(slot);
        let stays = |slot| graph.level(slot).filter(|_| !goes(slot));
        let highest = || {
            // If no node of the highest levels stays, the graph is small.
            graph.high.highest(stays).or_else(|| {
                let slots = (0..slot_count).map(Slot);
                let levels = slots.filter_map(|slot| Some((stays(slot)?, slot)));
                levels.max_by_key(|&(level, _)| level)
            })
        };
        loop {
            let before = graph.entry.load(Ordering::SeqCst);
            if !graph.entry().is_some_and(|(entry, _)| goes(entry)) {
                return;
            }
            if graph.replace_entry(before, highest()) {
                break;
            }
        }
        // A node that was linked meanwhile may have found the former entry as high as itself.
        if let Some((level, slot)) = highest() {
            graph.offer_entry(slot, level);
        }
    }

    /// Looks at some neighbours of a node being removed: those to which none of their own neighbours leads are given
    /// links first.
    fn secure(
        &mut self,
        context: &Context<'_, impl Fn(Slot) -> bool>,
        index: usize,
        neighbour: usize,
    ) -> Phase {
        let Some(&slot) = self.doomed.get(index) else {
            return Phase::Sweep { next: Slot(0) };
        };
        let graph = context.graph;
        let neighbours = graph.neighbours(slot, 0);
        let end = neighbours.len().min(neighbour + STEP_SECURED);
        for (at, &near) in neighbours.iter().enumerate().take(end).skip(neighbour) {
            let is_node = graph.level(near).is_some();
            if is_node && (context.is_live)(near) && !self.is_secure(graph, near) {
                self.adoption = Some(Adoption::new(near));
                return Phase::Secure { index, neighbour: at + 1 };
            }
        }
        if end < neighbours.len() {
            Phase::Secure { index, neighbour: end }
        } else {
            Phase::Secure { index: index + 1, neighbour: 0 }
        }
    }

    /// True if a neighbour of `slot` that stays leads to it.
    fn is_secure(&self, graph: &Graph, slot: Slot) -> bool {
        let leads = |source| graph.leads(source, 0, slot);
        let neighbours = graph.neighbours(slot, 0);
        neighbours.into_iter().any(|source| !graph.is_doomed(source) && leads(source))
    }

    fn sweep<D: Distance>(
        &mut self,
        context: &Context<'_, impl Fn(Slot) -> bool>,
        scratch: &mut Scratch,
        next: Slot,
    ) -> Phase {
        let end = context.slot_count.min(next.0 + STEP_NODES);
        let mut mended = 0;
        for slot in (next.0..end).map(Slot) {
            match self.mend_all::<D>(context, scratch, slot) {
                Some(lists) => mended += lists,
                None => return Phase::Sweep { next: slot },
            }
            if mended >= STEP_MENDED {
                return Phase::Sweep { next: Slot(slot.0 + 1) };
            }
        }
        if end < context.slot_count {
            return Phase::Sweep { next: Slot(end) };
        }
        // Reachability is judged from an entry that stays.
        self.hand_over_entry(context.graph, context.slot_count);
        match self.has_check {
            true => Phase::Check(Box::new(Reach::new(context.graph, context.slot_count))),
            false => Phase::Adopt,
        }
    }

    /// Mends the lists of one node; returns how many were changed. `None` if another thread is changing them, or has
    /// just linked the node: to be tried again.
    fn mend_all<D: Distance>(
        &mut self,
        context: &Context<'_, impl Fn(Slot) -> bool>,
        scratch: &mut Scratch,
        slot: Slot,
    ) -> Option<usize> {
        let Some(top) = context.graph.level(slot).filter(|_| !context.graph.is_doomed(slot)) else {
            return Some(0);
        };
        let goes = |level| {
            let mut found = false;
            let note = |target| found |= context.graph.is_doomed(target);
            context.graph.for_each_neighbour(slot, level, note);
            found
        };
        // A list that is being rewritten may hide links that it has before and after.
        let held = context.graph.hold_still(slot)?;
        if !(0..=top).any(goes) {
            return Some(0);
        }
        if !context.graph.keep_frozen(slot) {
            return None;
        }
        let touched: Vec<u8> = (0..=top).filter(|&level| goes(level)).collect();
        for &level in &touched {
            self.mend::<D>(context, scratch, &held, level);
        }
        Some(touched.len())
    }

    /// Gives `slot` a list on `level` that leads to no node being removed.
    fn mend<D: Distance>(
        &mut self,
        context: &Context<'_, impl Fn(Slot) -> bool>,
        scratch: &mut Scratch,
        held: &Held<'_>,
        level: u8,
    ) {
        let Context { graph, rows, .. } = *context;
        let slot = held.slot();
        let list = graph.neighbours(slot, level);
        let (gone, mut kept): (Vec<Slot>, Vec<Slot>) =
            list.into_iter().partition(|&slot| graph.is_doomed(slot));
        let lost = gone.len();
        let heirs = self.heirs(context, slot, level, gone, &kept);
        if let Some(codes) = rows.codes {
            let from = |slot| Coded::<D>::new(codes.get(slot), codes);
            choose(from(slot), from, &mut kept, &heirs, lost, &mut scratch.work);
        } else {
            let vectors = rows.whole();
            let from = |slot| Exact::<D>::new(vectors.row(slot), vectors);
            choose(from(slot), from, &mut kept, &heirs, lost, &mut scratch.work);
        }
        graph.set_neighbours(held, level, &kept);
        if level == 0 && kept.len() < graph.params().m / 2 && (context.is_live)(slot) {
            self.weak.push(slot);
        }
    }

    /// Live nodes that stay, to which the nodes in `gone` lead, if need be through others that go.
    fn heirs(
        &self,
        context: &Context<'_, impl Fn(Slot) -> bool>,
        slot: Slot,
        level: u8,
        gone: Vec<Slot>,
        kept: &[Slot],
    ) -> Vec<Slot> {
        let graph = context.graph;
        let (first, mut through) = (gone.len(), gone);
        let mut heirs: Vec<Slot> = Vec::new();
        let mut index = 0;
        while index < through.len() && (index < first || heirs.len() < graph.params().m) {
            graph.for_each_neighbour(through[index], level, |near| {
                if graph.is_doomed(near) {
                    if through.len() < THROUGH_MAX && !through.contains(&near) {
                        through.push(near);
                    }
                } else if near != slot
                    && heirs.len() < CANDIDATES_MAX
                    && (context.is_live)(near)
                    && graph.level(near).is_some_and(|top| top >= level)
                    && !kept.contains(&near)
                    && !heirs.contains(&near)
                {
                    heirs.push(near);
                }
            });
            index += 1;
        }
        heirs
    }
}

/// Adds up to `lost` of the `candidates` to the list `kept` of a node: the nearest that are nearer to the node than
/// to everything in the list, much as at an insert, and then the nearest others. Nodes in the list already stay.
/// `from` gives the distances from a slot, `origin` those from the node.
fn choose<S: Space>(
    origin: S,
    from: impl Fn(Slot) -> S,
    kept: &mut Vec<Slot>,
    candidates: &[Slot],
    lost: usize,
    work: &mut Work,
) {
    let mut keys = Vec::with_capacity(candidates.len());
    origin.each_key(candidates, work, |key| keys.push(key));
    keys.sort_unstable();
    let full = kept.len() + lost;
    let mut passed_over = Vec::new();
    for key in keys {
        if kept.len() == full {
            return;
        }
        let space = from(key.slot());
        let is_apart = kept.chunks(COMPARED_AT_ONCE).all(|others| {
            let mut is_apart = true;
            space.each_key(others, work, |other| is_apart &= other.distance() >= key.distance());
            is_apart
        });
        (if is_apart { &mut *kept } else { &mut passed_over }).push(key.slot());
    }
    let missing = full - kept.len();
    kept.extend(passed_over.into_iter().take(missing));
}

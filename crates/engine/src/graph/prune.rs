//! The links that a full list keeps, and new links for the nodes that it drops.
//!
//! Level 0 stays in one piece whichever owner links: a link is dropped only while another way to its node is there,
//! and that node is held meanwhile, so that two linkers can't take the last two ways to it from each other. Only a
//! node's own neighbours are checked for links to it, since most links go both ways. So a node that loses its place
//! in the list of `source` is
//!
//! 1. led to by a node that `source` keeps: no path has gone;
//! 2. or led to by [`LEADING_MIN`] of its neighbours;
//! 3. else given a link by the nearest of those kept that has room, or it stays in the list.
//!
//! Copies of one vector are equally near to everything, so a walk to their surroundings is full of copies, of those
//! with the lowest slots. Among them and around them [`Way`] is stricter than 2., and copies keep a link to the
//! lowest that they know, from where a walk goes on: see [`Graph::keeps_lowest`].

use super::Graph;
use super::hold::Held;
use super::search::{Key, Work};
use super::space::Between;
use crate::types::Slot;

/// Divisor of a list's length: this part of the list is for copies of the node's own vector.
const COPIES_SHARE: usize = 4;

/// Number of neighbours leading to a node with which one link to it more or less does not count.
const LEADING_MIN: usize = 3;

/// Most nodes kept by a list that are asked to lead to one that it drops.
const LEADERS_TRIED: usize = 4;

/// Most copies of a node that a list of `links_max` links leads to.
fn copies_max(links_max: usize) -> usize {
    (links_max / COPIES_SHARE).max(1)
}

/// The kind of path that makes a node safe to drop.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// A path from the source, or enough neighbours that lead to it.
    Any,
    /// A path: the node is a copy of the source, and copies may lead to one another alone.
    Path,
    /// A path by a node that is nearer than the source, whose distance is given: where there are many copies of the
    /// source, a walk to the node is full of them, and uses only nodes that are nearer.
    Nearer(f32),
}

/// Outcome of a request for a link.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Linked {
    /// The link is there.
    Yes,
    /// The list is full of better links.
    No,
    /// Another thread is changing one of the lists: to be tried again.
    Busy,
}

/// A link to be made to `target`, by its neighbour `source`.
pub(super) struct LinkBack<'a, B, L> {
    pub(super) graph: &'a Graph,
    pub(super) rows: B,
    pub(super) level: u8,
    pub(super) source: Slot,
    pub(super) target: Slot,
    /// True if nothing leads to `target` yet: it gets a place in any case.
    pub(super) is_needed: bool,
    /// Tells which nodes are alive.
    pub(super) is_live: L,
}

impl<B: Between, L: Fn(Slot) -> bool> LinkBack<'_, B, L> {
    /// Adds `target` to the list of `source`; if the list is full, drops a link that the heuristic finds dispensable.
    pub(super) fn link(&self, work: &mut Work) -> Linked {
        let Self { graph, rows, level, source, target, .. } = *self;
        let Some(held) = graph.hold(source) else {
            return Linked::Busy;
        };
        // Another owner, which gives links to nodes that few lead to, may have been quicker.
        if graph.leads(source, level, target) || graph.push_neighbour(&held, level, target) {
            return Linked::Yes;
        }
        let origin = rows.origin(source);
        let list = graph.neighbours(source, level).into_iter().chain([target]);
        let mut candidates: Vec<Key> = list.map(|slot| rows.key(origin, slot)).collect();
        B::count(work, candidates.len());
        candidates.sort_unstable();
        let links_max = graph.links_max(level);
        let (first, keeps_lowest) = (Some(target), graph.keeps_lowest());
        let choice = Choice { node: source, links_max, first, keeps_lowest };
        let mut kept = select(rows, choice, &candidates, work);
        if self.is_needed && !kept.contains(&target) {
            kept.truncate(links_max - 1);
            kept.push(target);
        }
        if !self.release(&candidates, &mut kept, work) {
            return Linked::Busy;
        }
        graph.set_neighbours(&held, level, &kept);
        if kept.contains(&target) { Linked::Yes } else { Linked::No }
    }

    /// Ensures that the `candidates` which are not `kept` can be reached without the source, or adds them to `kept`.
    /// False, with nothing dropped, if another thread is changing one of the lists.
    fn release(&self, candidates: &[Key], kept: &mut Vec<Slot>, work: &mut Work) -> bool {
        let Self { graph, rows, level, source, target, .. } = *self;
        let to_itself = rows.between(rows.origin(source), source);
        let copies = candidates.partition_point(|key| key.distance() <= to_itself);
        let is_crowded = copies >= copies_max(graph.links_max(level));
        let (mut dropped, mut has_copy) = (Vec::new(), false);
        for (index, key) in candidates.iter().enumerate() {
            let (slot, is_copy) = (key.slot(), index < copies);
            // A node that only nodes being removed lead to is given links by the owner that removes them. On the
            // levels above, an unreachable node is not missed.
            let is_missed = slot != target && !graph.is_doomed(slot) && (level == 0 || is_copy);
            if !is_missed || kept.contains(&slot) {
                continue;
            }
            let Some(held) = graph.hold_still(slot) else {
                return false;
            };
            has_copy |= is_copy;
            let way = match (is_copy, is_crowded) {
                (true, _) => Way::Path,
                (false, true) => Way::Nearer(key.distance()),
                (false, false) => Way::Any,
            };
            dropped.push((held, way));
        }
        // A copy that made room for a later copy is linked to from that one: the source still leads to it.
        let passes_on = has_copy && candidates[..copies].iter().any(|key| key.slot() == target);
        let own = if passes_on { graph.hold(target) } else { None };
        if passes_on && own.is_none() {
            return false;
        }
        for (held, way) in &dropped {
            let leader = own.as_ref().filter(|_| *way == Way::Path);
            let is_led_to = leader.is_some_and(|leader| self.lead(leader, held.slot()))
                || level > 0
                || self.is_secure(held.slot(), kept, *way, work)
                || self.find_leader(held, kept, *way, own.as_ref(), work);
            if is_led_to {
                continue;
            }
            match kept.len() < graph.links_max(level) {
                true => kept.push(held.slot()),
                false => graph.note_doubt(),
            }
        }
        true
    }

    /// True if there is a way of kind `way` to `slot` without the source, which leads to the nodes in `kept`.
    fn is_secure(&self, slot: Slot, kept: &[Slot], way: Way, work: &mut Work) -> bool {
        let Self { graph, rows, .. } = *self;
        let (mut leading, mut is_secure) = (0, false);
        graph.for_each_neighbour(slot, 0, |near| {
            let is_kept = kept.contains(&near);
            let is_other = near != self.source && !graph.is_doomed(near);
            if is_secure || !is_other || !is_kept && way != Way::Any {
                return;
            }
            if graph.leads(near, 0, slot) {
                leading += 1;
                is_secure = match way {
                    Way::Any => is_kept || leading >= LEADING_MIN,
                    Way::Path => true,
                    Way::Nearer(distance) => {
                        B::count(work, 1);
                        rows.between(rows.origin(slot), near) < distance
                    }
                };
            }
        });
        is_secure
    }

    /// Makes one of the nodes in `kept` lead to `held`: the nearest that has room and makes a way of kind `way`.
    /// False if there is none.
    fn find_leader(
        &self,
        held: &Held<'_>,
        kept: &[Slot],
        way: Way,
        own: Option<&Held<'_>>,
        work: &mut Work,
    ) -> bool {
        let Self { graph, rows, .. } = *self;
        let origin = rows.origin(held.slot());
        let mut leaders: Vec<Key> = kept.iter().map(|&slot| rows.key(origin, slot)).collect();
        B::count(work, leaders.len());
        leaders.sort_unstable();
        let bound = match way {
            Way::Path => rows.between(origin, held.slot()),
            Way::Nearer(distance) => distance,
            Way::Any => f32::INFINITY,
        };
        let leaders = leaders.into_iter().filter(|key| key.distance() <= bound);
        let mut leaders = leaders.map(Key::slot).take(LEADERS_TRIED);
        leaders.any(|leader| match own.filter(|own| own.slot() == leader) {
            Some(own) => self.lead(own, held.slot()),
            None => graph.hold(leader).is_some_and(|leader| {
                let leads = self.lead(&leader, held.slot());
                let is_mutual = graph.leads(held.slot(), 0, leader.slot());
                if leads && !is_mutual && graph.keep_frozen(held.slot()) {
                    graph.push_neighbour(held, 0, leader.slot());
                }
                leads
            }),
        })
    }

    /// Makes `leader` lead to `slot`; false if that can't be. No link is made to or by a dead node: it may be about
    /// to leave the graph, and its list or that of its leader may have been looked through already.
    fn lead(&self, leader: &Held<'_>, slot: Slot) -> bool {
        let stays = |slot| (self.is_live)(slot) && !self.graph.is_doomed(slot);
        stays(leader.slot())
            && (self.graph.leads(leader.slot(), self.level, slot)
                || stays(slot) && self.graph.push_neighbour(leader, self.level, slot))
    }
}

/// The node for which [`select`] chooses, and its constraints.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    /// The node.
    pub(super) node: Slot,
    /// Most links that it gets.
    pub(super) links_max: usize,
    /// A copy of the node that is taken before other copies.
    pub(super) first: Option<Slot>,
    /// See [`Graph::keeps_lowest`].
    pub(super) keeps_lowest: bool,
}

/// The neighbour selection heuristic (Algorithm 4 of the paper): nearest first, a candidate is taken if it is nearer
/// to the origin than to every node taken before it, so that links point in different directions. `candidates` are
/// sorted by their distance to the origin.
///
/// Without a limit, copies of the origin would all be taken, and nothing else: where there are many, they would link
/// among themselves only, and to the oldest of them. So copies get a part of the list, those in the highest slots
/// first; see [`LinkBack`] for those that lose their place.
pub(super) fn select(
    rows: impl Between,
    choice: Choice,
    candidates: &[Key],
    work: &mut Work,
) -> Vec<Slot> {
    let Choice { node, links_max, first, keeps_lowest } = choice;
    let mut taken: Vec<Slot> = Vec::with_capacity(links_max);
    if candidates.len() <= links_max {
        taken.extend(candidates.iter().map(|key| key.slot()));
        return taken;
    }
    let to_itself = rows.between(rows.origin(node), node);
    let copies = candidates.partition_point(|key| key.distance() <= to_itself);
    let (copies, others) = candidates.split_at(copies);
    let first = copies.iter().filter(|key| Some(key.slot()) == first);
    for key in first.chain(copies.iter().rev()) {
        if taken.len() < copies_max(links_max) && !taken.contains(&key.slot()) {
            taken.push(key.slot());
        }
    }
    let lowest = copies.first().filter(|_| keeps_lowest).map(|key| key.slot());
    taken.extend(lowest.filter(|lowest| !taken.contains(lowest)));
    let copies_taken = taken.len();
    for candidate in others {
        if taken.len() == links_max {
            break;
        }
        let origin = rows.origin(candidate.slot());
        // The candidate is as far from the copies as from the origin.
        if rows.are_beyond(origin, &taken[copies_taken..], candidate.distance(), work) {
            taken.push(candidate.slot());
        }
    }
    taken
}

impl Graph {
    /// True if copies of a node link to the lowest of them that they know, beside others. A walk among many copies
    /// goes to the lowest slots. If one owner fills its slots in order, the links between copies, which go from newer
    /// to older ones, lead there; with several owners, they do not.
    pub(super) fn keeps_lowest(&self) -> bool {
        self.owners.len() > 1
    }
}

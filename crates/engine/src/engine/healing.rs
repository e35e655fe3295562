//! Health of the graph: dead nodes are removed so that their slots are used again, and live nodes that no walk can
//! reach are found and linked to.
//!
//! Dead nodes wait until there are enough of them to be worth a sweep of all lists. While documents are linked,
//! healing has a turn after each of them, and a longer one the more nodes are dead: writes that replace documents
//! without end find slots. When nothing is to be linked, fewer dead nodes are enough, and after many changes the
//! graph is searched for nodes that can't be reached.
//!
//! Each of the shards that own a graph removes its own dead nodes, at the same time as others do: one alone could not
//! keep up with the replacements of all. Unreachable nodes are looked for by one of the shards at a time, and not by
//! each at every occasion.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::{Engine, LinkProgress, rows_of};
use crate::graph::Graph;
use crate::graph::unlink::{Context, Unlinker};
use crate::store::view::View;
use crate::types::Slot;
use crate::types::stripe::Stripe;
use crate::with_distance;

/// Dead nodes for which a sweep begins: at least `DEAD_MIN`, and one in `DEAD_SHARE_BUSY` of all nodes while
/// documents are linked, one in `DEAD_SHARE_IDLE` while there is nothing else to do.
const DEAD_MIN: usize = 32;
const DEAD_SHARE_BUSY: usize = 32;
const DEAD_SHARE_IDLE: usize = 256;

/// Healing steps after a document's linking, and their number if more than one node in [`MANY_SHARE`] is dead.
const STEPS: usize = 12;
const STEPS_MANY: usize = 48;
const MANY_SHARE: usize = 24;

/// Once more than one node in this many is new, and there is nothing else to do, the graph is checked for unreachable
/// nodes. Reading the lists of this many nodes takes about a tenth of the time of linking one.
const SCRUB_SHARE: u64 = 256;

/// Health of a graph, shared by its owners. Read by upkeep, and by walks only to ask whether any node is dead.
#[derive(Default)]
pub(super) struct Ward {
    /// Dead nodes of all owners, and of each.
    dead: AtomicUsize,
    dead_of: Box<[AtomicUsize]>,
    /// True while an owner checks the graph, and no node leaves it.
    is_checking: AtomicBool,
    /// Number of times that nodes have been removed.
    rounds: AtomicUsize,
    /// Documents linked since the last check of the graph.
    linked_since_check: AtomicU64,
    /// Number of checks asked for, and number of these requests that are met.
    checks_asked: AtomicU64,
    checks_met: AtomicU64,
    /// Links in doubt ([`Graph::doubts`]) at the last check.
    doubts_met: AtomicU64,
    /// Unreachable nodes found by the last check; and whether another check has to show that they can be reached now.
    found: AtomicU64,
    is_in_doubt: AtomicBool,
    /// The entry of the graph at the last check, as of [`entry_of`]: nodes that one entry reaches need not be reached
    /// from another.
    checked_from: AtomicU64,
}

/// The entry of a graph: its slot + 1, or 0 if there is none.
fn entry_of(graph: &Graph) -> u64 {
    graph.entry().map_or(0, |(slot, _)| u64::from(slot.0) + 1)
}

/// State of a graph when a check of it began.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    linked: u64,
    asked: u64,
    doubts: u64,
    entry: u64,
}

impl Ward {
    pub(super) fn new(owners: u32) -> Self {
        let dead_of = (0..owners).map(|_| AtomicUsize::new(0)).collect();
        Self { dead_of, ..Self::default() }
    }

    /// Forgets the nodes of an owner, none of which is in the graph any more.
    pub(super) fn forget(&self, stripe: Stripe) {
        let dead = self.dead_of[stripe.owner() as usize].load(Ordering::Relaxed);
        self.remove_dead(stripe.owner(), dead);
    }

    /// Number of dead nodes of all owners.
    #[inline]
    pub(super) fn dead(&self) -> usize {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn add_dead(&self, owner: u32, count: usize) {
        self.dead.fetch_add(count, Ordering::Relaxed);
        self.dead_of[owner as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn remove_dead(&self, owner: u32, count: usize) {
        self.dead.fetch_sub(count, Ordering::Relaxed);
        self.dead_of[owner as usize].fetch_sub(count, Ordering::Relaxed);
    }

    /// Asks for a check of the graph at the next occasion.
    pub(super) fn ask_for_check(&self) {
        self.checks_asked.fetch_add(1, Ordering::Relaxed);
    }

    /// True if a check was asked for, and has not been made since.
    pub(super) fn is_check_asked(&self) -> bool {
        self.checks_asked.load(Ordering::Relaxed) > self.checks_met.load(Ordering::Relaxed)
    }

    /// True if a check is worthwhile when there is nothing else to do.
    fn is_check_due(&self, graph: &Graph) -> bool {
        let linked_since = self.linked_since_check.load(Ordering::Relaxed);
        linked_since > u64::from(graph.linked_count()) / SCRUB_SHARE
            || self.is_in_doubt.load(Ordering::Relaxed)
            || graph.doubts() > self.doubts_met.load(Ordering::Relaxed)
            || entry_of(graph) != self.checked_from.load(Ordering::Relaxed)
    }

    fn before_check(&self, graph: &Graph) -> Before {
        Before {
            linked: self.linked_since_check.load(Ordering::Relaxed),
            asked: self.checks_asked.load(Ordering::Relaxed),
            doubts: graph.doubts(),
            entry: entry_of(graph),
        }
    }

    /// Notes that the graph, whose state was `before`, has been checked. `found` is the number of nodes that no walk
    /// could reach; they have links now.
    fn note_checked(&self, graph: &Graph, before: Before, found: u64) {
        let rest = |linked: u64| Some(linked.saturating_sub(before.linked));
        let ordering = Ordering::Relaxed;
        self.checked_from.store(before.entry, ordering);
        let _linked = self.linked_since_check.fetch_update(ordering, ordering, rest);
        self.checks_met.fetch_max(before.asked, ordering);
        let found_before = self.found.swap(found, ordering);
        let is_fewer = found_before == 0 || found < found_before;
        // Links that the repair of those nodes has put in doubt are checked again only while the found nodes get
        // fewer, or the graph of an idle shard might be checked without end.
        let met = if found > 0 && !is_fewer { graph.doubts() } else { before.doubts };
        self.doubts_met.fetch_max(met, ordering);
        self.is_in_doubt.store(found > 0 && is_fewer, ordering);
    }
}

/// State of one shard's part in the health of its graph.
#[derive(Default)]
pub(super) struct Healing {
    /// Dead nodes that no search sees any more.
    waiting: Vec<Slot>,
    /// Removes some of them, or only looks for unreachable nodes.
    unlinker: Option<Unlinker>,
    before_check: Before,
    /// Read view held while healing: keeps nodes that other owners remove readable.
    view: View,
    /// True if dead nodes are to be removed however few they are, until `wanted` have been since the start.
    is_wanted: bool,
    wanted: u64,
    /// Number of removed nodes whose slots are free.
    pub(super) freed: u64,
    /// Steps left before linking goes on.
    turn: usize,
    counts: Counts,
}

/// Counts of healing since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Dead nodes removed from the graph.
    pub removed: u64,
    /// Live nodes found that no walk could reach, and linked to again.
    pub unreachable: u64,
    /// Times that the whole graph has been checked.
    pub checks: u64,
}

impl Healing {
    /// Enqueues `slot` for removal: it is in the graph and dead, and no search sees it any more.
    pub(super) fn bury(&mut self, slot: Slot) {
        self.waiting.push(slot);
    }

    /// Notes that `slot` has been linked.
    pub(super) fn note_linked(&mut self, slot: Slot, graph: &Graph, ward: &Ward) {
        ward.linked_since_check.fetch_add(1, Ordering::Relaxed);
        if let Some(unlinker) = &mut self.unlinker {
            unlinker.note_linked(slot);
        }
        let is_many = ward.dead() > graph.linked_count() as usize / MANY_SHARE;
        self.turn = if is_many { STEPS_MANY } else { STEPS };
    }

    /// Counts since the start.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// True if a step has to come before the next document is linked.
    fn has_turn(&self) -> bool {
        self.turn > 0 || self.unlinker.as_ref().is_some_and(Unlinker::must_go_on)
    }

    /// Begins if enough dead nodes wait to be removed, or if it is time for a check, as nothing is to be linked or a
    /// check was asked for. True if it has begun.
    fn begin(
        &mut self,
        graph: &Graph,
        ward: &Ward,
        stripe: Stripe,
        end: u32,
        is_idle: bool,
    ) -> bool {
        let own = graph.linked_of(stripe.owner()) as usize;
        let share = if is_idle { DEAD_SHARE_IDLE } else { DEAD_SHARE_BUSY };
        let many = (own / share).max(DEAD_MIN).min(own).max(1);
        let enough = if self.is_wanted { 1 } else { many };
        self.before_check = ward.before_check(graph);
        if self.waiting.len() >= enough {
            let round = ward.rounds.fetch_add(1, Ordering::Relaxed);
            let has_check = round.is_multiple_of(stripe.owners() as usize);
            let doomed = std::mem::take(&mut self.waiting);
            self.unlinker = Some(Unlinker::new(graph, doomed, has_check));
            return true;
        }
        let is_wanted = ward.is_check_asked() || is_idle && ward.is_check_due(graph);
        if is_wanted && !ward.is_checking.swap(true, Ordering::AcqRel) {
            self.unlinker = Some(Unlinker::check(graph, end));
        }
        self.unlinker.is_some()
    }
}

impl Engine {
    /// Counts of healing since the start.
    #[must_use]
    pub fn healing(&self) -> Counts {
        self.healing.counts()
    }

    /// Requests the removal of all nodes that are dead now, and returns how many those are.
    pub fn compact(&mut self) -> usize {
        // Some may have left the graph already, and keep their lists until searches end.
        let left = self.healing.counts.removed - self.healing.freed;
        let count = self.dead_linked.saturating_sub(left as usize);
        self.healing.is_wanted = count > 0;
        self.healing.wanted = self.healing.counts.removed + count as u64;
        count
    }

    /// Dead nodes in the graph.
    #[must_use]
    pub fn dead_count(&self) -> usize {
        self.dead_linked
    }

    /// Does a step of healing if there is work and it has its turn. Called while this shard has no document half
    /// linked. `is_idle` if there is none to be linked.
    pub(super) fn heal_step(&mut self, is_idle: bool) -> LinkProgress {
        if !is_idle && !self.healing.has_turn() {
            return LinkProgress::Idle;
        }
        self.healing.turn = self.healing.turn.saturating_sub(1);
        let (stripe, slot_count) = (self.store.stripe(), self.store.extent());
        if self.healing.unlinker.is_none()
            && self.healing.begin(&self.graph, &self.ward, stripe, slot_count, is_idle)
            && stripe.owners() > 1
        {
            self.store.open_view(&mut self.healing.view, true);
        }
        let Self { params, store, graph, healing, link_scratch, .. } = self;
        let Some(unlinker) = &mut healing.unlinker else {
            healing.turn = 0;
            return LinkProgress::Idle;
        };
        let is_ready = with_distance!(params.metric.for_linking(), D => {
            let rows = rows_of(store);
            let context = Context { graph, rows, slot_count, is_live: |slot| store.is_live(slot) };
            unlinker.step::<D>(&context, link_scratch)
        });
        if is_ready {
            self.finish_healing(slot_count);
        }
        LinkProgress::More
    }

    /// Releases the slots to which nothing leads any more.
    fn finish_healing(&mut self, slot_count: u32) {
        let Some(unlinker) = self.healing.unlinker.take() else { return };
        let counts = &mut self.healing.counts;
        counts.unreachable += unlinker.unreachable_found();
        if unlinker.has_check() {
            counts.checks += 1;
            let found = unlinker.unreachable_found();
            self.ward.note_checked(&self.graph, self.healing.before_check, found);
        }
        let removed = unlinker.finish(&self.graph, slot_count);
        counts.removed += removed.len() as u64;
        if removed.is_empty() {
            self.ward.is_checking.store(false, Ordering::Release);
        }
        // Nodes that have died since then may wait again.
        self.healing.is_wanted &= counts.removed < self.healing.wanted;
        self.store.release(removed);
        if self.store.stripe().owners() > 1 {
            self.store.close_view(&self.healing.view);
        }
    }

    /// Leaves the health of the graph to other owners: this shard is fenced.
    pub(super) fn stop_healing(&mut self) {
        if let Some(unlinker) = self.healing.unlinker.take()
            && unlinker.abandon(&self.graph).is_empty()
        {
            self.ward.is_checking.store(false, Ordering::Release);
        }
    }
}

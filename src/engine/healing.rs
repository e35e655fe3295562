//! The graph's health: dead nodes are taken out of it so that their slots are used again, and
//! live ones that no walk can reach are found and linked to.
//!
//! Dead nodes wait until there are enough of them to be worth a sweep of all lists. While
//! documents are linked, healing has a turn after each of them, and the longer one the more nodes
//! are dead: writes that replace documents for ever find slots. When nothing is to be linked, less
//! is enough, and after many changes the graph is looked through for nodes that can't be reached.
//!
//! Of the shards that own a graph, one at a time does it, for all of them ([`Ward`]), and gives the
//! slots back to their owners.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::SegQueue;

use super::{Engine, LinkProgress};
use crate::graph::Graph;
use crate::graph::insert::Rows;
use crate::graph::unlink::{Context, Unlinker};
use crate::types::Slot;
use crate::with_distance;

/// Dead nodes for which a sweep begins: at least so many, and one in so many of all, while
/// documents are linked and while there is nothing else to do.
const DEAD_MIN: usize = 32;
const DEAD_SHARE_BUSY: usize = 32;
const DEAD_SHARE_IDLE: usize = 256;

/// Steps that follow a document's linking, and where more than one node in [`MANY_SHARE`] is
/// dead.
const STEPS: usize = 12;
const STEPS_MANY: usize = 48;
const MANY_SHARE: usize = 24;

/// Once a fourth as many documents have been linked as there are nodes, and nothing else is to be
/// done, the graph is looked through.
const SCRUB_SHARE: u64 = 4;

/// More documents than are ever linked between two checks.
const CHECK_ASKED: u64 = 1 << 63;

/// What the owners of a graph know of its health together. Looked at by upkeep, and by walks only to
/// ask whether anything is dead.
#[derive(Default)]
pub(super) struct Ward {
    /// Dead nodes of all owners.
    dead: AtomicUsize,
    /// Dead nodes that nobody wants to see any more.
    waiting: SegQueue<Slot>,
    /// Somebody is at work.
    is_healing: AtomicBool,
    /// What nothing leads to any more, by owner.
    returned: Box<[SegQueue<Slot>]>,
    /// Documents linked since the graph was last looked through.
    linked_since_check: AtomicU64,
}

impl Ward {
    pub(super) fn new(owners: u32) -> Self {
        let returned = (0..owners).map(|_| SegQueue::new()).collect();
        Self { returned, ..Self::default() }
    }

    /// Dead nodes of all owners.
    #[inline]
    pub(super) fn dead(&self) -> usize {
        self.dead.load(Ordering::Relaxed)
    }

    pub(super) fn add_dead(&self, count: usize) {
        self.dead.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn remove_dead(&self, count: usize) {
        self.dead.fetch_sub(count, Ordering::Relaxed);
    }

    /// `slot`, which is in the graph, is dead, and no search sees it any more.
    pub(super) fn bury(&self, slot: Slot) {
        self.waiting.push(slot);
    }

    fn take_waiting(&self) -> Vec<Slot> {
        let mut waiting = Vec::with_capacity(self.waiting.len());
        // Not those that come meanwhile: they would keep this going.
        while waiting.len() < waiting.capacity()
            && let Some(slot) = self.waiting.pop()
        {
            waiting.push(slot);
        }
        waiting
    }

    /// The graph has to be looked through at the next occasion.
    pub(super) fn ask_for_check(&self) {
        self.linked_since_check.store(CHECK_ASKED, Ordering::Relaxed);
    }

    /// It has not been since that was asked.
    pub(super) fn is_check_asked(&self) -> bool {
        self.linked_since_check.load(Ordering::Relaxed) >= CHECK_ASKED
    }
}

/// What one shard does for the health of its graph.
#[derive(Default)]
pub(super) struct Healing {
    /// Takes dead nodes out, or only looks for what can't be reached: where this is there, nobody
    /// else is at it.
    unlinker: Option<Unlinker>,
    /// Steps left before linking goes on.
    turn: usize,
    counts: Counts,
}

/// What healing has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Dead nodes taken out of the graph.
    pub removed: u64,
    /// Live nodes found that no walk could reach, and linked to again.
    pub unreachable: u64,
    /// Times the whole graph has been looked through.
    pub checks: u64,
}

impl Healing {
    /// `slot` has been linked.
    pub(super) fn note_linked(&mut self, slot: Slot, graph: &Graph, ward: &Ward) {
        ward.linked_since_check.fetch_add(1, Ordering::Relaxed);
        if let Some(unlinker) = &mut self.unlinker {
            unlinker.note_linked(slot);
        }
        let is_many = ward.dead() > graph.linked_count() as usize / MANY_SHARE;
        let steps = if is_many { STEPS_MANY } else { STEPS };
        // All owners link while one of them heals.
        self.turn = steps * ward.returned.len();
    }

    /// What it has done so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// True if a step has to come before the next document is linked.
    fn has_turn(&self) -> bool {
        self.turn > 0 || self.unlinker.as_ref().is_some_and(Unlinker::needs_scratch)
    }

    /// Begins if enough wait to be taken out of the graph, or if it is time to look for what can't be
    /// reached, while nothing is to be linked or because that was asked; unless somebody else is at
    /// work.
    fn begin(&mut self, graph: &Graph, ward: &Ward, slot_count: u32, is_idle: bool) {
        let linked = graph.linked_count() as usize;
        let share = if is_idle { DEAD_SHARE_IDLE } else { DEAD_SHARE_BUSY };
        let enough = (linked / share).max(DEAD_MIN).min(linked).max(1);
        let is_enough = ward.waiting.len() >= enough;
        let linked_since = ward.linked_since_check.load(Ordering::Relaxed);
        let is_check_due =
            ward.is_check_asked() || is_idle && linked_since > linked as u64 / SCRUB_SHARE;
        if !is_enough && !is_check_due || ward.is_healing.swap(true, Ordering::AcqRel) {
            return;
        }
        // Others may have done it meanwhile, which does no harm.
        self.unlinker = Some(match is_enough {
            true => Unlinker::new(ward.take_waiting()),
            false => Unlinker::check(graph, slot_count),
        });
    }
}

impl Engine {
    /// What healing has done since the start.
    #[must_use]
    pub fn healing(&self) -> Counts {
        self.healing.counts()
    }

    /// Dead nodes in the graph.
    #[must_use]
    pub fn dead_count(&self) -> usize {
        self.dead_linked
    }

    /// Does a step of healing if there is something to heal and it has its turn. No document is
    /// half linked by this shard. `is_idle` if there is none to be linked.
    pub(super) fn heal_step(&mut self, is_idle: bool) -> LinkProgress {
        if !is_idle && !self.healing.has_turn() {
            return LinkProgress::Idle;
        }
        self.healing.turn = self.healing.turn.saturating_sub(1);
        let slot_count = self.store.extent();
        if self.healing.unlinker.is_none() {
            self.healing.begin(&self.graph, &self.ward, slot_count, is_idle);
        }
        let Self { params, store, graph, healing, link_scratch, .. } = self;
        let Some(unlinker) = &mut healing.unlinker else {
            healing.turn = 0;
            return LinkProgress::Idle;
        };
        let is_ready = with_distance!(params.metric.for_linking(), D => {
            let rows = Rows { vectors: store.vectors(), codes: store.codes() };
            let context = Context { graph, rows, slot_count, is_live: |slot| store.is_live(slot) };
            unlinker.step::<D>(&context, link_scratch)
        });
        if is_ready {
            self.finish_healing(slot_count);
        }
        LinkProgress::More
    }

    /// Gives the slots to which nothing leads any more back to their owners.
    fn finish_healing(&mut self, slot_count: u32) {
        let Some(unlinker) = self.healing.unlinker.take() else { return };
        let counts = &mut self.healing.counts;
        counts.unreachable += unlinker.unreachable_found();
        counts.checks += 1;
        let removed = unlinker.finish(&self.graph, slot_count);
        counts.removed += removed.len() as u64;
        let stripe = self.store.stripe();
        for slot in removed {
            self.ward.returned[stripe.owner_of(slot) as usize].push(slot);
        }
        self.ward.linked_since_check.store(0, Ordering::Relaxed);
        self.ward.is_healing.store(false, Ordering::Release);
        self.take_back();
    }

    /// Takes this shard's slots back that others, or it, have taken out of the graph.
    pub(super) fn take_back(&mut self) {
        let owner = self.store.stripe().owner() as usize;
        while let Some(slot) = self.ward.returned[owner].pop() {
            self.store.release([slot]);
        }
    }

    /// Leaves the health of the graph to others: this shard is fenced.
    pub(super) fn stop_healing(&mut self) {
        if let Some(unlinker) = self.healing.unlinker.take() {
            for slot in unlinker.abandon(&self.graph) {
                self.ward.bury(slot);
            }
            self.ward.is_healing.store(false, Ordering::Release);
        }
    }
}

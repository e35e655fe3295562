//! The graph's health: dead nodes are taken out of it so that their slots are used again, and
//! live ones that no walk can reach are found and linked to.
//!
//! Dead nodes wait until there are enough of them to be worth a sweep of all lists. While
//! documents are linked, healing has a turn after each of them, and the longer one the more nodes
//! are dead: writes that replace documents for ever find slots. When nothing is to be linked, less
//! is enough, and after many changes the graph is looked through for nodes that can't be reached.

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

/// What keeps the graph of a shard healthy.
#[derive(Default)]
pub(super) struct Healing {
    /// Dead nodes that nobody wants to see any more.
    waiting: Vec<Slot>,
    /// Takes some of them out, or only looks for what can't be reached.
    unlinker: Option<Unlinker>,
    /// Steps left before linking goes on.
    turn: usize,
    /// Documents linked since the graph was last looked through.
    linked_since_check: u64,
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
    /// `slot`, which is in the graph, is dead, and no search sees it any more.
    pub(super) fn bury(&mut self, slot: Slot) {
        self.waiting.push(slot);
    }

    /// `slot` has been linked.
    pub(super) fn note_linked(&mut self, slot: Slot, linked: u32, dead: usize) {
        self.linked_since_check += 1;
        if let Some(unlinker) = &mut self.unlinker {
            unlinker.note_linked(slot);
        }
        let is_many = dead > linked as usize / MANY_SHARE;
        self.turn = if is_many { STEPS_MANY } else { STEPS };
    }

    /// What it has done so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// True if a step has to come before the next document is linked.
    fn has_turn(&self) -> bool {
        self.turn > 0 || self.unlinker.as_ref().is_some_and(Unlinker::needs_scratch)
    }

    /// Begins if enough wait to be taken out of `linked` nodes, or, while nothing is to be linked,
    /// if it is time to look for what can't be reached.
    fn begin(&mut self, graph: &Graph, slot_count: u32, is_idle: bool) {
        let linked = graph.linked_count() as usize;
        let share = if is_idle { DEAD_SHARE_IDLE } else { DEAD_SHARE_BUSY };
        let enough = (linked / share).max(DEAD_MIN).min(linked).max(1);
        if self.waiting.len() >= enough {
            self.unlinker = Some(Unlinker::new(std::mem::take(&mut self.waiting)));
        } else if is_idle && self.linked_since_check > linked as u64 / SCRUB_SHARE {
            self.unlinker = Some(Unlinker::check(graph, slot_count));
        }
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
    /// half linked. `is_idle` if there is none to be linked.
    pub(super) fn heal_step(&mut self, is_idle: bool) -> LinkProgress {
        let Self { params, store, graph, healing, link_scratch, applied, .. } = self;
        if !is_idle && !healing.has_turn() {
            return LinkProgress::Idle;
        }
        healing.turn = healing.turn.saturating_sub(1);
        let slot_count = store.slot_count();
        if healing.unlinker.is_none() {
            healing.begin(graph, slot_count, is_idle);
        }
        let Some(unlinker) = &mut healing.unlinker else {
            healing.turn = 0;
            return LinkProgress::Idle;
        };
        let is_ready = with_distance!(params.metric.for_linking(), D => {
            let rows = Rows { vectors: store.vectors(), codes: store.codes() };
            let context = Context { graph, rows, slot_count, is_live: |slot| store.is_live(slot) };
            unlinker.step::<D>(&context, link_scratch)
        });
        if !is_ready {
            return LinkProgress::More;
        }
        // A snapshot that is being written still has the nodes.
        if graph.is_frozen() {
            healing.turn = 0;
            return LinkProgress::Idle;
        }
        healing.counts.unreachable += unlinker.unreachable_found();
        healing.counts.checks += 1;
        healing.linked_since_check = 0;
        if let Some(unlinker) = healing.unlinker.take() {
            let removed = unlinker.finish(graph, slot_count);
            healing.counts.removed += removed.len() as u64;
            self.dead_linked -= removed.len();
            store.release(*applied, removed);
        }
        LinkProgress::More
    }
}

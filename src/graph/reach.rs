//! Which nodes a walk can reach from the entry on level 0, found in steps while the graph goes on
//! changing.
//!
//! A list that is read before it changes, or after, may make a node look unreachable that is not;
//! giving it another link does no harm. One that becomes unreachable meanwhile is found the next
//! time.

use super::Graph;
use super::visited::Visited;
use crate::types::Slot;

/// Lists read, and nodes looked at in the end, in a step: some 20 µs.
const STEP_LISTS: usize = 64;
const STEP_NODES: u32 = 2_048;

/// A search for unreachable nodes, on its way. Takes a bit a slot, and some four bytes for each node
/// that has been reached.
pub struct Reach {
    reached: Visited,
    /// Of those reached, in the order in which they were, the lists of so many have been read.
    read: usize,
    /// Nodes below this one have been looked at, once all that can be reached is.
    judged: u32,
    slot_count: u32,
    unreachable: Vec<Slot>,
}

impl Reach {
    /// Begins at the entry of `graph`, over the slots below `slot_count`.
    #[must_use]
    pub fn new(graph: &Graph, slot_count: u32) -> Self {
        let mut reached = Visited::default();
        reached.reset(slot_count);
        if let Some((entry, _)) = graph.entry() {
            reached.insert(entry);
        }
        Self { reached, read: 0, judged: 0, slot_count, unreachable: Vec::new() }
    }

    /// `slot` was linked after this began: it is not judged, but what it leads to is reached.
    pub fn note_linked(&mut self, slot: Slot) {
        self.reached.insert(slot);
    }

    /// Does a step; true when all nodes have been judged. Only those that `counts` says are
    /// wanted.
    pub fn step(&mut self, graph: &Graph, counts: impl Fn(Slot) -> bool) -> bool {
        let Self { reached, read, .. } = self;
        for _ in 0..STEP_LISTS {
            let Some(slot) = reached.nth(*read) else {
                return self.judge(graph, counts);
            };
            *read += 1;
            reached.begin_batch(graph.links_max(0));
            graph.for_each_neighbour(slot, 0, |neighbour| reached.add(neighbour));
        }
        false
    }

    fn judge(&mut self, graph: &Graph, counts: impl Fn(Slot) -> bool) -> bool {
        let end = self.slot_count.min(self.judged + STEP_NODES);
        // Another owner may have linked it since: then it has been linked to by a node reached.
        let leads = |slot| {
            let mut found = false;
            graph.for_each_neighbour(slot, 0, |near| {
                found |= self.reached.contains(near) && graph.leads(near, 0, slot);
            });
            found
        };
        let is_lost = |&slot: &Slot| {
            let is_reached = self.reached.contains(slot);
            // In this order: what is alive in a slot that was filled again is not linked yet.
            !is_reached && counts(slot) && graph.level(slot).is_some() && !leads(slot)
        };
        let lost: Vec<Slot> = (self.judged..end).map(Slot).filter(is_lost).collect();
        self.unreachable.extend(lost);
        self.judged = end;
        end == self.slot_count
    }

    /// The nodes that can't be reached.
    #[must_use]
    pub fn into_unreachable(self) -> Vec<Slot> {
        self.unreachable
    }
}

//! Search for the nodes that a walk can reach from the entry on level 0, in steps while the graph goes on changing.
//!
//! A list that is read before it changes, or after, may make a node look unreachable that is not; giving it another
//! link does no harm. A node that becomes unreachable meanwhile is found the next time.

use std::collections::VecDeque;

use super::Graph;
use crate::types::Slot;

/// Lists read, and nodes judged at the end, per step: some 20 µs.
const STEP_LISTS: usize = 64;
const STEP_NODES: u32 = 2_048;

/// Slots in a piece of the list of nodes yet to be read: nothing that grows with the graph is copied as a whole.
const PIECE: usize = 4_096;

/// Nodes that have been reached.
#[derive(Default)]
pub struct Reached {
    /// One bit per slot.
    words: Vec<u64>,
    /// Nodes whose lists are yet to be read: from `read` on in the first piece.
    open: VecDeque<Vec<Slot>>,
    read: usize,
}

impl Reached {
    fn new(slot_count: u32) -> Self {
        // Some more, for nodes linked meanwhile.
        let words = slot_count as usize / 64 * 9 / 8 + 64;
        Self { words: vec![0; words], open: VecDeque::new(), read: 0 }
    }

    fn insert(&mut self, slot: Slot) {
        let index = slot.index() / 64;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        let bit = 1 << (slot.0 % 64);
        if self.words[index] & bit != 0 {
            return;
        }
        self.words[index] |= bit;
        match self.open.back_mut().filter(|piece| piece.len() < PIECE) {
            Some(piece) => piece.push(slot),
            None => self.open.push_back(vec![slot]),
        }
    }

    /// True if a walk on level 0 reached `slot` from the entry.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.words.get(slot.index() / 64).is_some_and(|word| word & (1 << (slot.0 % 64)) != 0)
    }

    /// The next node whose list is to be read.
    fn next(&mut self) -> Option<Slot> {
        let piece = self.open.front()?;
        let slot = piece[self.read];
        self.read += 1;
        if self.read == piece.len() {
            self.open.pop_front();
            self.read = 0;
        }
        Some(slot)
    }
}

/// A search for unreachable nodes. It takes one bit per slot, and four bytes for each node that has been reached and
/// whose list has not been read yet.
pub struct Reach {
    reached: Reached,
    /// Nodes below this one have been judged, after all reachable nodes were found.
    judged: u32,
    slot_count: u32,
    unreachable: Vec<Slot>,
}

impl Reach {
    /// Begins at the entry of `graph`, over the slots below `slot_count`.
    #[must_use]
    pub fn new(graph: &Graph, slot_count: u32) -> Self {
        let mut reached = Reached::new(slot_count);
        if let Some((entry, _)) = graph.entry() {
            reached.insert(entry);
        }
        Self { reached, judged: 0, slot_count, unreachable: Vec::new() }
    }

    /// Notes that `slot` was linked after this began: it is not judged, but its neighbours are reached.
    pub fn note_linked(&mut self, slot: Slot) {
        self.reached.insert(slot);
    }

    /// Does a step; true when all nodes have been judged. Only nodes for which `counts` is true are judged.
    pub fn step(&mut self, graph: &Graph, counts: impl Fn(Slot) -> bool) -> bool {
        for _ in 0..STEP_LISTS {
            let Some(slot) = self.reached.next() else {
                return self.judge(graph, counts);
            };
            graph.for_each_neighbour(slot, 0, |neighbour| self.reached.insert(neighbour));
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
            // In this order: a live version in a slot that was filled again is not linked yet.
            !is_reached && counts(slot) && graph.level(slot).is_some() && !leads(slot)
        };
        let lost: Vec<Slot> = (self.judged..end).map(Slot).filter(is_lost).collect();
        self.unreachable.extend(lost);
        self.judged = end;
        end == self.slot_count
    }

    /// The counted nodes that can't be reached, by slot, and all nodes that can be.
    #[must_use]
    pub fn finish(self) -> (Vec<Slot>, Reached) {
        (self.unreachable, self.reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list of nodes to be read grows by pieces of a bounded size, none of which is ever copied to a larger one,
    /// and nodes come out in the order in which they were reached.
    #[test]
    fn open_nodes_are_kept_in_pieces_of_bounded_size() {
        const NODES: u32 = 50_000;
        let mut reached = Reached::new(NODES);
        for slot in (0..NODES).chain(0..NODES) {
            reached.insert(Slot(slot));
        }
        let pieces = NODES.div_ceil(PIECE as u32) as usize;
        assert_eq!(reached.open.len(), pieces);
        assert!(reached.open.iter().all(|piece| piece.capacity() <= PIECE));
        assert!((0..NODES).all(|slot| reached.contains(Slot(slot))));
        assert!(!reached.contains(Slot(NODES)));
        for slot in 0..NODES {
            assert_eq!(reached.next(), Some(Slot(slot)));
        }
        // Pieces that have been read are freed.
        assert_eq!((reached.next(), reached.open.len()), (None, 0));
    }
}

//! The HNSW graph of one shard (Malkov and Yashunin, "Efficient and robust approximate nearest
//! neighbor search using Hierarchical Navigable Small World graphs", 2016), over the slots of
//! a [`Store`](crate::store::Store).
//!
//! - Mutable in place, readable by other threads without a lock: adjacency is arrays of atomics
//!   in arenas that never move. A reader sees an old or a new neighbour, and both are valid.
//!   Only the owner writes.
//! - A node's level is a function of the seed and its document id, and nothing here is random:
//!   one order of inserts gives one graph, now and at every replay of the log.
//! - The walk ([`search::Beam`]) and the insert ([`insert::Linker`]) stop after a stated amount
//!   of work and go on later, so that a core can serve between their slices.
//! - The graph knows slots and vectors, not documents: who is alive, visible or wanted is asked
//!   of a closure. The walk goes through nodes that the closure refuses.

pub mod adopt;
pub mod check;
pub mod filtered;
pub mod frozen;
pub mod insert;
mod layer;
mod memory;
mod pool;
pub mod reach;
mod restore;
pub mod search;
pub mod space;
pub mod unlink;
pub(crate) mod visited;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use self::frozen::Frozen;
use self::layer::Layers;
use crate::store::arena::Arena;
use crate::types::{DocId, Slot, mix};

/// Levels above 0 that a node can have. With M = 5, the smallest, the expected top level of
/// 67 million nodes is 11.
pub const LEVEL_MAX: u8 = 15;

/// What shapes the graph.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Links a new node makes on each level; level 0 holds up to twice as many a node.
    pub m: usize,
    /// Beam width while linking.
    pub ef_construction: usize,
    /// Decides the levels, together with the document ids.
    pub seed: u64,
}

/// The graph: adjacency by slot and level, and where a walk enters.
pub struct Graph {
    params: Params,
    layers: Layers,
    /// 0 for a slot that is not linked, else its level + 1.
    levels: Arena<AtomicU8>,
    /// 0 while empty, else `(level + 1) << 32 | slot`.
    entry: AtomicU64,
    linked_count: AtomicU32,
    /// The graph is being kept as it was. Looked at by writers before they lock `frozen`, which
    /// no walk does.
    is_frozen: AtomicBool,
    frozen: Mutex<Option<Frozen>>,
}

impl Graph {
    /// An empty graph.
    #[must_use]
    pub fn new(params: Params) -> Self {
        assert!(params.m >= 2 && params.ef_construction >= params.m);
        Self {
            params,
            layers: Layers::new(2 * params.m, params.m),
            levels: Arena::per_slot(),
            entry: AtomicU64::new(0),
            linked_count: AtomicU32::new(0),
            is_frozen: AtomicBool::new(false),
            frozen: Mutex::new(None),
        }
    }

    /// What shapes this graph.
    #[must_use]
    pub fn params(&self) -> Params {
        self.params
    }

    /// Nodes in the graph, dead ones included.
    #[must_use]
    pub fn linked_count(&self) -> u32 {
        self.linked_count.load(Ordering::Acquire)
    }

    /// Most links a node has on `level`.
    #[must_use]
    pub fn links_max(&self, level: u8) -> usize {
        if level == 0 { 2 * self.params.m } else { self.params.m }
    }

    /// The level that the document `id` has, or will have when it is linked.
    #[must_use]
    pub fn level_of(&self, id: DocId) -> u8 {
        // The exponential distribution of the paper, with mL = 1 / ln(M).
        let bits = mix(id.0 ^ mix(self.params.seed));
        let uniform = ((bits >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        let level = -uniform.ln() / (self.params.m as f64).ln();
        level.min(f64::from(LEVEL_MAX)) as u8
    }

    /// The level of a linked slot; `None` if it is not in the graph.
    #[inline]
    #[must_use]
    pub fn level(&self, slot: Slot) -> Option<u8> {
        self.levels.get(slot.index()).load(Ordering::Acquire).checked_sub(1)
    }

    /// Makes room for `slot`. Every slot of the store is announced before it is asked about.
    pub fn reserve(&self, slot: Slot) {
        self.levels.reserve(slot.index());
        self.layers.reserve(slot);
    }

    /// Node and level where every walk begins; `None` while the graph is empty.
    #[must_use]
    pub fn entry(&self) -> Option<(Slot, u8)> {
        let entry = self.entry.load(Ordering::Acquire);
        let level = u8::try_from(entry >> 32).expect("levels are small").checked_sub(1)?;
        Some((Slot(entry as u32), level))
    }

    /// Calls `visit` with each neighbour of `slot` on `level`.
    #[inline]
    pub fn for_each_neighbour(&self, slot: Slot, level: u8, mut visit: impl FnMut(Slot)) {
        let links = self.layers.links(slot, level);
        for link in links.iter().flat_map(|line| &line.0) {
            match link.load(Ordering::Acquire) {
                0 => break,
                link => visit(Slot(link - 1)),
            }
        }
    }

    /// Asks for the list of `slot` on `level`, which is needed soon.
    #[inline]
    pub(crate) fn prefetch_links(&self, slot: Slot, level: u8) {
        crate::kernels::simd::prefetch(self.layers.links(slot, level));
    }

    /// The neighbours of `slot` on `level`, in list order.
    #[must_use]
    pub fn neighbours(&self, slot: Slot, level: u8) -> Vec<Slot> {
        let mut neighbours = Vec::with_capacity(self.links_max(level));
        self.for_each_neighbour(slot, level, |neighbour| neighbours.push(neighbour));
        neighbours
    }

    /// Replaces the list of `slot` on `level`.
    fn set_neighbours(&self, slot: Slot, level: u8, neighbours: &[Slot]) {
        assert!(neighbours.len() <= self.links_max(level));
        self.before_write(slot, level);
        let links = self.layers.links(slot, level).iter().flat_map(|line| &line.0);
        let values = neighbours.iter().map(|n| n.0 + 1).chain(std::iter::repeat(0));
        for (link, value) in links.zip(values) {
            link.store(value, Ordering::Release);
        }
    }

    /// Adds `neighbour` at the end of the list; false if the list is full.
    fn push_neighbour(&self, slot: Slot, level: u8, neighbour: Slot) -> bool {
        self.before_write(slot, level);
        let links = self.layers.links(slot, level).iter().flat_map(|line| &line.0);
        for link in links.take(self.links_max(level)) {
            match link.load(Ordering::Relaxed) {
                0 => {
                    link.store(neighbour.0 + 1, Ordering::Release);
                    return true;
                }
                present => debug_assert_ne!(present, neighbour.0 + 1, "linked twice"),
            }
        }
        false
    }

    /// Gives `slot` its lists, empty. Returns the level it got: `level`, unless the upper levels
    /// are full.
    fn allocate(&self, slot: Slot, level: u8) -> u8 {
        let level = self.layers.allocate_upper(slot, level);
        for level in 1..=level {
            self.set_neighbours(slot, level, &[]);
        }
        level
    }

    /// Takes a node out, to which nothing leads any more. The graph is not frozen.
    fn remove(&self, slot: Slot) {
        debug_assert!(!self.is_frozen(), "what is frozen still has this node");
        let level = self.level(slot).expect("a node that is linked");
        for level in 0..=level {
            self.set_neighbours(slot, level, &[]);
        }
        self.levels.get(slot.index()).store(0, Ordering::Release);
        self.linked_count.fetch_sub(1, Ordering::Release);
        self.layers.release_upper(slot, level);
    }

    /// Sets where walks begin.
    fn set_entry(&self, entry: Option<(u8, Slot)>) {
        let entry = entry.map_or(0, |(level, slot)| u64::from(level + 1) << 32 | u64::from(slot.0));
        self.entry.store(entry, Ordering::Release);
    }

    /// Counts `slot` as linked, and makes it the entry if it is higher than the present one.
    fn publish(&self, slot: Slot, level: u8) {
        if self.is_frozen.load(Ordering::Relaxed) {
            self.note_linked(slot);
        }
        self.levels.get(slot.index()).store(level + 1, Ordering::Release);
        self.linked_count.fetch_add(1, Ordering::Release);
        if self.entry().is_none_or(|(_, top)| level > top) {
            self.set_entry(Some((level, slot)));
        }
    }
}

#[cfg(test)]
mod tests;

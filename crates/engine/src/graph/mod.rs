//! The HNSW graph of one partition (Malkov and Yashunin, "Efficient and robust approximate nearest
//! neighbor search using Hierarchical Navigable Small World graphs", 2016), over the slots of
//! one or more [`Store`](crate::store::Store)s.
//!
//! - Mutable in place, readable by other threads without a lock: adjacency is arrays of atomics
//!   in arenas that never move. A reader sees an old or a new neighbour, and both are valid.
//! - A linker writes to the lists of the node's neighbours, of any owner, after taking hold of each (`hold`). It
//!   never waits for a hold: a list that is held is tried again in a later step.
//! - A node's level is a function of the seed and its document id, and nothing here is random:
//!   one order of inserts gives one graph, now and at every replay of the log.
//! - The walk ([`search::Beam`]) and the insert ([`insert::Linker`]) stop after a stated amount
//!   of work and go on later, so that a core can serve between their slices.
//! - The graph knows slots and vectors, not documents: a closure tells which are alive, visible or wanted. The walk
//!   goes through nodes that the closure refuses.

pub mod adopt;
pub mod agreement;
pub mod check;
mod dead_links;
pub mod filtered;
pub mod frozen;
mod high;
mod hold;
pub mod insert;
mod layer;
mod memory;
mod pool;
mod prune;
pub mod reach;
mod restore;
pub mod search;
pub mod space;
pub mod unlink;
pub(crate) mod visited;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use self::dead_links::DeadLinks;
use self::frozen::Frozen;
use self::high::High;
use self::hold::{DOOMED, Held, LEFT, LEVEL};
use self::layer::Layers;
use crate::store::arena::Arena;
use crate::types::stripe::Stripe;
use crate::types::{DocId, Slot, mix};

pub use crate::types::limits::LEVEL_MAX;

/// Parameters of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Links that a new node makes on each level; a list on level 0 holds up to twice as many.
    pub m: usize,
    /// Beam width while linking.
    pub ef_construction: usize,
    /// Decides the levels, together with the document ids.
    pub seed: u64,
}

/// The graph: neighbour lists by slot and level, and the entry of walks.
pub struct Graph {
    params: Params,
    layers: Layers,
    /// 0 for a slot that is not linked, else its level + 1; and flags of [`hold`].
    levels: Arena<AtomicU8>,
    /// 0 while empty, else `(level + 1) << 32 | slot`.
    entry: AtomicU64,
    /// Counts and frozen state, by owner.
    owners: Box<[Owner]>,
    dead_links: DeadLinks,
    /// See [`Graph::doubts`].
    doubts: AtomicU64,
    high: High,
}

/// Counts and frozen state of the nodes of one owner.
#[derive(Default)]
#[repr(align(128))]
struct Owner {
    linked_count: AtomicU32,
    /// Nodes among them that have left ([`Graph::leave`]) and are not removed yet.
    left_count: AtomicU32,
    /// True while its part of the graph is frozen. Writers look at it before they lock `frozen`, which no walk does.
    is_frozen: AtomicBool,
    frozen: Mutex<Option<Frozen>>,
}

impl Graph {
    /// An empty graph, of one owner.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self::shared(params, 1)
    }

    /// An empty graph of `owners` owners.
    #[must_use]
    pub fn shared(params: Params, owners: u32) -> Self {
        assert!(params.m >= 2 && params.ef_construction >= params.m);
        let names_max = Stripe::new(0, owners).names_max();
        Self {
            params,
            layers: Layers::new(2 * params.m, params.m, owners),
            levels: Arena::per_slot(names_max),
            entry: AtomicU64::new(0),
            owners: (0..owners).map(|_| Owner::default()).collect(),
            dead_links: DeadLinks::default(),
            doubts: AtomicU64::new(0),
            high: High::new(params.m),
        }
    }

    /// The parameters of this graph.
    #[must_use]
    pub fn params(&self) -> Params {
        self.params
    }

    /// Nodes in the graph, dead ones included.
    #[must_use]
    pub fn linked_count(&self) -> u32 {
        self.owners.iter().map(|owner| owner.linked_count.load(Ordering::Acquire)).sum()
    }

    /// Nodes of one owner in the graph, dead ones included.
    #[must_use]
    pub fn linked_of(&self, owner: u32) -> u32 {
        self.owners[owner as usize].linked_count.load(Ordering::Acquire)
    }

    /// Nodes of one owner in the graph that something may lead to: all but those that have left.
    #[must_use]
    pub fn staying_of(&self, owner: u32) -> u32 {
        self.linked_of(owner) - self.left_of(owner)
    }

    /// Nodes of one owner that have left, and are not removed yet.
    #[must_use]
    pub fn left_of(&self, owner: u32) -> u32 {
        self.owners[owner as usize].left_count.load(Ordering::Acquire)
    }

    /// The slots of the owner of `slot`.
    #[inline]
    fn stripe_of(&self, slot: Slot) -> Stripe {
        let owners = self.owners.len() as u32;
        Stripe::new(Stripe::new(0, owners).owner_of(slot), owners)
    }

    fn owner_of(&self, slot: Slot) -> &Owner {
        &self.owners[self.stripe_of(slot).owner() as usize]
    }

    /// Links dropped so far that may have been the last to their nodes, as no list near them had room.
    #[must_use]
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Relaxed)
    }

    fn note_doubt(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    /// Most links of a node on `level`.
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
        (self.levels.get(slot.index()).load(Ordering::Acquire) & LEVEL).checked_sub(1)
    }

    /// True if `slot` is linked, but nothing leads to it any more.
    #[must_use]
    pub fn has_left(&self, slot: Slot) -> bool {
        self.levels.get(slot.index()).load(Ordering::Acquire) & LEFT != 0
    }

    /// True if `slot` is a dead node that is being removed, or has left.
    #[inline]
    fn is_doomed(&self, slot: Slot) -> bool {
        self.levels.get(slot.index()).load(Ordering::SeqCst) & DOOMED != 0
    }

    /// Marks `slot`, a dead node, as being removed, or takes the mark away.
    fn set_doomed(&self, slot: Slot, is_doomed: bool) {
        let level = self.levels.get(slot.index());
        // Of two threads that remove nodes, at least one sees the mark of the other.
        match is_doomed {
            true => level.fetch_or(DOOMED, Ordering::SeqCst),
            false => level.fetch_and(!DOOMED, Ordering::SeqCst),
        };
    }

    /// Marks that nothing leads to `slot` any more but nodes that have left. [`Graph::remove`] has to follow. For its
    /// owner alone.
    fn leave(&self, slot: Slot) {
        let owner = self.owner_of(slot);
        if owner.is_frozen.load(Ordering::Relaxed) {
            self.note_left(slot);
        }
        self.levels.get(slot.index()).fetch_or(LEFT, Ordering::AcqRel);
        owner.left_count.fetch_add(1, Ordering::Release);
    }

    /// Makes room for `slot`. Called for every slot of the store before any other use of the slot.
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

    /// Prefetches the list of `slot` on `level`.
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

    /// True if the list of `source` on `level` has `target`.
    #[must_use]
    pub fn leads(&self, source: Slot, level: u8, target: Slot) -> bool {
        let mut leads = false;
        self.for_each_neighbour(source, level, |neighbour| leads |= neighbour == target);
        leads
    }

    /// Replaces the list of a node on `level`.
    fn set_neighbours(&self, held: &Held<'_>, level: u8, neighbours: &[Slot]) {
        self.write(held.slot(), level, neighbours);
    }

    /// Writes a list that no other thread writes to.
    fn write(&self, slot: Slot, level: u8, neighbours: &[Slot]) {
        assert!(neighbours.len() <= self.links_max(level));
        let links = self.layers.links(slot, level).iter().flat_map(|line| &line.0);
        let values = neighbours.iter().map(|n| n.0 + 1).chain(std::iter::repeat(0));
        for (link, value) in links.zip(values) {
            link.store(value, Ordering::Release);
        }
    }

    /// Adds `neighbour` at the end of the list; false if the list is full.
    fn push_neighbour(&self, held: &Held<'_>, level: u8, neighbour: Slot) -> bool {
        let links = self.layers.links(held.slot(), level).iter().flat_map(|line| &line.0);
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

    /// Gives empty lists to `slot`, to which nothing leads. Returns its level: `level`, unless the upper levels are
    /// full.
    fn allocate(&self, slot: Slot, level: u8) -> u8 {
        let level = self.layers.allocate_upper(self.stripe_of(slot), slot, level);
        for level in 0..=level {
            self.first_write(slot, level, &[]);
        }
        level
    }

    /// Writes a list of a node to which nothing leads yet.
    fn first_write(&self, slot: Slot, level: u8, neighbours: &[Slot]) {
        self.keep_frozen_list(slot, level);
        self.write(slot, level, neighbours);
    }

    /// Removes a node to which nothing leads any more, and at which no walk is. For its owner alone. False if that
    /// has to wait: the frozen state still has this node.
    pub fn remove(&self, slot: Slot) -> bool {
        let owner = self.owner_of(slot);
        if owner.is_frozen.load(Ordering::Relaxed) {
            return false;
        }
        let level = self.level(slot).expect("a node that is linked");
        for level in 0..=level {
            self.write(slot, level, &[]);
        }
        let before = self.levels.get(slot.index()).swap(0, Ordering::AcqRel);
        owner.left_count.fetch_sub(u32::from(before & LEFT != 0), Ordering::Release);
        owner.linked_count.fetch_sub(1, Ordering::Release);
        self.layers.release_upper(self.stripe_of(slot), slot, level);
        true
    }

    /// Sets the entry of walks, unless it is no longer `before`.
    fn replace_entry(&self, before: u64, entry: Option<(u8, Slot)>) -> bool {
        let entry = entry.map_or(0, |(level, slot)| u64::from(level + 1) << 32 | u64::from(slot.0));
        let ordering = Ordering::AcqRel;
        self.entry.compare_exchange(before, entry, ordering, Ordering::Acquire).is_ok()
    }

    /// Makes `slot` the entry if it is higher than the present one.
    fn offer_entry(&self, slot: Slot, level: u8) {
        loop {
            let before = self.entry.load(Ordering::Acquire);
            let is_higher = before >> 32 < u64::from(level) + 1;
            if !is_higher || self.replace_entry(before, Some((level, slot))) {
                return;
            }
        }
    }

    /// Makes `slot` the first node. False if the graph has a node by now.
    fn publish_first(&self, slot: Slot, level: u8) -> bool {
        let is_first = self.replace_entry(0, Some((level, slot)));
        if is_first {
            self.publish(slot, level);
        }
        is_first
    }

    /// Counts `slot` as linked, and makes it the entry if it is higher than the present one.
    fn publish(&self, slot: Slot, level: u8) {
        self.mark_linked(slot, level);
        self.offer_entry(slot, level);
    }

    /// Counts `slot` as linked.
    fn mark_linked(&self, slot: Slot, level: u8) {
        let owner = self.owner_of(slot);
        if owner.is_frozen.load(Ordering::Relaxed) {
            self.note_linked(slot);
        }
        // Another thread may hold it: the first links lead to it already.
        self.levels.get(slot.index()).fetch_or(level + 1, Ordering::AcqRel);
        owner.linked_count.fetch_add(1, Ordering::Release);
        self.high.note(slot, level, |slot| self.level(slot));
    }

    /// Forgets the nodes of an owner, which no thread reads.
    pub fn clear(&self, stripe: Stripe) {
        for slot in (0..self.levels.reserved() as u32).map(Slot).filter(|&slot| stripe.owns(slot)) {
            let level = self.levels.get(slot.index());
            if level.load(Ordering::Relaxed) != 0 {
                level.store(0, Ordering::Release);
            }
        }
        self.layers.clear(stripe);
        self.high.forget(|slot| stripe.owns(slot));
        let owner = &self.owners[stripe.owner() as usize];
        owner.linked_count.store(0, Ordering::Release);
        owner.left_count.store(0, Ordering::Release);
    }
}

#[cfg(test)]
impl Graph {
    /// Removes all links to `lost` on level 0, from the nodes below `slot_count`.
    pub fn cut_off(&self, lost: Slot, slot_count: u32) {
        for slot in (0..slot_count).map(Slot).filter(|&slot| self.leads(slot, 0, lost)) {
            let mut list = self.neighbours(slot, 0);
            list.retain(|&near| near != lost);
            self.set_neighbours(&self.hold(slot).expect("one thread"), 0, &list);
        }
    }
}

#[cfg(test)]
mod owners_tests;
#[cfg(test)]
mod tests;

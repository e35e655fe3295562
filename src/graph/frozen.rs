//! The graph as it was at one moment, while it goes on changing: copy before write.
//!
//! [`Graph::freeze`] takes no time. From then on, whoever writes to a block of lists for the
//! first time keeps a copy of it, until whoever reads the frozen graph has passed that block. A
//! reader goes through the blocks in order, and ends with [`Graph::thaw`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Graph;
use super::layer::Lists;
use crate::types::Slot;

/// Sizes and entry of a graph at the moment it was frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Slots that had been announced.
    pub slots: u32,
    /// Nodes in the graph.
    pub linked: u32,
    /// Lists above level 0.
    pub upper_lists: u32,
    /// Where walks begin, as the graph keeps it.
    pub entry: u64,
}

/// What has to be kept of the moment.
pub(super) struct Frozen {
    frame: Frame,
    base: Kept,
    upper: Kept,
    /// Nodes linked since.
    linked_since: BTreeSet<Slot>,
}

/// Lists of one kind.
struct Kept {
    rows: usize,
    block_rows: usize,
    /// Blocks below this one have been read.
    blocks_read: usize,
    copies: BTreeMap<usize, Vec<u32>>,
}

impl Kept {
    fn new(rows: u32, block_rows: u32) -> Self {
        let (rows, block_rows) = (rows as usize, block_rows as usize);
        Self { rows, block_rows, blocks_read: 0, copies: BTreeMap::new() }
    }

    fn range(&self, block: usize) -> std::ops::Range<usize> {
        let start = block * self.block_rows;
        start..self.rows.min(start + self.block_rows)
    }

    /// Row `row` is about to be written.
    fn before_write(&mut self, row: usize, lists: &Lists) {
        let block = row / self.block_rows;
        if row < self.rows && block >= self.blocks_read && !self.copies.contains_key(&block) {
            self.copies.insert(block, lists.values(self.range(block)));
        }
    }

    fn read(&mut self, block: usize, lists: &Lists) -> Vec<u32> {
        assert_eq!(block, self.blocks_read, "blocks are read in order");
        self.blocks_read += 1;
        self.copies.remove(&block).unwrap_or_else(|| lists.values(self.range(block)))
    }
}

impl Graph {
    /// Keeps the graph as it is now, to be read in blocks of so many rows, until
    /// [`Graph::thaw`]. No node is being linked at this moment.
    ///
    /// # Panics
    /// If it is frozen already.
    #[must_use]
    pub fn freeze(&self, slots: u32, block_rows: u32) -> Frame {
        let frame = Frame {
            slots,
            linked: self.linked_count(),
            upper_lists: self.layers.upper_count(),
            entry: self.entry.load(Ordering::Acquire),
        };
        let frozen = Frozen {
            frame,
            base: Kept::new(slots, block_rows),
            upper: Kept::new(frame.upper_lists, block_rows),
            linked_since: BTreeSet::new(),
        };
        let before = self.frozen().replace(frozen);
        assert!(before.is_none(), "a graph is frozen once at a time");
        self.is_frozen.store(true, Ordering::Release);
        frame
    }

    /// True between [`Graph::freeze`] and [`Graph::thaw`].
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.is_frozen.load(Ordering::Relaxed)
    }

    /// Forgets the frozen state.
    pub fn thaw(&self) {
        self.is_frozen.store(false, Ordering::Release);
        self.frozen().take();
    }

    /// The lists on level 0 of a block of slots, frozen; [`Graph::list_values`] values each.
    ///
    /// # Panics
    /// If the graph is not frozen, or the blocks are not asked for in order.
    #[must_use]
    pub fn frozen_links(&self, block: u32) -> Vec<u32> {
        self.with_frozen(|frozen| frozen.base.read(block as usize, &self.layers.base))
    }

    /// A block of the lists above level 0, frozen; [`Graph::upper_list_values`] values each.
    ///
    /// # Panics
    /// As [`Graph::frozen_links`].
    #[must_use]
    pub fn frozen_upper_links(&self, block: u32) -> Vec<u32> {
        self.with_frozen(|frozen| frozen.upper.read(block as usize, &self.layers.upper))
    }

    /// For each of these slots, 0 if it was not linked, else its level + 1 and the number of its
    /// first list above level 0, + 1.
    ///
    /// # Panics
    /// If the graph is not frozen.
    pub fn frozen_nodes(&self, slots: std::ops::Range<u32>, mut take: impl FnMut(u8, u32)) {
        self.with_frozen(|frozen| {
            for slot in slots.map(Slot) {
                let was_linked = !frozen.linked_since.contains(&slot);
                match self.levels.get(slot.index()).load(Ordering::Acquire) {
                    level if level > 0 && was_linked => take(level, self.layers.upper_start(slot)),
                    _ => take(0, 0),
                }
            }
        });
    }

    /// A list of `slot` on `level` is about to change.
    pub(super) fn before_write(&self, slot: Slot, level: u8) {
        if !self.is_frozen.load(Ordering::Relaxed) {
            return;
        }
        let row = self.layers.row(slot, level);
        if let Some(frozen) = &mut *self.frozen() {
            match level {
                0 => frozen.base.before_write(row, &self.layers.base),
                _ => frozen.upper.before_write(row, &self.layers.upper),
            }
        }
    }

    /// `slot` is being linked.
    pub(super) fn note_linked(&self, slot: Slot) {
        if let Some(frozen) = &mut *self.frozen()
            && slot.0 < frozen.frame.slots
        {
            frozen.linked_since.insert(slot);
        }
    }

    fn with_frozen<T>(&self, read: impl FnOnce(&mut Frozen) -> T) -> T {
        read(self.frozen().as_mut().expect("the graph is frozen"))
    }

    fn frozen(&self) -> std::sync::MutexGuard<'_, Option<Frozen>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

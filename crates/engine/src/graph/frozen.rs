//! Copy-on-write state of one owner's nodes at one moment, while the graph goes on changing.
//!
//! [`Graph::freeze`] takes no time. From then on, the first write to a block of lists keeps a copy of the block,
//! until the reader of the frozen graph has passed that block. A reader goes through the blocks in order, and ends
//! with [`Graph::thaw`].
//!
//! Nodes that have left, to which no remaining node leads, are not part of the frozen state: they are removed one
//! after the other, and the lists of one may lead to another that is gone already.
//!
//! With several owners, one may be writing to a list when another's part is frozen, or to one list while the block
//! around it is copied. Such a list is a mixture of its former and later contents: all its links have been there. The
//! restore drops links that are there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, TryLockError};

use super::Graph;
use super::hold::{LEFT, LEVEL};
use super::layer::Lists;
use crate::types::Slot;
use crate::types::stripe::Stripe;

/// Sizes and entry of a graph at the moment it was frozen: of the slots of one owner, by local number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Slots that had been announced.
    pub slots: u32,
    /// Nodes in the graph, without those that had left.
    pub linked: u32,
    /// Lists above level 0.
    pub upper_lists: u32,
    /// The entry of walks, as the graph stores it.
    pub entry: u64,
}

/// Data kept of the frozen moment.
pub(super) struct Frozen {
    stripe: Stripe,
    frame: Frame,
    base: Kept,
    upper: Kept,
    /// Nodes linked since the moment.
    linked_since: BTreeSet<Slot>,
    /// Nodes that have left since the moment: one bit per slot, by local number.
    left_since: Vec<u64>,
}

impl Frozen {
    /// Word and bit of a slot.
    fn bit_of(&self, slot: Slot) -> (usize, u64) {
        let number = self.stripe.number(slot);
        ((number / u64::BITS) as usize, 1 << (number % u64::BITS))
    }

    fn has_left_since(&self, slot: Slot) -> bool {
        let (word, bit) = self.bit_of(slot);
        self.left_since.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// Lists of one kind, with copies of the changed blocks.
struct Kept {
    rows: usize,
    block_rows: usize,
    /// Number of blocks that have been read, in order.
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

    /// Keeps a copy of the block of the row with this local number, which is about to be written.
    fn before_write(&mut self, stripe: Stripe, number: usize, lists: &Lists) {
        let block = number / self.block_rows;
        if number < self.rows && block >= self.blocks_read && !self.copies.contains_key(&block) {
            self.copies.insert(block, lists.values(stripe, self.range(block)));
        }
    }

    fn read(&mut self, stripe: Stripe, block: usize, lists: &Lists) -> Vec<u32> {
        assert_eq!(block, self.blocks_read, "blocks are read in order");
        self.blocks_read += 1;
        self.copies.remove(&block).unwrap_or_else(|| lists.values(stripe, self.range(block)))
    }
}

impl Graph {
    /// Keeps the present state of the nodes of `stripe`, to be read in blocks of `block_rows` rows, until
    /// [`Graph::thaw`]. None of its nodes may be in the process of being linked.
    ///
    /// # Panics
    /// If a state of these nodes is kept already.
    #[must_use]
    pub fn freeze(&self, stripe: Stripe, slots: u32, block_rows: u32) -> Frame {
        let frame = Frame {
            slots,
            linked: self.staying_of(stripe.owner()),
            upper_lists: self.layers.upper_count(stripe),
            entry: self.entry.load(Ordering::Acquire),
        };
        let frozen = Frozen {
            stripe,
            frame,
            base: Kept::new(slots, block_rows),
            upper: Kept::new(frame.upper_lists, block_rows),
            linked_since: BTreeSet::new(),
            left_since: vec![0; slots.div_ceil(u64::BITS) as usize],
        };
        let owner = &self.owners[stripe.owner() as usize];
        let before = owner.frozen().replace(frozen);
        assert!(before.is_none(), "a graph is frozen once at a time");
        owner.is_frozen.store(true, Ordering::SeqCst);
        frame
    }

    /// Forgets the frozen state.
    pub fn thaw(&self, stripe: Stripe) {
        let owner = &self.owners[stripe.owner() as usize];
        owner.is_frozen.store(false, Ordering::Release);
        owner.frozen().take();
    }

    /// The frozen lists on level 0 of a block of slots; [`Graph::list_values`] values each.
    ///
    /// # Panics
    /// If the graph is not frozen, or the blocks are not asked for in order.
    #[must_use]
    pub fn frozen_links(&self, stripe: Stripe, block: u32) -> Vec<u32> {
        self.with_frozen(stripe, |frozen| {
            frozen.base.read(stripe, block as usize, &self.layers.base)
        })
    }

    /// A block of the frozen lists above level 0; [`Graph::upper_list_values`] values each.
    ///
    /// # Panics
    /// As [`Graph::frozen_links`].
    #[must_use]
    pub fn frozen_upper_links(&self, stripe: Stripe, block: u32) -> Vec<u32> {
        self.with_frozen(stripe, |frozen| {
            frozen.upper.read(stripe, block as usize, &self.layers.upper)
        })
    }

    /// For each of these local slots, 0 if it was not linked or had left, else its level + 1 and the number of its
    /// first list above level 0, + 1.
    ///
    /// # Panics
    /// If the graph is not frozen.
    pub fn frozen_nodes(
        &self,
        stripe: Stripe,
        numbers: std::ops::Range<u32>,
        mut take: impl FnMut(u8, u32),
    ) {
        self.with_frozen(stripe, |frozen| {
            for slot in numbers.map(|number| stripe.slot(number)) {
                let word = self.levels.get(slot.index()).load(Ordering::Acquire);
                let was_there = !frozen.linked_since.contains(&slot)
                    && (word & LEFT == 0 || frozen.has_left_since(slot));
                match word & LEVEL {
                    level if level > 0 && was_there => {
                        let row = self.layers.upper_start(slot).checked_sub(1).map(Slot);
                        take(level, row.map_or(0, |row| stripe.number(row) + 1));
                    }
                    _ => take(0, 0),
                }
            }
        });
    }

    /// Keeps the lists of a node, which are about to change, if its owner's nodes are frozen. False if another thread
    /// is keeping lists of this owner at the moment.
    pub(super) fn keep_frozen(&self, slot: Slot) -> bool {
        let owner = self.owner_of(slot);
        if !owner.is_frozen.load(Ordering::SeqCst) {
            return true;
        }
        let mut frozen = match owner.frozen.try_lock() {
            Ok(frozen) => frozen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        // A node that was not linked then is not part of the frozen state.
        if let (Some(frozen), Some(level)) = (&mut *frozen, self.level(slot)) {
            (0..=level).for_each(|level| self.keep_list(frozen, slot, level));
        }
        true
    }

    /// Keeps a list of a node that is not linked yet. Only a single owner has to: its frozen lists must lead to nodes
    /// of the frozen moment alone.
    pub(super) fn keep_frozen_list(&self, slot: Slot, level: u8) {
        let owner = self.owner_of(slot);
        if self.owners.len() == 1
            && owner.is_frozen.load(Ordering::Relaxed)
            && let Some(frozen) = &mut *owner.frozen()
        {
            self.keep_list(frozen, slot, level);
        }
    }

    fn keep_list(&self, frozen: &mut Frozen, slot: Slot, level: u8) {
        let stripe = frozen.stripe;
        let number = stripe.number(Slot(self.layers.row(slot, level) as u32)) as usize;
        match level {
            0 => frozen.base.before_write(stripe, number, &self.layers.base),
            _ => frozen.upper.before_write(stripe, number, &self.layers.upper),
        }
    }

    /// Notes that `slot` is being linked.
    pub(super) fn note_linked(&self, slot: Slot) {
        if let Some(frozen) = &mut *self.owner_of(slot).frozen()
            && frozen.stripe.number(slot) < frozen.frame.slots
        {
            frozen.linked_since.insert(slot);
        }
    }

    /// Notes that `slot` leaves.
    pub(super) fn note_left(&self, slot: Slot) {
        if let Some(frozen) = &mut *self.owner_of(slot).frozen() {
            let (word, bit) = frozen.bit_of(slot);
            // A node linked since the moment is not part of the frozen state anyway.
            if let Some(word) = frozen.left_since.get_mut(word) {
                *word |= bit;
            }
        }
    }

    fn with_frozen<T>(&self, stripe: Stripe, read: impl FnOnce(&mut Frozen) -> T) -> T {
        let owner = &self.owners[stripe.owner() as usize];
        read(owner.frozen().as_mut().expect("the graph is frozen"))
    }
}

impl super::Owner {
    fn frozen(&self) -> std::sync::MutexGuard<'_, Option<Frozen>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

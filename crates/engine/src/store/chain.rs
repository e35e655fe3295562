//! Chains of slots, one per owner of a partition, which other threads follow while the owner takes slots off the
//! front and adds others at the end.
//!
//! A slot keeps its link when it is taken off, so that a reader at that slot finds the next one. The slot may be
//! added again only after all such readers have gone, which the store ensures: a slot is filled again once every view
//! is closed that was open when the slot was taken off.

use super::arena::Arena;
use super::member::Padded;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::types::Slot;
use crate::types::stripe::Stripe;

/// A link is the next slot + 1, or this value at the end of a chain.
const END: u32 = u32::MAX >> 1;

/// Set in the link of a slot that has been taken off.
const OFF: u32 = 1 << 31;

/// The chains of all owners of a partition.
pub struct Chains {
    /// Link of each slot; 0 for a slot that has not been in a chain.
    links: Arena<AtomicU32>,
    /// First slot + 1, 0 while the chain is empty.
    firsts: Box<[Padded<AtomicU32>]>,
}

impl Chains {
    pub(super) fn new(owners: u32, slots_max: usize) -> Self {
        let firsts = (0..owners).map(|_| Padded(AtomicU32::new(0))).collect();
        Self { links: Arena::per_slot(slots_max), firsts }
    }

    pub(super) fn reserve(&self, slot: Slot) {
        self.links.reserve(slot.index());
    }

    /// The first slot in the chain of `owner`.
    #[must_use]
    pub fn first(&self, owner: u32) -> Option<Slot> {
        self.firsts[owner as usize].0.load(Ordering::Acquire).checked_sub(1).map(Slot)
    }

    /// The slot after `slot`, which is or was in a chain.
    #[must_use]
    pub fn after(&self, slot: Slot) -> Option<Slot> {
        match self.links.get(slot.index()).load(Ordering::Acquire) & !OFF {
            END => None,
            link => link.checked_sub(1).map(Slot),
        }
    }

    /// True while `slot` is in a chain.
    #[must_use]
    pub fn holds(&self, slot: Slot) -> bool {
        let link = self.links.get(slot.index()).load(Ordering::Relaxed);
        link != 0 && link & OFF == 0
    }

    /// Adds `slot` to the chain of `owner`, whose last slot is `last`. For the owner alone.
    pub fn push(&self, owner: u32, last: Option<Slot>, slot: Slot) {
        self.links.get(slot.index()).store(END, Ordering::Relaxed);
        match last {
            Some(last) => self.links.get(last.index()).store(slot.0 + 1, Ordering::Release),
            None => self.firsts[owner as usize].0.store(slot.0 + 1, Ordering::Release),
        }
    }

    /// Takes the first slot off the chain of `owner`. For the owner alone.
    pub fn pop(&self, owner: u32) -> Option<Slot> {
        let first = self.first(owner)?;
        let next = self.after(first).map_or(0, |next| next.0 + 1);
        self.firsts[owner as usize].0.store(next, Ordering::Release);
        self.links.get(first.index()).fetch_or(OFF, Ordering::Release);
        Some(first)
    }

    /// Takes out `slot`, which follows `before`, or is the first if `before` is `None`. For the owner alone.
    pub fn take_out(&self, owner: u32, before: Option<Slot>, slot: Slot) {
        let next = self.after(slot).map(|next| next.0 + 1);
        match before {
            Some(before) => {
                let link = next.unwrap_or(END);
                self.links.get(before.index()).store(link, Ordering::Release);
            }
            None => self.firsts[owner as usize].0.store(next.unwrap_or(0), Ordering::Release),
        }
        self.links.get(slot.index()).fetch_or(OFF, Ordering::Release);
    }

    /// Clears the links of all slots of an owner, in its chain now or earlier.
    pub(super) fn clear(&self, stripe: Stripe) {
        self.firsts[stripe.owner() as usize].0.store(0, Ordering::Release);
        for slot in (0..self.links.reserved() as u32).map(Slot).filter(|&slot| stripe.owns(slot)) {
            let link = self.links.get(slot.index());
            if link.load(Ordering::Relaxed) != 0 {
                link.store(0, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_taken_off_still_leads_to_the_next() {
        let chains = Chains::new(2, 1 << 20);
        (0..5_000).for_each(|slot| chains.reserve(Slot(slot)));
        let follow = |owner| -> Vec<u32> {
            std::iter::successors(chains.first(owner), |&slot| chains.after(slot))
                .map(|slot| slot.0)
                .collect()
        };
        assert_eq!((follow(0), chains.pop(0), chains.holds(Slot(7))), (vec![], None, false));
        let mut last = None;
        for slot in [7, 3, 9] {
            chains.push(0, last, Slot(slot));
            last = Some(Slot(slot));
        }
        chains.push(1, None, Slot(4_100));
        assert_eq!((follow(0), follow(1)), (vec![7, 3, 9], vec![4_100]));
        let standing = chains.first(0).unwrap();
        assert_eq!((chains.pop(0), chains.pop(0)), (Some(Slot(7)), Some(Slot(3))));
        assert_eq!(follow(0), [9]);
        assert_eq!(chains.after(standing), Some(Slot(3)));
        assert_eq!(chains.after(Slot(3)), Some(Slot(9)));
        assert!(!chains.holds(Slot(3)) && chains.holds(Slot(9)));
        assert_eq!((chains.pop(0), chains.pop(0)), (Some(Slot(9)), None));
        // The former end remains an end for a reader that is at it; new readers begin at slot 3.
        chains.push(0, None, Slot(3));
        assert_eq!((chains.after(Slot(9)), follow(0)), (None, vec![3]));
        assert_eq!(follow(1), [4_100]);
        for (last, slot) in [(3, 20), (20, 21), (21, 22)] {
            chains.push(0, Some(Slot(last)), Slot(slot));
        }
        chains.take_out(0, Some(Slot(3)), Slot(20));
        assert_eq!((follow(0), chains.after(Slot(20))), (vec![3, 21, 22], Some(Slot(21))));
        chains.take_out(0, Some(Slot(21)), Slot(22));
        chains.take_out(0, None, Slot(3));
        assert_eq!((follow(0), chains.holds(Slot(22))), (vec![21], false));
    }
}

//! The nodes on the highest levels, of which there are few: when the entry of the graph is removed, the next one is
//! found among them.

use std::sync::{Mutex, PoisonError};

use crate::types::Slot;

/// At most one node in this number is among them: of ten million some thousands.
const SHARE: f64 = 1_024.0;

/// Least number of slots at which the list is tidied; it is tidied whenever it has doubled.
const TIDIED_MIN: usize = 64;

/// Slots of nodes from one level on. Some may have left the graph since, or be in the list twice.
pub(super) struct High {
    least: u8,
    slots: Mutex<List>,
}

#[derive(Default)]
struct List {
    slots: Vec<Slot>,
    tidied: usize,
}

impl High {
    /// An empty list for a graph whose nodes have `m` links.
    pub(super) fn new(m: usize) -> Self {
        let least = (SHARE.ln() / (m as f64).ln()).ceil() as u8;
        Self { least, slots: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, List> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `slot` is in the graph, on `level`. `level_of` gives the level of any slot.
    pub(super) fn note(&self, slot: Slot, level: u8, level_of: impl Fn(Slot) -> Option<u8>) {
        if level < self.least {
            return;
        }
        let mut list = self.lock();
        list.slots.push(slot);
        if list.slots.len() >= TIDIED_MIN.max(2 * list.tidied) {
            list.slots.sort_unstable();
            list.slots.dedup();
            list.slots.retain(|&slot| level_of(slot).is_some_and(|level| level >= self.least));
            list.tidied = list.slots.len();
        }
    }

    /// The highest node, among those for which `level_of` returns a level.
    pub(super) fn highest(&self, level_of: impl Fn(Slot) -> Option<u8>) -> Option<(u8, Slot)> {
        let list = self.lock();
        let levels = list.slots.iter().filter_map(|&slot| Some((level_of(slot)?, slot)));
        levels.filter(|&(level, _)| level >= self.least).max_by_key(|&(level, _)| level)
    }

    /// Forgets the nodes for which `is_gone` is true.
    pub(super) fn forget(&self, is_gone: impl Fn(Slot) -> bool) {
        self.lock().slots.retain(|&slot| !is_gone(slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_found_among_few() {
        let high = High::new(16);
        assert_eq!((high.least, High::new(4).least, High::new(2).least), (3, 5, 10));
        let level_of = |slot: Slot| (slot.0 > 0).then_some(slot.0.trailing_zeros() as u8 / 4);
        for _ in 0..2 {
            for slot in (1..200_000).map(Slot) {
                high.note(slot, level_of(slot).unwrap(), level_of);
            }
        }
        let kept = high.lock().slots.len();
        assert!(kept <= 2 * 200_000 / 4_096 + TIDIED_MIN, "{kept} are kept");
        assert_eq!(high.highest(level_of).map(|(level, _)| level), Some(4));
        let stays = |slot: Slot| level_of(slot).filter(|_| !slot.0.is_multiple_of(65_536));
        assert_eq!(high.highest(stays).map(|(level, _)| level), Some(3));
        high.forget(|slot| slot.0.is_multiple_of(65_536));
        assert_eq!(high.highest(level_of).map(|(level, _)| level), Some(3));
        assert_eq!(high.highest(|_| None), None);
    }
}

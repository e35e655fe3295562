//! Bounded hash table for several threads, with a bound of entries and of bytes. No thread waits for another: while a
//! part of the table is locked, lookups in it find nothing and new entries are dropped.
//!
//! Eviction is CLOCK with small counters: an entry that was found since the hand passed last stays for as many rounds
//! as it was found, up to `USES_MAX`. Stale entries, which can't be used any more, go first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use hashbrown::HashTable;

/// Most rounds of the hand that an entry survives because it was found.
const USES_MAX: u8 = 3;

/// Places ahead of the hand that are searched for stale entries.
const HAND_LOOKS: usize = 8;

/// Most parts of a table, and least entries of a part if there are several.
const PARTS_MAX: usize = 16;
const PART_ENTRIES_MIN: usize = 64;

/// The table.
pub struct Table<V> {
    parts: Box<[Part<V>]>,
}

struct Part<V> {
    entries_max: usize,
    bytes_max: usize,
    /// Number and bytes of the entries in `kept`, readable without the lock.
    entries: AtomicUsize,
    bytes: AtomicUsize,
    kept: Mutex<Kept<V>>,
}

struct Kept<V> {
    /// Index of places by hash.
    index: HashTable<u32>,
    places: Vec<Option<Entry<V>>>,
    free: Vec<u32>,
    hand: usize,
    bytes: usize,
}

struct Entry<V> {
    hash: u64,
    bytes: usize,
    uses: u8,
    value: V,
}

impl<V: Clone> Table<V> {
    /// A table for at most `entries_max` entries of at most `bytes_max` bytes together.
    #[must_use]
    pub fn new(entries_max: usize, bytes_max: usize) -> Self {
        let count = (entries_max / PART_ENTRIES_MIN).clamp(1, PARTS_MAX);
        let part = |index: usize| Part {
            entries_max: entries_max / count + usize::from(index < entries_max % count),
            bytes_max: bytes_max / count,
            entries: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            kept: Mutex::new(Kept::default()),
        };
        Self { parts: (0..count).map(part).collect() }
    }

    /// Number of entries, and their bytes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let sum = |of: fn(&Part<V>) -> &AtomicUsize| {
            self.parts.iter().map(|part| of(part).load(Ordering::Relaxed)).sum()
        };
        (sum(|part| &part.entries), sum(|part| &part.bytes))
    }

    /// Size of the largest entry that is kept, in bytes.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        // One entry must not drive out all others.
        self.parts[0].bytes_max / 4
    }

    /// True if an entry of this size fits without an eviction.
    #[must_use]
    pub fn has_room(&self, hash: u64, bytes: usize) -> bool {
        let part = self.part(hash);
        part.entries.load(Ordering::Relaxed) < part.entries_max
            && part.bytes.load(Ordering::Relaxed) + bytes <= part.bytes_max
    }

    /// True if an entry would replace an equal one, or a stale one that is next to be evicted.
    #[must_use]
    pub fn has_place_of_stale(
        &self,
        hash: u64,
        bytes: usize,
        is_same: impl Fn(&V) -> bool,
        is_stale: impl Fn(&V) -> bool,
    ) -> bool {
        let part = self.part(hash);
        let Some(kept) = part.lock() else { return false };
        let place = kept.place_of(hash, is_same).or_else(|| kept.stale_at_hand(is_stale));
        let entry = place.and_then(|place| kept.places[place as usize].as_ref());
        entry.is_some_and(|entry| kept.bytes - entry.bytes + bytes <= part.bytes_max)
    }

    /// Removes the entry with this hash for which `is_meant` is true.
    pub fn forget(&self, hash: u64, is_meant: impl Fn(&V) -> bool) -> Option<V> {
        let part = self.part(hash);
        let mut kept = part.lock()?;
        let place = kept.place_of(hash, is_meant)?;
        let mut gone = Vec::new();
        kept.remove(place, &mut gone);
        part.note(&kept);
        gone.pop()
    }

    /// Finds an entry with this hash for which `is_wanted` is true.
    pub fn find(&self, hash: u64, mut is_wanted: impl FnMut(&V) -> bool) -> Option<V> {
        let mut kept = self.part(hash).lock()?;
        let Kept { index, places, .. } = &mut *kept;
        let is_it = |&place: &u32| {
            let entry = places[place as usize].as_ref();
            entry.is_some_and(|entry| entry.hash == hash && is_wanted(&entry.value))
        };
        let place = *index.find(hash, is_it)?;
        let entry = places[place as usize].as_mut()?;
        entry.uses = (entry.uses + 1).min(USES_MAX);
        Some(entry.value.clone())
    }

    /// Finds the entry with the largest measure, among at most the given number of entries.
    pub fn nearest(
        &self,
        looked_at_max: usize,
        mut measure: impl FnMut(&V) -> Option<f32>,
    ) -> Option<V> {
        let mut nearest: Option<(f32, V)> = None;
        let mut left = looked_at_max;
        for part in &self.parts {
            let Some(mut kept) = part.lock() else { continue };
            let entries = kept.places.iter_mut().flatten().take(left);
            let mut best = None;
            for entry in entries {
                left -= 1;
                let least = nearest.as_ref().map_or(f32::NEG_INFINITY, |(least, _)| *least);
                let is_better =
                    |value: &f32| *value > best.as_ref().map_or(least, |(best, _)| *best);
                if let Some(value) = measure(&entry.value).filter(is_better) {
                    best = Some((value, entry));
                }
            }
            if let Some((value, entry)) = best {
                entry.uses = (entry.uses + 1).min(USES_MAX);
                nearest = Some((value, entry.value.clone()));
            }
        }
        nearest.map(|(_, value)| value)
    }

    /// Keeps an entry in the place of an equal one, of a stale one, or of the least used. Returns the number of
    /// evictions; `None` if the entry could not be kept. Removed entries are put into `gone`, and the caller drops them
    /// after the lock is released.
    pub fn keep(
        &self,
        hash: u64,
        bytes: usize,
        value: V,
        is_same: impl Fn(&V) -> bool,
        is_stale: impl Fn(&V) -> bool,
        gone: &mut Vec<V>,
    ) -> Option<usize> {
        let part = self.part(hash);
        if bytes > part.bytes_max || part.entries_max == 0 {
            return None;
        }
        let mut kept = part.lock()?;
        let uses = match kept.place_of(hash, is_same) {
            Some(place) => kept.remove(place, gone),
            None => 0,
        };
        let mut evicted = 0;
        while kept.index.len() >= part.entries_max || kept.bytes + bytes > part.bytes_max {
            let place = kept.least_used(&is_stale);
            kept.remove(place, gone);
            evicted += 1;
        }
        kept.add(Entry { hash, bytes, uses, value });
        part.note(&kept);
        Some(evicted)
    }

    /// Removes all entries, waiting for locked parts: for callers that may wait.
    pub fn clear(&self) {
        for part in &self.parts {
            let mut kept = part.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let before = std::mem::take(&mut *kept);
            part.note(&kept);
            drop(kept);
            drop(before);
        }
    }

    fn part(&self, hash: u64) -> &Part<V> {
        // The index uses the upper and the lower bits.
        &self.parts[(hash >> 24) as usize % self.parts.len()]
    }
}

impl<V> Part<V> {
    /// Locks the part, unless another thread has it.
    fn lock(&self) -> Option<MutexGuard<'_, Kept<V>>> {
        match self.kept.try_lock() {
            Ok(kept) => Some(kept),
            // Comparing and keeping may panic, but only between two changes.
            Err(TryLockError::Poisoned(kept)) => Some(kept.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn note(&self, kept: &Kept<V>) {
        self.entries.store(kept.index.len(), Ordering::Relaxed);
        self.bytes.store(kept.bytes, Ordering::Relaxed);
    }
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self { index: HashTable::new(), places: Vec::new(), free: Vec::new(), hand: 0, bytes: 0 }
    }
}

impl<V> Kept<V> {
    fn add(&mut self, entry: Entry<V>) {
        self.bytes += entry.bytes;
        let hash = entry.hash;
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(entry);
                place
            }
            None => {
                self.places.push(Some(entry));
                u32::try_from(self.places.len() - 1).expect("no more than entries_max")
            }
        };
        let places = &self.places;
        let hash_of = |&place: &u32| places[place as usize].as_ref().map_or(0, |entry| entry.hash);
        self.index.insert_unique(hash, place, hash_of);
    }

    /// The place of the entry with this hash for which `is_meant` is true.
    fn place_of(&self, hash: u64, is_meant: impl Fn(&V) -> bool) -> Option<u32> {
        let is_it = |&place: &u32| {
            let entry = self.places[place as usize].as_ref();
            entry.is_some_and(|entry| entry.hash == hash && is_meant(&entry.value))
        };
        self.index.find(hash, is_it).copied()
    }

    /// The place of a stale entry that the hand will reach soon.
    fn stale_at_hand(&self, is_stale: impl Fn(&V) -> bool) -> Option<u32> {
        let count = self.places.len();
        let mut soon = (self.hand..self.hand + count.min(HAND_LOOKS)).map(|place| place % count);
        let is_it = |&place: &usize| {
            self.places[place].as_ref().is_some_and(|entry| is_stale(&entry.value))
        };
        soon.find(is_it).map(|place| place as u32)
    }

    /// Removes the entry at `place`; returns its use count.
    fn remove(&mut self, place: u32, gone: &mut Vec<V>) -> u8 {
        let Some(entry) = self.places[place as usize].take() else { return 0 };
        if let Ok(found) = self.index.find_entry(entry.hash, |&other| other == place) {
            found.remove();
        }
        self.free.push(place);
        self.bytes -= entry.bytes;
        gone.push(entry.value);
        entry.uses
    }

    /// The place of the least used entry. The part must not be empty.
    fn least_used(&mut self, is_stale: impl Fn(&V) -> bool) -> u32 {
        if let Some(place) = self.stale_at_hand(&is_stale) {
            return place;
        }
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.places.len();
            if let Some(entry) = &mut self.places[place] {
                if entry.uses == 0 || is_stale(&entry.value) {
                    return place as u32;
                }
                entry.uses -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Keeps a number of `bytes` bytes, under its own hash.
    fn keep(table: &Table<u64>, number: u64, bytes: usize) -> Vec<u64> {
        let mut gone = Vec::new();
        let hash = crate::types::mix(number);
        table.keep(hash, bytes, number, |&same| same == number, |_| false, &mut gone);
        gone
    }

    fn find(table: &Table<u64>, number: u64) -> bool {
        table.find(crate::types::mix(number), |&value| value == number).is_some()
    }

    #[test]
    fn entries_that_are_found_outlive_those_that_are_not() {
        let table = Table::new(10, 1_000);
        (0..10).for_each(|number| assert!(keep(&table, number, 10).is_empty()));
        assert!(!table.has_room(0, 1) && table.size() == (10, 100));
        (0..5).for_each(|number| assert!(find(&table, number)));
        let gone: Vec<u64> = (10..15).flat_map(|number| keep(&table, number, 10)).collect();
        assert_eq!(gone, [5, 6, 7, 8, 9]);
        assert!((0..5).chain(10..15).all(|number| find(&table, number)));
        // An equal entry goes to its old place, and no other entry is evicted.
        assert_eq!(keep(&table, 3, 20), [3]);
        assert_eq!(table.size(), (10, 110));
        table.clear();
        assert_eq!((table.size(), find(&table, 3)), ((0, 0), false));
    }

    #[test]
    fn stale_entries_are_evicted_first_and_bytes_are_bounded() {
        let table = Table::new(100, 100);
        (0..10).for_each(|number| assert!(keep(&table, number, 10).is_empty()));
        (0..10).for_each(|number| assert!(find(&table, number)));
        let mut gone = Vec::new();
        let evicted = table.keep(1 << 40, 10, 77, |_| false, |&value| value == 6, &mut gone);
        assert_eq!(evicted, Some(1));
        assert_eq!(gone, [6]);
        assert_eq!(keep(&table, 88, 50).len(), 5);
        assert!(table.size().1 <= 100);
        assert!(keep(&table, 99, 101).is_empty());
        assert!(!find(&table, 99), "it is larger than all there is room for");
    }

    #[test]
    fn stale_entries_give_up_their_place_and_forgotten_ones_are_gone() {
        let table = Table::new(10, 100);
        let has_place = |number: u64, bytes, stale: &[u64]| {
            let hash = crate::types::mix(number);
            let is_stale = |value: &u64| stale.contains(value);
            table.has_place_of_stale(hash, bytes, |&same| same == number, is_stale)
        };
        (0..10).for_each(|number| drop(keep(&table, number, 10)));
        assert!(!has_place(20, 10, &[]));
        assert!(has_place(5, 10, &[]), "that of the same");
        assert!(has_place(20, 10, &[3]) && !has_place(20, 11, &[3]), "there is no room for more");
        assert!(!has_place(20, 10, &[9]), "it is too far from the hand");
        assert_eq!(table.forget(crate::types::mix(3), |&value| value == 3), Some(3));
        assert_eq!(table.forget(crate::types::mix(3), |&value| value == 3), None);
        assert!(!find(&table, 3) && table.size() == (9, 90) && table.has_room(3, 10));
    }

    #[test]
    fn the_nearest_of_all_parts_is_found() {
        let table = Table::new(1_000, 100_000);
        (0..500).for_each(|number| drop(keep(&table, number, 10)));
        let near = |wanted: u64| {
            move |&value: &u64| (value % 2 == 0).then(|| -(value.abs_diff(wanted) as f32))
        };
        for wanted in [0, 33, 100, 498, 499] {
            let found = table.nearest(1_000, near(wanted)).unwrap();
            assert!(found.abs_diff(wanted) <= 1 && found % 2 == 0, "{found} for {wanted}");
        }
        assert_eq!(table.nearest(1_000, |_| None), None);
        let mut looked_at = 0;
        table.nearest(70, |_| {
            looked_at += 1;
            None
        });
        assert_eq!(looked_at, 70);
    }

    #[test]
    fn a_part_in_use_blocks_no_other_thread() {
        let table = Table::new(10, 1_000);
        keep(&table, 1, 10);
        let held = table.parts[0].kept.lock().unwrap();
        assert!(!find(&table, 1));
        assert!(keep(&table, 2, 10).is_empty());
        drop(held);
        assert!(find(&table, 1) && !find(&table, 2));
    }

    proptest! {
        #[test]
        fn table_is_a_map_that_forgets(
            entries_max in 1..200_usize,
            bytes_max in 1..2_000_usize,
            changes in proptest::collection::vec((0..300_u64, 1..100_usize), 1..400),
        ) {
            let table = Table::new(entries_max, bytes_max);
            // By number: bytes, and how often it was kept.
            let mut model: HashMap<u64, (usize, usize)> = HashMap::new();
            for (turn, (number, bytes)) in changes.into_iter().enumerate() {
                let (mut gone, hash) = (Vec::new(), crate::types::mix(number));
                let value = (number, turn);
                let kept =
                    table.keep(hash, bytes, value, |same| same.0 == number, |_| false, &mut gone);
                for (number, turn) in gone {
                    prop_assert_eq!(model.remove(&number).map(|(_, turn)| turn), Some(turn));
                }
                if kept.is_some() {
                    model.insert(number, (bytes, turn));
                }
                let sum = model.values().map(|(bytes, _)| bytes).sum::<usize>();
                prop_assert_eq!(table.size(), (model.len(), sum));
                prop_assert!(model.len() <= entries_max && sum <= bytes_max);
                let asked = (number * 7) % 300;
                let found = table.find(crate::types::mix(asked), |value| value.0 == asked);
                prop_assert_eq!(found.map(|value| value.1), model.get(&asked).map(|m| m.1));
            }
        }
    }
}

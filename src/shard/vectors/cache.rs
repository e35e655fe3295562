//! Vectors that were read from disk, kept by the core that read them: rows of one length in a bounded
//! number of bytes.
//!
//! Admission and eviction are those of S3-FIFO ("FIFO queues are all you need for cache eviction", Yang
//! et al., 2023): what is new waits in a small queue, and moves to the main one only if it was asked for
//! again before its turn to go; what goes from there leaves its key behind for a while, and comes to the
//! main queue at once if it is read again. So a scan of everything pushes nothing out that is in use.
//!
//! A key names a version, not a slot: what is in a slot that was filled again is another version.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::types::{ShardId, Slot, mix};

/// One part in so many of the rows is for what is new.
const NEW_PARTS: usize = 10;

/// Asked for so often beyond the first time, a row has as many turns as one can have.
const USES_MAX: u8 = 3;

/// Rows are allocated so many at a time.
const CHUNK_ROWS: usize = 64;

/// What a row takes beside its values: its key in the table, in a queue, and when it is gone.
const OVERHEAD_BYTES: usize = 96;

/// A version of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Whose it is.
    pub(super) shard: ShardId,
    /// Where it is.
    pub(super) slot: Slot,
    /// The LSN of the write that made it.
    pub(super) born: u64,
}

/// Keys are small numbers of our own: mixing them is enough.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
    }
}

type ByKey<T> = HashMap<Key, T, BuildHasherDefault<KeyHasher>>;

struct Entry {
    key: Key,
    uses: u8,
}

/// The rows.
pub(super) struct Cache {
    bytes_max: usize,
    /// Values in a row; 0 until there is one.
    width: usize,
    rows_max: usize,
    chunks: Vec<Box<[f32]>>,
    entries: Vec<Entry>,
    /// Where each is in `entries`, whose row has the same place.
    places: ByKey<u32>,
    new: VecDeque<u32>,
    main: VecDeque<u32>,
    /// Places without an entry.
    free: Vec<u32>,
    /// Of rows that went before they were asked for again, oldest first.
    gone: VecDeque<Key>,
    is_gone: HashSet<Key, BuildHasherDefault<KeyHasher>>,
    pub(super) evictions: u64,
}

impl Cache {
    /// No rows, of at most so many bytes together.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            width: 0,
            rows_max: 0,
            chunks: Vec::new(),
            entries: Vec::new(),
            places: ByKey::default(),
            new: VecDeque::new(),
            main: VecDeque::new(),
            free: Vec::new(),
            gone: VecDeque::new(),
            is_gone: HashSet::default(),
            evictions: 0,
        }
    }

    /// The row of this version, if it is here.
    pub(super) fn get(&mut self, key: Key) -> Option<&[f32]> {
        let place = *self.places.get(&key)?;
        let entry = &mut self.entries[place as usize];
        entry.uses = USES_MAX.min(entry.uses + 1);
        Some(self.row(place))
    }

    /// Keeps the row of a version, if there is room for any.
    pub(super) fn put(&mut self, key: Key, row: &[f32]) {
        if self.width != row.len() {
            *self = Self { width: row.len(), ..Self::new(self.bytes_max) };
            self.rows_max = self.bytes_max / (size_of_val(row) + OVERHEAD_BYTES);
        }
        if self.rows_max == 0 || self.places.contains_key(&key) {
            return;
        }
        if self.entries.len() - self.free.len() >= self.rows_max {
            self.evict();
        }
        let entry = Entry { key, uses: 0 };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                if self.entries.len().is_multiple_of(CHUNK_ROWS) {
                    let rows = CHUNK_ROWS.min(self.rows_max - self.entries.len());
                    self.chunks.push(vec![0.0; rows * self.width].into());
                }
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        let (chunk, range) = self.range(place);
        self.chunks[chunk][range].copy_from_slice(row);
        self.places.insert(key, place);
        match self.is_gone.remove(&key) {
            true => self.main.push_back(place),
            false => self.new.push_back(place),
        }
    }

    fn range(&self, place: u32) -> (usize, std::ops::Range<usize>) {
        let (chunk, index) = (place as usize / CHUNK_ROWS, place as usize % CHUNK_ROWS);
        (chunk, index * self.width..(index + 1) * self.width)
    }

    fn row(&self, place: u32) -> &[f32] {
        let (chunk, range) = self.range(place);
        &self.chunks[chunk][range]
    }

    /// Makes room for a row.
    fn evict(&mut self) {
        loop {
            let is_new_full = self.new.len() > self.rows_max / NEW_PARTS || self.main.is_empty();
            if is_new_full && let Some(place) = self.new.pop_front() {
                let entry = &mut self.entries[place as usize];
                if std::mem::take(&mut entry.uses) > 0 {
                    self.main.push_back(place);
                    continue;
                }
                let key = entry.key;
                self.remember(key);
                return self.remove(place);
            }
            let Some(place) = self.main.pop_front() else { return };
            let entry = &mut self.entries[place as usize];
            if entry.uses == 0 {
                return self.remove(place);
            }
            entry.uses -= 1;
            self.main.push_back(place);
        }
    }

    fn remove(&mut self, place: u32) {
        self.places.remove(&self.entries[place as usize].key);
        self.free.push(place);
        self.evictions += 1;
    }

    /// Keeps the key of a row that goes, in the place of one that went long ago.
    fn remember(&mut self, key: Key) {
        if self.is_gone.insert(key) {
            self.gone.push_back(key);
        }
        while self.gone.len() > self.rows_max
            && let Some(oldest) = self.gone.pop_front()
        {
            self.is_gone.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> Key {
        Key { shard: ShardId(0), slot: Slot(slot), born: 7 }
    }

    fn row(slot: u32) -> [f32; 16] {
        [slot as f32; 16]
    }

    fn cache(rows: usize) -> Cache {
        Cache::new(rows * (64 + OVERHEAD_BYTES))
    }

    #[test]
    fn rows_are_those_of_their_versions_within_the_bound() {
        let mut cache = cache(100);
        for round in 0..5_000_u32 {
            let slot = mix(round.into()) as u32 % 300;
            if let Some(found) = cache.get(key(slot)) {
                assert_eq!(found, row(slot));
            } else {
                cache.put(key(slot), &row(slot));
            }
            assert!(cache.entries.len() <= 100);
            assert!(cache.gone.len() <= 100 && cache.is_gone.len() <= cache.gone.len());
            assert_eq!(cache.new.len() + cache.main.len(), cache.places.len());
        }
        assert_eq!(cache.places.len(), 100);
        assert!(cache.evictions > 1_000);
        let other = Key { born: 8, ..key(3) };
        cache.put(key(3), &row(3));
        assert_eq!(cache.get(other), None, "another version in the same slot");
        assert_eq!(cache.get(Key { shard: ShardId(1), ..key(3) }), None);
    }

    #[test]
    fn a_scan_pushes_nothing_out_that_is_in_use() {
        let mut cache = cache(200);
        for _ in 0..3 {
            for slot in 0..100 {
                if cache.get(key(slot)).is_none() {
                    cache.put(key(slot), &row(slot));
                }
            }
        }
        (1_000..20_000).for_each(|slot| cache.put(key(slot), &row(slot)));
        let kept = (0..100).filter(|&slot| cache.get(key(slot)).is_some()).count();
        assert_eq!(kept, 100);
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let mut cache = Cache::new(0);
        cache.put(key(1), &row(1));
        assert_eq!(cache.get(key(1)), None);
        assert!(cache.chunks.is_empty());
    }
}

//! Cache of vectors that a core has read from disk: rows of one length in a bounded number of bytes.
//!
//! `cache.strategy` decides which rows are evicted: by their last use alone, or as [`learned`]. A caller passes the
//! region of the graph in which it searches: the node of the upper level that its walk came through, plus one; 0 if
//! that is not known. Everything is allocated when the first row comes, except for the rows: an access takes a few
//! steps however many there are.
//!
//! How `learned` decides is a [`Model`]. The cache logs what it is asked for; a [`Trainer`] learns from the log in idle
//! time, and the cache adopts the resulting model. Without a model it admits about as S3-FIFO would.
//!
//! A key names a version, not a slot: a slot that was reused holds another version.

mod figures;
mod index;
mod learned;
mod log;
mod regions;
mod segments;
mod sketch;
mod tactics;
mod trainer;
mod trials;

use std::collections::VecDeque;

pub(crate) use self::figures::Figures;
use self::index::Index;
use self::learned::Learned;
use self::log::Log;
pub(crate) use self::log::{Use, decode, encode};
use self::segments::{Segments, Shape};
pub(crate) use self::trainer::{Model, Trainer};
use crate::types::{ShardId, Slot, mix};

/// Rows per allocation.
const CHUNK_ROWS: usize = 64;

/// Uses from before the start that are counted each time a row comes.
const WARM_USES_MAX: usize = 64;

/// Bytes of a row besides its values: its key, its place in the order, and its part of the learned data.
pub(super) const OVERHEAD_BYTES: usize =
    size_of::<Key>() + Index::PLACE_BYTES + Learned::PLACE_BYTES;

/// Key of a version of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Owner of the document.
    pub(super) shard: ShardId,
    /// Slot of the version.
    pub(super) slot: Slot,
    /// The LSN of the write that made it.
    pub(super) born: u64,
}

impl Key {
    fn hash(self) -> u64 {
        mix(mix(u64::from(self.shard.0) << 32 | u64::from(self.slot.0)) ^ self.born)
    }
}

/// Replacement policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Least recently used.
    Lru,
    /// Estimated frequency of requests.
    Learned,
}

enum Policy {
    Lru(Segments),
    Learned(Box<Learned>),
}

impl Policy {
    fn new(strategy: Strategy, rows_max: usize) -> Self {
        match strategy {
            Strategy::Lru => Self::Lru(Segments::new(rows_max, Shape::LRU)),
            Strategy::Learned => Self::Learned(Box::new(Learned::new(rows_max))),
        }
    }
}

/// The rows.
pub(super) struct Cache {
    bytes_max: usize,
    /// Values in a row; 0 until there is a row.
    width: usize,
    rows_max: usize,
    chunks: Vec<Box<[f32]>>,
    /// Key of the row in each place.
    keys: Vec<Key>,
    index: Index,
    policy: Policy,
    log: Log,
    /// Uses from before the start that are still to be counted, oldest first.
    before: VecDeque<Use>,
    pub(super) evictions: u64,
}

impl Cache {
    /// An empty cache of at most `bytes_max` bytes, with a log of at most `log_max` uses; 0 if nothing trains.
    pub(super) fn new(bytes_max: usize, strategy: Strategy, log_max: usize) -> Self {
        Self {
            bytes_max,
            width: 0,
            rows_max: 0,
            chunks: Vec::new(),
            keys: Vec::new(),
            index: Index::new(0),
            policy: Policy::new(strategy, 0),
            log: Log::new(if strategy == Strategy::Learned { log_max } else { 0 }),
            before: VecDeque::new(),
            evictions: 0,
        }
    }

    /// Drops all rows; rows have `width` values from now on.
    fn set_width(&mut self, width: usize) {
        self.width = width;
        self.rows_max = self.bytes_max / (width * size_of::<f32>() + OVERHEAD_BYTES);
        self.chunks = Vec::with_capacity(self.rows_max.div_ceil(CHUNK_ROWS));
        self.keys = Vec::with_capacity(self.rows_max);
        self.index = Index::new(self.rows_max);
        self.policy = match &self.policy {
            Policy::Lru(_) => Policy::new(Strategy::Lru, self.rows_max),
            Policy::Learned(learned) => Policy::Learned(Box::new(learned.emptied(self.rows_max))),
        };
    }

    /// Rows in the cache.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Most rows there can be; 0 before the first row. A [`Trainer`] is made for this number of places.
    pub(super) fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Bytes taken, estimated.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * (self.width * size_of::<f32>() + OVERHEAD_BYTES)
    }

    /// The row of this version if it is cached, for a search in this region of the graph.
    pub(super) fn get(&mut self, key: Key, region: u32) -> Option<&[f32]> {
        let hash = key.hash();
        let place = self.index.find(hash, |place| self.keys[place as usize] == key);
        match &mut self.policy {
            Policy::Lru(segments) => _ = segments.touch(place?),
            Policy::Learned(learned) => {
                learned.count(hash, place);
                self.log.push(Use { hash, region });
            }
        }
        place.map(|place| self.row(place))
    }

    /// Caches the row of a version, if there is room for any.
    pub(super) fn put(&mut self, key: Key, row: &[f32], region: u32) {
        if self.width != row.len() {
            self.set_width(row.len());
        }
        self.count_before();
        let hash = key.hash();
        let is_here = self.index.find(hash, |place| self.keys[place as usize] == key).is_some();
        if self.rows_max == 0 || is_here {
            return;
        }
        let Some(place) = self.place_for(key) else { return };
        let (chunk, range) = self.range(place);
        self.chunks[chunk][range].copy_from_slice(row);
        self.index.insert(hash, place);
        match &mut self.policy {
            Policy::Lru(segments) => segments.insert(place),
            Policy::Learned(learned) => learned.insert(place, region),
        }
    }

    /// Counts uses from before the start, the latest that fit into the log: not at once, but as rows come.
    pub(super) fn warm(&mut self, uses: &[Use]) {
        let from = uses.len().saturating_sub(self.log.uses_max());
        self.before = uses[from..].iter().copied().collect();
    }

    fn count_before(&mut self) {
        if self.before.is_empty() {
            return;
        }
        let count = self.before.len().min(WARM_USES_MAX);
        for of in self.before.drain(..count) {
            if let Policy::Learned(learned) = &mut self.policy {
                learned.warm(of.hash);
            }
        }
        if self.before.is_empty() {
            self.before.shrink_to_fit();
        }
    }

    /// Uses a learned model.
    pub(super) fn adopt(&mut self, model: Model) {
        if let Policy::Learned(learned) = &mut self.policy {
            learned.adopt(model);
        }
    }

    /// Uses in the log.
    pub(super) fn log_len(&self) -> usize {
        self.log.len()
    }

    /// Uses that were overwritten before they were taken from the log.
    pub(super) fn log_dropped(&self) -> u64 {
        self.log.dropped
    }

    /// Moves the log to `into`, oldest first.
    pub(super) fn take_log(&mut self, into: &mut Vec<Use>) {
        self.log.take(into);
    }

    /// Statistics of its decisions; all 0 with LRU.
    pub(super) fn figures(&self) -> Figures {
        match &self.policy {
            Policy::Lru(_) => Figures::default(),
            Policy::Learned(learned) => learned.figures(),
        }
    }

    /// Assigns a place to this key; its row is not written yet.
    fn place_for(&mut self, key: Key) -> Option<u32> {
        if self.keys.len() < self.rows_max {
            if self.keys.len().is_multiple_of(CHUNK_ROWS) {
                let rows = CHUNK_ROWS.min(self.rows_max - self.keys.len());
                self.chunks.push(vec![0.0; rows * self.width].into());
            }
            self.keys.push(key);
            return Some((self.keys.len() - 1) as u32);
        }
        let place = match &mut self.policy {
            Policy::Lru(segments) => segments.evict(|_, _| false).map(|goes| goes.place),
            Policy::Learned(learned) => learned.evict(|place| self.keys[place as usize].hash()),
        }?;
        let old = std::mem::replace(&mut self.keys[place as usize], key);
        self.index.remove(old.hash(), place);
        self.evictions += 1;
        Some(place)
    }

    fn range(&self, place: u32) -> (usize, std::ops::Range<usize>) {
        let (chunk, index) = (place as usize / CHUNK_ROWS, place as usize % CHUNK_ROWS);
        (chunk, index * self.width..(index + 1) * self.width)
    }

    fn row(&self, place: u32) -> &[f32] {
        let (chunk, range) = self.range(place);
        &self.chunks[chunk][range]
    }
}

#[cfg(test)]
mod tests;

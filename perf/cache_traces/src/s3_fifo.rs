//! S3-FIFO ("FIFO queues are all you need for cache eviction", Yang et al., 2023), without rows: new keys wait in a
//! small queue, and move to the main one only if they were requested again before their turn to go; a key evicted from
//! the small queue is remembered for a while, and enters the main queue at once if it is requested again. The vector
//! cache began with this policy.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::caches::{Hasher, Kept};
use crate::traces::Access;

/// Divisor of the places that gives the small queue.
const NEW_PARTS: usize = 10;

/// Most turns in the main queue that requests after the first can add to a key.
const USES_MAX: u8 = 3;

/// The keys.
pub struct S3Fifo {
    keys_max: usize,
    uses: HashMap<u32, u8, Hasher>,
    new: VecDeque<u32>,
    main: VecDeque<u32>,
    gone: VecDeque<u32>,
    is_gone: HashSet<u32, Hasher>,
}

impl S3Fifo {
    /// For at most `keys_max` keys.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        Self {
            keys_max,
            uses: HashMap::default(),
            new: VecDeque::new(),
            main: VecDeque::new(),
            gone: VecDeque::new(),
            is_gone: HashSet::default(),
        }
    }

    fn evict(&mut self) {
        loop {
            let is_new_full = self.new.len() > self.keys_max / NEW_PARTS || self.main.is_empty();
            if is_new_full && let Some(key) = self.new.pop_front() {
                let uses = self.uses.entry(key).or_default();
                if std::mem::take(uses) > 0 {
                    self.main.push_back(key);
                    continue;
                }
                self.remember(key);
                self.uses.remove(&key);
                return;
            }
            let Some(key) = self.main.pop_front() else { return };
            let uses = self.uses.entry(key).or_default();
            if *uses == 0 {
                self.uses.remove(&key);
                return;
            }
            *uses -= 1;
            self.main.push_back(key);
        }
    }

    fn remember(&mut self, key: u32) {
        if self.is_gone.insert(key) {
            self.gone.push_back(key);
        }
        while self.gone.len() > self.keys_max
            && let Some(oldest) = self.gone.pop_front()
        {
            self.is_gone.remove(&oldest);
        }
    }
}

impl Kept for S3Fifo {
    fn access(&mut self, Access { key, .. }: Access) -> bool {
        if let Some(uses) = self.uses.get_mut(&key) {
            *uses = USES_MAX.min(*uses + 1);
            return true;
        }
        if self.uses.len() >= self.keys_max {
            self.evict();
        }
        self.uses.insert(key, 0);
        match self.is_gone.remove(&key) {
            true => self.main.push_back(key),
            false => self.new.push_back(key),
        }
        false
    }
}

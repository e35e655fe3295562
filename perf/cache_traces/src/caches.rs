//! The compared caches, each of a bounded number of keys.

use std::hash::BuildHasherDefault;

use crate::cache::{Cache, Key, OVERHEAD_BYTES, Strategy, Trainer, Use};
use crate::s3_fifo::S3Fifo;
use crate::traces::Access;
use crate::types::{ShardId, Slot, mix};

/// Values of a row: few, since the comparison does not measure rows.
const WIDTH: usize = 4;

/// A cheap hash, equal for all caches.
pub type Hasher = BuildHasherDefault<KeyHasher>;

/// Keys are small numbers: mixing them is enough.
#[derive(Default)]
pub struct KeyHasher(u64);

impl std::hash::Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = mix(self.0 ^ u64::from(byte)));
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = mix(self.0 ^ u64::from(value));
    }
}

/// A cache of keys.
pub trait Kept {
    /// Requests a key, and adds it if it is missing; true if it was cached.
    fn access(&mut self, access: Access) -> bool;

    /// True if there is background work to do.
    fn is_idle_due(&self) -> bool {
        false
    }

    /// Does the background work: its time is not that of an access.
    fn idle(&mut self) {}
}

/// Kind of cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `cache.strategy = "lru"`.
    Lru,
    /// See [`S3Fifo`].
    S3Fifo,
    /// The crate: CLOCK-PRO.
    QuickCache,
    /// The crate: W-TinyLFU.
    Moka,
    /// `cache.strategy = "learned"`.
    Learned,
    /// `cache.strategy = "learned"`, without regions.
    Blind,
}

impl Which {
    /// All compared kinds.
    pub const ALL: [Self; 6] =
        [Self::Lru, Self::S3Fifo, Self::QuickCache, Self::Moka, Self::Learned, Self::Blind];

    /// Name in a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "`lru`",
            Self::S3Fifo => "S3-FIFO",
            Self::QuickCache => "quick_cache",
            Self::Moka => "moka",
            Self::Learned => "`learned`",
            Self::Blind => "`learned`, no regions",
        }
    }

    /// A cache of this kind for at most `keys_max` keys.
    #[must_use]
    pub fn of(self, keys_max: usize) -> Box<dyn Kept> {
        let own = |strategy, sees_regions| {
            let bytes_max = keys_max * (WIDTH * size_of::<f32>() + OVERHEAD_BYTES);
            let lesson = lesson_uses(keys_max);
            Box::new(Own {
                cache: Cache::new(bytes_max, strategy, 2 * lesson),
                sees_regions,
                lesson,
                trainer: Trainer::new(keys_max),
                uses: Vec::with_capacity(lesson),
            })
        };
        match self {
            Self::Lru => own(Strategy::Lru, true),
            Self::Learned => own(Strategy::Learned, true),
            Self::Blind => own(Strategy::Learned, false),
            Self::S3Fifo => Box::new(S3Fifo::new(keys_max)),
            Self::QuickCache => Box::new(Quick(quick_cache::unsync::Cache::with(
                keys_max,
                keys_max as u64,
                quick_cache::UnitWeighter,
                Hasher::default(),
                quick_cache::unsync::DefaultLifecycle::default(),
            ))),
            Self::Moka => {
                let builder = moka::sync::Cache::builder().max_capacity(keys_max as u64);
                Box::new(Moka { cache: builder.build_with_hasher(Hasher::default()), accesses: 0 })
            }
        }
    }
}

/// Number of uses in the log at which a trainer learns.
const fn lesson_uses(keys_max: usize) -> usize {
    let uses = keys_max / 4;
    if uses < 256 { 256 } else { uses }
}

struct Own {
    cache: Cache,
    sees_regions: bool,
    lesson: usize,
    trainer: Trainer,
    uses: Vec<Use>,
}

impl Kept for Own {
    fn access(&mut self, Access { key: slot, region }: Access) -> bool {
        let region = if self.sees_regions { region } else { 0 };
        let key = Key { shard: ShardId(0), slot: Slot(slot), born: 1 };
        let row = [slot as f32; WIDTH];
        if let Some(found) = self.cache.get(key, region) {
            assert_eq!(found, row);
            return true;
        }
        self.cache.put(key, &row, region);
        false
    }

    fn is_idle_due(&self) -> bool {
        self.cache.log_len() >= self.lesson
    }

    fn idle(&mut self) {
        self.cache.take_log(&mut self.uses);
        self.trainer.learn(&self.uses);
        self.uses.clear();
        self.cache.adopt(self.trainer.model());
    }
}

type Row = [f32; WIDTH];

struct Quick(quick_cache::unsync::Cache<u32, Row, quick_cache::UnitWeighter, Hasher>);

impl Kept for Quick {
    fn access(&mut self, Access { key, .. }: Access) -> bool {
        let is_here = self.0.get(&key).is_some();
        if !is_here {
            self.0.insert(key, [key as f32; WIDTH]);
        }
        is_here
    }
}

struct Moka {
    cache: moka::sync::Cache<u32, Row, Hasher>,
    accesses: u32,
}

impl Kept for Moka {
    fn access(&mut self, Access { key, .. }: Access) -> bool {
        let is_here = self.cache.get(&key).is_some();
        if !is_here {
            self.cache.insert(key, [key as f32; WIDTH]);
        }
        self.accesses += 1;
        // The crate puts evictions off until they are run: otherwise it would have more keys than places.
        if self.accesses.is_multiple_of(16) {
            self.cache.run_pending_tasks();
        }
        is_here
    }
}

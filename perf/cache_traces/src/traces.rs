//! Traces generated from a seed: sequences of requests.

use crate::types::mix;

/// Number of keys of generated traces.
pub const KEYS: u32 = 1 << 16;

/// Number of accesses of generated traces.
const ACCESSES: usize = 1_000_000;

/// A requested key, and the region of the graph in which the search was; 0 for no region.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub key: u32,
    pub region: u32,
}

/// A sequence of requests.
pub struct Trace {
    pub accesses: Vec<Access>,
    /// Number of different keys.
    pub keys: usize,
}

/// Reproducible random numbers.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(mix(self.0) ^ 0x5ca1_ab1e)
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        ((u128::from(self.number()) * u128::from(limit)) >> 64) as u32
    }
}

/// Random ranks by Zipf's law.
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// For this number of ranks, with this exponent.
    #[must_use]
    pub fn new(ranks: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let weight = |rank: u32| {
            sum += f64::from(rank + 1).powf(-exponent);
            sum
        };
        let mut sums: Vec<f64> = (0..ranks).map(weight).collect();
        sums.iter_mut().for_each(|part| *part /= sum);
        Self(sums)
    }

    /// A rank, from 0.
    pub fn draw(&self, random: &mut Random) -> u32 {
        let unit = random.unit();
        (self.0.partition_point(|&sum| sum <= unit) as u32).min(self.0.len() as u32 - 1)
    }
}

impl Trace {
    /// A trace of these accesses.
    #[must_use]
    pub fn new(accesses: Vec<Access>) -> Self {
        let mut keys: Vec<u32> = accesses.iter().map(|access| access.key).collect();
        keys.sort_unstable();
        keys.dedup();
        Self { accesses, keys: keys.len() }
    }

    fn of_keys(keys: impl Iterator<Item = u32>) -> Self {
        let mut trace =
            Self::new(keys.take(ACCESSES).map(|key| Access { key, region: 0 }).collect());
        trace.keys = KEYS as usize;
        trace
    }
}

/// A constant set of keys, some requested often.
#[must_use]
pub fn zipf(exponent: f64, seed: u64) -> Trace {
    let (ranks, mut random) = (Zipf::new(KEYS, exponent), Random(seed << 32));
    Trace::of_keys(std::iter::repeat_with(|| ranks.draw(&mut random)))
}

/// Requests by Zipf 0.9, and after each 60,000 accesses a scan of a third of all keys, one after the other.
#[must_use]
pub fn polluted(seed: u64) -> Trace {
    let (ranks, mut random) = (Zipf::new(KEYS, 0.9), Random(seed << 32));
    let (mut left, mut scan, mut cursor) = (60_000, 0, 0);
    Trace::of_keys(std::iter::repeat_with(|| {
        if scan > 0 {
            scan -= 1;
            cursor = (cursor + 1) % KEYS;
            return cursor;
        }
        left -= 1;
        if left == 0 {
            (left, scan) = (60_000, KEYS / 3);
        }
        ranks.draw(&mut random)
    }))
}

/// The frequent keys change: Zipf 0.9 over all keys, whose ranks move on by `keys` each 100 accesses, and all at once
/// by a quarter of them after each 300,000.
#[must_use]
pub fn moving(keys: u32, seed: u64) -> Trace {
    let (ranks, mut random) = (Zipf::new(KEYS, 0.9), Random(seed << 32));
    let (mut index, mut offset) = (0_u32, 0_u32);
    Trace::of_keys(std::iter::repeat_with(|| {
        index += 1;
        if index.is_multiple_of(100) {
            offset += keys;
        }
        if index.is_multiple_of(300_000) {
            offset += KEYS / 4;
        }
        (ranks.draw(&mut random) + offset) % KEYS
    }))
}

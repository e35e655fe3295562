//! A virtual clock like that of real machines: it mostly goes on, stands still at times, and is now and then set
//! forward or back.

use crate::engine::testing::Random;
use crate::types::mix;

pub(super) const DAY_MS: u64 = 86_400_000;

/// A virtual clock.
pub(super) struct Clock {
    now_ms: u64,
    random: Random,
    /// True if it stands still for one look.
    stands_still: bool,
}

impl Clock {
    /// A clock; two with the same seed show the same times.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(mix(seed) >> 1);
        let now_ms = 20_000 * DAY_MS + random.below(2 * DAY_MS);
        Self { now_ms, random, stands_still: false }
    }

    /// Sets it, for the next look.
    #[cfg(test)]
    pub(super) fn set(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.stands_still = true;
    }

    /// The time that it shows, in Unix milliseconds.
    pub(super) fn now(&mut self) -> u64 {
        if std::mem::take(&mut self.stands_still) {
            return self.now_ms;
        }
        let by = self.random.below(DAY_MS);
        self.now_ms = match self.random.below(20) {
            0 => self.now_ms + by,
            1 => self.now_ms - by,
            2..6 => self.now_ms,
            _ => self.now_ms + by % 50,
        };
        self.now_ms
    }
}

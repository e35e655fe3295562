//! A clock as machines have them: it mostly goes on, stands still at times, and is now and then
//! set, forward or back.

use crate::engine::tests::Random;
use crate::types::mix;

const DAY_MS: u64 = 86_400_000;

/// A virtual clock.
pub(super) struct Clock {
    now_ms: u64,
    random: Random,
}

impl Clock {
    /// Two with the same seed show the same.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(mix(seed) >> 1);
        Self { now_ms: 20_000 * DAY_MS + random.below(2 * DAY_MS), random }
    }

    /// Looks at it. Unix milliseconds.
    pub(super) fn now(&mut self) -> u64 {
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

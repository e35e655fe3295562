//! Predicted time to answer a search that arrives now, from the rate of answers.
//!
//! In a queue served at a steady pace, a new search waits for all that are in it: the number in flight, times the time
//! from one answer to the next (Little's law). That time is a moving average of measured gaps. Without searches there
//! are no answers, so a gap counts for no more than the latency of the search that ends it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Divisor of a new gap in the moving average.
const WEIGHT: u64 = 32;

/// Estimator of the time between answers.
pub(super) struct Pace {
    /// Zero point of times.
    epoch: Instant,
    last_ns: AtomicU64,
    /// Average time from one answer to the next, in nanoseconds; 0 until there is one.
    gap_ns: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { epoch: Instant::now(), last_ns: AtomicU64::new(0), gap_ns: AtomicU64::new(0) }
    }
}

impl Pace {
    /// Notes an answer, given after this latency.
    pub(super) fn note(&self, latency: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.note_at(nanos(self.epoch.elapsed()), nanos(latency));
    }

    fn note_at(&self, now_ns: u64, latency_ns: u64) {
        let last = self.last_ns.swap(now_ns, Ordering::Relaxed);
        let gap = now_ns.saturating_sub(last).min(latency_ns);
        let average = self.gap_ns.load(Ordering::Relaxed);
        // Of two concurrent updates one may be lost: it is an average.
        let after = match average {
            0 => gap,
            average => average - average / WEIGHT + gap / WEIGHT,
        };
        self.gap_ns.store(after.max(1), Ordering::Relaxed);
    }

    /// Predicted time of a search that arrives now, with `in_flight` before it.
    pub(super) fn expected(&self, in_flight: usize) -> Duration {
        let gap = self.gap_ns.load(Ordering::Relaxed);
        Duration::from_nanos(gap.saturating_mul(in_flight as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn predicted_time_follows_the_rate_of_answers_and_not_of_queries() {
        let pace = Pace::default();
        assert_eq!(pace.expected(1_000), Duration::ZERO, "nothing is known");
        // One at a time, each of 2 ms, a second apart.
        for second in 1..100 {
            pace.note_at(second * 1_000 * MS, 2 * MS);
        }
        let alone = pace.expected(0);
        assert!(alone > Duration::from_millis(1) && alone <= Duration::from_millis(2), "{alone:?}");
        // Two per millisecond, each of 50 ms: a hundred are in flight.
        for half in 1..400 {
            pace.note_at(100_000 * MS + half * MS / 2, 50 * MS);
        }
        let behind = pace.expected(100);
        assert!((45..55).contains(&behind.as_millis()), "{behind:?}");
        // The rate falls.
        for answer in 1..400 {
            pace.note_at(200_000 * MS + answer * 5 * MS, 500 * MS);
        }
        assert!(pace.expected(100) > Duration::from_millis(450));
    }
}

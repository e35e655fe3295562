//! Selection of slow searches for the log: those over a threshold, with a bound per second. A search that is not slow
//! costs one comparison.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::counters::Counter;
use super::trace::nanos;

/// Threshold, bound and counters.
pub struct SlowLog {
    begun: Instant,
    /// Least duration of a slow search, in nanoseconds; 0 for none.
    threshold_ns: AtomicU64,
    per_second: AtomicU32,
    /// In the upper half the second of the last line, in the lower half the number of lines in it.
    lines: AtomicU64,
    /// Slow searches not logged since the last line.
    left_out: AtomicU64,
    /// Slow searches, and those of them that were not logged.
    pub slow: Counter,
    /// See `slow`.
    pub unlogged: Counter,
}

impl Default for SlowLog {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            threshold_ns: AtomicU64::new(0),
            per_second: AtomicU32::new(0),
            lines: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            slow: Counter::default(),
            unlogged: Counter::default(),
        }
    }
}

impl SlowLog {
    /// Sets the threshold in milliseconds (0: no search is slow) and the most lines per second.
    pub fn set(&self, threshold_ms: u64, per_second: u32) {
        self.threshold_ns.store(threshold_ms.saturating_mul(1_000_000), Ordering::Relaxed);
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Decides on a search that took this long and ended then. `Some` if it has to be logged, with the number of slow
    /// searches not logged since the last line.
    pub fn admit(&self, took: Duration, ended: Instant) -> Option<u64> {
        let threshold_ns = self.threshold_ns.load(Ordering::Relaxed);
        if threshold_ns == 0 || nanos(took) < threshold_ns {
            return None;
        }
        self.slow.add(1);
        let second = ended.saturating_duration_since(self.begun).as_secs() & u64::from(u32::MAX);
        let most = u64::from(self.per_second.load(Ordering::Relaxed));
        let next = |lines: u64| match (lines >> 32, lines & u64::from(u32::MAX)) {
            // A search that ended just before the second did counts in the next.
            (last, count) if last >= second => (count < most).then_some(lines + 1),
            _ => (most > 0).then_some(second << 32 | 1),
        };
        match self.lines.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Some(self.left_out.swap(0, Ordering::Relaxed)),
            Err(_) => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                self.unlogged.add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn lines_are_bounded_a_second_and_what_is_left_out_is_told() {
        let log = SlowLog::default();
        let at = |ms: u32| log.begun + MS * ms;
        assert_eq!(log.admit(MS * 1_000, at(1_000)), None, "it is off");
        log.set(100, 2);
        assert_eq!(log.admit(MS * 99, at(1_000)), None);
        assert_eq!(log.admit(MS * 100, at(1_000)), Some(0));
        assert_eq!(log.admit(MS * 100, at(1_500)), Some(0));
        for _ in 0..5 {
            assert_eq!(log.admit(MS * 100, at(1_900)), None);
        }
        // It arrives late, and does not restart the count of its second.
        assert_eq!(log.admit(MS * 100, at(900)), None);
        assert_eq!(log.admit(MS * 100, at(2_000)), Some(6));
        assert_eq!(log.admit(MS * 100, at(9_000)), Some(0));
        assert_eq!((log.slow.get(), log.unlogged.get()), (10, 6));
        log.set(0, 2);
        assert_eq!(log.admit(MS * 1_000, at(20_000)), None);
        assert_eq!(log.slow.get(), 10);
    }

    #[test]
    fn searches_that_end_together_share_the_bound() {
        let log = SlowLog::default();
        log.set(1, 10);
        let ended = log.begun + MS * 5_000;
        let lines: usize = std::thread::scope(|scope| {
            let some = || (0..1_000).filter(|_| log.admit(MS * 5, ended).is_some()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(some)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(lines, 10);
        assert_eq!((log.slow.get(), log.unlogged.get()), (4_000, 3_990));
    }
}

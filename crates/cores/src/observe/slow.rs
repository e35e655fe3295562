//! The slowest searches of the last minutes, kept with their whole records.
//!
//! One atomic word decides whether a search is slow enough to be kept; only then the lock is taken. Memory is bounded
//! by [`SLOWEST`] records in each of [`WINDOWS`] minutes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::origin::Origin;
use super::trace::{Trace, nanos};
use crate::clock::unix_ms;

/// Searches kept per window, and returned in total.
pub const SLOWEST: usize = 32;

/// Number of windows kept.
pub const WINDOWS: u64 = 5;

/// Length of a window.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Bits of the threshold word that hold nanoseconds, up to 18 minutes. The upper bits hold the number of the window.
const NS_BITS: u32 = 40;
const NS_MAX: u64 = (1 << NS_BITS) - 1;

/// A search that was slow for its minute.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Its record.
    pub trace: Trace,
    /// Identification by its client.
    pub origin: Origin,
    /// Time of its end, in Unix milliseconds.
    pub unix_ms: u64,
}

struct Window {
    number: u64,
    slowest: Vec<Slow>,
}

/// Keeps the slowest searches of each window.
pub struct Recorder {
    begun: Instant,
    /// Number of the window in the upper bits, and the least duration to be kept, in nanoseconds, in the lower.
    threshold: AtomicU64,
    windows: Mutex<VecDeque<Window>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { begun: Instant::now(), threshold: AtomicU64::new(0), windows: Mutex::default() }
    }
}

impl Recorder {
    /// Keeps a completed search if it is among the slowest of its minute.
    pub fn offer(&self, trace: &Trace, origin: &Origin) {
        let (number, ns) = (self.window(trace.ended()), nanos(trace.total()).min(NS_MAX));
        let threshold = self.threshold.load(Ordering::Relaxed);
        if threshold >> NS_BITS == number && ns <= threshold & NS_MAX {
            return;
        }
        let mut windows = self.lock();
        if windows.back().is_none_or(|newest| newest.number < number) {
            while windows.front().is_some_and(|oldest| oldest.number + WINDOWS <= number) {
                windows.pop_front();
            }
            windows.push_back(Window { number, slowest: Vec::with_capacity(SLOWEST) });
        }
        // A search that ended just before its minute did may arrive after the next has begun.
        let Some(window) = windows.iter_mut().rev().find(|window| window.number == number) else {
            return;
        };
        window.keep(Slow { trace: *trace, origin: origin.clone(), unix_ms: unix_ms() });
        if windows.back().is_some_and(|newest| newest.number == number) {
            let least_ns = windows.back().map_or(0, Window::least_ns);
            self.threshold.store(number << NS_BITS | least_ns, Ordering::Relaxed);
        }
    }

    /// The slowest searches of the last minutes, slowest first.
    #[must_use]
    pub fn slowest(&self, now: Instant) -> Vec<Slow> {
        let number = self.window(now);
        let windows = self.lock();
        let recent = windows.iter().filter(|window| window.number + WINDOWS > number);
        let mut slowest: Vec<Slow> = recent.flat_map(|window| &window.slowest).cloned().collect();
        drop(windows);
        slowest.sort_by_key(|slow| std::cmp::Reverse(slow.trace.total()));
        slowest.truncate(SLOWEST);
        slowest
    }

    fn window(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs() / WINDOW.as_secs()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Adds a search, in place of the fastest one if there is no room.
    fn keep(&mut self, slow: Slow) {
        if self.slowest.len() < SLOWEST {
            return self.slowest.push(slow);
        }
        let least = self.slowest.iter_mut().min_by_key(|slow| slow.trace.total());
        if let Some(least) = least.filter(|least| least.trace.total() < slow.trace.total()) {
            *least = slow;
        }
    }

    /// Least duration to be kept, in nanoseconds; 0 while there is room.
    fn least_ns(&self) -> u64 {
        if self.slowest.len() < SLOWEST {
            return 0;
        }
        let totals = self.slowest.iter().map(|slow| nanos(slow.trace.total()));
        totals.min().unwrap_or(0).min(NS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::Stage;
    use super::*;

    /// A search that ended at this time after the recorder began, with this duration.
    fn ended(recorder: &Recorder, at: Duration, took_us: u64) -> Trace {
        let ended = recorder.begun + at;
        let took = Duration::from_micros(took_us);
        let mut trace = Trace::new(ended - took, true);
        trace.mark(Stage::Walk, ended);
        trace
    }

    fn totals_us(recorder: &Recorder, at: Duration) -> Vec<u128> {
        let slowest = recorder.slowest(recorder.begun + at);
        slowest.iter().map(|slow| slow.trace.total().as_micros()).collect()
    }

    #[test]
    fn the_slowest_are_kept_slowest_first_and_memory_is_bounded() {
        let recorder = Recorder::default();
        let at = Duration::from_secs(10);
        // 1 to 1,000 in a mixed order.
        for number in 0..1_000_u64 {
            recorder.offer(&ended(&recorder, at, (number * 733) % 1_000 + 1), &Origin::default());
        }
        let expected: Vec<u128> = (969..=1_000).rev().collect();
        assert_eq!(totals_us(&recorder, at), expected);
        let windows = recorder.lock();
        assert_eq!((windows.len(), windows[0].slowest.capacity()), (1, SLOWEST));
    }

    #[test]
    fn a_minute_has_its_own_slowest_and_is_forgotten_after_five() {
        let recorder = Recorder::default();
        for minute in 0..7_u64 {
            for number in 0..100 {
                let at = WINDOW * minute as u32 + Duration::from_secs(1);
                // Each minute is faster than the one before.
                recorder.offer(
                    &ended(&recorder, at, 1_000 * (7 - minute) + number),
                    &Origin::default(),
                );
            }
        }
        let now = WINDOW * 6 + Duration::from_secs(2);
        let expected: Vec<u128> = (0..SLOWEST as u128).map(|n| 5_000 + 99 - n).collect();
        assert_eq!(totals_us(&recorder, now), expected);
        assert_eq!(recorder.lock().len() as u64, WINDOWS);
        // No search comes; the windows still expire.
        let expected: Vec<u128> = (0..SLOWEST as u128).map(|n| 1_000 + 99 - n).collect();
        assert_eq!(totals_us(&recorder, now + WINDOW * 4), expected);
        assert!(totals_us(&recorder, now + WINDOW * 5).is_empty());
    }

    /// A search that is not among the slowest returns before the lock, which this test holds.
    #[test]
    fn a_fast_search_takes_no_lock() {
        let recorder = Recorder::default();
        let at = Duration::from_secs(10);
        for _ in 0..SLOWEST {
            recorder.offer(&ended(&recorder, at, 500), &Origin::default());
        }
        let held = recorder.lock();
        std::thread::scope(|scope| {
            let fast =
                scope.spawn(|| recorder.offer(&ended(&recorder, at, 500), &Origin::default()));
            assert!(fast.join().is_ok());
        });
        drop(held);
        recorder.offer(&ended(&recorder, at, 501), &Origin::default());
        assert_eq!(totals_us(&recorder, at)[0], 501);
    }
}

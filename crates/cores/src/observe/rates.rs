//! Growth of counters over the last minutes: present values less those at a past tick.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::counters::{ErrorCategory, GatewayCounters};

/// Number of [`Rates::tick`]s per minute, and number that are kept.
const MINUTE_TICKS: usize = 6;
const WINDOW_TICKS: usize = 5 * MINUTE_TICKS;

/// Counts since the start, or their growth over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Searches and documents read.
    pub queries: u64,
    /// Documents written.
    pub inserts: u64,
    /// Requests of clients; each document of a stream counts as one.
    pub requests: u64,
    /// Valid requests that failed.
    pub failed: u64,
    /// Requests among them that failed because the server could not execute them.
    pub unserved: u64,
    /// Searches answered from the query cache.
    pub cache_hits: u64,
    /// Lookups without an answer.
    pub cache_misses: u64,
    /// Misses among them that were repeats, with nothing written since.
    pub cache_missed_repeats: u64,
    /// CPU time of all threads of the process.
    pub cpu: Duration,
}

impl Counts {
    fn now(gateway: &GatewayCounters) -> Self {
        let errors = |category| gateway.errors(category).get();
        let unserved = errors(ErrorCategory::Internal);
        let (queries, inserts) = (gateway.queries.get(), gateway.inserts.get());
        Self {
            queries,
            inserts,
            requests: queries + inserts + gateway.inserts_failed.get() + gateway.deletes.get(),
            failed: unserved
                + errors(ErrorCategory::Timeout)
                + errors(ErrorCategory::ResourceExhausted),
            unserved,
            cache_hits: gateway.cache.hits.get(),
            cache_misses: gateway.cache.misses.get(),
            cache_missed_repeats: gateway.cache.missed_repeats.get(),
            cpu: cpu_time(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            queries: self.queries - before.queries,
            inserts: self.inserts - before.inserts,
            requests: self.requests - before.requests,
            failed: self.failed - before.failed,
            unserved: self.unserved - before.unserved,
            cache_hits: self.cache_hits - before.cache_hits,
            cache_misses: self.cache_misses - before.cache_misses,
            cache_missed_repeats: self.cache_missed_repeats - before.cache_missed_repeats,
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }
}

/// CPU time of all threads of the process.
#[must_use]
pub fn cpu_time() -> Duration {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let seconds = u64::try_from(cpu.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(cpu.tv_nsec).unwrap_or_default())
}

/// Counts at the last ticks, oldest first; the first is that of the start.
pub struct Rates {
    ticks: Mutex<VecDeque<(Instant, Counts)>>,
    /// Hit rate of the query cache over the last minute with lookups, in millionths, plus 1; 0 before the first.
    last_hits: AtomicU64,
}

impl Default for Rates {
    fn default() -> Self {
        // The process may have run before the server started in it.
        let start = Counts { cpu: cpu_time(), ..Counts::default() };
        Self { ticks: Mutex::new([(Instant::now(), start)].into()), last_hits: AtomicU64::new(0) }
    }
}

impl Rates {
    /// Moves the window forward. Called every ten seconds.
    pub(super) fn tick(&self, gateway: &GatewayCounters) {
        if let Some(rate) = hit_rate(&self.recent(gateway).0) {
            self.last_hits.store((rate * 1e6) as u64 + 1, Ordering::Relaxed);
        }
        let mut ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        ticks.push_back((Instant::now(), Counts::now(gateway)));
        if ticks.len() > WINDOW_TICKS {
            ticks.pop_front();
        }
    }

    /// Growth over the last minute, or since the start if that is less; and the length of that time.
    pub(super) fn recent(&self, gateway: &GatewayCounters) -> (Counts, Duration) {
        self.of_ticks(MINUTE_TICKS, gateway)
    }

    /// Growth over the last five minutes, as [`Rates::recent`].
    pub(super) fn recent_five(&self, gateway: &GatewayCounters) -> (Counts, Duration) {
        self.of_ticks(WINDOW_TICKS, gateway)
    }

    /// Hit rate of the query cache over the last minute with lookups; `None` before the first.
    pub(super) fn hit_rate_lately(&self, gateway: &GatewayCounters) -> Option<f64> {
        let last = self.last_hits.load(Ordering::Relaxed).checked_sub(1);
        let last = || last.map(|millionths| millionths as f64 / 1e6);
        hit_rate(&self.recent(gateway).0).or_else(last)
    }

    fn of_ticks(&self, count: usize, gateway: &GatewayCounters) -> (Counts, Duration) {
        let ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before) = ticks[ticks.len().saturating_sub(count)];
        (Counts::now(gateway).since(before), at.elapsed())
    }
}

fn hit_rate(counts: &Counts) -> Option<f64> {
    let asked = counts.cache_hits + counts.cache_misses;
    (asked > 0).then(|| counts.cache_hits as f64 / asked as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_known_after_traffic_has_ended() {
        let (gateway, rates) = (GatewayCounters::default(), Rates::default());
        assert_eq!(rates.hit_rate_lately(&gateway), None);
        gateway.cache.hits.add(1);
        gateway.cache.misses.add(3);
        for _ in 0..3 * MINUTE_TICKS {
            assert_eq!(rates.hit_rate_lately(&gateway), Some(0.25));
            rates.tick(&gateway);
        }
        gateway.cache.misses.add(1);
        assert_eq!(rates.hit_rate_lately(&gateway), Some(0.0));
    }

    #[test]
    fn counts_older_than_the_window_are_left_out() {
        let (gateway, rates) = (GatewayCounters::default(), Rates::default());
        gateway.queries.add(5);
        gateway.errors(ErrorCategory::Timeout).add(2);
        gateway.errors(ErrorCategory::Validation).add(3);
        gateway.errors(ErrorCategory::Limited).add(4);
        gateway.errors(ErrorCategory::Planned).add(5);
        let (counts, _) = rates.recent(&gateway);
        assert_eq!((counts.queries, counts.requests), (5, 5));
        assert_eq!(
            (counts.failed, counts.unserved),
            (2, 0),
            "what was wrong in itself, too much or planned is no fault"
        );
        assert!(counts.cpu > Duration::ZERO);
        rates.tick(&gateway);
        gateway.inserts.add(4);
        gateway.errors(ErrorCategory::Internal).add(1);
        (1..MINUTE_TICKS).for_each(|_| rates.tick(&gateway));
        let (counts, _) = rates.recent(&gateway);
        assert_eq!((counts.queries, counts.inserts, counts.failed), (0, 4, 1));
        rates.tick(&gateway);
        assert_eq!(rates.recent(&gateway).0.inserts, 0);
        let (counts, _) = rates.recent_five(&gateway);
        assert_eq!((counts.queries, counts.inserts, counts.failed), (5, 4, 3));
        (MINUTE_TICKS..WINDOW_TICKS - 1).for_each(|_| rates.tick(&gateway));
        assert_eq!(rates.recent_five(&gateway).0.inserts, 4);
        rates.tick(&gateway);
        assert_eq!(rates.recent_five(&gateway).0.inserts, 0);
    }
}

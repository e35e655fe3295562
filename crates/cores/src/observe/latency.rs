//! Latencies: counted in atomic buckets, without a lock or a syscall on any thread.
//!
//! Buckets are log-linear: 64 per doubling, so a value is known within 1.6 %. (The recorders of `hdrhistogram` make a
//! reader wait until every thread has recorded once more, which an idle one never does.)

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::trace::nanos;

/// Buckets per doubling, as a power of two.
const SUB_BITS: u32 = 6;
const SUBS: usize = 1 << SUB_BITS;

/// Longest latency that is told apart from longer ones, as a power of two: 2^36 ns, 69 seconds.
const BITS_MAX: u32 = 36;
const BUCKETS: usize = SUBS * (BITS_MAX - SUB_BITS + 1) as usize;

/// Window of the recent percentiles, in [`Latency::tick`]s.
const WINDOW_TICKS: usize = 6;

/// Histogram of the latency of a method or a stage.
pub struct Latency {
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
    ticks: Mutex<Ticks>,
}

struct Ticks {
    /// The totals at the last ticks, oldest first.
    totals: VecDeque<Box<[u64]>>,
    /// Counts of the last window that had any.
    last: Option<Box<[u64]>>,
}

/// Counts of a histogram at one moment.
pub struct Summary {
    buckets: Box<[u64]>,
    /// Sum of all latencies, in nanoseconds.
    pub sum_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
            ticks: Mutex::new(Ticks {
                totals: VecDeque::from([vec![0; BUCKETS].into()]),
                last: None,
            }),
        }
    }
}

impl Latency {
    /// Counts one latency.
    #[inline]
    pub fn record(&self, latency: Duration) {
        let ns = nanos(latency);
        self.buckets[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Counts since the start.
    #[must_use]
    pub fn total(&self) -> Summary {
        let buckets = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Summary { buckets, sum_ns: self.sum_ns.load(Ordering::Relaxed) }
    }

    /// Counts of the last six ticks, about a minute. The sum is that of all counts.
    #[must_use]
    pub fn recent(&self) -> Summary {
        let mut summary = self.total();
        let ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        ticks.take_from(&mut summary.buckets);
        summary
    }

    /// As [`Latency::recent`], or its last value that was not empty; `None` if nothing was ever counted.
    #[must_use]
    pub fn lately(&self) -> Option<Summary> {
        let recent = self.recent();
        if recent.count() > 0 {
            return Some(recent);
        }
        let ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = ticks.last.clone()?;
        Some(Summary { buckets, sum_ns: recent.sum_ns })
    }

    /// Moves the recent window forward. Called every ten seconds.
    pub fn tick(&self) {
        let total = self.total();
        let mut ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut recent = total.buckets.clone();
        ticks.take_from(&mut recent);
        if recent.iter().any(|&count| count > 0) {
            ticks.last = Some(recent);
        }
        ticks.totals.push_back(total.buckets);
        if ticks.totals.len() > WINDOW_TICKS {
            ticks.totals.pop_front();
        }
    }
}

impl Ticks {
    /// Subtracts from present totals the counts before the window.
    fn take_from(&self, totals: &mut [u64]) {
        let oldest = self.totals.front().expect("there is always one");
        for (count, before) in totals.iter_mut().zip(oldest) {
            *count -= before;
        }
    }
}

impl Summary {
    /// Number of latencies.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Number of latencies of at most this length, to the precision of a bucket.
    #[must_use]
    pub fn count_up_to(&self, latency: Duration) -> u64 {
        let ns = nanos(latency);
        self.buckets[..=bucket(ns)].iter().sum()
    }

    /// The quantile in nanoseconds; 0 without counts.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let wanted = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let mut counted = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            counted += count;
            if counted >= wanted {
                return upper_ns(index);
            }
        }
        0
    }
}

/// Bucket of a value: exact below 128 ns, then 64 per doubling.
fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << BITS_MAX) - 1);
    let doubling = ns.max(1).ilog2().saturating_sub(SUB_BITS);
    doubling as usize * SUBS + (ns >> doubling) as usize
}

/// Largest value of a bucket, in nanoseconds.
fn upper_ns(bucket: usize) -> u64 {
    let doubling = (bucket / SUBS).saturating_sub(1);
    let sub = bucket - doubling * SUBS;
    ((sub as u64 + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_values_in_order() {
        let powers = (0..BITS_MAX).flat_map(|bit| [(1 << bit) - 1, 1 << bit]);
        for ns in (0..5_000).chain(powers) {
            let upper = upper_ns(bucket(ns));
            assert!(upper >= ns && (upper - ns) as f64 <= ns as f64 / 63.0, "{ns}: {upper}");
        }
        let indices: Vec<usize> = (0..5_000).map(bucket).collect();
        assert!(indices.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_look_back_a_minute_and_totals_forget_nothing() {
        let latency = Latency::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for micros in 1..=1_000 {
                        latency.record(Duration::from_micros(micros));
                    }
                });
            }
        });
        let recent = latency.recent();
        assert_eq!((recent.count(), latency.total().count()), (4_000, 4_000));
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| recent.quantile_ns(q) / 1_000);
        assert!((500..=508).contains(&p50), "{p50}");
        assert!((950..=966).contains(&p95), "{p95}");
        assert!((990..=1_008).contains(&p99), "{p99}");
        let half = recent.count_up_to(Duration::from_micros(500));
        assert!((2_000..=2_032).contains(&half), "{half}");
        for _ in 0..WINDOW_TICKS {
            latency.tick();
        }
        latency.record(Duration::from_secs(100));
        assert_eq!((latency.recent().count(), latency.total().count()), (1, 4_001));
        assert!(latency.recent().quantile_ns(0.99) > 60_000_000_000);
        assert_eq!(Latency::default().recent().quantile_ns(0.5), 0);
    }

    #[test]
    fn last_latencies_are_known_after_traffic_has_ended() {
        let latency = Latency::default();
        latency.tick();
        assert!(latency.lately().is_none());
        latency.record(Duration::from_millis(3));
        for _ in 0..3 * WINDOW_TICKS {
            let lately = latency.lately().unwrap();
            assert_eq!((lately.count(), lately.quantile_ns(0.5) / 1_000_000), (1, 3));
            latency.tick();
        }
        assert_eq!(latency.recent().count(), 0);
    }
}

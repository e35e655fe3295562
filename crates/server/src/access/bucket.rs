//! Token buckets that take no lock.
//!
//! A bucket is one number: the time at which it will be full again if no more tokens are taken (the generic cell rate
//! algorithm; ITU-T I.371, appendix A). Taking a token moves it one token's time further into the future, and is
//! refused where that would be further than a full bucket lasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds per second.
const SECOND_NS: u64 = 1_000_000_000;

/// A token bucket. The default one is unbounded.
#[derive(Debug)]
pub struct Bucket {
    /// Zero point of times.
    epoch: Instant,
    /// Time per token, in nanoseconds; 0: unbounded.
    token_ns: AtomicU64,
    /// Time to fill an empty bucket, in nanoseconds.
    fill_ns: AtomicU64,
    /// Time at which it is full, in nanoseconds since the epoch.
    full_at_ns: AtomicU64,
}

impl Default for Bucket {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { epoch: Instant::now(), token_ns: zero(), fill_ns: zero(), full_at_ns: zero() }
    }
}

impl Bucket {
    /// A full bucket of `capacity` tokens that refills at `per_second` tokens per second.
    #[must_use]
    pub fn new(per_second: u32, capacity: u32) -> Self {
        let bucket = Self::default();
        bucket.set_rate(per_second, capacity);
        bucket
    }

    /// Changes the rate in tokens per second. 0 lifts the bound.
    pub fn set_rate(&self, per_second: u32, capacity: u32) {
        let token_ns = match per_second {
            0 => 0,
            rate => (SECOND_NS / u64::from(rate)).max(1),
        };
        self.token_ns.store(token_ns, Ordering::Relaxed);
        self.fill_ns.store(token_ns * u64::from(capacity.max(1)), Ordering::Relaxed);
    }

    /// True if there is a bound.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.token_ns.load(Ordering::Relaxed) > 0
    }

    /// Takes a token.
    ///
    /// # Errors
    /// If there is none: the time until there is one.
    pub fn take(&self) -> Result<(), Duration> {
        self.take_some(1)
    }

    /// Takes `count` tokens at once, or as many as the bucket may hold if that is fewer.
    ///
    /// # Errors
    /// If there are too few: the time until there are enough.
    pub fn take_some(&self, count: u64) -> Result<(), Duration> {
        let token_ns = self.token_ns.load(Ordering::Relaxed);
        if token_ns == 0 {
            return Ok(());
        }
        let fill_ns = self.fill_ns.load(Ordering::Relaxed);
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut full_at = self.full_at_ns.load(Ordering::Relaxed);
        let cost_ns = token_ns.saturating_mul(count).min(fill_ns);
        loop {
            let after = full_at.max(now) + cost_ns;
            if after - now > fill_ns {
                return Err(Duration::from_nanos(after - now - fill_ns));
            }
            let swapped = self.full_at_ns.compare_exchange_weak(
                full_at,
                after,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Returns a token that was not used.
    pub fn give_back(&self) {
        let token_ns = self.token_ns.load(Ordering::Relaxed);
        let less = |full_at: u64| Some(full_at.saturating_sub(token_ns));
        // The update never fails.
        self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_has_its_capacity_and_no_more() {
        // One token per 1,000 seconds: none comes back while this runs.
        let bucket = Bucket::new(1, 5);
        bucket.token_ns.store(1_000 * SECOND_NS, Ordering::Relaxed);
        bucket.fill_ns.store(5_000 * SECOND_NS, Ordering::Relaxed);
        assert!((0..5).all(|_| bucket.take().is_ok()));
        let wait = bucket.take().unwrap_err();
        assert!(wait > Duration::from_secs(900) && wait <= Duration::from_secs(1_000), "{wait:?}");
        bucket.give_back();
        assert!(bucket.take().is_ok() && bucket.take().is_err());
    }

    #[test]
    fn threads_together_get_no_more_than_there_is() {
        let bucket = Bucket::new(1, 1_000);
        bucket.token_ns.store(1_000 * SECOND_NS, Ordering::Relaxed);
        bucket.fill_ns.store(1_000_000 * SECOND_NS, Ordering::Relaxed);
        let taken = std::thread::scope(|scope| {
            let take = || (0..1_000).filter(|_| bucket.take().is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(taken, 1_000);
    }

    #[test]
    fn tokens_come_back_and_a_bound_can_be_lifted() {
        let bucket = Bucket::new(1_000, 1);
        assert!(bucket.take().is_ok());
        while bucket.take().is_err() {
            std::thread::yield_now();
        }
        bucket.set_rate(0, 0);
        assert!((0..10_000).all(|_| bucket.take().is_ok()));
    }
}

//! Arrival of requests: at random times at a rate (a Poisson process), or as soon as a worker is free.
//!
//! The runtime's own timer has a step of a millisecond; a separate thread wakes waiting workers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::types::mix;

/// Reproducible random numbers.
#[derive(Clone)]
pub(super) struct Random(u64);

impl Random {
    /// One of several independent sequences of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed) ^ mix(mix(stream)))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number in [0, `count`).
    pub(super) fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }
}

/// Arrival times of a Poisson process, from its start: gaps are independent, with an exponential distribution.
pub(super) struct Arrivals {
    random: Random,
    rate: f64,
    last: Duration,
}

impl Arrivals {
    /// At `rate` arrivals per second.
    pub(super) fn new(seed: u64, rate: f64) -> Self {
        Self { random: Random::new(seed, u64::MAX), rate, last: Duration::ZERO }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let gap = -(1.0 - self.random.unit()).ln() / self.rate;
        self.last += Duration::from_secs_f64(gap);
        Some(self.last)
    }
}

/// A request that is due.
#[derive(Clone, Copy)]
pub(super) struct Due {
    /// Time at which it was due.
    pub(super) intended: Instant,
    /// A worker was free before it was due, so only this program can be late.
    pub(super) is_awaited: bool,
}

/// Hands out due requests to the workers.
pub(super) struct Pacer {
    start: Instant,
    length: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// `None`: a request is due as soon as a worker asks.
    arrivals: Option<Arrivals>,
    /// Waiting workers and their times, earliest first, since arrivals are in order.
    waiting: VecDeque<(Instant, oneshot::Sender<()>)>,
    is_stopped: bool,
}

impl Pacer {
    /// A pacer for `length` from now on.
    pub(super) fn start(
        arrivals: Option<Arrivals>,
        length: Duration,
    ) -> (Arc<Self>, JoinHandle<()>) {
        let state = State { arrivals, waiting: VecDeque::new(), is_stopped: false };
        let pacer = Arc::new(Self {
            start: Instant::now(),
            length,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let clock = pacer.clone();
        let thread = std::thread::spawn(move || clock.wake());
        (pacer, thread)
    }

    pub(super) fn began(&self) -> Instant {
        self.start
    }

    /// Waits for the next due request; `None` after the last.
    pub(super) async fn next(&self) -> Option<Due> {
        let (intended, woken) = self.take()?;
        let Some(woken) = woken else { return Some(Due { intended, is_awaited: false }) };
        // An error: the run was stopped.
        woken.await.ok()?;
        Some(Due { intended, is_awaited: true })
    }

    fn take(&self) -> Option<(Instant, Option<oneshot::Receiver<()>>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let intended = match &mut state.arrivals {
            Some(arrivals) => self.start + arrivals.next()?,
            None => now,
        };
        if state.is_stopped || intended >= self.start + self.length {
            return None;
        }
        if intended <= now {
            return Some((intended, None));
        }
        let (wake, woken) = oneshot::channel();
        if state.waiting.is_empty() {
            self.changed.notify_one();
        }
        state.waiting.push_back((intended, wake));
        Some((intended, Some(woken)))
    }

    /// Ends the run: no more requests become due.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_stopped = true;
        state.waiting.clear();
        self.changed.notify_one();
    }

    fn wake(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.is_stopped {
            let now = Instant::now();
            while state.waiting.front().is_some_and(|(due, _)| *due <= now) {
                if let Some((_, wake)) = state.waiting.pop_front() {
                    // The waiting worker may have been dropped.
                    let _ = wake.send(());
                }
            }
            let next = state.waiting.front().map(|(due, _)| *due - now);
            state = match next {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count in an interval has the rate as its mean, and, unlike an even pace, also as its variance.
    #[test]
    fn arrivals_are_a_poisson_process_of_the_rate() {
        const SECONDS: usize = 2_000;
        let mut counts = vec![0_u32; SECONDS];
        for at in Arrivals::new(7, 50.0).take_while(|at| at.as_secs() < SECONDS as u64) {
            counts[at.as_secs() as usize] += 1;
        }
        let mean = f64::from(counts.iter().sum::<u32>()) / SECONDS as f64;
        let square = |&count: &u32| (f64::from(count) - mean).powi(2);
        let variance = counts.iter().map(square).sum::<f64>() / SECONDS as f64;
        assert!((mean - 50.0).abs() < 1.0, "mean {mean}");
        assert!((variance / mean - 1.0).abs() < 0.15, "variance {variance}");
    }

    #[test]
    fn a_seed_decides_the_arrivals() {
        let of = |seed| Arrivals::new(seed, 10.0).take(100).collect::<Vec<_>>();
        assert_eq!(of(3), of(3));
        assert_ne!(of(3), of(4));
        assert!(of(3).is_sorted());
    }

    #[tokio::test]
    async fn due_requests_are_handed_out_once_and_in_order() {
        let arrivals = Arrivals::new(5, 1_000.0);
        let wanted = Arrivals::new(5, 1_000.0);
        let length = Duration::from_millis(100);
        let (pacer, thread) = Pacer::start(Some(arrivals), length);
        let mut handed = Vec::new();
        while let Some(due) = pacer.next().await {
            assert!(due.intended <= Instant::now(), "handed out too early");
            handed.push(due.intended - pacer.began());
        }
        let wanted: Vec<Duration> = wanted.take_while(|at| *at < length).collect();
        assert_eq!(handed, wanted, "late or not, nothing is left out");
        pacer.stop();
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_stop_releases_waiting_workers() {
        let (pacer, thread) =
            Pacer::start(Some(Arrivals::new(1, 1e-6)), Duration::from_secs(1 << 30));
        let waiting = tokio::spawn({
            let pacer = pacer.clone();
            async move { pacer.next().await.is_none() }
        });
        tokio::task::yield_now().await;
        pacer.stop();
        assert!(waiting.await.unwrap());
        thread.join().unwrap();
    }
}

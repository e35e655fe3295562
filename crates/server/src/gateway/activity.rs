//! Activity of a connection: time of the last event, bytes received, requests in work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Activity of one connection.
pub(super) struct Activity {
    begun: Instant,
    last_ms: AtomicU64,
    /// Time at which bytes last came from the client, in milliseconds.
    heard_ms: AtomicU64,
    /// Bytes received.
    received: AtomicU64,
    /// Requests in work. One that waits for its bytes does not count.
    requests: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
            heard_ms: AtomicU64::new(0),
            received: AtomicU64::new(0),
            requests: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    /// Notes an event.
    pub(super) fn touch(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Notes bytes from the client.
    pub(super) fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        let now_ms = self.now_ms();
        self.heard_ms.store(now_ms, Ordering::Relaxed);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Time since the last byte from the client.
    pub(super) fn silent(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(heard)
    }

    /// True if a request is in work.
    pub(super) fn is_in_work(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Bytes received from the client.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Age of the connection.
    pub(super) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Time since the last event; zero while a request is in work.
    pub(super) fn idle(&self) -> Duration {
        if self.is_in_work() {
            return Duration::ZERO;
        }
        self.still()
    }

    /// Time since the last event, whether or not a request is in work.
    pub(super) fn still(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }
}

/// A request in work, until this is dropped.
pub(super) struct InWork(Arc<Activity>);

impl InWork {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self(activity.clone())
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.touch();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

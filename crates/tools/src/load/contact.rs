//! Detection of an engine that does not answer any more, while requests are sent to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::{Code, Status};

/// Time without an answer, while requests are sent, after which an unreachable engine counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(2);

/// Pause of a worker after a failure, so that a failing engine is not kept busy with refusals.
pub(super) const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// State that all workers of one engine share.
pub(super) struct Contact {
    begun: Instant,
    /// Time of the last answer of any kind, in microseconds after `begun`.
    answered_us: AtomicU64,
}

impl Contact {
    pub(super) fn since(begun: Instant) -> Self {
        Self { begun, answered_us: AtomicU64::new(0) }
    }

    /// Notes how a request ended. True if the engine counts as gone now.
    pub(super) fn is_lost(&self, status: Option<&Status>) -> bool {
        let now = self.begun.elapsed();
        match status.map(Status::code) {
            Some(Code::Unavailable) => {
                let answered = Duration::from_micros(self.answered_us.load(Ordering::Relaxed));
                return now.saturating_sub(answered) > GONE_AFTER;
            }
            // Says nothing either way.
            Some(Code::DeadlineExceeded) => {}
            _ => self.answered_us.store(now.as_micros() as u64, Ordering::Relaxed),
        }
        false
    }
}

/// Status of a request that was not answered in time.
pub(super) fn late() -> Status {
    Status::deadline_exceeded("no answer in the time of a request")
}

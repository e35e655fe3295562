//! Whether an engine still answers, while requests are sent to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::{Code, Status};

/// An engine that can't be reached for so long, while requests are sent, has gone away.
const GONE_AFTER: Duration = Duration::from_secs(2);

/// Wait of a place after a failure, so that an engine in trouble is not made busy with refusing.
pub(super) const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What all places that send to one engine know of it.
pub(super) struct Contact {
    begun: Instant,
    /// Microseconds after that at which it last answered anything.
    answered_us: AtomicU64,
}

impl Contact {
    pub(super) fn since(begun: Instant) -> Self {
        Self { begun, answered_us: AtomicU64::new(0) }
    }

    /// Takes note of how a request ended. True if by now the engine has gone away.
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

/// What a request comes to that was not answered in its time.
pub(super) fn late() -> Status {
    Status::deadline_exceeded("no answer in the time of a request")
}

//! Bytes that requests and answers hold while they are on their way, and what became of those that took
//! too many or too long.
//!
//! A connection counts its own bytes and draws on the account of the process in steps
//! (`gateway/purse`), so that a small request touches nothing that all connections share.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::Counter;

/// An account of the process, in bytes.
#[derive(Debug)]
pub struct Bank {
    held: AtomicU64,
    max: AtomicU64,
}

impl Default for Bank {
    /// No bound, until there is one.
    fn default() -> Self {
        Self { held: AtomicU64::new(0), max: AtomicU64::new(u64::MAX) }
    }
}

impl Bank {
    /// Bytes held, in steps of connections.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The bound; `u64::MAX` for none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// Sets the bound.
    pub fn set_max(&self, bytes: u64) {
        self.max.store(bytes, Ordering::Relaxed);
    }

    /// So much more is held.
    pub fn add(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much less is held.
    pub fn sub(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why the server has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Frames that make no sense.
    Protocol,
    /// More of something than a peer may send: resets, or tiny frames.
    Calm,
    /// More bytes than the windows allow.
    FlowControl,
    /// Anything else.
    Other,
}

impl Fault {
    /// All of them, with their words in metrics.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Protocol, "protocol_error"),
        (Self::Calm, "enhance_your_calm"),
        (Self::FlowControl, "flow_control_error"),
        (Self::Other, "other"),
    ];
}

/// What is on its way, and what was ended before its end.
#[derive(Default)]
pub struct InFlight {
    /// Requests that are not decoded yet.
    pub requests: Bank,
    /// Answers that their clients have not taken yet.
    pub answers: Bank,
    /// Requests refused since too many bytes of requests were held.
    pub requests_refused: Counter,
    /// Requests ended since their bytes did not come in time.
    pub requests_expired: Counter,
    /// Answers replaced by an error since too many bytes of answers were held.
    pub answers_refused: Counter,
    /// Answers ended since their client did not take them in time.
    pub answers_stalled: Counter,
    /// Connections closed since their client did not begin in time.
    pub setups_expired: Counter,
    /// Connections closed since their client did not answer a ping.
    pub pings_expired: Counter,
    /// Connections refused since their address had its share of all places.
    pub peers_refused: Counter,
    faults: [Counter; Fault::ALL.len()],
}

impl InFlight {
    /// Connections that the server has ended for this.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> &Counter {
        &self.faults[fault as usize]
    }

    /// Bytes of requests and answers.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.requests.held() + self.answers.held()
    }
}

//! Bytes held by requests and answers in flight, and counters of those that were ended because they took too many bytes
//! or too long.
//!
//! A connection counts its own bytes and draws on the account of the process in steps (`gateway/purse`), so that a
//! small request writes to no memory that all connections share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::counters::Counter;
use crate::types::headroom::Headroom;

/// Bytes that each account may hold however little memory is left, so that clients of a full server can still read, and
/// delete documents.
const ROOM_BYTES_MIN: u64 = 32 << 20;

/// An account of the process, in bytes.
#[derive(Debug)]
pub struct Bank {
    held: AtomicU64,
    max: AtomicU64,
    /// Bound derived from the memory that is left.
    room: AtomicU64,
    /// Memory limit in which the held bytes count.
    memory: OnceLock<Arc<Headroom>>,
}

impl Default for Bank {
    /// Without a bound.
    fn default() -> Self {
        Self {
            held: AtomicU64::new(0),
            max: AtomicU64::new(u64::MAX),
            room: AtomicU64::new(u64::MAX),
            memory: OnceLock::new(),
        }
    }
}

impl Bank {
    /// Bytes held, in steps of connections.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The bound in bytes; `u64::MAX` for none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed).min(self.room.load(Ordering::Relaxed))
    }

    /// Counts the held bytes as used memory. Called once, before any are held.
    fn count_in(&self, memory: &Arc<Headroom>) {
        let _is_first = self.memory.set(memory.clone());
    }

    /// Sets the bound from the memory that is left, in bytes.
    fn fit(&self, left: u64) {
        let room = self.held().saturating_add(left).max(ROOM_BYTES_MIN);
        self.room.store(room, Ordering::Relaxed);
    }

    /// Sets the bound.
    pub fn set_max(&self, bytes: u64) {
        self.max.store(bytes, Ordering::Relaxed);
    }

    /// Adds to the held bytes.
    pub fn add(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if let Some(memory) = self.memory.get() {
            memory.hold(bytes);
        }
    }

    /// Subtracts from the held bytes.
    pub fn sub(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(memory) = self.memory.get() {
            memory.release(bytes);
        }
    }
}

/// Fault of a peer for which the server ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Invalid frames.
    Protocol,
    /// More resets or tiny frames than a peer may send.
    Calm,
    /// More bytes than the windows allow.
    FlowControl,
    /// Any other fault.
    Other,
}

impl Fault {
    /// All faults, with their labels in metrics.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Protocol, "protocol_error"),
        (Self::Calm, "enhance_your_calm"),
        (Self::FlowControl, "flow_control_error"),
        (Self::Other, "other"),
    ];
}

/// Requests and answers in flight, and counters of those that were cut short.
#[derive(Default)]
pub struct InFlight {
    /// Bytes of requests that are not decoded yet.
    pub requests: Bank,
    /// Bytes of answers that their clients have not taken yet.
    pub answers: Bank,
    /// Requests refused because requests held too many bytes.
    pub requests_refused: Counter,
    /// Requests ended because their bytes did not come in time.
    pub requests_expired: Counter,
    /// Answers replaced by an error because answers held too many bytes.
    pub answers_refused: Counter,
    /// Answers ended because their client did not take them in time.
    pub answers_stalled: Counter,
    /// Connections closed because their client did not begin in time.
    pub setups_expired: Counter,
    /// Connections closed because their client did not answer a ping.
    pub pings_expired: Counter,
    /// Connections refused because their address had its share of all connections.
    pub peers_refused: Counter,
    faults: [Counter; Fault::ALL.len()],
}

impl InFlight {
    /// Connections ended for this fault.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> &Counter {
        &self.faults[fault as usize]
    }

    /// Counts the held bytes as used memory. Called once, before any are held.
    pub fn count_in(&self, memory: &Arc<Headroom>) {
        self.requests.count_in(memory);
        self.answers.count_in(memory);
    }

    /// Bounds each account by half of the memory that is left.
    pub fn fit(&self, memory: &Headroom) {
        let left = memory.left() / 2;
        self.requests.fit(left);
        self.answers.fit(left);
    }

    /// Bytes of requests and answers.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.requests.held() + self.answers.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_bounded_by_the_memory_that_is_left() {
        let (in_flight, memory) = (InFlight::default(), Arc::new(Headroom::default()));
        in_flight.count_in(&memory);
        for bank in [&in_flight.requests, &in_flight.answers] {
            bank.set_max(1 << 30);
        }
        in_flight.fit(&memory);
        assert_eq!(in_flight.answers.max(), 1 << 30, "the memory has no bound");
        memory.set_max(1 << 30);
        memory.measure(700 << 20);
        in_flight.requests.add(124 << 20);
        assert_eq!(memory.left(), 200 << 20);
        in_flight.fit(&memory);
        assert_eq!(in_flight.requests.max(), (124 + 100) << 20);
        assert_eq!(in_flight.answers.max(), 100 << 20);
        // With no memory left, clients can still read and delete.
        memory.measure(2 << 30);
        in_flight.fit(&memory);
        assert_eq!(in_flight.answers.max(), ROOM_BYTES_MIN);
        in_flight.requests.sub(124 << 20);
        memory.measure(0);
        in_flight.fit(&memory);
        assert_eq!(in_flight.requests.max(), 512 << 20);
    }
}

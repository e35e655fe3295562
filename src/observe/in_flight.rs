//! Bytes that requests and answers hold while they are on their way, and what became of those that took
//! too many or too long.
//!
//! A connection counts its own bytes and draws on the account of the process in steps
//! (`gateway/purse`), so that a small request touches nothing that all connections share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::counters::Counter;
use crate::types::headroom::Headroom;

/// Bytes that each account may hold however little memory is left, so that a server that is full is still
/// read, and documents can be deleted.
const ROOM_BYTES_MIN: u64 = 32 << 20;

/// An account of the process, in bytes.
#[derive(Debug)]
pub struct Bank {
    held: AtomicU64,
    max: AtomicU64,
    /// The bound by the memory that is left.
    room: AtomicU64,
    /// What is held here is a part of it.
    memory: OnceLock<Arc<Headroom>>,
}

impl Default for Bank {
    /// No bound, until there is one.
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

    /// The bound; `u64::MAX` for none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed).min(self.room.load(Ordering::Relaxed))
    }

    /// Counts what is held here as memory that is used. Once, before anything is held.
    fn count_in(&self, memory: &Arc<Headroom>) {
        let _is_first = self.memory.set(memory.clone());
    }

    /// Bounds it by the memory that is left, in bytes.
    fn fit(&self, left: u64) {
        let room = self.held().saturating_add(left).max(ROOM_BYTES_MIN);
        self.room.store(room, Ordering::Relaxed);
    }

    /// Sets the bound.
    pub fn set_max(&self, bytes: u64) {
        self.max.store(bytes, Ordering::Relaxed);
    }

    /// So much more is held.
    pub fn add(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if let Some(memory) = self.memory.get() {
            memory.hold(bytes);
        }
    }

    /// So much less is held.
    pub fn sub(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(memory) = self.memory.get() {
            memory.release(bytes);
        }
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

    /// Counts what is held as memory that is used. Once, before anything is held.
    pub fn count_in(&self, memory: &Arc<Headroom>) {
        self.requests.count_in(memory);
        self.answers.count_in(memory);
    }

    /// Bounds both accounts by the memory that is left, half of it each.
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
        // Those who read and delete have something where nothing is left.
        memory.measure(2 << 30);
        in_flight.fit(&memory);
        assert_eq!(in_flight.answers.max(), ROOM_BYTES_MIN);
        in_flight.requests.sub(124 << 20);
        memory.measure(0);
        in_flight.fit(&memory);
        assert_eq!(in_flight.requests.max(), 512 << 20);
    }
}

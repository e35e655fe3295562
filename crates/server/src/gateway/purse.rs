//! Memory accounts of one connection: bytes of requests, and of answers that its client has not taken. Each is bounded
//! for the connection, for the tenant over all its connections, and for the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::{Buf, Bytes};

use crate::access::Tenant;
use crate::observe::Observed;
use crate::observe::in_flight::{Bank, InFlight};

/// Step in bytes in which a connection draws on the account of the process; it may hold one step without drawing.
const STEP_BYTES: u64 = 64 << 10;

/// Steps that a connection keeps for later use.
const SPARE_STEPS: u64 = 4;

/// Divisor of the process's memory that gives the bound of requests, and that of answers.
const PROCESS_SHARE: u64 = 8;
const PROCESS_BYTES_MIN: u64 = 128 << 20;
const PROCESS_BYTES_MAX: u64 = 1 << 30;

/// Divisor of that bound for one connection.
const CONNECTION_SHARE: u64 = 2;

/// Bytes below which an answer is sent whatever its size: a client that takes its answers gets every answer.
const ANSWER_BYTES_SPARE: u64 = 1 << 20;

/// Divisor of the process's accounts for the requests of one tenant, over all its connections, and for its answers.
const TENANT_SHARE: u64 = 4;

/// Bounds the accounts of a process that may use `memory_max` bytes.
pub(super) fn bound(in_flight: &InFlight, memory_max: u64) {
    let max = (memory_max / PROCESS_SHARE).clamp(PROCESS_BYTES_MIN, PROCESS_BYTES_MAX);
    in_flight.requests.set_max(max);
    in_flight.answers.set_max(max);
}

/// The account that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Connection,
    Tenant,
    Process,
}

/// One account of a connection.
pub(super) struct Purse {
    observed: Arc<Observed>,
    bank: fn(&InFlight) -> &Bank,
    held: AtomicU64,
    leased: AtomicU64,
}

impl Purse {
    fn new(observed: &Arc<Observed>, bank: fn(&InFlight) -> &Bank) -> Self {
        let (held, leased) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { observed: observed.clone(), bank, held, leased }
    }

    pub(super) fn of_requests(observed: &Arc<Observed>) -> Self {
        Self::new(observed, |in_flight| &in_flight.requests)
    }

    pub(super) fn of_answers(observed: &Arc<Observed>) -> Self {
        Self::new(observed, |in_flight| &in_flight.answers)
    }

    fn bank(&self) -> &Bank {
        (self.bank)(&self.observed.in_flight)
    }

    /// Bytes held.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Counts `bytes` more, whatever the bounds; an error names the bound that is exceeded now.
    pub(super) fn take(&self, bytes: u64) -> Result<(), Over> {
        let held = self.held.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if held <= STEP_BYTES {
            return Ok(());
        }
        self.lease(held);
        let bank = self.bank();
        if held > bank.max() / CONNECTION_SHARE {
            return Err(Over::Connection);
        }
        if bank.held() > bank.max() { Err(Over::Process) } else { Ok(()) }
    }

    /// Draws at least `held` bytes on the account of the process.
    fn lease(&self, held: u64) {
        let bank = self.bank();
        let wanted = held.next_multiple_of(STEP_BYTES);
        let mut leased = self.leased.load(Ordering::Acquire);
        while leased < held {
            // Added to the account before another thread can give it back.
            let more = wanted - leased;
            bank.add(more);
            let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
            match self.leased.compare_exchange_weak(leased, wanted, done, failed) {
                Ok(_) => return,
                Err(now) => {
                    bank.sub(more);
                    leased = now;
                }
            }
        }
    }

    /// Counts an answer of `bytes` if it may be held.
    pub(super) fn admit(&self, bytes: u64) -> Result<(), Over> {
        if bytes > STEP_BYTES {
            let (bank, held) = (self.bank(), self.held());
            if held > ANSWER_BYTES_SPARE && held + bytes > bank.max() / CONNECTION_SHARE {
                return Err(Over::Connection);
            }
            let all = bank.held();
            if all > bank.max() / 2 && all + bytes > bank.max() {
                return Err(Over::Process);
            }
        }
        // A small answer is admitted beyond the bounds; there are few on a connection.
        let _ = self.take(bytes);
        Ok(())
    }

    /// Counts `bytes` less.
    pub(super) fn give_back(&self, bytes: u64) {
        let mut held = self.held.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        let mut leased = self.leased.load(Ordering::Acquire);
        while leased > 0 {
            let needed = if held <= STEP_BYTES { 0 } else { held.next_multiple_of(STEP_BYTES) };
            if needed > 0 && needed + SPARE_STEPS * STEP_BYTES > leased {
                return;
            }
            let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
            match self.leased.compare_exchange_weak(leased, needed, done, failed) {
                Ok(_) => {
                    // Bytes taken in between are counted at the next step.
                    self.bank().sub(leased - needed);
                    return;
                }
                Err(now) => {
                    leased = now;
                    held = self.held();
                }
            }
        }
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        let leased = *self.leased.get_mut();
        self.bank().sub(leased);
    }
}

/// Bytes on the account of a tenant, given back when dropped.
pub(super) struct Share {
    account: Arc<AtomicU64>,
    bytes: u64,
}

impl Share {
    /// Counts `bytes` of an answer, if the tenant may hold them. A single answer may be of any size.
    pub(super) fn take(account: &Arc<AtomicU64>, bytes: u64, bank: &Bank) -> Result<Self, Over> {
        let max = bank.max() / TENANT_SHARE;
        let more = |held: u64| {
            let is_over = bytes > STEP_BYTES && held > ANSWER_BYTES_SPARE && held + bytes > max;
            (!is_over).then_some(held + bytes)
        };
        let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
        let taken = account.fetch_update(done, failed, more);
        taken.map(|_| Self { account: account.clone(), bytes }).map_err(|_| Over::Tenant)
    }

    /// Counts `bytes`, whatever the bound.
    pub(super) fn hold(account: &Arc<AtomicU64>, bytes: u64) -> Self {
        account.fetch_add(bytes, Ordering::AcqRel);
        Self { account: account.clone(), bytes }
    }

    /// Counts `bytes` more, whatever the bound; an error if it is exceeded now.
    pub(super) fn add(&mut self, bytes: u64, bank: &Bank) -> Result<(), Over> {
        self.bytes += bytes;
        let held = self.account.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if held > bank.max() / TENANT_SHARE { Err(Over::Tenant) } else { Ok(()) }
    }

    /// Counts `bytes` less.
    pub(super) fn sub(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.account.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Splits `bytes` off.
    fn split(&mut self, bytes: u64) -> Self {
        self.bytes -= bytes;
        Self { account: self.account.clone(), bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The accounts of a connection.
pub(super) struct Purses {
    pub(super) observed: Arc<Observed>,
    pub(super) requests: Purse,
    pub(super) answers: Purse,
}

impl Purses {
    pub(super) fn new(observed: &Arc<Observed>) -> Self {
        Self {
            observed: observed.clone(),
            requests: Purse::of_requests(observed),
            answers: Purse::of_answers(observed),
        }
    }
}

/// Bytes of an answer, counted until the transport has sent them.
pub(super) struct Chunk {
    bytes: Bytes,
    counted: u64,
    purses: Option<Arc<Purses>>,
    share: Option<Share>,
}

impl Chunk {
    /// Counts these bytes, for a tenant if there is one, if they may be held.
    pub(super) fn counted(
        bytes: Bytes,
        purses: &Arc<Purses>,
        tenant: Option<&Arc<Tenant>>,
    ) -> Result<Self, Over> {
        let counted = bytes.len() as u64;
        let bank = &purses.observed.in_flight.answers;
        let take = |tenant: &Arc<Tenant>| Share::take(&tenant.answer_bytes, counted, bank);
        let share = tenant.map(take).transpose()?;
        purses.answers.admit(counted)?;
        Ok(Self { bytes, counted, purses: Some(purses.clone()), share })
    }

    /// Counts these bytes, of an answer that was admitted as a whole.
    pub(super) fn taken(bytes: Bytes, purses: &Arc<Purses>, tenant: Option<&Arc<Tenant>>) -> Self {
        let counted = bytes.len() as u64;
        let _ = purses.answers.take(counted);
        let share = tenant.map(|tenant| Share::hold(&tenant.answer_bytes, counted));
        Self { bytes, counted, purses: Some(purses.clone()), share }
    }

    pub(super) fn empty() -> Self {
        Self { bytes: Bytes::new(), counted: 0, purses: None, share: None }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Splits `at` bytes off the front, with their part of the count.
    pub(super) fn split_to(&mut self, at: usize) -> Self {
        let counted = at as u64;
        self.counted -= counted;
        let share = self.share.as_mut().map(|share| share.split(counted));
        Self { bytes: self.bytes.split_to(at), counted, purses: self.purses.clone(), share }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(purses) = &self.purses {
            purses.answers.give_back(self.counted);
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purses(max: u64) -> Arc<Purses> {
        let observed = Arc::new(Observed::default());
        observed.in_flight.requests.set_max(max);
        observed.in_flight.answers.set_max(max);
        Arc::new(Purses::new(&observed))
    }

    #[test]
    fn a_connection_draws_in_steps_and_gives_everything_back() {
        let purses = purses(8 << 20);
        let bank = &purses.observed.in_flight.requests;
        assert_eq!(purses.requests.take(STEP_BYTES), Ok(()));
        assert_eq!(bank.held(), 0, "the first step is free");
        assert_eq!(purses.requests.take(1), Ok(()));
        assert_eq!(bank.held(), 2 * STEP_BYTES);
        assert_eq!(purses.requests.take(4 << 20), Err(Over::Connection));
        assert!(bank.held() > 4 << 20);
        purses.requests.give_back(4 << 20);
        assert!(bank.held() <= 2 * STEP_BYTES);
        purses.requests.give_back(STEP_BYTES + 1);
        assert_eq!((purses.requests.held(), bank.held()), (0, 0));
        let _ = purses.requests.take(1 << 20);
        let observed = purses.observed.clone();
        drop(purses);
        assert_eq!(observed.in_flight.held(), 0, "what a connection held goes with it");
    }

    #[test]
    fn the_process_is_bounded_over_all_connections() {
        let observed = Arc::new(Observed::default());
        observed.in_flight.requests.set_max(1 << 20);
        let all: Vec<Purses> = (0..4).map(|_| Purses::new(&observed)).collect();
        let over = all.iter().filter(|p| p.requests.take(400 << 10) == Err(Over::Process)).count();
        assert_eq!(over, 2);
    }

    #[test]
    fn pieces_of_an_answer_count_until_each_is_gone() {
        let purses = purses(1 << 30);
        let mut chunk = Chunk::counted(Bytes::from(vec![0; 1_000]), &purses, None).unwrap();
        let mut piece = chunk.split_to(300);
        piece.advance(200);
        assert_eq!((piece.remaining(), chunk.len(), purses.answers.held()), (100, 700, 1_000));
        drop(piece);
        assert_eq!(purses.answers.held(), 700);
        drop(chunk);
        assert_eq!(purses.answers.held(), 0);
    }

    #[test]
    fn pieces_of_an_answer_that_was_let_in_are_not_refused() {
        let purses = purses(1 << 20);
        let piece = || Bytes::from(vec![0; 2 * STEP_BYTES as usize]);
        let whole = 3 << 20;
        purses.answers.admit(whole).unwrap();
        assert_eq!(Chunk::counted(piece(), &purses, None).err(), Some(Over::Connection));
        let pieces: Vec<_> = (0..3).map(|_| Chunk::taken(piece(), &purses, None)).collect();
        assert_eq!(purses.answers.held(), whole + 6 * STEP_BYTES);
        drop(pieces);
        purses.answers.give_back(whole);
        assert_eq!((purses.answers.held(), purses.observed.in_flight.held()), (0, 0));
    }

    #[test]
    fn accounts_are_settled_whatever_comes_at_the_same_time() {
        let purses = purses(1 << 30);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1_000 {
                        let bytes = n % 7 * STEP_BYTES / 2;
                        let _ = purses.answers.take(bytes);
                        assert!(purses.observed.in_flight.answers.held() < 1 << 30);
                        purses.answers.give_back(bytes);
                    }
                });
            }
        });
        assert_eq!((purses.answers.held(), purses.observed.in_flight.held()), (0, 0));
    }

    #[test]
    fn a_tenant_has_a_share_for_its_answers() {
        let purses = purses(16 << 20);
        let bank = &purses.observed.in_flight.answers;
        let (one, other) = (Arc::default(), Arc::default());
        let first = Share::take(&one, 6 << 20, bank).ok().unwrap();
        assert_eq!(Share::take(&one, 1 << 20, bank).err(), Some(Over::Tenant));
        let small = Share::take(&one, 1_000, bank);
        assert!(small.is_ok() && Share::take(&other, 6 << 20, bank).is_ok());
        drop(first);
        let more = Share::take(&one, 3 << 20, bank);
        assert!(more.is_ok() && Share::take(&one, 3 << 20, bank).is_err());
        drop((small, more));
        let mut requests = Share::hold(&one, 3 << 20);
        assert_eq!(requests.add(1 << 20, bank), Ok(()));
        assert_eq!(requests.add(1, bank), Err(Over::Tenant), "whatever the bound, it is held");
        requests.sub(2 << 20);
        let part = requests.split(1 << 20);
        assert_eq!(one.load(Ordering::Relaxed), (2 << 20) + 1);
        drop((requests, part));
        assert_eq!((one.load(Ordering::Relaxed), other.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_large_answer_is_sent_where_nothing_else_is_held_and_no_other() {
        let purses = purses(1 << 20);
        let large = || Chunk::counted(Bytes::from(vec![0; 3 << 20]), &purses, None);
        let first = large().unwrap();
        assert_eq!(large().err(), Some(Over::Connection));
        assert!(Chunk::counted(Bytes::from_static(b"small"), &purses, None).is_ok());
        drop(first);
        assert!(large().is_ok());
    }
}

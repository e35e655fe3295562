//! Who is reading what an owner takes away: so that memory which nothing leads to any more goes only
//! once nobody reads it, without a lock and without anybody waiting.
//!
//! Views ([`super::view`]) say for how long a *version* must stay. A row of memory that the version no
//! longer needs may go much sooner: when all steps are over that may have seen it. A reader says at
//! the beginning of a step in which *epoch* it reads; an owner that has put a row out of reach notes
//! the epoch and begins the next. The row goes once no reader is in that epoch, or in one before.
//!
//! The reader announces itself and *then* looks where the row is; the owner puts the row out of reach
//! and *then* asks who is reading. Between the two halves of each lies a sequentially consistent fence,
//! so one of them sees the other, as with pins ([`super::pin`]).

use super::member::Padded;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// In no epoch: it reads nothing.
const IDLE: u64 = u64::MAX;

/// The readers of a partition, one an owner.
pub(super) struct Readers {
    epoch: Padded<AtomicU64>,
    reading: Box<[Padded<AtomicU64>]>,
}

impl Readers {
    pub(super) fn new(owners: u32) -> Self {
        let reading = (0..owners).map(|_| Padded(AtomicU64::new(IDLE))).collect();
        Self { epoch: Padded(AtomicU64::new(0)), reading }
    }

    /// What `reader` finds from now on stays until [`Readers::end`].
    pub(super) fn begin(&self, reader: u32) {
        let reading = &self.reading[reader as usize].0;
        debug_assert_eq!(reading.load(Ordering::Relaxed), IDLE, "steps do not lie in each other");
        // Release: an owner may see this step and never the end of the one before, and what that has
        // read must be read by then.
        reading.store(self.epoch.0.load(Ordering::Acquire), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// `reader` has nothing any more of what it has found.
    pub(super) fn end(&self, reader: u32) {
        self.reading[reader as usize].0.store(IDLE, Ordering::Release);
    }

    /// Something has been put out of reach: the epoch in which it may still be read.
    pub(super) fn leave(&self) -> u64 {
        self.epoch.0.fetch_add(1, Ordering::SeqCst)
    }

    /// What was put out of reach in an epoch before this one, nobody reads.
    pub(super) fn oldest(&self) -> u64 {
        fence(Ordering::SeqCst);
        let reading = self.reading.iter().map(|reading| reading.0.load(Ordering::Acquire));
        reading.min().unwrap_or(IDLE)
    }
}

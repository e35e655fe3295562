//! Epoch-based reclamation of rows: an owner frees a row after every reader that could have seen it has left its
//! epoch, without a lock and without waiting.
//!
//! Views ([`super::view`]) say for how long a *version* must stay. A row of memory that the version no longer needs
//! may be freed much sooner: when all steps are over that may have seen it. A reader announces at the beginning of a
//! step in which *epoch* it reads; an owner that has put a row out of reach notes the epoch and begins the next. The
//! row is freed once no reader is in that epoch, or in one before.
//!
//! The reader announces itself and *then* looks where the row is; the owner puts the row out of reach and *then* asks
//! who is reading. Between the two halves of each lies a sequentially consistent fence, so one of them sees the
//! other, as with pins ([`super::pin`]).

use super::member::Padded;
use crate::sync::atomic::{AtomicU64, Ordering, fence};

/// Epoch of a reader that reads nothing.
const IDLE: u64 = u64::MAX;

/// The epochs of the readers of a partition, one per owner.
pub(super) struct Readers {
    epoch: Padded<AtomicU64>,
    reading: Box<[Padded<AtomicU64>]>,
}

impl Readers {
    pub(super) fn new(owners: u32) -> Self {
        let reading = (0..owners).map(|_| Padded(AtomicU64::new(IDLE))).collect();
        Self { epoch: Padded(AtomicU64::new(0)), reading }
    }

    /// Begins a step of `reader`: rows that it finds stay until [`Readers::end`].
    pub(super) fn begin(&self, reader: u32) {
        let reading = &self.reading[reader as usize].0;
        debug_assert_eq!(reading.load(Ordering::Relaxed), IDLE, "steps do not lie in each other");
        // Release: an owner may see this step and never the end of the one before, and the reads of that step have to
        // be done by then.
        reading.store(self.epoch.0.load(Ordering::Acquire), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Ends the step: `reader` uses no row that it has found any more.
    pub(super) fn end(&self, reader: u32) {
        self.reading[reader as usize].0.store(IDLE, Ordering::Release);
    }

    /// Ends an epoch, after a row has been put out of reach. Returns it: the row may still be read in it.
    pub(super) fn leave(&self) -> u64 {
        self.epoch.0.fetch_add(1, Ordering::SeqCst)
    }

    /// The oldest epoch in which a reader is: rows put out of reach in an earlier one have no reader.
    pub(super) fn oldest(&self) -> u64 {
        fence(Ordering::SeqCst);
        let reading = self.reading.iter().map(|reading| reading.0.load(Ordering::Acquire));
        reading.min().unwrap_or(IDLE)
    }
}

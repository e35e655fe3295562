//! State of each owner of a partition that the other owners read, beside the documents.

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::types::Lsn;

/// A value on cache lines of its own, as the processor fetches them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub(super) T);

/// LSN beyond all others, as a pin: no view is open.
pub(super) const NEVER: u64 = u64::MAX;

/// The state of an owner, as other owners see it.
pub struct Member {
    /// LSN of the last record applied in full. Changes of later ones may be there in part.
    applied: Padded<AtomicU64>,
    /// By reader: the oldest of this owner's states that the reader looks at; [`NEVER`] for none. Written by the
    /// reader.
    pins: Box<[Padded<AtomicU64>]>,
    live: AtomicUsize,
    slots: AtomicU32,
    is_fenced: AtomicBool,
}

impl Member {
    pub(super) fn new(owners: u32) -> Self {
        Self {
            applied: Padded::default(),
            pins: (0..owners).map(|_| Padded(AtomicU64::new(NEVER))).collect(),
            live: AtomicUsize::new(0),
            slots: AtomicU32::new(0),
            is_fenced: AtomicBool::new(false),
        }
    }

    /// LSN of the last record applied in full. The caller sees all changes up to it.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        Lsn(self.applied.0.load(Ordering::SeqCst))
    }

    /// Publishes that all records up to `lsn` are applied.
    pub(super) fn set_applied(&self, lsn: Lsn) {
        self.applied.0.store(lsn.0, Ordering::SeqCst);
    }

    /// LSN of the oldest state of this owner that `reader` looks at.
    pub(super) fn pin(&self, reader: u32) -> u64 {
        self.pins[reader as usize].0.load(Ordering::SeqCst)
    }

    /// Publishes that `reader` looks at the state at `lsn`, and at none before.
    pub(super) fn set_pin(&self, reader: u32, lsn: u64) {
        self.pins[reader as usize].0.store(lsn, Ordering::SeqCst);
    }

    /// Number of live documents.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Exclusive upper bound of the local slots that hold or held an applied version.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.load(Ordering::Relaxed)
    }

    pub(super) fn set_counts(&self, live: usize, slots: u32) {
        self.live.store(live, Ordering::Relaxed);
        self.slots.store(slots, Ordering::Relaxed);
    }

    /// True if its documents can't be trusted any more.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Acquire)
    }

    /// Sets whether its documents can't be trusted.
    pub fn set_fenced(&self, is_fenced: bool) {
        self.is_fenced.store(is_fenced, Ordering::Release);
    }
}

//! Stand-ins for the atomics and the queue of the main package.

use crate::types::Slot;

pub mod atomic {
    //! loom's atomics.
    pub use loom::sync::atomic::*;
}

use atomic::{AtomicU32, Ordering};

/// Most items in a queue of a model.
const QUEUED_MAX: usize = 2;

/// Stands for crossbeam's queue, and promises less: the thread that takes an item out sees the writes made before the
/// item was put in, and no more than those; and items come out in no order.
pub struct SegQueue<T> {
    /// In each place, a slot + 1, or 0 for an empty place.
    places: [AtomicU32; QUEUED_MAX],
    of: std::marker::PhantomData<T>,
}

impl<T> Default for SegQueue<T> {
    fn default() -> Self {
        Self { places: Default::default(), of: std::marker::PhantomData }
    }
}

impl SegQueue<Slot> {
    /// Puts a slot in.
    pub fn push(&self, slot: Slot) {
        let is_put = self.places.iter().any(|place| {
            place.compare_exchange(0, slot.0 + 1, Ordering::Release, Ordering::Relaxed).is_ok()
        });
        assert!(is_put, "a model has at most {QUEUED_MAX} in a queue");
    }

    /// Takes a slot out.
    pub fn pop(&self) -> Option<Slot> {
        let taken = self.places.iter().filter(|place| place.load(Ordering::Relaxed) != 0);
        taken
            .map(|place| place.swap(0, Ordering::Acquire))
            .find_map(|taken| taken.checked_sub(1))
            .map(Slot)
    }
}

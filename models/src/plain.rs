//! Memory without atomics, such as that of vectors.

use loom::cell::UnsafeCell;

/// A value that must not be read while it is written, or before the write is known to have ended: a model in which a
/// thread does so fails.
#[derive(Default)]
pub struct Plain(UnsafeCell<u64>);

// SAFETY: as for `get` and `set`.
unsafe impl Sync for Plain {}

impl Plain {
    /// A value that is there from the beginning.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        // SAFETY: a model runs one thread at a time, and stops where this would be a race.
        self.0.with(|value| unsafe { *value })
    }

    /// Writes the value.
    pub fn set(&self, value: u64) {
        // SAFETY: as above.
        self.0.with_mut(|place| unsafe { *place = value });
    }
}

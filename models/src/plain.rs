//! Memory without an atomic, such as vectors are in.

use loom::cell::UnsafeCell;

/// A value that nobody may read while it is written, or before that is known to have been done: a
/// model fails where somebody does.
#[derive(Default)]
pub struct Plain(UnsafeCell<u64>);

// SAFETY: as for `get` and `set`.
unsafe impl Sync for Plain {}

impl Plain {
    /// With a value from the beginning.
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

    /// Writes it.
    pub fn set(&self, value: u64) {
        // SAFETY: as above.
        self.0.with_mut(|place| unsafe { *place = value });
    }
}

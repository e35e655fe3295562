//! Switches for simulations of the layers above. A program that is built beside its tests has the switches too,
//! and never turns them on; without the feature `testing` there are none.

#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(feature = "testing")]
static IS_SMALL: AtomicBool = AtomicBool::new(false);

/// True in a simulation: long work goes in pieces so small that a few documents take many, and secrets are
/// known, so that a seed is one run.
#[cfg(feature = "testing")]
#[must_use]
pub fn is_small() -> bool {
    IS_SMALL.load(Ordering::Relaxed)
}

/// True in a simulation.
#[cfg(not(feature = "testing"))]
#[inline(always)]
#[must_use]
pub const fn is_small() -> bool {
    false
}

/// Makes pieces small and secrets known, for the rest of the process.
#[cfg(feature = "testing")]
pub fn make_small() {
    IS_SMALL.store(true, Ordering::Relaxed);
}

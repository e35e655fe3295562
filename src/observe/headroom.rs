//! The memory of this process against the bound that it keeps to.
//!
//! What the kernel counts is measured every so often; what is let in between two measurements is added
//! to it, so that a burst does not run past the bound before anybody looks again.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much memory is used, and how much may be.
#[derive(Debug)]
pub struct Headroom {
    max_bytes: AtomicU64,
    measured_bytes: AtomicU64,
    admitted_bytes: AtomicU64,
}

impl Default for Headroom {
    /// No bound, until there is one.
    fn default() -> Self {
        Self {
            max_bytes: AtomicU64::new(u64::MAX),
            measured_bytes: AtomicU64::new(0),
            admitted_bytes: AtomicU64::new(0),
        }
    }
}

impl Headroom {
    /// Sets the bound.
    pub fn set_max(&self, bytes: u64) {
        self.max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The bound; `u64::MAX` for none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// So much is used, as the kernel counts.
    pub fn measure(&self, bytes: u64) {
        self.admitted_bytes.store(0, Ordering::Relaxed);
        self.measured_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes used: measured, and let in since.
    #[must_use]
    pub fn used(&self) -> u64 {
        let measured = self.measured_bytes.load(Ordering::Relaxed);
        measured.saturating_add(self.admitted_bytes.load(Ordering::Relaxed))
    }

    /// So much more may be used.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes as u64) <= self.max()
    }

    /// So much more is going to be used.
    pub fn admit(&self, bytes: usize) {
        self.admitted_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The bound is reached: nothing that takes more memory is let in.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.used() >= self.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_in_counts_until_it_is_measured() {
        let headroom = Headroom::default();
        assert!(headroom.has_room(usize::MAX / 2), "there is no bound");
        headroom.set_max(1_000);
        headroom.measure(600);
        assert!(headroom.has_room(400) && !headroom.has_room(401));
        headroom.admit(300);
        assert!(headroom.has_room(100) && !headroom.has_room(101));
        headroom.admit(300);
        assert!(headroom.is_low() && !headroom.has_room(1));
        headroom.measure(900);
        assert!(!headroom.is_low() && headroom.has_room(100));
    }
}

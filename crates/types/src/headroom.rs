//! Memory use of this process against its limit.
//!
//! The use that the kernel counts is measured now and then. Between two measurements, the bytes admitted since and
//! the growth of the bytes that requests and answers hold are added to it, so that a burst does not pass the limit
//! before the next measurement.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of memory in use, and the limit.
#[derive(Debug)]
pub struct Headroom {
    max_bytes: AtomicU64,
    measured_bytes: AtomicU64,
    admitted_bytes: AtomicU64,
    /// Bytes that requests and answers hold: now, and at the last measurement.
    in_flight_bytes: AtomicU64,
    in_flight_measured: AtomicU64,
}

impl Default for Headroom {
    /// No limit, until one is set.
    fn default() -> Self {
        Self {
            max_bytes: AtomicU64::new(u64::MAX),
            measured_bytes: AtomicU64::new(0),
            admitted_bytes: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
            in_flight_measured: AtomicU64::new(0),
        }
    }
}

impl Headroom {
    /// Sets the limit.
    pub fn set_max(&self, bytes: u64) {
        self.max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The limit in bytes; `u64::MAX` for none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Records a measurement: bytes in use, as the kernel counts.
    pub fn measure(&self, bytes: u64) {
        let in_flight = self.in_flight_bytes.load(Ordering::Relaxed);
        self.in_flight_measured.store(in_flight, Ordering::Relaxed);
        self.admitted_bytes.store(0, Ordering::Relaxed);
        self.measured_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes in use: the last measurement, and the bytes admitted since.
    #[must_use]
    pub fn used(&self) -> u64 {
        let measured = self.measured_bytes.load(Ordering::Relaxed);
        let in_flight = self.in_flight_bytes.load(Ordering::Relaxed);
        let more = in_flight.saturating_sub(self.in_flight_measured.load(Ordering::Relaxed));
        let admitted = self.admitted_bytes.load(Ordering::Relaxed);
        measured.saturating_add(admitted).saturating_add(more)
    }

    /// Bytes left below the limit.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.max().saturating_sub(self.used())
    }

    /// Adds to the bytes that requests and answers hold.
    pub fn hold(&self, bytes: u64) {
        self.in_flight_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts from the bytes that requests and answers hold.
    pub fn release(&self, bytes: u64) {
        self.in_flight_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// True if this number of bytes more fits below the limit.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes as u64) <= self.max()
    }

    /// Counts bytes that are about to be used.
    pub fn admit(&self, bytes: usize) {
        self.admitted_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// True if the limit is reached: requests that take more memory are refused.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.used() >= self.max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admitted_bytes_count_until_the_next_measurement() {
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
    #[test]
    fn bytes_in_flight_count_once() {
        let headroom = Headroom::default();
        headroom.set_max(1_000);
        headroom.measure(500);
        headroom.hold(300);
        assert_eq!((headroom.used(), headroom.left()), (800, 200));
        // The kernel's count includes these bytes by now.
        headroom.measure(800);
        assert_eq!(headroom.used(), 800);
        headroom.release(200);
        assert_eq!(headroom.used(), 800, "it is not told yet whether the kernel has it back");
        headroom.measure(600);
        headroom.hold(500);
        assert!(headroom.is_low() && headroom.left() == 0);
    }
}

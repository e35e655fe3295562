//! A search makes no system call: it runs on a thread that would not survive one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{SecureComputingMode, gettid, set_secure_computing_mode};

use crate::alone;
use crate::common::PATIENCE;
use crate::engine::{engine, queries, search_all};
use crate::threads::named;

/// Searches completed in strict mode, and further steps that the thread survived.
static SEARCHES: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

const NAME: &str = "no-syscalls";

/// In strict mode the kernel ends a thread at any call but a few (read, write, its own end).
fn search_in_strict_mode() {
    let mut engine = engine();
    let queries = queries();
    // Fills reusable buffers, also those of the allocator.
    search_all(&mut engine, &queries);
    set_secure_computing_mode(SecureComputingMode::Strict).unwrap();
    for query in &queries {
        search_all(&mut engine, std::slice::from_ref(query));
        SEARCHES.fetch_add(1, Ordering::Relaxed);
    }
    // Proof that strict mode is on: this call ends the thread.
    std::hint::black_box(gettid());
    CALLS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_search_makes_no_system_call() {
    let _alone = alone();
    // Not joined: a thread that the kernel has ended leaves nothing to join.
    let thread = std::thread::Builder::new().name(NAME.into()).spawn(search_in_strict_mode);
    let thread = thread.unwrap();
    let begun = Instant::now();
    let has_begun = || SEARCHES.load(Ordering::Relaxed) > 0;
    // It is gone once it has made a call.
    while !has_begun() || !named(NAME).is_empty() {
        assert!(!thread.is_finished(), "it has ended by itself");
        assert!(begun.elapsed() < PATIENCE, "it has made no search");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(SEARCHES.load(Ordering::Relaxed), queries().len() as u64);
    assert_eq!(CALLS.load(Ordering::Relaxed), 0, "system calls are not refused here");
}

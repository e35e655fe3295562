//! Counts allocations by thread, for everything in this process, including the threads of a server inside it.

#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use crate::threads::named;

/// Most threads that are counted separately in this process; allocations of further ones are not counted.
const THREADS_MAX: usize = 1_024;

/// Thread ids and their numbers of allocations, in the order of their first allocation.
static THREADS: [AtomicI32; THREADS_MAX] = [const { AtomicI32::new(0) }; THREADS_MAX];
static COUNTS: [AtomicU64; THREADS_MAX] = [const { AtomicU64::new(0) }; THREADS_MAX];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Index of this thread's counter. Without a destructor, so that it exists to the end.
    static PLACE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn count() {
    let place = PLACE.get().unwrap_or_else(|| {
        let place = NEXT.fetch_add(1, Ordering::Relaxed);
        PLACE.set(Some(place));
        if let Some(thread) = THREADS.get(place) {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            thread.store(id, Ordering::Relaxed);
        }
        place
    });
    if let Some(count) = COUNTS.get(place) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Allocations so far of the threads with this name prefix.
pub(crate) fn of_threads(name: &str) -> u64 {
    let ids: Vec<i32> = named(name).into_iter().map(|(id, _)| id).collect();
    let counts = THREADS.iter().zip(&COUNTS);
    let counts = counts.filter(|(thread, _)| ids.contains(&thread.load(Ordering::Relaxed)));
    counts.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
}

/// Allocations so far of the calling thread.
pub(crate) fn of_this_thread() -> u64 {
    let place = PLACE.get().expect("a thread that runs a test has allocated");
    COUNTS[place].load(Ordering::Relaxed)
}

/// The system's allocator, with counting.
pub(crate) struct Counting;

// SAFETY: every call is passed on as it came; counting allocates nothing and can't unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System` too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is that of `System` too.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the block came from `System`, and the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `System`, and the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[test]
fn allocations_are_counted_for_the_thread_that_makes_them() {
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let (done, is_done) = std::sync::mpsc::channel();
    let work = move || {
        begun.recv().unwrap();
        for _ in 0..1_000 {
            std::hint::black_box(Box::new(1_u64));
        }
        done.send(()).unwrap();
        begun.recv().unwrap_err();
    };
    let thread = std::thread::Builder::new().name("allocates".into()).spawn(work).unwrap();
    // The thread sets its name only when it runs.
    while named("allocates").is_empty() {
        std::thread::yield_now();
    }
    let before = of_threads("allocates");
    begin.send(()).unwrap();
    is_done.recv().unwrap();
    let counted = of_threads("allocates") - before;
    assert!((1_000..1_050).contains(&counted), "{counted}");
    drop(begin);
    thread.join().unwrap();
}

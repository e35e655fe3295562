//! Throttle of a backup, which leaves the host to the server that runs there: lowest priority, and rests between pieces
//! of work.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::disk::view::Viewed;

/// Longest rest between two pieces.
const REST_MAX: Duration = Duration::from_millis(10);

/// Throttle of reads; `None` without rests.
#[derive(Clone, Default)]
pub(super) struct Pace(Option<Rc<dyn Fn()>>);

impl Pace {
    /// Works a third of the time: each rest takes twice as long as the piece before it. Priority alone is not enough if
    /// the kernel does the work, or the device is the bottleneck.
    pub(super) fn gentle() -> Self {
        let rested = Cell::new(Instant::now());
        Self(Some(Rc::new(move || {
            std::thread::sleep((2 * rested.get().elapsed()).min(REST_MAX));
            rested.set(Instant::now());
        })))
    }

    /// A file that is read with this throttle.
    pub(super) fn of(&self, file: Viewed) -> Viewed {
        match &self.0 {
            Some(rest) => file.with(rest.clone()),
            None => file,
        }
    }
}

/// Gives this process the lowest CPU priority: the clients of the server should not notice a backup of its directory.
pub fn give_way() {
    const NICE_MAX: i32 = 19;
    let set = rustix::process::setpriority_process(None, NICE_MAX);
    tracing::debug!(?set, "priority");
}

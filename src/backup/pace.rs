//! How a backup leaves a host to the server that works there: lowest priority, and rests between
//! pieces of work.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::disk::view::Viewed;

/// Longest rest between two pieces.
const REST_MAX: Duration = Duration::from_millis(10);

/// The beat of a backup.
#[derive(Clone, Default)]
pub(super) struct Pace(Option<Rc<dyn Fn()>>);

impl Pace {
    /// Works a third of the time: after each piece twice as long a rest as the piece has taken. Priority
    /// alone is not enough where the kernel does the work, or the device is what is shared.
    pub(super) fn gentle() -> Self {
        let rested = Cell::new(Instant::now());
        Self(Some(Rc::new(move || {
            std::thread::sleep((2 * rested.get().elapsed()).min(REST_MAX));
            rested.set(Instant::now());
        })))
    }

    /// A file that is read at this pace.
    pub(super) fn of(&self, file: Viewed) -> Viewed {
        match &self.0 {
            Some(rest) => file.with(rest.clone()),
            None => file,
        }
    }
}

/// Has this process run when others have no use for the processor: what backs up a directory
/// should not be felt by those whom its server answers.
pub fn give_way() {
    const NICE_MAX: i32 = 19;
    let set = rustix::process::setpriority_process(None, NICE_MAX);
    tracing::debug!(?set, "priority");
}

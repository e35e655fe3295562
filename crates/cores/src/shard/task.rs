//! Tasks of a core, and counters of running ones.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures_util::FutureExt;
use glommio::TaskQueueHandle;

use super::core::Core;
use crate::observe::log_queue;

/// Spawns a task that no other task waits for. A panic ends it alone, and drops its reply, which tells the caller of
/// the failure; a task that others depend on contains panics itself. A panic that reached the executor would end the
/// core, and its callers would wait without an answer.
pub(super) fn spawn(queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
    let contained = async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!("a task of a core panicked");
        }
    };
    glommio::spawn_local_into(contained, queue).expect("the queue exists").detach();
}

/// Spawns a task that the core needs, or that others wait for. A panic in it ends the process: acknowledged writes are
/// in the log.
pub(super) fn spawn_vital(queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
    let vital = async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!("what a core can't do without panicked: aborting");
            log_queue::abort();
        }
    };
    glommio::spawn_local_into(vital, queue).expect("the queue exists").detach();
}

/// Counts a running task of a core until it is dropped.
pub(super) struct Counted {
    core: Rc<Core>,
    count: fn(&Core) -> &Cell<usize>,
}

impl Counted {
    pub(super) fn begin(core: &Rc<Core>, count: fn(&Core) -> &Cell<usize>) -> Self {
        count(core).set(count(core).get() + 1);
        Self { core: core.clone(), count }
    }

    /// Counts a task, or returns `None` if `max` are running.
    pub(super) fn below(
        core: &Rc<Core>,
        count: fn(&Core) -> &Cell<usize>,
        max: usize,
    ) -> Option<Self> {
        (count(core).get() < max).then(|| Self::begin(core, count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let count = (self.count)(&self.core);
        count.set(count.get() - 1);
    }
}

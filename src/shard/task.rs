//! Tasks of a core, and how many there are of a kind.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures_util::FutureExt;
use glommio::TaskQueueHandle;

use super::core::Core;
use crate::observe::log_queue;

/// Spawns a task whose end nobody waits for. A panic ends it alone, which drops its reply, and so says
/// that it has failed; a task that others rest on contains that itself. If it reached the executor, it
/// would end the core, and leave whoever waits for something of it to wait.
pub(super) fn spawn(queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
    let contained = async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!("a task of a core panicked");
        }
    };
    glommio::spawn_local_into(contained, queue).expect("the queue exists").detach();
}

/// Spawns what a core can't do without, or what others wait for that would never come. A panic in it ends
/// the process: what was acknowledged is in the log.
pub(super) fn spawn_vital(queue: TaskQueueHandle, task: impl Future<Output = ()> + 'static) {
    let vital = async move {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!("what a core can't do without panicked: aborting");
            log_queue::abort();
        }
    };
    glommio::spawn_local_into(vital, queue).expect("the queue exists").detach();
}

/// Counts something of a core until it is dropped.
pub(super) struct Counted {
    core: Rc<Core>,
    count: fn(&Core) -> &Cell<usize>,
}

impl Counted {
    pub(super) fn begin(core: &Rc<Core>, count: fn(&Core) -> &Cell<usize>) -> Self {
        count(core).set(count(core).get() + 1);
        Self { core: core.clone(), count }
    }

    /// The same, if there are fewer than so many.
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

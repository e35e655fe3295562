//! What tasks of one core wait for and others of the same core bring about.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Raised stays raised until somebody has waited for it.
#[derive(Default)]
pub(super) struct Event {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Event {
    /// Raises the flag.
    pub(super) fn raise(&self) {
        self.raised.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Waits until the flag is raised, and lowers it.
    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.take() {
                return Poll::Ready(());
            }
            self.waiter.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// Tasks that wait until something is so, any number of them.
#[derive(Default)]
pub(super) struct Waiters(RefCell<Vec<Waker>>);

impl Waiters {
    /// It may be so now.
    pub(super) fn wake(&self) {
        self.0.take().into_iter().for_each(Waker::wake);
    }

    /// Waits until `is_so`.
    pub(super) async fn until(&self, is_so: impl Fn() -> bool) {
        poll_fn(|context| {
            if is_so() {
                return Poll::Ready(());
            }
            self.0.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

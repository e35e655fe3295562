//! A flag that one task of a core waits for and others of the same core raise.

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

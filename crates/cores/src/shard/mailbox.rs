//! A bounded queue from any thread to one task of a core: one wake per burst, not one per message.
//!
//! The sender sets `signalled` and wakes the receiver only if it was clear; the receiver clears it before it looks. So
//! each push is either seen by that look, or finds the flag clear and wakes again.
//!
//! A wake that glommio loses (see [`super::pulse`]) would strand the queued messages: the pulse asks [`Mailbox::nudge`]
//! for a new one.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;

use crate::observe::counters::Traffic;

/// Most messages taken at once.
const DRAIN_MAX: usize = 128;

/// Why a message was refused. The message goes back to the sender.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The queue is full.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// The queue, shared by senders and the receiver.
pub struct Mailbox<T> {
    queue: ArrayQueue<T>,
    receiver: AtomicWaker,
    signalled: AtomicBool,
    closed: AtomicBool,
    traffic: Arc<Traffic>,
}

impl<T> Mailbox<T> {
    /// An empty mailbox for at most `capacity` messages, which are counted in `traffic`.
    #[must_use]
    pub fn new(capacity: usize, traffic: Arc<Traffic>) -> Self {
        Self {
            traffic,
            queue: ArrayQueue::new(capacity),
            receiver: AtomicWaker::new(),
            signalled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The message, if it can't be taken.
    pub fn push(&self, message: T) -> Result<(), Refused<T>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Refused::Closed(message));
        }
        self.queue.push(message).map_err(Refused::Full)?;
        self.traffic.messages.add(1);
        self.signal();
        // The receiver may have left between the check and the push.
        if self.closed.load(Ordering::Acquire) {
            self.clear();
        }
        Ok(())
    }

    /// True if the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Messages waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True if no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Waits for messages, and moves up to `DRAIN_MAX` of them to `batch`. Only one task may receive.
    pub async fn receive(&self, batch: &mut Vec<T>) {
        poll_fn(|context| {
            // Registered before looking: a push after the look finds this waker.
            self.receiver.register(context.waker());
            self.signalled.swap(false, Ordering::AcqRel);
            while batch.len() < DRAIN_MAX
                && let Some(message) = self.queue.pop()
            {
                batch.push(message);
            }
            if batch.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Wakes the receiver if messages wait, even if it was already signalled.
    pub fn nudge(&self) {
        if !self.queue.is_empty() {
            self.receiver.wake();
        }
    }

    /// Refuses messages from now on, and drops those in the queue.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.clear();
    }

    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            self.traffic.wakes.add(1);
            self.receiver.wake();
        }
    }

    fn clear(&self) {
        while self.queue.pop().is_some() {}
    }

    /// Pushes without a wake, as after a lost wake.
    #[cfg(test)]
    pub(super) fn push_silently(&self, message: T) {
        self.signalled.store(true, Ordering::Release);
        assert!(self.queue.push(message).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    #[test]
    fn mailbox_is_bounded_and_returns_refused_messages() {
        let mailbox = Mailbox::new(2, Arc::default());
        assert_eq!((mailbox.push(1), mailbox.push(2)), (Ok(()), Ok(())));
        assert_eq!(mailbox.push(3), Err(Refused::Full(3)));
        mailbox.close();
        assert_eq!(mailbox.push(4), Err(Refused::Closed(4)));
        assert!(mailbox.is_empty());
    }

    #[test]
    fn messages_of_a_sender_arrive_once_and_in_order() {
        const MESSAGES: u64 = 100_000;
        let mailbox = Arc::new(Mailbox::new(64, Arc::default()));
        let senders: Vec<_> = (0..4_u64)
            .map(|sender| {
                let mailbox = mailbox.clone();
                std::thread::spawn(move || {
                    for number in 0..MESSAGES {
                        let mut message = (sender, number);
                        while let Err(Refused::Full(back)) = mailbox.push(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let received = runtime().block_on(async move {
            let mut next = [0; 4];
            let mut batch = Vec::new();
            while next.iter().sum::<u64>() < 4 * MESSAGES {
                mailbox.receive(&mut batch).await;
                for (sender, number) in batch.drain(..) {
                    assert_eq!(number, next[sender as usize]);
                    next[sender as usize] += 1;
                }
            }
            next
        });
        assert_eq!(received, [MESSAGES; 4]);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn a_message_dropped_at_close_is_dropped_for_good() {
        let mailbox = Mailbox::new(8, Arc::default());
        let message = Arc::new(());
        mailbox.push(message.clone()).unwrap();
        mailbox.close();
        assert_eq!(Arc::strong_count(&message), 1);
    }
}

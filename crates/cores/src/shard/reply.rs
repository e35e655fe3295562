//! Answers of cores to the one future that waits for all of them.
//!
//! A request to `n` shards makes one [`gather`]: `n` senders and a receiver. Each sender answers once, or is dropped,
//! which counts as no answer. Dropping the receiver tells the cores that the request is cancelled.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;

struct Shared<T> {
    answers: ArrayQueue<T>,
    /// Senders that have neither answered nor been dropped.
    outstanding: AtomicUsize,
    receiver: AtomicWaker,
    cancelled: AtomicBool,
}

/// Sender of one answer.
pub struct Reply<T>(Option<Arc<Shared<T>>>);

/// Receiver of the answers.
pub struct Answers<T>(Arc<Shared<T>>);

/// A receiver and `count` senders for it.
#[must_use]
pub fn gather<T>(count: usize) -> (Answers<T>, Vec<Reply<T>>) {
    let shared = Arc::new(Shared {
        answers: ArrayQueue::new(count.max(1)),
        outstanding: AtomicUsize::new(count),
        receiver: AtomicWaker::new(),
        cancelled: AtomicBool::new(false),
    });
    let replies = (0..count).map(|_| Reply(Some(shared.clone()))).collect();
    (Answers(shared), replies)
}

/// A receiver and one sender for it.
#[must_use]
pub fn single<T>() -> (Answers<T>, Reply<T>) {
    let (answers, mut replies) = gather(1);
    (answers, replies.pop().expect("one was asked for"))
}

impl<T> Reply<T> {
    /// Sends the answer.
    pub fn send(mut self, answer: T) {
        if let Some(shared) = self.0.take() {
            let room = shared.answers.push(answer);
            debug_assert!(room.is_ok(), "there is room for each sender");
            shared.leave();
        }
    }

    /// True if the receiver was dropped.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.cancelled.load(Ordering::Relaxed))
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.leave();
        }
    }
}

impl<T> Shared<T> {
    fn leave(&self) {
        // Release: a thread that sees the count sees the answer in the queue.
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.receiver.wake();
        }
    }
}

impl<T> Answers<T> {
    /// Waits until every sender has answered or been dropped.
    pub async fn all(&mut self) {
        poll_fn(|context| {
            self.0.receiver.register(context.waker());
            match self.0.outstanding.load(Ordering::Acquire) {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// Waits for the only sender; `None` if it was dropped without an answer.
    pub async fn one(mut self) -> Option<T> {
        self.all().await;
        self.0.answers.pop()
    }

    /// The next answer, in the order of arrival.
    pub fn take(&mut self) -> Option<T> {
        self.0.answers.pop()
    }
}

impl<T> Drop for Answers<T> {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn receiver_waits_for_answers_and_for_dropped_senders() {
        for _ in 0..200 {
            let (mut answers, replies) = gather(4);
            let threads: Vec<_> = replies
                .into_iter()
                .enumerate()
                .map(|(i, reply)| {
                    std::thread::spawn(move || if i != 2 { reply.send(i) } else { drop(reply) })
                })
                .collect();
            block_on(answers.all());
            let mut got: Vec<usize> = std::iter::from_fn(|| answers.take()).collect();
            got.sort_unstable();
            assert_eq!(got, [0, 1, 3]);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn a_sender_learns_that_its_receiver_was_dropped() {
        let (answers, reply) = single::<()>();
        assert!(!reply.is_cancelled());
        drop(answers);
        assert!(reply.is_cancelled());
        reply.send(());
    }

    #[test]
    fn one_is_none_if_the_sender_is_dropped() {
        let (answers, reply) = single::<u32>();
        drop(reply);
        assert_eq!(block_on(answers.one()), None);
    }
}

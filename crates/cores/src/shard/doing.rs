//! The kind of work a core is executing now (one atomic byte), read by the watchdog when the core stalls, and the
//! longest piece of each kind since the start.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Kinds of work of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// None of the kinds below: the executor itself, or the thread does not run.
    #[default]
    Other,
    /// Begin, slice or end of a search.
    Search,
    /// Reading documents by id.
    Read,
    /// Checking and staging writes.
    Stage,
    /// Encoding and writing a group of the log.
    Commit,
    /// Applying logged records to memory.
    Apply,
    /// A step of linking.
    Link,
    /// Writing a piece of a snapshot.
    Snapshot,
    /// Restoring a shard at start.
    Open,
    /// Repeating a search exactly to measure recall.
    Recall,
    /// Training the cache of vectors on disk.
    Train,
    /// Finding the documents of a page of a listing.
    List,
}

impl Doing {
    /// All kinds, ordered by number.
    pub const ALL: [Self; 12] = [
        Self::Other,
        Self::Search,
        Self::Read,
        Self::Stage,
        Self::Commit,
        Self::Apply,
        Self::Link,
        Self::Snapshot,
        Self::Open,
        Self::Recall,
        Self::Train,
        Self::List,
    ];

    /// Name in logs and answers.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Search => "search",
            Self::Read => "read",
            Self::Stage => "stage",
            Self::Commit => "commit",
            Self::Apply => "apply",
            Self::Link => "link",
            Self::Snapshot => "snapshot",
            Self::Open => "open",
            Self::Recall => "recall",
            Self::Train => "train",
            Self::List => "list",
        }
    }
}

/// The current kind of work of a core, and the longest duration of each kind.
#[derive(Debug, Default)]
pub struct Activity {
    now: AtomicU8,
    /// Longest duration of a piece of each kind since the start, in nanoseconds, indexed by [`Doing`].
    longest_ns: [AtomicU64; Doing::ALL.len()],
}

/// A piece of work. When dropped, the core is back at the kind of work before it.
pub struct Piece<'a> {
    activity: &'a Activity,
    before: u8,
    doing: Doing,
    begun: Instant,
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.activity.now.store(self.before, Ordering::Relaxed);
        let took = self.begun.elapsed().as_nanos() as u64;
        let longest = &self.activity.longest_ns[self.doing as usize];
        if took > longest.load(Ordering::Relaxed) {
            longest.store(took, Ordering::Relaxed);
        }
    }
}

impl Activity {
    /// Begins a piece of work. The guard must not be held over an `.await`: see [`Activity::during`].
    #[inline]
    #[must_use]
    pub fn begin(&self, doing: Doing) -> Piece<'_> {
        // Only the core writes.
        let before = self.now.load(Ordering::Relaxed);
        self.now.store(doing as u8, Ordering::Relaxed);
        Piece { activity: self, before, doing, begun: Instant::now() }
    }

    /// Longest piece of a kind since the start. It includes time in which the system ran other threads.
    #[must_use]
    pub fn longest(&self, doing: Doing) -> Duration {
        Duration::from_nanos(self.longest_ns[doing as usize].load(Ordering::Relaxed))
    }

    /// Runs a future; each poll counts as a piece of this kind.
    pub async fn during<T>(&self, doing: Doing, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let _piece = self.begin(doing);
            work.as_mut().poll(context)
        })
        .await
    }

    /// The current kind of work.
    #[must_use]
    pub fn now(&self) -> Doing {
        Doing::ALL.get(usize::from(self.now.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn pieces_nest_and_end_also_by_a_panic() {
        let activity = Activity::default();
        let outer = activity.begin(Doing::Search);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _inner = activity.begin(Doing::Apply);
            assert_eq!(activity.now(), Doing::Search, "on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(activity.now(), Doing::Search);
        drop(outer);
        assert_eq!(activity.now(), Doing::Other);
        for doing in Doing::ALL {
            let _piece = activity.begin(doing);
            assert_eq!(activity.now(), doing);
        }
    }

    #[test]
    fn the_longest_piece_of_each_kind_is_known() {
        let activity = Activity::default();
        drop(activity.begin(Doing::Link));
        let short = activity.longest(Doing::Link);
        let piece = activity.begin(Doing::Link);
        std::thread::sleep(Duration::from_millis(3));
        drop(piece);
        let longest = activity.longest(Doing::Link);
        assert!(longest > short && longest >= Duration::from_millis(3), "{longest:?}");
        drop(activity.begin(Doing::Link));
        assert_eq!(activity.longest(Doing::Link), longest);
        assert_eq!(activity.longest(Doing::Search), Duration::ZERO);
    }

    #[test]
    fn a_waiting_future_is_not_the_current_work_of_the_core() {
        let activity = Activity::default();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let mut seen = pin!(activity.during(Doing::Snapshot, async {
            let first = activity.now();
            assert!(receiver.await.is_ok());
            [first, activity.now()]
        }));
        assert_eq!(seen.as_mut().now_or_never(), None);
        assert_eq!(activity.now(), Doing::Other);
        sender.send(()).unwrap();
        assert_eq!(seen.now_or_never(), Some([Doing::Snapshot; 2]));
        assert_eq!(activity.now(), Doing::Other);
    }
}

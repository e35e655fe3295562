//! Rules that decide when a snapshot of a shard is due, as pure functions of counters.
//!
//! A snapshot writes whole blocks of vectors and metadata wherever a document in them has changed, so an early snapshot
//! writes many times the bytes that have changed. A snapshot that no request asked for is taken
//!
//! 1. after [`Due::mutations`] changes, and those of a tenth of the documents, once the bytes to write are within
//!    [`AMPLIFICATION_MAX`] times the changed bytes;
//! 2. after [`Due::log_bytes`] of log, or, if more, the part of the bytes to write that keeps them within that factor
//!    of the log, and at most [`LOG_TIMES_MAX`] times [`Due::log_bytes`];
//! 3. where nothing has been written for [`QUIET`], after fewer changes: a restart should have little to link. Beyond
//!    the factor at most once in [`QUIET_PERIOD`];
//! 4. where vectors wait in memory for it.
//!
//! Adjacency, lifetimes and ids are written whole each time, and are not counted here.

use std::time::Duration;

/// Most bytes of vectors and metadata that a snapshot writes for each changed byte.
const AMPLIFICATION_MAX: u64 = 3;

/// Factor of [`Due::log_bytes`] at which a snapshot is due whatever it would write: the disk and the next start have to
/// hold the log.
const LOG_TIMES_MAX: u64 = 16;

/// Bytes of vectors and metadata that a snapshot may write regardless of the amplification.
const WRITE_FREE_BYTES: u64 = 8 << 20;

/// Least share of documents that must have changed, also with a small configured interval: adjacency is written whole
/// each time.
const CHANGED_SHARE: f64 = 0.1;

/// Least changed share for a shard without writes for [`QUIET`].
const QUIET_SHARE: f64 = 0.02;
const QUIET_MUTATIONS_MIN: u64 = 500;

/// Time without writes after which a shard is quiet.
pub(super) const QUIET: Duration = Duration::from_secs(3);

/// Least time between two snapshots of a shard that is quiet in between writes.
const QUIET_PERIOD: Duration = Duration::from_secs(60);

/// Configured thresholds of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Number of changes; 0: only on request.
    pub mutations: u64,
    /// Bytes of log.
    pub log_bytes: u64,
}

impl Due {
    /// Bytes of log after which a snapshot is due that would write `would_write` bytes of vectors and metadata.
    #[must_use]
    pub fn log_bytes_max(self, would_write: u64) -> u64 {
        let most = self.log_bytes.saturating_mul(LOG_TIMES_MAX);
        self.log_bytes.max(would_write / AMPLIFICATION_MAX).min(most)
    }
}

/// State of a shard since its last snapshot began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    /// Number of changes, bytes of their documents, and bytes of log.
    pub(super) mutations: u64,
    pub(super) changed_bytes: u64,
    pub(super) log_bytes: u64,
    /// Documents whose links are in no snapshot.
    pub(super) unlinked: u64,
    /// Live documents.
    pub(super) live: u64,
    /// Bytes of vectors and metadata that a snapshot would write now, worn files included.
    pub(super) would_write: u64,
    /// Time since the last write.
    pub(super) quiet_for: Duration,
    /// Documents wait to be linked; the next start would have to link them again.
    pub(super) is_linking: bool,
    /// Time since the last snapshot; `None` if there was none since the start.
    pub(super) last: Option<Duration>,
    /// Vectors that belong on disk wait in memory for a snapshot.
    pub(super) is_pressed: bool,
}

impl Since {
    pub(super) fn is_due(&self, due: Due) -> bool {
        if due.mutations == 0 {
            return false;
        }
        let share = (self.live as f64 * CHANGED_SHARE) as u64;
        let log_bytes = due.log_bytes_max(self.would_write);
        let is_changed = self.mutations >= due.mutations.max(share) && self.is_worth_it();
        self.is_pressed || is_changed || self.log_bytes >= log_bytes || self.is_quiet()
    }

    fn is_quiet(&self) -> bool {
        let is_rare = self.last.is_none_or(|last| last >= QUIET_PERIOD);
        self.quiet_for >= QUIET
            && waits_for_quiet(self.live, self.mutations.max(self.unlinked))
            && !self.is_linking
            && (is_rare || self.is_worth_it())
    }

    fn is_worth_it(&self) -> bool {
        let changed = self.changed_bytes.saturating_mul(AMPLIFICATION_MAX);
        self.would_write <= changed.max(WRITE_FREE_BYTES)
    }
}

/// True if `mutations` changes to `live` documents ask for a snapshot once the shard has been quiet for a while.
pub(super) fn waits_for_quiet(live: u64, mutations: u64) -> bool {
    mutations >= ((live as f64 * QUIET_SHARE) as u64).max(QUIET_MUTATIONS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: Due = Due { mutations: 10_000, log_bytes: 100 << 20 };
    const DOCUMENT: u64 = 1_600;

    /// `replaced` of 82,000 documents were replaced, at random: nearly every block has one.
    fn replaced(count: u64) -> Since {
        Since {
            mutations: count,
            changed_bytes: count * DOCUMENT,
            log_bytes: count * DOCUMENT,
            unlinked: 0,
            live: 82_000,
            would_write: 82_000 * DOCUMENT,
            quiet_for: Duration::ZERO,
            is_linking: true,
            last: Some(Duration::from_secs(5)),
            is_pressed: false,
        }
    }

    #[test]
    fn a_snapshot_writes_no_more_than_three_times_what_has_changed() {
        let first = (0..).step_by(100).find(|&count| replaced(count).is_due(DUE)).unwrap();
        let since = replaced(first);
        assert!(since.would_write <= 3 * since.changed_bytes, "{since:?}");
        assert!(first < 82_000 / 3 + 200, "{first}");
        // Adjacent changes, as of new documents, are worth a snapshot once there are enough of them.
        let appended = |count| Since { would_write: count * DOCUMENT, ..replaced(count) };
        assert!(!appended(9_999).is_due(DUE));
        assert!(appended(10_000).is_due(DUE));
        // A snapshot below the free bytes is worth it too.
        let small = Since { would_write: WRITE_FREE_BYTES, changed_bytes: 0, ..replaced(10_000) };
        assert!(small.is_due(DUE));
    }

    #[test]
    fn a_long_log_makes_a_snapshot_due_whatever_has_changed() {
        let log = |log_bytes, would_write| Since { log_bytes, would_write, ..replaced(1) };
        assert!(!log((100 << 20) - 1, 50 << 20).is_due(DUE));
        assert!(log(100 << 20, 50 << 20).is_due(DUE));
        // The snapshot writes at most three times the log.
        assert!(!log(100 << 20, 900 << 20).is_due(DUE));
        assert!(log(300 << 20, 900 << 20).is_due(DUE));
        // A log without a bound would fill the disk, and the next start would read all of it.
        assert!(!log((1_600 << 20) - 1, 1 << 40).is_due(DUE));
        assert!(log(1_600 << 20, 1 << 40).is_due(DUE));
    }

    #[test]
    fn a_quiet_shard_is_saved_but_not_each_time_that_it_is_quiet() {
        let quiet = Since { quiet_for: QUIET, is_linking: false, ..replaced(1_700) };
        assert!(!quiet.is_due(DUE), "one was taken five seconds ago");
        assert!(Since { last: Some(QUIET_PERIOD), ..quiet }.is_due(DUE));
        assert!(Since { last: None, ..quiet }.is_due(DUE));
        assert!(!Since { last: None, is_linking: true, ..quiet }.is_due(DUE));
        assert!(Since { would_write: 3 * quiet.changed_bytes, ..quiet }.is_due(DUE));
        assert!(!Since { last: None, mutations: 1_600, ..quiet }.is_due(DUE));
        let never = Due { mutations: 0, ..DUE };
        assert!(!Since { last: None, is_pressed: true, ..quiet }.is_due(never));
    }
}

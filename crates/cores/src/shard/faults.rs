//! Faults of the real disk, for tests of the layers above it: each [`DirectDisk`] asks here before every call. Faults
//! are kept by directory, so that a test can make and mend them under a core that runs.
//!
//! [`DirectDisk`]: super::direct::DirectDisk

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk::space::Room;
use crate::disk::{DiskError, Kind, Result};

/// A kind of call that fails.
#[derive(Clone, Debug)]
struct Rule {
    operation: &'static str,
    prefix: &'static str,
    /// Bytes of a file whose reads or writes fail, for faults of a range.
    range: Range<u64>,
    kind: Kind,
    /// Number of calls that are still to fail.
    times: u64,
}

#[derive(Default)]
struct Shared {
    rules: Vec<Rule>,
    available: Option<u64>,
    /// Reads of files with this name prefix return nothing from this byte on, and no error.
    short: Option<(&'static str, u64)>,
    /// Reads of files with this name prefix take longer by this time.
    stall: Option<(&'static str, Duration)>,
}

/// Number of reads under way, and its maximum.
#[derive(Default)]
struct Reads {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// The faults of one directory.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Shared>>, Arc<Reads>);

/// A read under way.
pub struct Reading(Arc<Reads>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

static DIRECTORIES: Mutex<BTreeMap<PathBuf, Faults>> = Mutex::new(BTreeMap::new());

impl Faults {
    /// The faults of the disk in this directory.
    pub fn of(directory: &Path) -> Self {
        let directory = std::path::absolute(directory).expect("a directory of a test");
        let mut directories = DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner);
        directories.entry(directory).or_default().clone()
    }

    /// Makes the next `times` calls of `operation` (as in [`DiskError::operation`]) fail, for files with this name
    /// prefix.
    pub fn fail(&self, operation: &'static str, prefix: &'static str, kind: Kind, times: u64) {
        self.shared().rules.push(Rule { operation, prefix, range: 0..u64::MAX, kind, times });
    }

    /// Makes the next `times` reads fail that touch these bytes of files with this name prefix.
    pub fn fail_read(&self, prefix: &'static str, range: Range<u64>, times: u64) {
        let (operation, kind) = ("read", Kind::Failed);
        self.shared().rules.push(Rule { operation, prefix, range, kind, times });
    }

    /// Makes the next `times` writes fail that touch these bytes of files with this name prefix.
    pub fn fail_write(&self, prefix: &'static str, range: Range<u64>, times: u64) {
        let (operation, kind) = ("write", Kind::Failed);
        self.shared().rules.push(Rule { operation, prefix, range, kind, times });
    }

    /// Makes reads of files with this name prefix return nothing from `offset` on, and no error.
    pub fn shorten_reads(&self, prefix: &'static str, offset: u64) {
        self.shared().short = Some((prefix, offset));
    }

    /// Number of bytes that a read of `bytes` at `offset` returns.
    pub fn shorten(&self, file: &str, offset: u64, bytes: usize) -> usize {
        let short = self.shared().short.filter(|(prefix, _)| file.starts_with(prefix));
        short.map_or(bytes, |(_, end)| bytes.min(end.saturating_sub(offset) as usize))
    }

    /// Makes reads of files with this name prefix take longer from now on, those that wait included.
    pub fn stall(&self, prefix: &'static str, stall: Duration) {
        self.shared().stall = Some((prefix, stall));
    }

    /// Time by which a read of this file takes longer.
    pub fn stall_of(&self, file: &str) -> Duration {
        let stall = self.shared().stall.filter(|(prefix, _)| file.starts_with(prefix));
        stall.map_or(Duration::ZERO, |(_, stall)| stall)
    }

    /// Counts a read while it is under way.
    pub fn begin_read(&self) -> Reading {
        let now = self.1.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.1.most.fetch_max(now, Ordering::Relaxed);
        Reading(self.1.clone())
    }

    /// Number of reads under way, and its maximum.
    pub fn reads(&self) -> (usize, usize) {
        (self.1.now.load(Ordering::Relaxed), self.1.most.load(Ordering::Relaxed))
    }

    /// Sets the free space that is reported.
    pub fn leave(&self, available: u64) {
        self.shared().available = Some(available);
    }

    /// Removes all faults.
    pub fn mend(&self) {
        *self.shared() = Shared::default();
    }

    /// The free space that is reported.
    pub fn room(&self, room: Option<Room>) -> Option<Room> {
        let available = self.shared().available;
        room.map(|room| Room { available: available.unwrap_or(room.available), ..room })
    }

    /// Fails if a fault of the operation is due.
    pub fn check(&self, operation: &'static str, file: &str) -> Result<()> {
        self.check_range(operation, file, 0..u64::MAX)
    }

    /// Fails if a fault of the operation, for these bytes of the file, is due.
    pub fn check_range(
        &self,
        operation: &'static str,
        file: &str,
        range: Range<u64>,
    ) -> Result<()> {
        let mut shared = self.shared();
        let is_due = |rule: &&mut Rule| {
            rule.operation == operation
                && file.starts_with(rule.prefix)
                && (rule.range.start < range.end && range.start < rule.range.end)
                && rule.times > 0
        };
        let Some(rule) = shared.rules.iter_mut().find(is_due) else {
            return Ok(());
        };
        rule.times -= 1;
        let reason = "injected".into();
        Err(DiskError { kind: rule.kind, operation, file: file.into(), reason })
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The data directory of a server: creation, checks, lock, watch, and moving aside if the configuration asks for it.

mod access;
mod guard;

use std::path::{Path, PathBuf};

use self::guard::Guard;
use crate::config::PersistenceSection;
use crate::directory::{Lock, has_data, move_aside};
use crate::disk::folders::Folders;
use crate::disk::kind::not_advised;
use crate::disk::owner::{TooOpen, too_open};
use crate::disk::probe::check_directory;

/// Lock of a server on its data directory. The process ends at once if another directory takes its path.
pub(crate) struct GuardedLock {
    // Dropped before the lock is released.
    _guard: Guard,
    _lock: Lock,
}

impl GuardedLock {
    /// Creates the directory if it is missing, checks it, and locks it for this process.
    pub(super) fn take(persistence: &PersistenceSection) -> Result<Self, String> {
        let directory = &persistence.data_dir;
        access::check(directory)?;
        check_directory(directory)?;
        warn_of(directory, "data directory");
        let lock = Self::acquire_guarded(persistence)?;
        if persistence.enable_recovery || !has_data(directory) {
            return Ok(lock);
        }
        let aside = move_aside(directory, "unrecovered")?;
        tracing::warn!(
            "persistence.enable_recovery is false: the former data is in {}",
            aside.display()
        );
        drop(lock);
        check_directory(directory)?;
        Self::acquire_guarded(persistence)
    }

    /// Moves a directory that can't be opened aside, and locks a new one in its place.
    pub(super) fn start_afresh(
        self,
        persistence: &PersistenceSection,
    ) -> Result<(Self, PathBuf), String> {
        let directory = &persistence.data_dir;
        let aside = move_aside(directory, "corrupt")?;
        drop(self);
        check_directory(directory)?;
        Ok((Self::acquire_guarded(persistence)?, aside))
    }

    /// Locks an existing directory, and starts the watch.
    fn acquire_guarded(persistence: &PersistenceSection) -> Result<Self, String> {
        let (directory, asked) = (&persistence.data_dir, persistence.wal_dir.as_deref());
        let lock = Lock::acquire_with(directory, asked)?;
        if let Some(log) = Folders::of(directory).log() {
            warn_of(log, "directory of the log");
            if asked.is_none() {
                tracing::info!(
                    "the log is in {}, where {}/wal leads",
                    log.display(),
                    directory.display()
                );
            }
        }
        Ok(Self { _guard: Guard::start(lock.held())?, _lock: lock })
    }
}

/// Warns of a problem with a directory.
fn warn_of(directory: &Path, what: &str) {
    if let Some(TooOpen { mode, change }) = too_open(directory) {
        let shown = directory.display();
        tracing::warn!(
            "the {what} {shown} is open to all users of this machine (mode {mode:04o}): `{change}`"
        );
    }
    if let Some(warning) = not_advised(directory) {
        tracing::warn!("the {what} {warning}");
    }
}

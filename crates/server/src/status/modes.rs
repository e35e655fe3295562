//! Modes that an operator switches on and off: read-only and maintenance.

use std::fs::File;
use std::io::Result;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// The file in the data directory that keeps a server read-only over restarts.
const READ_ONLY_NAME: &str = "READ_ONLY";

/// What is on.
#[derive(Default)]
pub struct Modes {
    is_read_only: AtomicBool,
    is_maintenance: AtomicBool,
    is_emergency: AtomicBool,
    /// Held while read-only is switched, which a disk can hold up.
    switching: Mutex<()>,
}

impl Modes {
    /// Takes up what was on when the server ended.
    pub fn restore(&self, data_dir: &Path) {
        self.is_read_only.store(data_dir.join(READ_ONLY_NAME).exists(), Ordering::Relaxed);
    }

    /// Writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    /// Reads and writes are refused.
    #[must_use]
    pub fn is_maintenance(&self) -> bool {
        self.is_maintenance.load(Ordering::Relaxed)
    }

    /// The server is to end without waiting for anything that is not durable yet.
    #[must_use]
    pub fn is_emergency(&self) -> bool {
        self.is_emergency.load(Ordering::Relaxed)
    }

    /// Switches read-only, durably.
    ///
    /// # Errors
    /// If the file that keeps it can't be made or removed; then nothing has changed, unless it is to
    /// be switched on: that is in force until the server ends.
    pub fn set_read_only(&self, data_dir: &Path, is_on: bool) -> Result<()> {
        let path = data_dir.join(READ_ONLY_NAME);
        if is_on {
            self.is_read_only.store(true, Ordering::Relaxed);
        }
        let _turn = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
        if is_on {
            File::create(&path)?.sync_all()?;
        } else {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(data_dir)?.sync_all()?;
        self.is_read_only.store(is_on, Ordering::Relaxed);
        Ok(())
    }

    /// Switches maintenance.
    pub(super) fn set_maintenance(&self, is_on: bool) {
        self.is_maintenance.store(is_on, Ordering::Relaxed);
    }

    /// The server is to end at once.
    pub(super) fn set_emergency(&self) {
        self.is_emergency.store(true, Ordering::Relaxed);
    }

    /// Refuses a request if no request is taken.
    ///
    /// # Errors
    /// In maintenance.
    pub fn check(&self) -> std::result::Result<(), Error> {
        match self.is_maintenance() {
            true => Err(Error::planned("the server is in maintenance: try again later")),
            false => Ok(()),
        }
    }

    /// Refuses a write if none is taken.
    ///
    /// # Errors
    /// In maintenance, and where the server is read-only.
    pub fn check_write(&self) -> std::result::Result<(), Error> {
        self.check()?;
        match self.is_read_only() {
            true => Err(Error::planned("the server is read-only: an operator has asked for it")),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_outlives_the_server_and_maintenance_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let modes = Modes::default();
        assert!(modes.check_write().is_ok());
        modes.set_read_only(directory.path(), true).unwrap();
        modes.set_maintenance(true);
        assert!(modes.check().is_err());
        let next = Modes::default();
        next.restore(directory.path());
        assert!(next.check().is_ok() && next.check_write().is_err());
        next.set_read_only(directory.path(), false).unwrap();
        next.set_read_only(directory.path(), false).unwrap();
        assert!(next.check_write().is_ok());
        modes.restore(directory.path());
        assert!(!modes.is_read_only());
    }
}

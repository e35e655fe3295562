//! The data directory as a whole: the lock on it, and moving it aside.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::PersistenceSection;
use crate::manifest::MANIFEST_NAME;
use crate::shard::preflight;

/// File name of the lock.
pub(crate) const LOCK_NAME: &str = "LOCK";

/// The right to use a data directory; given back when dropped, or when the process ends however
/// it does.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Makes the directory if it is missing, checks it, and takes it for this process.
    pub(super) fn take(persistence: &PersistenceSection) -> Result<Self, String> {
        let directory = &persistence.data_dir;
        preflight::check_directory(directory)?;
        let lock = Self::acquire(directory)?;
        if persistence.enable_recovery || !has_data(directory) {
            return Ok(lock);
        }
        let aside = move_aside(directory, "unrecovered")?;
        tracing::warn!(
            "persistence.enable_recovery is false: the former data is in {}",
            aside.display()
        );
        drop(lock);
        preflight::check_directory(directory)?;
        Self::acquire(directory)
    }

    /// Moves the directory, which can't be opened, aside, and takes a new one in its place.
    pub(super) fn start_afresh(self, directory: &Path) -> Result<(Self, PathBuf), String> {
        let aside = move_aside(directory, "corrupt")?;
        drop(self);
        preflight::check_directory(directory)?;
        Ok((Self::acquire(directory)?, aside))
    }

    /// Takes a directory that is there for this process.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, String> {
        let path = directory.join(LOCK_NAME);
        let shown = directory.display();
        let failed = |error: std::io::Error| format!("{} can't be opened: {error}", path.display());
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).unwrap_or_default();
                let holder = holder.trim();
                return Err(format!(
                    "the data directory {shown} is in use by another server (process {holder}). \
                     Stop that one, or choose another directory with --data-dir PATH."
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(format!("the data directory {shown} can't be locked: {error}"));
            }
        }
        // For people only: the lock itself is the kernel's.
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| format!("{} can't be written: {error}", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// True if a server has kept anything here.
fn has_data(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name == MANIFEST_NAME || name.starts_with("wal_") || name.starts_with("snapshot_")
    })
}

/// Renames `<name>` to `<name>_<why>_<unix seconds>`.
fn move_aside(directory: &Path, why: &str) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(directory).map_err(|error| error.to_string())?;
    let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let aside = absolute.with_file_name(format!("{name}_{why}_{seconds}"));
    std::fs::rename(&absolute, &aside).map_err(|error| {
        format!("{} can't be renamed to {}: {error}", absolute.display(), aside.display())
    })?;
    Ok(aside)
}

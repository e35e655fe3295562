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
                let holder = holder(&path);
                return Err(format!(
                    "the data directory {shown} is in use by another server (process {holder}), \
                     or being checked with --verify-wal. Stop that one, or choose another \
                     directory with --data-dir PATH."
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

/// The process that took the lock last, as it wrote itself.
fn holder(lock: &Path) -> String {
    std::fs::read_to_string(lock).unwrap_or_default().trim().to_owned()
}

/// Keeps servers away from a directory that is only looked at, without writing to it: others may
/// look at the same time. A directory that no server has locked yet, such as a copy, has no lock
/// to take.
pub(super) struct Look {
    path: PathBuf,
    lock: Option<File>,
}

impl Look {
    /// Takes the directory, if it is there and no server uses it.
    pub(super) fn take(directory: &Path) -> Result<Self, String> {
        let shown = directory.display();
        let read = std::fs::read_dir(directory);
        read.map_err(|error| format!("the data directory {shown} can't be read: {error}"))?;
        let path = directory.join(LOCK_NAME);
        let lock = match File::open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{} can't be opened: {error}", path.display())),
        };
        match lock.as_ref().map_or(Ok(()), File::try_lock_shared) {
            Ok(()) => Ok(Self { path, lock }),
            Err(TryLockError::WouldBlock) => Err(format!(
                "the data directory {shown} is in use by a server (process {}). What it is \
                 writing would be taken for damage: stop it first, or check a copy that was made \
                 while it was stopped.",
                holder(&path)
            )),
            Err(TryLockError::Error(error)) => {
                Err(format!("the data directory {shown} can't be locked: {error}"))
            }
        }
    }

    /// Gives the directory back.
    ///
    /// # Errors
    /// If a server may have come meanwhile.
    pub(super) fn end(self) -> Result<(), String> {
        if self.lock.is_none() && self.path.exists() {
            return Err("a server has started in the directory meanwhile: check again".into());
        }
        Ok(())
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

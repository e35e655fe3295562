//! The data directory as a whole: the lock on it, the directory of its log, and moving it aside.

pub mod held;
pub mod log;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use self::held::{Denied, Held};
use crate::manifest::MANIFEST_NAME;

/// File name of the lock.
pub const LOCK_NAME: &str = "LOCK";

/// The right to use a data directory; released when dropped, or when the process ends in any way.
pub struct Lock {
    held: Arc<Held>,
    // The lock of the log, if it has a directory of its own.
    _log: Option<File>,
}

impl Lock {
    /// Locks an existing directory for this process.
    pub fn acquire(directory: &Path) -> Result<Self, String> {
        Self::acquire_with(directory, None)
    }

    /// Locks a directory whose log is to be in a directory of its own, if `wal_dir` is given.
    pub fn acquire_with(directory: &Path, wal_dir: Option<&Path>) -> Result<Self, String> {
        let shown = directory.display();
        match Held::take(directory) {
            Ok(held) => {
                wal_dir.map_or(Ok(()), |wal_dir| log::bind(directory, wal_dir))?;
                let _log = log::hold(directory)?;
                Ok(Self { held: Arc::new(held), _log })
            }
            Err(Denied::InUse(holder)) => Err(format!(
                "the data directory {shown} is in use by another server (process {holder}), or \
                 being checked with --verify-wal. Stop that one, or choose another directory with \
                 --data-dir PATH."
            )),
            Err(Denied::Failed(why)) => Err(why),
        }
    }

    /// The locked directory, to be looked at while the lock is held.
    pub fn held(&self) -> Arc<Held> {
        self.held.clone()
    }
}

/// Keeps servers away from a directory that is only read, without writing to it: several readers may do so at a time.
/// If a directory can't be locked and has no LOCK, as a copy has none, a server that comes meanwhile is seen at the
/// end.
pub struct Look {
    path: PathBuf,
    lock: Option<File>,
    _directory: File,
    _log: Option<File>,
}

impl Look {
    /// Locks the directory, if it exists and no server uses it.
    pub fn take(directory: &Path) -> Result<Self, String> {
        let shown = directory.display();
        let unreadable = |error| format!("the data directory {shown} can't be read: {error}");
        std::fs::read_dir(directory).map_err(unreadable)?;
        let opened = File::open(directory).map_err(unreadable)?;
        let path = directory.join(LOCK_NAME);
        let lock = match File::open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("{} can't be opened: {error}", path.display())),
        };
        let in_use = || {
            format!(
                "the data directory {shown} is in use by a server (process {}). What it is writing \
                 would be taken for damage: stop it first, or check a copy that was made while it \
                 was stopped.",
                held::holder(directory)
            )
        };
        match opened.try_lock_shared() {
            Err(TryLockError::WouldBlock) => return Err(in_use()),
            // The file system locks no directories.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        match lock.as_ref().map_or(Ok(()), File::try_lock_shared) {
            Ok(()) => {
                let _log = log::look(directory)?;
                Ok(Self { path, lock, _directory: opened, _log })
            }
            Err(TryLockError::WouldBlock) => Err(in_use()),
            Err(TryLockError::Error(error)) => {
                Err(format!("the data directory {shown} can't be locked: {error}"))
            }
        }
    }

    /// Releases the directory.
    ///
    /// # Errors
    /// If a server may have come meanwhile.
    pub fn end(self) -> Result<(), String> {
        if self.lock.is_none() && self.path.exists() {
            return Err("a server has started in the directory meanwhile: check again".into());
        }
        Ok(())
    }
}

/// The process that has locked a directory, if there is one. Leaves no trace.
pub fn user_of(directory: &Path) -> Option<String> {
    let is_taken = |path: &Path| {
        let tried = File::open(path).map(|file| file.try_lock_shared());
        matches!(tried, Ok(Err(TryLockError::WouldBlock)))
    };
    (is_taken(directory) || is_taken(&directory.join(LOCK_NAME))).then(|| held::holder(directory))
}

/// True if a server has kept any data here.
pub fn has_data(directory: &Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name == MANIFEST_NAME || name.starts_with("wal_") || name.starts_with("snapshot_")
    })
}

/// Renames `<name>` to `<name>_<why>_<unix seconds>`.
pub fn move_aside(directory: &Path, why: &str) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(directory).map_err(|error| error.to_string())?;
    let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let aside = absolute.with_file_name(format!("{name}_{why}_{seconds}"));
    std::fs::rename(&absolute, &aside).map_err(|error| {
        format!("{} can't be renamed to {}: {error}", absolute.display(), aside.display())
    })?;
    Ok(aside)
}

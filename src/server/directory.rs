//! The data directory as a whole: the lock on it, and moving it aside.

mod access;
mod guard;
mod held;
pub(crate) mod log;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use self::guard::Guard;
use self::held::{Denied, Held};
use crate::config::PersistenceSection;
use crate::disk::folders::Folders;
use crate::disk::kind::not_advised;
use crate::disk::owner::{TooOpen, too_open};
use crate::manifest::MANIFEST_NAME;
use crate::shard::preflight;

/// File name of the lock.
pub(crate) const LOCK_NAME: &str = "LOCK";

/// The right to use a data directory; given back when dropped, or when the process ends however
/// it does.
pub(crate) struct Lock {
    // Ends before the directory is given back.
    _guard: Option<Guard>,
    held: Arc<Held>,
    // That of the log, where it has a directory of its own.
    _log: Option<File>,
}

impl Lock {
    /// Makes the directory if it is missing, checks it, and takes it for this process.
    pub(super) fn take(persistence: &PersistenceSection) -> Result<Self, String> {
        let directory = &persistence.data_dir;
        access::check(directory)?;
        preflight::check_directory(directory)?;
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
        preflight::check_directory(directory)?;
        Self::acquire_guarded(persistence)
    }

    /// Moves the directory, which can't be opened, aside, and takes a new one in its place.
    pub(super) fn start_afresh(
        self,
        persistence: &PersistenceSection,
    ) -> Result<(Self, PathBuf), String> {
        let directory = &persistence.data_dir;
        let aside = move_aside(directory, "corrupt")?;
        drop(self);
        preflight::check_directory(directory)?;
        Ok((Self::acquire_guarded(persistence)?, aside))
    }

    /// Takes a directory that is there for this process.
    pub(crate) fn acquire(directory: &Path) -> Result<Self, String> {
        Self::acquire_with(directory, None)
    }

    /// The same where the log is to be in a directory of its own.
    fn acquire_with(directory: &Path, wal_dir: Option<&Path>) -> Result<Self, String> {
        let shown = directory.display();
        match Held::take(directory) {
            Ok(held) => {
                wal_dir.map_or(Ok(()), |wal_dir| log::bind(directory, wal_dir))?;
                let _log = log::hold(directory)?;
                Ok(Self { _guard: None, held: Arc::new(held), _log })
            }
            Err(Denied::InUse(holder)) => Err(format!(
                "the data directory {shown} is in use by another server (process {holder}), or \
                 being checked with --verify-wal. Stop that one, or choose another directory with \
                 --data-dir PATH."
            )),
            Err(Denied::Failed(why)) => Err(why),
        }
    }

    /// The same for a server, which ends at once should the directory become another's.
    fn acquire_guarded(persistence: &PersistenceSection) -> Result<Self, String> {
        let (directory, asked) = (&persistence.data_dir, persistence.wal_dir.as_deref());
        let Self { held, _log, .. } = Self::acquire_with(directory, asked)?;
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
        Ok(Self { _guard: Some(Guard::start(held.clone())?), held, _log })
    }
}

/// Keeps servers away from a directory that is only looked at, without writing to it: others may
/// look at the same time. Where a directory can't be locked and has no LOCK, as a copy has none, a
/// server that comes meanwhile is seen at the end.
pub(super) struct Look {
    path: PathBuf,
    lock: Option<File>,
    _directory: File,
    _log: Option<File>,
}

impl Look {
    /// Takes the directory, if it is there and no server uses it.
    pub(super) fn take(directory: &Path) -> Result<Self, String> {
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

/// The process that has a directory to itself, if one has. Leaves no trace.
pub(crate) fn user_of(directory: &Path) -> Option<String> {
    let is_taken = |path: &Path| {
        let tried = File::open(path).map(|file| file.try_lock_shared());
        matches!(tried, Ok(Err(TryLockError::WouldBlock)))
    };
    (is_taken(directory) || is_taken(&directory.join(LOCK_NAME))).then(|| held::holder(directory))
}

/// Tells of what is not as it should be with a directory.
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

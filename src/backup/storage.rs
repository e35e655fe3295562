//! Where backups are: a directory. The only file that knows, so that another kind of place can
//! stand beside it.

use std::fs::{self, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::{Backup, RECORD_NAME, Stored, is_id, is_plain};
use super::{Result, verify};
use crate::disk::view::Viewed;

/// A backup to whose directory nothing was added for so long is not being written any more.
const UNFINISHED_AGE: Duration = Duration::from_secs(86_400);

/// A directory of backups.
pub struct Storage {
    directory: PathBuf,
}

/// All backups of a storage.
pub struct Listed {
    /// Those that can be read, newest first.
    pub backups: Vec<Backup>,
    /// What is wrong with the others.
    pub damaged: Vec<String>,
}

impl Storage {
    /// The backups in this directory, which need not be there.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.into() }
    }

    /// Its place, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        self.directory.display().to_string()
    }

    /// True if the backups are in this directory, or below it.
    #[must_use]
    pub fn is_in(&self, directory: &Path) -> bool {
        let own = fs::canonicalize(&self.directory);
        own.is_ok_and(|own| fs::canonicalize(directory).is_ok_and(|outer| own.starts_with(outer)))
    }

    /// What a backup says of itself.
    ///
    /// # Errors
    /// If there is none, or it can't be read.
    pub fn load(&self, id: &str) -> Result<Backup> {
        let shown = self.shown();
        let missing =
            || format!("there is no backup {id} in {shown}; `list` shows those there are");
        if !is_plain(id) {
            return Err(missing());
        }
        let path = self.directory.join(id).join(RECORD_NAME);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => missing(),
            _ => format!("{} can't be read: {error}", path.display()),
        })?;
        let backup = Backup::decode(&bytes).map_err(|why| format!("backup {id}: {why}"))?;
        if backup.id != id {
            let found = &backup.id;
            return Err(format!("the directory {id} in {shown} holds the backup {found}"));
        }
        Ok(backup)
    }

    /// All backups.
    ///
    /// # Errors
    /// If the directory can't be listed.
    pub fn list(&self) -> Result<Listed> {
        let failed = |error: std::io::Error| format!("{} can't be listed: {error}", self.shown());
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Listed { backups: Vec::new(), damaged: Vec::new() });
            }
            entries => entries.map_err(failed)?,
        };
        let mut listed = Listed { backups: Vec::new(), damaged: Vec::new() };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let id = entry.file_name().to_string_lossy().into_owned();
            // Others may keep something here as well; a backup without its record is damaged.
            let is_backup = entry.path().join(RECORD_NAME).exists() || is_id(&id);
            if !is_plain(&id) || !is_backup || !entry.path().is_dir() {
                continue;
            }
            match self.load(&id) {
                Ok(backup) => listed.backups.push(backup),
                Err(why) => listed.damaged.push(why),
            }
        }
        listed.backups.sort_by_key(|backup| (backup.cut_unix_ms, backup.id.clone()));
        listed.backups.reverse();
        listed.damaged.sort();
        Ok(listed)
    }

    /// Opens a file of a backup.
    ///
    /// # Errors
    /// If it is missing, of another length than it should be, or can't be opened.
    pub fn open(&self, file: &Stored) -> Result<Viewed> {
        let path = self.directory.join(&file.backup).join(&file.name);
        let opened = Viewed::open(&path, &file.name)
            .map_err(|error| format!("backup {}: {error}", file.backup))?;
        verify::check_length(file, opened.bytes())?;
        Ok(opened)
    }

    /// The right to add backups, which many may have at once, or to remove some, which one has
    /// alone: a reference must not go while a backup is made on it. Given back when dropped.
    ///
    /// # Errors
    /// If others are at work.
    pub fn claim(&self, to_remove: bool) -> Result<Claim> {
        let shown = self.shown();
        let failed = |error: std::io::Error| format!("{shown} can't be used: {error}");
        let file = match fs::File::open(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound && !to_remove => {
                fs::create_dir_all(&self.directory).map_err(failed)?;
                fs::File::open(&self.directory)
            }
            file => file,
        };
        let file = file.map_err(failed)?;
        match if to_remove { file.try_lock() } else { file.try_lock_shared() } {
            Err(TryLockError::WouldBlock) => Err(format!(
                "another kyrodb_backup is at work in {shown}. Try again when it is done."
            )),
            // Where there are no locks, nobody else is expected.
            _ => Ok(Claim { _file: file }),
        }
    }

    /// Removes what backups have left that were killed a day ago or earlier; their names.
    ///
    /// # Errors
    /// If they can't be removed.
    pub fn remove_unfinished(&self) -> Result<Vec<String>> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.shown());
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let age = changed.map_err(failed)?.elapsed().unwrap_or_default();
            let id = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
            if id.is_some_and(is_plain) && entry.path().is_dir() && age >= UNFINISHED_AGE {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// If its directory can't be made.
    pub fn begin(&self, id: &str) -> Result<Draft> {
        let directory = self.directory.join(format!(".{id}.tmp"));
        let failed = |error| format!("{} can't be made: {error}", directory.display());
        fs::create_dir_all(&self.directory).map_err(failed)?;
        fs::create_dir(&directory).map_err(failed)?;
        let target = self.directory.join(id);
        Ok(Draft { directory, target, is_published: false })
    }

    /// Removes a backup. It is gone at once, whatever happens then.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        let (path, hidden) = (self.directory.join(id), self.directory.join(format!(".{id}.tmp")));
        fs::rename(&path, &hidden)
            .and_then(|()| sync_directory(&self.directory))
            .and_then(|()| fs::remove_dir_all(&hidden))
            .map_err(|error| format!("backup {id} can't be removed: {error}"))
    }
}

/// See [`Storage::claim`].
pub struct Claim {
    _file: fs::File,
}

/// A backup being written. It is removed when it is dropped before it was published.
pub struct Draft {
    directory: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl Draft {
    /// Makes a file durable whose content `fill` gives.
    ///
    /// # Errors
    /// If it can't be written, as on a full disk; or what `fill` returns.
    pub fn write(
        &self,
        name: &str,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        write_file(&self.directory, name, fill)
    }

    /// Opens a file that was written.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(&self, name: &str) -> Result<Viewed> {
        Viewed::open(&self.directory.join(name), name).map_err(|error| error.to_string())
    }

    /// Makes the backup one of the storage's, durable.
    ///
    /// # Errors
    /// If that fails.
    pub fn publish(mut self, backup: &Backup) -> Result<()> {
        self.write(RECORD_NAME, |put| put(&backup.encode()))?;
        sync_tree(&self.directory)?;
        let failed = |error| format!("{} can't be made: {error}", self.target.display());
        fs::rename(&self.directory, &self.target).map_err(failed)?;
        self.is_published = true;
        let parent = self.target.parent().unwrap_or(&self.target);
        sync_directory(parent)
            .map_err(|error| format!("{} can't be synced: {error}", parent.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            tracing::warn!("{} is left and may be removed: {error}", self.directory.display());
        }
    }
}

/// Writes a file, durable, in a directory or one below it. `fill` gives the content.
pub(super) fn write_file(
    directory: &Path,
    name: &str,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let path = directory.join(name);
    let failed = |error: std::io::Error| format!("{} can't be written: {error}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = fs::File::create_new(&path).map_err(failed)?;
    fill(&mut |bytes| file.write_all(bytes).map_err(failed))?;
    file.sync_all().map_err(failed)
}

/// Makes the names in a directory durable, and in those below it.
pub(super) fn sync_tree(directory: &Path) -> Result<()> {
    let failed = |error| format!("{} can't be synced: {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        }
    }
    sync_directory(directory).map_err(failed)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

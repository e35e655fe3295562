//! Backups in a directory. A backup has a hidden name while it is written, and again before it is removed.

use std::any::Any;
use std::fs::{self, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::overlap::Lineage;
use super::{Overlap, Place, Retired, Sink, Unpublished, pour};
use crate::backup::Result;
use crate::backup::record::{Backup, RECORD_NAME, Stored, is_id, is_plain};
use crate::disk::view::Viewed;

/// A directory of backups.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    fn hidden(&self, id: &str) -> PathBuf {
        self.path.join(format!(".{id}.tmp"))
    }
}

impl Place for Directory {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn overlap(&self, directory: &Path) -> Overlap {
        let (own, other) = (Lineage::of(&self.path), Lineage::of(directory));
        if other.is(&own) {
            return Overlap::Same;
        }
        // The directory may be a link to another file system.
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let backups = entries.map(|entry| entry.path()).filter(|path| is_backup(path));
        let backups: Vec<(PathBuf, Lineage)> =
            backups.map(|path| (path.clone(), Lineage::of(&path))).collect();
        if let Some((path, _)) = backups.iter().find(|(_, backup)| other.is_in(backup)) {
            return Overlap::InBackup(path.display().to_string());
        }
        if own.is_in(&other) || backups.iter().any(|(_, backup)| backup.is_in(&other)) {
            return Overlap::Around;
        }
        Overlap::Apart
    }

    fn names(&self) -> Result<Vec<String>> {
        let failed = |error: std::io::Error| format!("{} can't be listed: {error}", self.shown());
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let id = entry.file_name().to_string_lossy().into_owned();
            // Other programs may keep files here as well; a backup without its record is damaged.
            let is_backup = entry.path().join(RECORD_NAME).exists() || is_id(&id);
            if is_plain(&id) && is_backup && entry.path().is_dir() {
                names.push(id);
            }
        }
        Ok(names)
    }

    fn record(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(id).join(RECORD_NAME);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
                _ => Err(format!("{} can't be read: {error}", path.display())),
            },
        }
    }

    fn open(&self, file: &Stored) -> Result<Viewed> {
        let path = self.path.join(&file.backup).join(&file.name);
        Viewed::open(&path, &file.name).map_err(|error| error.to_string())
    }

    /// Locks the directory. A missing directory has nothing to remove.
    fn claim(&self, to_remove: bool) -> Result<Option<Box<dyn Any>>> {
        let shown = self.shown();
        let failed = |error: std::io::Error| format!("{shown} can't be used: {error}");
        let file = match fs::File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound && to_remove => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.path).map_err(failed)?;
                fs::File::open(&self.path)
            }
            file => file,
        };
        let file = file.map_err(failed)?;
        match if to_remove { file.try_lock() } else { file.try_lock_shared() } {
            Err(TryLockError::WouldBlock) => Err(format!(
                "another kyrodb_backup is at work in {shown}. Try again when it is done."
            )),
            // If the file system has no locks, no other process is expected.
            _ => Ok(Some(Box::new(file))),
        }
    }

    /// No backup is being made while the lock is held.
    fn retire(&self, _: &[String], _: &dyn Fn(&str) -> bool) -> Result<Retired> {
        Ok(Retired::default())
    }

    fn begin(&self, id: &str, _: &[Backup]) -> Result<Box<dyn Unpublished>> {
        let (path, target) = (self.hidden(id), self.path.join(id));
        let failed = |error| format!("{} can't be made: {error}", path.display());
        fs::create_dir_all(&self.path).map_err(failed)?;
        fs::create_dir(&path).map_err(failed)?;
        Ok(Box::new(Hidden { path, target, is_published: false }))
    }

    fn remove(&self, id: &str) -> Result<()> {
        let (path, hidden) = (self.path.join(id), self.hidden(id));
        fs::rename(&path, &hidden)
            .and_then(|()| sync_directory(&self.path))
            .and_then(|()| fs::remove_dir_all(&hidden))
            .map_err(|error| error.to_string())
    }

    fn remove_unfinished(&self, least: Duration) -> Result<Vec<String>> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.shown());
        let mut removed = Vec::new();
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(removed),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let age = changed.map_err(failed)?.elapsed().unwrap_or_default();
            let id = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
            if id.is_some_and(is_plain) && entry.path().is_dir() && age >= least {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }
}

/// True for a backup, and for one that is being written or removed.
fn is_backup(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    let is_one = is_id(hidden.unwrap_or(&name)) || path.join(RECORD_NAME).exists();
    is_one && path.is_dir()
}

/// A backup with its hidden name.
struct Hidden {
    path: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl Unpublished for Hidden {
    fn create(&self, name: &str, _: u64) -> Result<Box<dyn Sink>> {
        Ok(Box::new(NewFile::create(&self.path, name)?))
    }

    fn open(&self, name: &str) -> Result<Viewed> {
        Viewed::open(&self.path.join(name), name).map_err(|error| error.to_string())
    }

    fn publish(mut self: Box<Self>, record: &[u8]) -> Result<()> {
        write_file(&self.path, RECORD_NAME, |put| put(record))?;
        sync_tree(&self.path)?;
        let failed = |error| format!("{} can't be made: {error}", self.target.display());
        fs::rename(&self.path, &self.target).map_err(failed)?;
        self.is_published = true;
        let parent = self.target.parent().unwrap_or(&self.target);
        sync_directory(parent)
            .map_err(|error| format!("{} can't be synced: {error}", parent.display()))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if !self.is_published
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!("{} is left and may be removed: {error}", self.path.display());
        }
    }
}

/// Bytes after which written data is synced: larger amounts at once would block the device for others.
const SYNC_BYTES: usize = 1 << 20;

/// A file that is removed with its directory if it is not completed.
struct NewFile {
    path: PathBuf,
    file: fs::File,
    unsynced_bytes: usize,
}

impl NewFile {
    fn create(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(name);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        let file = made.and_then(|()| fs::File::create_new(&path));
        file.map(|file| Self { file, path: path.clone(), unsynced_bytes: 0 })
            .map_err(|error| format!("{} can't be written: {error}", path.display()))
    }

    fn failed(&self, error: &std::io::Error) -> String {
        format!("{} can't be written: {error}", self.path.display())
    }
}

impl Sink for NewFile {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.unsynced_bytes += bytes.len();
        let mut written = self.file.write_all(bytes);
        if self.unsynced_bytes >= SYNC_BYTES {
            written = written.and_then(|()| self.file.sync_data());
            self.unsynced_bytes = 0;
        }
        written.map_err(|error| self.failed(&error))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.file.sync_all().map_err(|error| self.failed(&error))
    }
}

/// Writes a file durably, in a directory or one below it. `fill` provides the content.
pub(in crate::backup) fn write_file(
    directory: &Path,
    name: &str,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    pour(Box::new(NewFile::create(directory, name)?), fill)
}

/// Makes the names in a directory, and in those below it, durable.
pub(in crate::backup) fn sync_tree(directory: &Path) -> Result<()> {
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
pub(in crate::backup) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

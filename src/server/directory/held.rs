//! The two locks on a directory: flock(2) on the directory itself, and on the file LOCK in it.
//!
//! LOCK names the process that holds it, for people, and is all that earlier versions look at. But a file can
//! be removed, and whoever makes another one locks that. The directory can't be taken away under a server without
//! taking its files along, so its lock is the one that counts. File systems that lock no directories (NFS)
//! have LOCK alone.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::LOCK_NAME;
use crate::disk::owner::Owner;

/// How often LOCK may be taken away between opening and locking it.
const TRIES_MAX: usize = 100;

/// Longest content of LOCK that is shown.
const HOLDER_BYTES_MAX: u64 = 32;

/// Why a directory is not to be had.
pub(super) enum Denied {
    /// Another process has it; its number, as LOCK has it.
    InUse(String),
    /// The system refuses.
    Failed(String),
}

/// A directory that this process has to itself.
pub(super) struct Held {
    /// Absolute.
    path: PathBuf,
    directory: File,
    lock: Mutex<File>,
}

/// What is found of the directory later.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It is as it was, or nothing is at its path, where nothing can be written either.
    Same,
    /// LOCK was gone, and is made and locked again.
    Mended(String),
    /// It may be another server's.
    Lost(String),
}

impl Held {
    /// Locks a directory that is there, and writes the number of this process to its LOCK.
    pub(super) fn take(path: &Path) -> Result<Self, Denied> {
        let failed = |what: &str, error: std::io::Error| {
            Denied::Failed(format!(
                "the data directory {} can't be {what}: {error}",
                path.display()
            ))
        };
        let absolute = std::path::absolute(path).map_err(|error| failed("found", error))?;
        let directory = File::open(path).map_err(|error| failed("opened", error))?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Denied::InUse(holder(path))),
            Err(TryLockError::Error(error)) => {
                tracing::debug!("the directory {} itself is not locked: {error}", path.display());
            }
        }
        let lock = take_lock_file(path)?;
        Ok(Self { path: absolute, directory, lock: Mutex::new(lock) })
    }

    /// Compares what is at the path with what was locked.
    pub(super) fn look(&self) -> Look {
        let shown = self.path.display();
        let Ok(found) = std::fs::metadata(&self.path) else { return Look::Same };
        if !is_same(&self.directory, &found) {
            // Some file systems in user space number their files anew.
            if is_locked_by_us(&self.path) {
                return Look::Same;
            }
            return Look::Lost(format!(
                "{shown} is another directory than the one that this server has opened, which was \
                 moved or removed"
            ));
        }
        let path = self.path.join(LOCK_NAME);
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if std::fs::metadata(&path).is_ok_and(|found| is_same(&lock, &found)) {
            return Look::Same;
        }
        match take_lock_file(&self.path) {
            Ok(made) => {
                *lock = made;
                Look::Mended(format!(
                    "{} was removed under this server, and is made again. It is not to be removed: \
                     a process that has ended holds no lock",
                    path.display()
                ))
            }
            Err(Denied::InUse(holder)) if holder == own_number() => Look::Same,
            Err(Denied::InUse(holder)) => Look::Lost(format!(
                "{} was replaced, and process {holder} has locked the new one",
                path.display()
            )),
            // The disk is full, or fails: others could not make it either.
            Err(Denied::Failed(why)) => {
                tracing::debug!("LOCK can't be made again: {why}");
                Look::Same
            }
        }
    }
}

/// Locks LOCK in a directory, made if it is missing, and writes the number of this process to it.
fn take_lock_file(directory: &Path) -> Result<File, Denied> {
    let path = directory.join(LOCK_NAME);
    let shown = path.display();
    for _ in 0..TRIES_MAX {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file =
            opened.map_err(|error| Denied::Failed(format!("{shown} can't be opened: {error}")))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Denied::InUse(holder(directory))),
            Err(TryLockError::Error(error)) => {
                return Err(Denied::Failed(format!("{shown} can't be locked: {error}")));
            }
        }
        if !std::fs::metadata(&path).is_ok_and(|found| is_same(&file, &found)) {
            // It was removed or replaced between the two.
            continue;
        }
        // For people only: the lock itself is the kernel's.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", own_number()))
            .and_then(|()| Owner::of(directory).take(&path));
        written.map_err(|error| Denied::Failed(format!("{shown} can't be written: {error}")))?;
        return Ok(file);
    }
    Err(Denied::Failed(format!("{shown} is taken away again and again by another program")))
}

/// True if the LOCK in a directory is locked, and by this process as it says.
fn is_locked_by_us(directory: &Path) -> bool {
    let tried = File::open(directory.join(LOCK_NAME)).map(|file| file.try_lock_shared());
    matches!(tried, Ok(Err(TryLockError::WouldBlock))) && holder(directory) == own_number()
}

fn own_number() -> String {
    std::process::id().to_string()
}

/// The process that took the lock last, as it wrote itself.
pub(super) fn holder(directory: &Path) -> String {
    let mut text = String::new();
    let read = File::open(directory.join(LOCK_NAME))
        .and_then(|file| file.take(HOLDER_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            format!("unknown: LOCK was removed; `fuser {}` tells", directory.display())
        }
        _ => format!("unknown; `fuser {}` tells", directory.display()),
    }
}

/// True if an open file or directory is the one that was found.
fn is_same(opened: &File, found: &Metadata) -> bool {
    let place = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    opened.metadata().is_ok_and(|opened| place(&opened) == place(found))
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, remove_file, rename, write};

    use super::*;

    fn taken(path: &Path) -> Held {
        match Held::take(path) {
            Ok(held) => held,
            Err(Denied::InUse(why) | Denied::Failed(why)) => panic!("{why}"),
        }
    }

    #[test]
    fn a_directory_whose_lock_file_is_removed_stays_locked() {
        let directory = tempfile::tempdir().unwrap();
        let held = taken(directory.path());
        remove_file(directory.path().join(LOCK_NAME)).unwrap();
        assert!(matches!(Held::take(directory.path()), Err(Denied::InUse(_))));
        assert!(matches!(held.look(), Look::Mended(_)));
        assert_eq!(held.look(), Look::Same);
        assert!(matches!(Held::take(directory.path()), Err(Denied::InUse(_))));
        drop(held);
        drop(taken(directory.path()));
    }

    #[test]
    fn a_lock_file_that_another_has_locked_means_that_the_directory_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let held = taken(directory.path());
        // As a version does that knows LOCK alone.
        let other = directory.path().join("other");
        write(&other, "77\n").unwrap();
        let other_lock = File::open(&other).unwrap();
        other_lock.lock().unwrap();
        rename(&other, directory.path().join(LOCK_NAME)).unwrap();
        let Look::Lost(why) = held.look() else { panic!("not lost") };
        assert!(why.contains("process 77"), "{why}");
    }

    #[test]
    fn another_directory_at_the_path_means_that_it_is_lost() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("data");
        create_dir(&path).unwrap();
        let held = taken(&path);
        rename(&path, outer.path().join("moved")).unwrap();
        assert_eq!(held.look(), Look::Same, "nothing can be written at the path");
        create_dir(&path).unwrap();
        assert!(matches!(held.look(), Look::Lost(_)));
    }
}

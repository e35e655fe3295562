//! The two locks on a directory: flock(2) on the directory itself, and on the file LOCK in it.
//!
//! LOCK names the process that holds it, for people, and is all that earlier versions look at. Its second line is a
//! random mark of that process: process numbers repeat, and in containers each is often 1. A file can be removed, and
//! a process that makes another one locks that. The directory can't be taken away under a server without its files,
//! so the lock on the directory is the one that counts. File systems that lock no directories (NFS) have LOCK alone.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::LOCK_NAME;
use crate::disk::owner::Owner;

/// Most times that LOCK may be taken away between opening and locking it.
const TRIES_MAX: usize = 100;

/// Most bytes of LOCK that are read.
const CONTENT_BYTES_MAX: u64 = 256;

/// Longest process number that is shown, in characters.
const HOLDER_CHARS_MAX: usize = 32;

/// The mark of this process: 128 bits that no other process on this or another machine has.
static OWN_MARK: LazyLock<String> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let random = || RandomState::new().hash_one((std::process::id(), now));
    format!("{:016x}{:016x}", random(), random())
});

/// The reason why a directory can't be locked.
pub enum Denied {
    /// Another process has it; with that process's number, as LOCK has it.
    InUse(String),
    /// The system refuses.
    Failed(String),
}

/// A directory that this process has locked.
pub struct Held {
    /// Absolute path.
    path: PathBuf,
    directory: File,
    lock: Mutex<File>,
}

/// State of a locked directory at a later look.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// Unchanged, or nothing is at its path, so that nothing can be written there either.
    Same,
    /// LOCK was gone, and is made and locked again.
    Mended(String),
    /// The directory may belong to another server.
    Lost(String),
}

impl Held {
    /// Locks a directory that exists, and writes the number of this process to its LOCK.
    pub fn take(path: &Path) -> Result<Self, Denied> {
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

    /// Compares the directory at the path with the locked one.
    pub fn look(&self) -> Look {
        let shown = self.path.display();
        let Ok(found) = std::fs::metadata(&self.path) else { return Look::Same };
        if !is_same(&self.directory, &found) {
            // Some file systems in user space change the numbers of their files.
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
            Err(Denied::InUse(_)) if has_own_mark(&self.path) => Look::Same,
            Err(Denied::InUse(holder)) => Look::Lost(format!(
                "{} was replaced, and process {holder} has locked the new one",
                path.display()
            )),
            // The disk is full, or fails: other processes could not make it either.
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
            .and_then(|()| file.write_all(own_content().as_bytes()))
            .and_then(|()| Owner::of(directory).take(&path));
        written.map_err(|error| Denied::Failed(format!("{shown} can't be written: {error}")))?;
        return Ok(file);
    }
    Err(Denied::Failed(format!("{shown} is taken away again and again by another program")))
}

/// True if the LOCK in a directory is locked, by this process according to its content.
fn is_locked_by_us(directory: &Path) -> bool {
    let tried = File::open(directory.join(LOCK_NAME)).map(|file| file.try_lock_shared());
    matches!(tried, Ok(Err(TryLockError::WouldBlock))) && has_own_mark(directory)
}

/// True if this process has written the LOCK in a directory.
fn has_own_mark(directory: &Path) -> bool {
    content(directory).is_ok_and(|content| content.lines().nth(1) == Some(OWN_MARK.as_str()))
}

/// Content of LOCK that this process writes: its number and its mark.
fn own_content() -> String {
    format!("{}\n{}\n", std::process::id(), *OWN_MARK)
}

fn content(directory: &Path) -> std::io::Result<String> {
    let mut content = String::new();
    let file = File::open(directory.join(LOCK_NAME))?;
    file.take(CONTENT_BYTES_MAX).read_to_string(&mut content)?;
    Ok(content)
}

/// The process that took the lock last, as it named itself.
pub fn holder(directory: &Path) -> String {
    let read = content(directory);
    let number = read.as_ref().ok().and_then(|content| content.lines().next()).map(str::trim);
    match (number, &read) {
        (Some(number), _) if !number.is_empty() => number.chars().take(HOLDER_CHARS_MAX).collect(),
        (_, Err(error)) if error.kind() == ErrorKind::NotFound => {
            format!("unknown: LOCK was removed; `fuser {}` tells", directory.display())
        }
        _ => format!("unknown; `fuser {}` tells", directory.display()),
    }
}

/// True if an open file or directory is the one found at a path.
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
        // As a version does that uses LOCK alone.
        let other = directory.path().join("other");
        write(&other, "77\n").unwrap();
        let other_lock = File::open(&other).unwrap();
        other_lock.lock().unwrap();
        rename(&other, directory.path().join(LOCK_NAME)).unwrap();
        let Look::Lost(why) = held.look() else { panic!("not lost") };
        assert!(why.contains("process 77"), "{why}");
    }

    /// The first process of each container has the same number.
    #[test]
    fn another_process_with_the_same_number_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let held = taken(directory.path());
        for mark in [String::new(), format!("{:032x}\n", 7)] {
            let other = directory.path().join("other");
            write(&other, format!("{}\n{mark}", std::process::id())).unwrap();
            let other_lock = File::open(&other).unwrap();
            other_lock.lock().unwrap();
            rename(&other, directory.path().join(LOCK_NAME)).unwrap();
            assert!(matches!(held.look(), Look::Lost(_)), "{mark:?}");
        }
        // As on file systems that change the numbers of their files.
        let same = directory.path().join("same");
        write(&same, own_content()).unwrap();
        let same_lock = File::open(&same).unwrap();
        same_lock.lock().unwrap();
        rename(&same, directory.path().join(LOCK_NAME)).unwrap();
        assert_eq!(held.look(), Look::Same);
        assert_eq!(holder(directory.path()), std::process::id().to_string());
    }

    #[test]
    fn another_directory_at_the_path_means_that_the_lock_is_lost() {
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

//! Directories of a database's files: the data directory, and the directory of the log's segments if there is one,
//! which may be on another file system.
//!
//! `DATA_DIR/wal` leads to it: a symbolic link, or a directory. So every program that is told only of the data
//! directory finds the log. Segments in the data directory itself are found as well, which lets a database change
//! from one place to the other: only new segments are made in the new place.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::space::Room;

/// Name of the link to the directory of the log, in a data directory.
pub const LOG_LINK_NAME: &str = "wal";

/// Name of the file in a directory of a log that names the data directory.
pub const LOG_OWNER_NAME: &str = "DATA_DIR";

/// Prefix and suffix of the names of segments.
const SEGMENT_AFFIXES: (&str, &str) = ("wal_", ".wal");

/// The directories of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    data: PathBuf,
    log: Option<PathBuf>,
}

impl Folders {
    /// Reads the directories from disk. A link that leads nowhere counts as a directory of the log, which can't be
    /// listed.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        let link = data.join(LOG_LINK_NAME);
        let is_link = link.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink());
        let log = (is_link || is_log(&link)).then(|| link.canonicalize().unwrap_or(link));
        Self { data: data.to_owned(), log }
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of the log, if it has one of its own.
    #[must_use]
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// All directories, that of the log first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.log.iter().chain([&self.data]).map(PathBuf::as_path)
    }

    /// The path at which a file of this name is made.
    #[must_use]
    pub fn home(&self, name: &str) -> PathBuf {
        match &self.log {
            Some(log) if is_segment(name) => log.join(name),
            _ => self.data.join(name),
        }
    }

    /// Another path at which a file of this name may be, from a time when the log had no directory of its own.
    #[must_use]
    pub fn former_home(&self, name: &str) -> Option<PathBuf> {
        (self.log.is_some() && is_segment(name)).then(|| self.data.join(name))
    }

    /// The path of a file that exists; else the path at which it would be made. Asks the system.
    #[must_use]
    pub fn find(&self, name: &str) -> PathBuf {
        let home = self.home(name);
        match self.former_home(name) {
            Some(former) if !exists(&home) && exists(&former) => former,
            _ => home,
        }
    }

    /// The names of all files, sorted.
    ///
    /// # Errors
    /// If a directory can't be listed.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for (folder, is_log) in self.log.iter().map(|log| (log, true)).chain([(&self.data, false)])
        {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // Other programs may keep their files on the file system of the log.
                if entry.file_type()?.is_file() && (!is_log || is_segment(&name)) {
                    names.push(name);
                }
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// A segment that is in both directories, as an interrupted move leaves it.
    #[must_use]
    pub fn doubled(&self) -> Option<String> {
        let entries = fs::read_dir(self.log()?).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.find(|name| is_segment(name) && exists(&self.data.join(name)))
    }

    /// The room of the file system that has less of it.
    ///
    /// # Errors
    /// If the system does not report it.
    pub fn room(&self) -> io::Result<Room> {
        let rooms: Vec<Room> = self.all().map(Room::of).collect::<io::Result<_>>()?;
        Ok(rooms.into_iter().min_by_key(|room| room.available).expect("there is a data directory"))
    }

    /// Bytes to keep free on each file system: the reserve of the smaller one, see [`Room::reserve`].
    ///
    /// # Errors
    /// If the system does not report them.
    pub fn reserve(&self, setting: u64) -> io::Result<u64> {
        let rooms: Vec<Room> = self.all().map(Room::of).collect::<io::Result<_>>()?;
        Ok(rooms.into_iter().map(|room| room.reserve(setting)).min().unwrap_or(0))
    }
}

/// True for a directory of a log: it has segments, or names a data directory.
fn is_log(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| {
        let name = name.to_string_lossy();
        name == LOG_OWNER_NAME || is_segment(&name)
    })
}

fn is_segment(name: &str) -> bool {
    name.starts_with(SEGMENT_AFFIXES.0) && name.ends_with(SEGMENT_AFFIXES.1)
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Device and inode of the file at a path; `None` if the system does not report them.
#[must_use]
pub fn place(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OLD: &str = "wal_0000_00000001.wal";
    const NEW: &str = "wal_0000_00000002.wal";

    #[test]
    fn segments_are_found_in_both_directories_and_made_in_that_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let outer = directory.path().canonicalize().unwrap();
        let (data, log) = (outer.join("data"), outer.join("log"));
        for made in [&data, &log] {
            fs::create_dir(made).unwrap();
        }
        fs::write(data.join(OLD), "").unwrap();
        let alone = Folders::of(&data);
        assert_eq!((alone.log(), alone.home(NEW)), (None, data.join(NEW)));
        symlink(&log, data.join(LOG_LINK_NAME)).unwrap();
        fs::write(log.join(LOG_OWNER_NAME), "").unwrap();
        fs::write(data.join("MANIFEST"), "").unwrap();
        let folders = Folders::of(&data);
        assert_eq!(folders.log(), Some(log.as_path()));
        assert_eq!((folders.find(OLD), folders.home(OLD)), (data.join(OLD), log.join(OLD)));
        assert_eq!(
            (folders.find(NEW), folders.home("MANIFEST")),
            (log.join(NEW), data.join("MANIFEST"))
        );
        fs::write(log.join(NEW), "").unwrap();
        assert_eq!(folders.list().unwrap(), ["MANIFEST", OLD, NEW]);
        assert_eq!(folders.doubled(), None);
        fs::write(log.join(OLD), "").unwrap();
        assert_eq!(folders.doubled().as_deref(), Some(OLD));
        assert!(folders.room().unwrap().total > 0 && folders.reserve(7).unwrap() == 7);
    }

    #[test]
    fn a_foreign_directory_is_no_log_and_a_dangling_link_is_no_empty_log() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let inner = data.join(LOG_LINK_NAME);
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("0001.log"), "").unwrap();
        assert_eq!(Folders::of(data).log(), None);
        fs::write(inner.join(OLD), "").unwrap();
        assert!(Folders::of(data).log().is_some_and(|log| log.ends_with(LOG_LINK_NAME)));
        fs::remove_dir_all(&inner).unwrap();
        symlink("/nowhere/at/all", &inner).unwrap();
        assert!(Folders::of(data).list().is_err());
    }
}

//! Files of operators, such as keys and certificates, that are read again when they change.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Mode bits of a file that give too much: read or write for others than owner and group, or write for the group.
const OPEN_TO_OTHERS: u32 = 0o026;

/// Reads a regular file of at most `bytes_max` bytes. The file is opened without blocking, so that the call does not
/// wait for the writer of a FIFO: a FIFO, a socket or a device in its place is refused.
///
/// # Errors
/// If it is not a regular file, is longer, or can't be read.
pub fn read_regular(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    read_at_most(file, bytes_max)
}

/// Reads a source of at most `bytes_max` bytes to its end.
///
/// # Errors
/// If it is longer, or can't be read.
pub fn read_at_most(source: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {bytes_max} bytes"),
        )),
        false => Ok(bytes),
    }
}

fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(file),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    let why = format!("it is {what}; it has to be a regular file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Describes a mode that gives others access to a file with secrets; `None` if it is safe or unknown.
#[must_use]
pub fn open_to_others(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode();
    (mode & OPEN_TO_OTHERS != 0).then(|| {
        let (shown, mode) = (path.display(), mode & 0o777);
        format!(
            "{shown} holds secrets and has mode {mode:03o}: others can read or write it; \
             chmod 0600 {shown}, or 0640 for a group that may read it"
        )
    })
}

/// A group of files that are read together.
pub struct Watched {
    paths: Vec<PathBuf>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// State of the files when they were read last, valid or not.
    read: Vec<Option<Stamp>>,
    /// State of the files at the last check.
    last: Vec<Option<Stamp>>,
}

/// State of a file: time of modification, length, inode.
type Stamp = (SystemTime, u64, u64);

impl Watched {
    /// Files that are about to be read.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let read = stamps(&paths);
        let seen = Mutex::new(Seen { last: read.clone(), read });
        Self { paths, seen }
    }

    /// Called before the files are read again: the next check notices later changes.
    pub fn note_reading(&self) {
        let now = stamps(&self.paths);
        self.seen().read = now;
    }

    /// True if the files differ from those read, and have not changed since the last check: a file that is still being
    /// written may look whole, and of several files some may not be there yet.
    pub fn have_changed(&self) -> bool {
        let now = stamps(&self.paths);
        let mut seen = self.seen();
        let is_settled = seen.last == now;
        let is_other = seen.read != now;
        seen.last = now;
        is_other && is_settled
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_regular_are_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let said = |path: &Path| read_regular(path, 10).unwrap_err().to_string();
        assert!(said(&fifo).contains("it is a FIFO"));
        assert!(said(Path::new("/dev/zero")).contains("it is a device"));
        assert!(said(directory.path()).contains("it is a directory"));
        let file = directory.path().join("file");
        std::fs::write(&file, "0123456789").unwrap();
        assert_eq!(read_regular(&file, 10).unwrap(), b"0123456789");
        assert!(read_regular(&file, 9).unwrap_err().to_string().contains("more than 9 bytes"));
        assert!(said(&directory.path().join("none")).contains("os error 2"));
    }

    #[test]
    fn a_file_that_others_may_read_or_change_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, is_open) in
            [(0o600, false), (0o640, false), (0o644, true), (0o660, true), (0o602, true)]
        {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_to_others(file.path()).is_some(), is_open, "{mode:o}");
        }
        let said = open_to_others(file.path()).unwrap();
        assert!(said.contains("mode 602") && said.contains("chmod 0600"), "{said}");
    }

    #[test]
    fn files_are_read_again_once_they_stay_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["a", "b"].map(|name| directory.path().join(name)).into();
        std::fs::write(&paths[0], "1").unwrap();
        let watched = Watched::new(paths.clone());
        assert!(!watched.have_changed());
        std::fs::write(&paths[0], "12").unwrap();
        assert!(!watched.have_changed(), "it may still be written");
        std::fs::write(&paths[1], "1").unwrap();
        assert!(!watched.have_changed(), "and so may the other");
        assert!(watched.have_changed() && watched.have_changed(), "until it is read");
        watched.note_reading();
        assert!(!watched.have_changed());
        std::fs::remove_file(&paths[0]).unwrap();
        assert!(!watched.have_changed());
        assert!(watched.have_changed());
    }
}

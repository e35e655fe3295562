//! Files of operators, such as keys and certificates, that are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Some files that are read together.
pub struct Watched {
    paths: Vec<PathBuf>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// What the files were when they were read last, good or bad.
    read: Vec<Option<Stamp>>,
    /// What they were at the last look.
    last: Vec<Option<Stamp>>,
}

/// What tells a file from what it was: when it was written, its length, its inode.
type Stamp = (SystemTime, u64, u64);

impl Watched {
    /// Files that are about to be read.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let read = stamps(&paths);
        let seen = Mutex::new(Seen { last: read.clone(), read });
        Self { paths, seen }
    }

    /// To be called before they are read again: what changes after that is seen by the next look.
    pub fn note_reading(&self) {
        let now = stamps(&self.paths);
        self.seen().read = now;
    }

    /// True if they are not what was read, and are the same as at the last look: one that is still
    /// being written may look whole, and of several not all may be there.
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
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! The room that a file system has left.

use std::path::Path;

/// What a file system has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In all.
    pub total: u64,
    /// Free, and for us to take.
    pub available: u64,
}

/// Kept free by default, or [`RESERVE_SHARE`] of a file system where that is less.
const RESERVE_BYTES_MAX: u64 = 1 << 30;
const RESERVE_SHARE: u64 = 20;

impl Room {
    /// Looks. A call of the system that may take its time: not for a core's own thread.
    ///
    /// # Errors
    /// If the system does not say, as where the directory is gone.
    pub fn of(directory: &Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { total: bytes(stat.f_blocks), available: bytes(stat.f_bavail) })
    }

    /// What is to be kept free: as the setting has it, or if that is 0, 1 GiB or 5 % of the file
    /// system, whichever is less.
    #[must_use]
    pub fn reserve(self, setting: u64) -> u64 {
        match setting {
            0 => RESERVE_BYTES_MAX.min(self.total / RESERVE_SHARE),
            bytes => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reserve_fits_the_file_system() {
        let room = |total| Room { total, available: 0 };
        assert_eq!(room(1 << 40).reserve(0), 1 << 30);
        assert_eq!(room(20 << 20).reserve(0), 1 << 20);
        assert_eq!(room(1 << 40).reserve(u64::MAX), u64::MAX);
        assert_eq!(room(1 << 40).reserve(1), 1);
    }

    #[test]
    fn a_file_system_says_what_it_has() {
        let room = Room::of(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(room.total > 0 && room.available <= room.total, "{room:?}");
        assert!(Room::of(Path::new("/nowhere")).is_err());
    }
}

//! Free space of a file system.

use std::path::Path;

/// Sizes of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Total size.
    pub total: u64,
    /// Bytes free and available to this process.
    pub available: u64,
}

/// Bytes kept free by default; or the file system's size divided by [`RESERVE_SHARE`] if that is less.
const RESERVE_BYTES_MAX: u64 = 1 << 30;
const RESERVE_SHARE: u64 = 20;

impl Room {
    /// Asks the system, which may take its time: not for a core's own thread.
    ///
    /// # Errors
    /// If the system does not report them, as if the directory is gone.
    pub fn of(directory: &Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(directory)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { total: bytes(stat.f_blocks), available: bytes(stat.f_bavail) })
    }

    /// Bytes to keep free: the setting, or if that is 0, the lesser of 1 GiB and 5 % of the file system.
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
    fn a_file_system_reports_its_room() {
        let room = Room::of(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(room.total > 0 && room.available <= room.total, "{room:?}");
        assert!(Room::of(Path::new("/nowhere")).is_err());
    }
}

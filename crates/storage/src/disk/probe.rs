//! Check whether a directory takes files that are written with O_DIRECT, with advice if it does not.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::BLOCK;

/// Error of the kernel for a flag that a file system does not know.
const EINVAL: i32 = 22;

/// Makes the directory if it is missing, and checks that files in it can be written with
/// O_DIRECT.
///
/// # Errors
/// The fault of the directory, and what to do.
pub fn check_directory(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    std::fs::create_dir_all(directory)
        .map_err(|error| format!("the data directory {shown} can't be made: {error}"))?;
    check_files(directory, "data directory", "--data-dir PATH")
}

/// Checks that files in a directory can be written with O_DIRECT. `what` names the directory in the message, and
/// `setting` the setting by which another one is chosen.
///
/// # Errors
/// The fault of the directory, and what to do.
pub fn check_files(directory: &Path, what: &str, setting: &str) -> Result<(), String> {
    let shown = directory.display();
    let statfs = rustix::fs::statfs(directory)
        .map_err(|error| format!("the {what} {shown} can't be examined: {error}"))?;
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    if statfs.f_type as u64 == TMPFS_MAGIC {
        return Err(format!(
            "the {what} {shown} is on a tmpfs, where nothing is durable and O_DIRECT does nothing. Use a \
             directory on ext4 or XFS: {setting}"
        ));
    }
    let probe = directory.join("preflight.tmp");
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let written = std::fs::write(&probe, [0; BLOCK]);
    written.map_err(|error| format!("the {what} {shown} can't be written: {error}"))?;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&probe);
    let removed = std::fs::remove_file(&probe);
    match opened {
        Err(error) if error.raw_os_error() == Some(EINVAL) => Err(format!(
            "the {what} {shown} is on a file system without O_DIRECT. Use a directory on ext4 or XFS: \
             {setting}"
        )),
        Err(error) => {
            Err(format!("a file in the {what} {shown} can't be opened with O_DIRECT: {error}"))
        }
        Ok(_) => removed.map_err(|error| format!("a file in {shown} can't be removed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_is_refused() {
        let Ok(directory) = tempfile::tempdir_in("/dev/shm") else {
            return eprintln!("skipped: there is no /dev/shm to write to");
        };
        let message = check_directory(directory.path()).unwrap_err();
        assert!(message.contains("tmpfs") && message.contains("--data-dir"), "{message}");
    }

    #[test]
    fn a_directory_that_is_missing_is_made_and_left_empty() {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        assert_eq!(check_directory(&directory.path().join("a/b")), Ok(()));
        assert_eq!(std::fs::read_dir(directory.path().join("a/b")).unwrap().count(), 0);
    }
}

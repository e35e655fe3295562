//! Owners and modes of files: files that a program makes in a directory belong to the owner of that directory, even
//! if root runs the program, and other users of the machine can't read them.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{geteuid, umask};

/// Permission bits that no file or directory of these programs has: writing for the group, anything for
/// others. Files are 0640 and directories 0750, unless the umask of the caller is stricter.
const MASKED_BITS: u32 = 0o027;

/// Permission bits of users that are neither the owner nor in the group.
const OTHERS_BITS: u32 = 0o007;

/// Adds `MASKED_BITS` to the umask of this process. Call it first in `main`: before there are threads or
/// files.
pub fn restrict_new_files() {
    let before = umask(Mode::from_raw_mode(MASKED_BITS));
    umask(before | Mode::from_raw_mode(MASKED_BITS));
}

/// A directory that other users of the machine may enter, list or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooOpen {
    /// Its permission bits.
    pub mode: u32,
    /// The command that closes it.
    pub change: String,
}

/// Tells whether a directory is open to other users of the machine.
#[must_use]
pub fn too_open(directory: &Path) -> Option<TooOpen> {
    let mode = std::fs::metadata(directory).ok()?.permissions().mode() & 0o7777;
    let change = format!("chmod {:04o} {}", mode & !OTHERS_BITS, directory.display());
    (mode & OTHERS_BITS != 0).then_some(TooOpen { mode, change })
}

/// The owner that root gives to the files it makes in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Owner(Option<(u32, u32)>);

impl Owner {
    /// Owner and group of the directory if this process runs as root, and else none: other users can't give files
    /// away. A missing directory has no owner.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        let owner = || std::fs::metadata(directory).ok().map(|found| (found.uid(), found.gid()));
        Self(geteuid().is_root().then(owner).flatten())
    }

    /// Gives a file or a directory to the owner.
    ///
    /// # Errors
    /// If the system fails.
    pub fn take(self, path: &Path) -> io::Result<()> {
        let Self(Some((user, group))) = self else { return Ok(()) };
        let found = std::fs::metadata(path)?;
        if (found.uid(), found.gid()) == (user, group) {
            return Ok(());
        }
        chown(path, Some(user), Some(group))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::*;

    #[test]
    fn a_directory_that_others_may_enter_is_named_with_the_command_that_closes_it() {
        let directory = tempfile::tempdir().unwrap();
        for (mode, advice) in [(0o755, Some("chmod 0750")), (0o701, Some("0700")), (0o750, None)] {
            set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let found = too_open(directory.path());
            assert_eq!(found.is_some(), advice.is_some(), "{mode:o}: {found:?}");
            if let Some(TooOpen { mode: said, change }) = found {
                assert!(said == mode && change.contains(advice.unwrap_or_default()), "{change}");
            }
        }
        assert_eq!(too_open(Path::new("/nowhere")), None);
    }

    #[test]
    fn new_files_take_the_owner_of_the_directory() {
        if !geteuid().is_root() {
            return eprintln!("skipped: only root gives files away");
        }
        let directory = tempfile::tempdir().unwrap();
        chown(directory.path(), Some(4_321), Some(4_322)).unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        Owner::of(directory.path()).take(&file).unwrap();
        let found = std::fs::metadata(&file).unwrap();
        assert_eq!((found.uid(), found.gid()), (4_321, 4_322));
    }
}

//! Check that this process may use the files of a data directory. A server run as root may have left files there that
//! the user of the service can't open.

use std::fs::{DirEntry, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use crate::directory::LOCK_NAME;
use crate::disk::folders::{Folders, LOG_OWNER_NAME};
use crate::manifest::MANIFEST_NAME;
use crate::snapshot::parse_snapshot_name;
use crate::wal::parse_segment_name;

/// Files that a server writes besides MANIFEST, segments and snapshots.
const OTHER_NAMES: [&str; 4] = [LOCK_NAME, LOG_OWNER_NAME, "tenants.json", "usage"];

/// Refuses an existing directory that this user can't write to, or whose files it can't open.
pub(super) fn check(directory: &Path) -> Result<(), String> {
    let may = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if is_denied(directory, may) {
        return Err(refusal(directory, "it", std::fs::metadata(directory).ok().as_ref()));
    }
    let folders = Folders::of(directory);
    if let Some(log) = folders.log().filter(|log| is_denied(log, may)) {
        return Err(refusal(log, "it", std::fs::metadata(log).ok().as_ref()));
    }
    // A missing directory, or one that can't exist, is reported by the code that creates it.
    folders.all().filter(|folder| folder.is_dir()).try_for_each(check_entries)
}

fn check_entries(directory: &Path) -> Result<(), String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
    let is_closed = |entry: &DirEntry| {
        is_ours(&entry.file_name().to_string_lossy())
            && is_denied(&entry.path(), Access::READ_OK | Access::WRITE_OK)
    };
    match entries.flatten().find(is_closed) {
        Some(entry) => {
            let what = format!("its {}", entry.file_name().to_string_lossy());
            Err(refusal(directory, &what, entry.metadata().ok().as_ref()))
        }
        None => Ok(()),
    }
}

/// True for files and folders that a server opens. There may be others.
fn is_ours(name: &str) -> bool {
    name == MANIFEST_NAME
        || OTHER_NAMES.contains(&name)
        || parse_segment_name(name).is_some()
        || parse_snapshot_name(name).is_some()
}

fn is_denied(path: &Path, may: Access) -> bool {
    matches!(access(path, may), Err(Errno::ACCESS))
}

fn refusal(directory: &Path, what: &str, found: Option<&Metadata>) -> String {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let shown = directory.display();
    let owner = found.map_or_else(String::new, |found| {
        let mode = found.permissions().mode() & 0o7777;
        format!(" belongs to user {}, group {}, with mode {mode:04o}", found.uid(), found.gid())
    });
    format!(
        "the data directory {shown} can't be used: {what}{owner}, and this process runs as user \
         {user}, group {group}. Run it as the owner, or give it the whole directory: \
         `chown -R {user}:{group} {shown}`."
    )
}

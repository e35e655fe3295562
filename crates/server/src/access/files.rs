//! Atomic replacement of small files.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::path::Path;

/// Replaces a file atomically and durably: writes a temporary file, syncs it, renames it, and syncs the folder.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

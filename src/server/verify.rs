//! Checking a data directory instead of serving it.

use std::path::Path;

use futures_util::FutureExt;

use super::directory::Look;
use crate::disk::read_only::ReadOnlyDisk;
use crate::verify::{self, Progress, Report};

/// Checks the logs in `directory`, and changes nothing there. No server can start in it meanwhile.
///
/// # Errors
/// If nothing could be checked, and why: no such directory, nothing in it, a server that uses it.
pub fn verify(directory: &Path, progress: Progress<'_>) -> Result<Report, String> {
    let look = Look::take(directory)?;
    let disk = ReadOnlyDisk::new(directory);
    let verified = verify::verify(&disk, progress).now_or_never();
    let verified = verified.expect("reads of this disk block and never wait");
    let report = verified.map_err(|error| error.to_string())?.ok_or_else(|| {
        let shown = directory.display();
        format!("{shown} is no data directory: there is no MANIFEST, log segment or snapshot")
    })?;
    look.end()?;
    Ok(report)
}

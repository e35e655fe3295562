//! Checking a data directory instead of serving it.

use std::path::Path;

use crate::directory::Look;
use crate::disk::read_only::ReadOnlyDisk;
use crate::disk::view::run;
use crate::verify::{self, Progress, Report};

/// Checks the logs in `directory`, and changes nothing there. No server can start in it meanwhile.
///
/// # Errors
/// If nothing could be checked, and why: no such directory, an empty one, or a server that uses it.
pub fn verify(directory: &Path, progress: Progress<'_>) -> Result<Report, String> {
    let look = Look::take(directory)?;
    let report = check_files(directory, progress)?;
    look.end()?;
    Ok(report)
}

/// As [`verify()`], for a caller that keeps other processes out.
pub(super) fn check_files(directory: &Path, progress: Progress<'_>) -> Result<Report, String> {
    let disk = ReadOnlyDisk::new(directory);
    let verified = run(verify::verify(&disk, progress));
    verified.map_err(|error| error.to_string())?.ok_or_else(|| {
        let shown = directory.display();
        format!("{shown} is no data directory: there is no MANIFEST, log segment or snapshot")
    })
}

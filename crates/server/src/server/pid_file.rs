//! `server.pid_file`: the number of the server's process, for tools that signal it by a file.
//!
//! The file is locked while the server runs. So a file left by a killed server is told from one in use, whichever
//! process has that number by now.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest content that can be a number, in bytes. A longer file was not written by a server.
const BYTES_MAX: u64 = 32;

/// Most times that another server may remove the file between opening and locking it.
const TRIES_MAX: usize = 100;

/// The file, which is removed when this is dropped.
pub(super) struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    /// Writes the file, over one that is left from before.
    ///
    /// # Errors
    /// If it can't be written, another server has it, or its content is not a number.
    pub(super) fn write(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let failed = |error: std::io::Error| {
            format!(
                "server.pid_file {shown} can't be written: {error}. The directory has to be there, \
                 and this user has to be allowed to write to it"
            )
        };
        for _ in 0..TRIES_MAX {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(failed)?;
            let mut content = String::new();
            let read = Read::by_ref(&mut file).take(BYTES_MAX).read_to_string(&mut content);
            let is_number = read.is_ok() && content.trim().bytes().all(|b| b.is_ascii_digit());
            if !is_number {
                return Err(format!(
                    "server.pid_file {shown} holds something else than the number of a process: it \
                     would be lost. Name another file"
                ));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let holder = content.trim();
                    return Err(format!(
                        "server.pid_file {shown} is that of another server (process {holder}). Each \
                         needs one of its own"
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if !is_at(&file, path) {
                // The server that had the file has just removed it.
                continue;
            }
            // A longer content is cut last, so that the first line is right at every moment.
            let line = format!("{}\n", std::process::id());
            file.write_all_at(line.as_bytes(), 0)
                .and_then(|()| file.set_len(line.len() as u64))
                // Other users signal the server by it, whatever this user's umask is.
                .and_then(|()| file.set_permissions(Permissions::from_mode(0o644)))
                .map_err(failed)?;
            return Ok(Self { path: path.to_owned(), _file: file });
        }
        Err(format!("server.pid_file {shown}: others take it away all the time"))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// True if the path leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => place(ours) == place(there),
        _ => false,
    }
}

/// Removes the file if it names this process.
pub(super) fn remove(path: &Path) {
    let ours = std::process::id().to_string();
    if std::fs::read_to_string(path).is_ok_and(|content| content.trim() == ours)
        && let Err(error) = std::fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!("server.pid_file {} can't be removed: {error}", path.display());
    }
}

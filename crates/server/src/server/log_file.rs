//! The log file: one, or with `logging.rotation` a series of them: `kyrodb.log`, `kyrodb.log.1` before it, and so on,
//! `logging.max_files` in all.
//!
//! No line is lost without being counted: an error here counts its line as dropped. If the file can't be renamed or
//! created, lines continue to go to the open one, and rotation is tried again; if the open one was removed, its lines
//! would be lost, so it is created again before the next line.
//!
//! Not `file-rotate`: it silently drops all lines after a file that it could not open, and it panics if the directory
//! is gone.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::LoggingSection;
use crate::observe::log_queue::Sink;

/// Time between two attempts to begin the next file, after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// A log file.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Length of the file in bytes.
    bytes: u64,
    /// Rotation; `None` if there is none.
    row: Option<Row>,
    /// Time of the last failure to begin the next file.
    failed: Option<Instant>,
}

/// Bytes per file of a series, and number of files.
struct Row {
    bytes_max: u64,
    files_max: usize,
}

impl LogFile {
    /// Opens the file, which is created if it is missing.
    ///
    /// # Errors
    /// If the system fails.
    pub(super) fn open(path: &Path, logging: &LoggingSection) -> Result<Self> {
        let row = Row { bytes_max: logging.max_file_size_bytes, files_max: logging.max_files };
        let (file, bytes) = open(path)?;
        let row = logging.rotation.then_some(row);
        Ok(Self { path: path.to_owned(), file, bytes, row, failed: None })
    }

    /// Begins the next file of the series.
    fn rotate(&mut self, files_max: usize) -> Result<()> {
        // After an attempt that failed at this point, the file does not exist.
        if fs::symlink_metadata(&self.path).is_ok() {
            move_all(&self.path, files_max)?;
        }
        self.reopen()
    }

    /// Rotates if the file is full. On failure, lines continue to go to the open file.
    fn rotate_if_full(&mut self) {
        let Some(Row { bytes_max, files_max }) = self.row else { return };
        let is_soon = self.failed.is_some_and(|failed| failed.elapsed() < RETRY);
        if self.bytes <= bytes_max || is_soon {
            return;
        }
        match self.rotate(files_max) {
            Ok(()) => self.failed = None,
            Err(error) => {
                self.failed = Some(Instant::now());
                tracing::warn!(
                    "the log goes on in the file that is open, since the next one can't be begun: {error}"
                );
            }
        }
    }

    /// True if no name leads to the open file.
    fn is_removed(&self) -> Result<bool> {
        Ok(rustix::fs::fstat(&self.file)?.st_nlink == 0)
    }
}

impl Sink for LogFile {
    fn write_line(&mut self, line: &[u8]) -> Result<()> {
        self.rotate_if_full();
        if self.is_removed()? {
            self.reopen()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn reopen(&mut self) -> Result<()> {
        (self.file, self.bytes) = match open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(self.path.parent().unwrap_or_else(|| Path::new("")))?;
                open(&self.path)
            }
            opened => opened,
        }?;
        Ok(())
    }
}

/// Opens a file for appending; returns its length.
fn open(path: &Path) -> Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// Path of the file of a series with this number; 0 is the active one.
fn numbered(path: &Path, number: usize) -> PathBuf {
    match number {
        0 => path.to_owned(),
        _ => {
            let mut name = OsString::from(path);
            name.push(format!(".{number}"));
            name.into()
        }
    }
}

/// Renames each file of the series to the next number, up to `files_max` of them; the oldest ones are removed.
fn move_all(path: &Path, files_max: usize) -> Result<()> {
    // There may have been more files, before the configuration was changed.
    let exists = |number: &usize| fs::symlink_metadata(numbered(path, *number)).is_ok();
    for number in (files_max..).take_while(exists) {
        fs::remove_file(numbered(path, number))?;
    }
    if files_max <= 1 {
        return fs::remove_file(path);
    }
    for number in (0..files_max - 1).rev().filter(exists) {
        fs::rename(numbered(path, number), numbered(path, number + 1))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn logging(rotation: bool, max_files: usize) -> LoggingSection {
        let logging = Config::default().logging;
        LoggingSection { rotation, max_files, max_file_size_bytes: 20, ..logging }
    }

    fn read(path: &Path, name: &str) -> String {
        fs::read_to_string(path.with_file_name(name)).unwrap()
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again_by_its_name() {
        for rotation in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("kyrodb.log");
            let mut file = LogFile::open(&path, &logging(rotation, 3)).unwrap();
            file.write_line(b"before\n").unwrap();
            fs::rename(&path, directory.path().join("moved")).unwrap();
            file.write_line(b"still there\n").unwrap();
            file.reopen().unwrap();
            file.write_line(b"after\n").unwrap();
            assert_eq!(read(&path, "moved"), "before\nstill there\n", "rotation {rotation}");
            assert_eq!(read(&path, "kyrodb.log"), "after\n", "rotation {rotation}");
        }
    }

    #[test]
    fn a_row_has_so_many_files_of_such_a_length() {
        for files_max in 1..5 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("kyrodb.log");
            for left in 1..7 {
                fs::write(numbered(&path, left), "of another configuration").unwrap();
            }
            let mut file = LogFile::open(&path, &logging(true, files_max)).unwrap();
            (10..60).for_each(|line| file.write_line(format!("line {line}\n").as_bytes()).unwrap());
            // A file with more than 20 bytes is full: three lines each.
            let numbers: Vec<usize> =
                (0..9).filter(|number| numbered(&path, *number).exists()).collect();
            assert_eq!(numbers, (0..files_max).collect::<Vec<_>>());
            assert_eq!(read(&path, "kyrodb.log"), "line 58\nline 59\n");
            if files_max > 1 {
                assert_eq!(read(&path, "kyrodb.log.1"), "line 55\nline 56\nline 57\n");
            }
        }
    }

    /// A file that can't be moved away continues to be written, and is moved once that is possible.
    #[test]
    fn lines_go_on_to_the_open_file_where_the_next_one_can_not_be_begun() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kyrodb.log");
        let in_the_way = directory.path().join("kyrodb.log.1");
        fs::create_dir_all(in_the_way.join("full")).unwrap();
        let mut file = LogFile::open(&path, &logging(true, 2)).unwrap();
        (10..20).for_each(|line| file.write_line(format!("line {line}\n").as_bytes()).unwrap());
        assert_eq!(read(&path, "kyrodb.log").lines().count(), 10);
        assert!(file.failed.is_some());
        fs::remove_dir_all(&in_the_way).unwrap();
        file.write_line(b"line 20\n").unwrap();
        assert_eq!(read(&path, "kyrodb.log").lines().count(), 11, "it is not tried each time");
        file.failed = file.failed.and_then(|failed| failed.checked_sub(RETRY));
        file.write_line(b"line 21\n").unwrap();
        assert_eq!(read(&path, "kyrodb.log"), "line 21\n");
        assert_eq!(read(&path, "kyrodb.log.1").lines().count(), 11);
        assert!(file.failed.is_none());
    }

    /// The directory is removed, and a file takes its place for a while: lines are errors, and the log file is tried
    /// again.
    #[test]
    fn lines_without_a_directory_are_errors_and_the_file_is_tried_again() {
        for rotation in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log/kyrodb.log");
            fs::create_dir(path.parent().unwrap()).unwrap();
            let mut file = LogFile::open(&path, &logging(rotation, 3)).unwrap();
            file.write_line(b"before\n").unwrap();
            fs::remove_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path.parent().unwrap(), "in the way").unwrap();
            for _ in 0..9 {
                assert!(file.write_line(b"it can't be written\n").is_err());
            }
            fs::remove_file(path.parent().unwrap()).unwrap();
            file.write_line(b"after\n").unwrap();
            assert_eq!(read(&path, "kyrodb.log"), "after\n", "rotation {rotation}");
        }
    }
}

//! Files to be read, wherever they are, as one directory: for whoever looks at a state that is
//! not, or not yet, the data directory of a server. Nothing can be written through it.
//!
//! Needs no executor and no io_uring: its futures never wait, and [`run`] runs them. Reads go
//! past the page cache where the file system can do that, since a server writes past it too, and
//! what the cache holds of a file may be older than the file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use futures_util::FutureExt;

use super::{BLOCK, Disk, DiskError, File, Kind, Result};

/// Most bytes of one read.
const READ_BYTES_MAX: usize = 1 << 20;

/// Files by name.
#[derive(Clone, Default)]
pub struct View {
    files: BTreeMap<String, Viewed>,
}

/// An open file of a view. It stays readable when its name goes.
#[derive(Clone)]
pub struct Viewed {
    file: Rc<std::fs::File>,
    /// Memory for reads, aligned by hand.
    scratch: Rc<RefCell<Vec<u8>>>,
    name: Rc<str>,
    bytes: u64,
}

/// Runs what only reads a view.
///
/// # Panics
/// If it waits for anything else.
pub fn run<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("a view never waits")
}

impl View {
    /// Adds a file, replacing what had its name.
    pub fn put(&mut self, file: Viewed) {
        self.files.insert(file.name.to_string(), file);
    }

    /// The file of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Viewed> {
        self.files.get(name)
    }

    /// Forgets all files but these.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        self.files.retain(|name, _| is_kept(name));
    }
}

impl Viewed {
    /// Opens the file at `path` under a name of its own.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(direct).open(path);
        let opened = match opened {
            Err(error) if error.kind() == ErrorKind::InvalidInput => std::fs::File::open(path),
            opened => opened,
        };
        let file = opened.map_err(|error| failed("open", name, &error))?;
        let length = file.metadata().map_err(|error| failed("examine", name, &error))?.len();
        Ok(Self { file: Rc::new(file), scratch: Rc::default(), name: name.into(), bytes: length })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length: when it was opened, or what it was cut to.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same file, as if it ended after `bytes` at the latest.
    #[must_use]
    pub fn cut(&self, bytes: u64) -> Self {
        Self { bytes: bytes.min(self.bytes), ..self.clone() }
    }

    /// Hands all of it to `take`, in pieces and in order.
    ///
    /// # Errors
    /// If it can't be read, or is shorter than it was; or what `take` returns.
    pub fn read_all<E: From<DiskError>>(
        &self,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (mut offset, mut piece) = (0, Vec::with_capacity(READ_BYTES_MAX));
        while offset < self.bytes {
            piece.clear();
            self.read(offset, READ_BYTES_MAX, &mut piece)?;
            if piece.is_empty() {
                let error = Error::new(ErrorKind::UnexpectedEof, "the file has become shorter");
                return Err(failed("read", &self.name, &error).into());
            }
            take(&piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn read(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        let bytes = bytes.min(self.bytes.saturating_sub(offset) as usize);
        let mut scratch = self.scratch.borrow_mut();
        let mut done = 0;
        while done < bytes {
            let length = (bytes - done).next_multiple_of(BLOCK).min(READ_BYTES_MAX);
            if scratch.len() < length + BLOCK {
                scratch.resize(length + BLOCK, 0);
            }
            let start = scratch.as_ptr().align_offset(BLOCK);
            let aligned = &mut scratch[start..start + length];
            let read = match self.file.read_at(aligned, offset + done as u64) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(|error| failed("read", &self.name, &error))?,
            };
            let wanted = read.min(bytes - done);
            target.extend_from_slice(&aligned[..wanted]);
            done += wanted;
            if read < length {
                break;
            }
        }
        Ok(())
    }
}

impl File for Viewed {
    type Buffer = Vec<u8>;

    async fn write_at(&self, _: Vec<u8>, _: u64) -> Result<()> {
        Err(read_only("write", &self.name))
    }

    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        self.read(offset, bytes, target)
    }

    async fn sync_data(&self) -> Result<()> {
        Err(read_only("fdatasync", &self.name))
    }

    async fn truncate(&self, _: u64) -> Result<()> {
        Err(read_only("truncate", &self.name))
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Disk for View {
    type File = Viewed;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }

    async fn create(&self, name: &str, _: u64) -> Result<Viewed> {
        Err(read_only("create", name))
    }

    async fn begin(&self, name: &str) -> Result<Viewed> {
        Err(read_only("create", name))
    }

    async fn open(&self, name: &str) -> Result<Viewed> {
        let missing = || Error::new(ErrorKind::NotFound, "there is no such file");
        self.get(name).cloned().ok_or_else(|| failed("open", name, &missing()))
    }

    async fn rename(&self, source: &str, _: &str) -> Result<()> {
        Err(read_only("rename", source))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        Err(read_only("remove", name))
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    async fn sync_dir(&self) -> Result<()> {
        Err(read_only("sync", "directory"))
    }
}

fn read_only(operation: &'static str, file: &str) -> DiskError {
    failed(operation, file, &Error::new(ErrorKind::PermissionDenied, "files are only looked at"))
}

fn failed(operation: &'static str, file: &str, error: &Error) -> DiskError {
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::NoSpace,
        ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Failed,
    };
    DiskError { kind, operation, file: file.into(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_up_to_the_cut() {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..3 * READ_BYTES_MAX + 77).map(|i| (i / 13) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = Viewed::open(&path, "name").unwrap();
        // It stays readable without its name.
        std::fs::remove_file(&path).unwrap();
        for end in [content.len(), 2 * READ_BYTES_MAX, READ_BYTES_MAX - BLOCK, 100, 0] {
            let cut = file.cut(end as u64);
            let mut found = Vec::new();
            cut.read_all(|piece| -> Result<()> {
                found.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
            assert!(found == content[..end], "{end}");
            let (mut tail, from) = (Vec::new(), end / 2 / BLOCK * BLOCK);
            run(cut.read_at(from as u64, 4 * READ_BYTES_MAX, &mut tail)).unwrap();
            assert!(tail == content[from..end], "{end}");
        }
        let mut view = View::default();
        view.put(file);
        assert_eq!(run(view.list()).unwrap(), ["name"]);
        assert_eq!(run(view.open("other")).err().unwrap().kind, Kind::NotFound);
        assert!(run(view.remove("name")).is_err());
    }
}

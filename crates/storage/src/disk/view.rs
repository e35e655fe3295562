//! A read-only directory made of files at any place: for a look at a state that is not, or not yet, the data
//! directory of a server. Nothing can be written through it.
//!
//! As with [`super::read_only`], reads go past the page cache, since a server writes past it too, and need neither
//! io_uring nor an executor: they never wait, and [`run`] runs them.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use futures_util::FutureExt;

use super::read_only::ReadOnlyFile;
use super::{Disk, DiskError, File, Kind, Result, blocks};

/// Most bytes handed over at once.
const PIECE_BYTES: usize = 256 << 10;

/// Files by name.
#[derive(Clone, Default)]
pub struct View {
    files: BTreeMap<String, Viewed>,
}

/// An open file of a view. It stays readable when its name goes.
#[derive(Clone)]
pub struct Viewed {
    source: Source,
    name: Rc<str>,
    bytes: u64,
    /// Called after each read.
    after_read: Option<Rc<dyn Fn()>>,
}

#[derive(Clone)]
enum Source {
    Local(Rc<ReadOnlyFile>),
    Remote(Rc<dyn Remote>),
}

/// Bytes that are on no disk of this host.
pub trait Remote {
    /// Appends `bytes` from `offset` on, which are there, to `target`.
    ///
    /// # Errors
    /// A text that says why the bytes can't be read.
    fn read(
        &self,
        offset: u64,
        bytes: usize,
        target: &mut Vec<u8>,
    ) -> std::result::Result<(), String>;
}

/// Runs a future that only reads a view.
///
/// # Panics
/// If it waits for anything else.
pub fn run<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("a view never waits")
}

impl View {
    /// Adds a file, replacing one of the same name.
    pub fn put(&mut self, file: Viewed) {
        self.files.insert(file.name.to_string(), file);
    }

    /// A view with these files, each replaced by the result of `change`.
    #[must_use]
    pub fn map(self, change: impl Fn(Viewed) -> Viewed) -> Self {
        Self { files: self.files.into_iter().map(|(name, file)| (name, change(file))).collect() }
    }

    /// The file with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Viewed> {
        self.files.get(name)
    }

    /// Forgets all files but those for which `is_kept` is true.
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
        let file = ReadOnlyFile::open(path, name)?;
        let bytes = file.bytes()?;
        let source = Source::Local(Rc::new(file));
        Ok(Self { source, name: name.into(), bytes, after_read: None })
    }

    /// A file of this length that is not on this host.
    #[must_use]
    pub fn remote(remote: Rc<dyn Remote>, name: &str, bytes: u64) -> Self {
        Self { source: Source::Remote(remote), name: name.into(), bytes, after_read: None }
    }

    /// This file, with `after_read` called after each read.
    #[must_use]
    pub fn with(self, after_read: Rc<dyn Fn()>) -> Self {
        Self { after_read: Some(after_read), ..self }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length in bytes: when it was opened, or the length to which it was cut.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// This file, as if it ended after `bytes` at the latest.
    #[must_use]
    pub fn cut(&self, bytes: u64) -> Self {
        Self { bytes: bytes.min(self.bytes), ..self.clone() }
    }

    /// Passes the whole file to `take`, in pieces and in order.
    ///
    /// # Errors
    /// If the file can't be read, or is shorter than it was; or the error that `take` returns.
    pub fn read_all<E: From<DiskError>>(
        &self,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (mut offset, mut piece) = (0, Vec::with_capacity(PIECE_BYTES));
        while offset < self.bytes {
            piece.clear();
            run(self.read_at(offset, PIECE_BYTES, &mut piece))?;
            if piece.is_empty() {
                return Err(failed("read", &self.name, "it has become shorter").into());
            }
            take(&piece)?;
            offset += piece.len() as u64;
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
        let bytes = bytes.min(self.bytes.saturating_sub(offset) as usize);
        let start = target.len();
        match &self.source {
            Source::Local(file) => file.read_at(offset, blocks(bytes), target).await?,
            Source::Remote(_) if bytes == 0 => {}
            Source::Remote(remote) => {
                let read = remote.read(offset, bytes, target);
                read.map_err(|why| failed("read", &self.name, &why))?;
            }
        }
        target.truncate(start + bytes);
        if let Some(after_read) = &self.after_read {
            after_read();
        }
        Ok(())
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
    const IS_READ_ONLY: bool = true;

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
        let missing = || failed("open", name, "there is no such file");
        self.get(name).cloned().ok_or_else(|| DiskError { kind: Kind::NotFound, ..missing() })
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
    failed(operation, file, "files are only looked at")
}

fn failed(operation: &'static str, file: &str, reason: &str) -> DiskError {
    DiskError { kind: Kind::Failed, operation, file: file.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_at_the_cut() {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..3 * PIECE_BYTES + 77).map(|i| (i / 13) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = Viewed::open(&path, "name").unwrap();
        // The file stays readable without its name.
        std::fs::remove_file(&path).unwrap();
        for end in [content.len(), 2 * PIECE_BYTES, PIECE_BYTES - crate::disk::BLOCK, 100, 0] {
            let cut = file.cut(end as u64);
            let mut found = Vec::new();
            cut.read_all(|piece| -> Result<()> {
                found.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
            assert!(found == content[..end], "{end}");
            let (mut tail, from) = (Vec::new(), end / 2 / crate::disk::BLOCK * crate::disk::BLOCK);
            run(cut.read_at(from as u64, 4 * PIECE_BYTES, &mut tail)).unwrap();
            assert!(tail == content[from..end], "{end}");
        }
        let mut view = View::default();
        view.put(file);
        assert_eq!(run(view.list()).unwrap(), ["name"]);
        assert_eq!(run(view.open("other")).err().unwrap().kind, Kind::NotFound);
        assert!(run(view.remove("name")).is_err());
    }
}

//! A directory on a blocking disk: for programs that serve no requests meanwhile, such as a repair, or a start before
//! its cores run.
//!
//! It needs neither io_uring nor an executor: every call blocks, and no future of it ever waits ([`super::view::run`]
//! runs them). Reads are those of [`super::read_only`]; writes go through the page cache, and a sync makes them
//! durable before anything relies on them.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::folders::Folders;
use super::owner::Owner;
use super::read_only::{ReadOnlyDisk, ReadOnlyFile};
use super::{Disk, DiskError, File, Kind, Result};

/// Bytes of zeros written at once.
const ZEROS_BYTES: usize = 1 << 20;

/// A directory on a real file system.
pub struct BlockingDisk {
    folders: Folders,
    reads: ReadOnlyDisk,
    /// Owner of new files: the owner of the directory, even if root repairs it.
    owner: Owner,
}

/// A file of a [`BlockingDisk`].
pub struct BlockingFile {
    writes: fs::File,
    reads: ReadOnlyFile,
    name: String,
}

impl BlockingDisk {
    /// The directory at this path.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let (reads, owner) = (ReadOnlyDisk::new(directory), Owner::of(directory));
        Self { folders: Folders::of(directory), reads, owner }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folders.find(name)
    }

    fn open_at(&self, path: &Path, name: &str, options: &OpenOptions) -> Result<BlockingFile> {
        let writes = options.open(path).map_err(|error| failed("open", name, &error))?;
        Ok(BlockingFile { writes, reads: ReadOnlyFile::open(path, name)?, name: name.into() })
    }
}

impl Disk for BlockingDisk {
    type File = BlockingFile;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }

    async fn create(&self, name: &str, bytes: u64) -> Result<BlockingFile> {
        let file = self.begin(name).await?;
        let zeros = vec![0; ZEROS_BYTES.min(bytes as usize)];
        let mut offset = 0;
        while offset < bytes {
            let length = zeros.len().min((bytes - offset) as usize);
            let written = file.writes.write_all_at(&zeros[..length], offset);
            written.map_err(|error| failed("write", name, &error))?;
            offset += length as u64;
        }
        file.writes.sync_all().map_err(|error| failed("fsync", name, &error))?;
        Ok(file)
    }

    async fn begin(&self, name: &str) -> Result<BlockingFile> {
        let path = self.folders.home(name);
        if let Some(former) = self.folders.former_home(name).filter(|former| former.exists()) {
            let removed = fs::remove_file(&former);
            removed.map_err(|error| failed("remove", name, &error))?;
            self.sync_dir().await?;
        }
        let mut options = OpenOptions::new();
        let file = self.open_at(&path, name, options.write(true).create(true).truncate(true))?;
        self.owner.take(&path).map_err(|error| failed("chown", name, &error))?;
        Ok(file)
    }

    async fn open(&self, name: &str) -> Result<BlockingFile> {
        self.open_at(&self.path(name), name, OpenOptions::new().write(true))
    }

    async fn rename(&self, source: &str, target: &str) -> Result<()> {
        let renamed = fs::rename(self.path(source), self.folders.home(target));
        renamed.map_err(|error| failed("rename", source, &error))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.path(name)).map_err(|error| failed("remove", name, &error))
    }

    async fn list(&self) -> Result<Vec<String>> {
        self.reads.list().await
    }

    async fn sync_dir(&self) -> Result<()> {
        for folder in self.folders.all() {
            let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| failed("fsync", &folder.display().to_string(), &error))?;
        }
        Ok(())
    }
}

impl File for BlockingFile {
    type Buffer = Vec<u8>;

    async fn write_at(&self, source: Vec<u8>, offset: u64) -> Result<()> {
        let written = self.writes.write_all_at(&source, offset);
        written.map_err(|error| failed("write", &self.name, &error))
    }

    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        self.reads.read_at(offset, bytes, target).await
    }

    async fn sync_data(&self) -> Result<()> {
        // The length changes here, and a reader needs it.
        self.writes.sync_all().map_err(|error| failed("fsync", &self.name, &error))
    }

    async fn truncate(&self, bytes: u64) -> Result<()> {
        self.writes.set_len(bytes).map_err(|error| failed("truncate", &self.name, &error))
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn failed(operation: &'static str, file: &str, error: &std::io::Error) -> DiskError {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Kind::NoSpace,
        _ => Kind::Failed,
    };
    DiskError { kind, operation, file: file.into(), reason: error.to_string() }
}

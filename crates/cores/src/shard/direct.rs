//! The real disk: O_DIRECT files through io_uring, on the core that owns them.
//!
//! The only file that names glommio's file types. Writes go past the page cache, so the result of a sync is that of
//! the device, and a failed sync can't be hidden by a clean page.

use std::path::Path;
use std::rc::Rc;

use glommio::io::{Directory, DmaBuffer, DmaFile, OpenOptions, remove, rename};

#[cfg(any(test, feature = "testing"))]
use super::faults::Faults;
use crate::disk::folders::{Folders, place};
use crate::disk::quarantine::{KeptTails, Tail};
use crate::disk::space::Room;
use crate::disk::{BLOCK, Disk, DiskError, File, Kind, Result};

/// Bytes of zeros written at once while a file is made: enough for throughput, and few enough that other commits get
/// between two writes.
const ZEROS_BYTES: usize = 256 << 10;

/// Most bytes of one read request.
const READ_BYTES_MAX: usize = 1 << 20;

/// A directory on a real file system.
pub struct DirectDisk {
    folders: Folders,
    /// Device and inode of each directory; `None` if the system does not report them.
    places: Vec<Option<(u64, u64)>>,
    /// Extra open(2) flags of files that are opened for writing.
    write_flags: i32,
    #[cfg(any(test, feature = "testing"))]
    faults: Faults,
}

impl DirectDisk {
    /// The directory at this path, which exists. With `sync_metadata` every write also makes file metadata durable
    /// (O_SYNC).
    ///
    /// # Errors
    /// If files can't be made there, or not be opened with O_DIRECT.
    pub async fn open(directory: &Path, sync_metadata: bool) -> Result<Self> {
        let write_flags =
            if sync_metadata { rustix::fs::OFlags::SYNC.bits().cast_signed() } else { 0 };
        // glommio opens directories by absolute paths only.
        let absolute = std::path::absolute(directory).map_err(|error| DiskError {
            kind: Kind::Failed,
            operation: "resolve",
            file: directory.display().to_string(),
            reason: error.to_string(),
        })?;
        let folders = Folders::of(&absolute);
        let disk = Self {
            #[cfg(any(test, feature = "testing"))]
            faults: Faults::of(&absolute),
            places: folders.all().map(place).collect(),
            folders,
            write_flags,
        };
        for folder in disk.folders.all() {
            disk.probe(folder).await?;
        }
        Ok(disk)
    }

    /// Opens a file with content before any other. glommio asks once per thread and device whether polled I/O works,
    /// by reading from the first file that is opened. If that file is empty, the read succeeds on every device, and
    /// if the device can't do polled I/O every later read fails with EOPNOTSUPP.
    async fn probe(&self, folder: &Path) -> Result<()> {
        let name = format!("probe.{}.tmp", glommio::executor().id());
        let path = folder.join(&name);
        let kind = Kind::Failed;
        std::fs::write(&path, [0; BLOCK])
            .and_then(|()| std::fs::File::open(&path)?.sync_all())
            .map_err(|error| DiskError {
                kind,
                operation: "write",
                file: name.clone(),
                reason: error.to_string(),
            })?;
        let file = self.open_at(&path, &mut OpenOptions::new(), &name).await?;
        file.close().await?;
        remove(&path).await.map_err(|error| failed("remove", &name, error))
    }

    /// The room of the file system, if the system reports it, and for each of these files whether it is missing.
    /// Asked on another thread, as the system may take its time. If another directory is at the path, no file is
    /// reported missing: none must be made there in its stead.
    pub async fn look(&self, names: Vec<String>) -> (Option<Room>, Vec<bool>) {
        let (folders, opened) = (self.folders.clone(), self.places.clone());
        let look = move || {
            let is_another = |(found, opened): (Option<_>, Option<_>)| {
                found.is_some() && opened.is_some() && found != opened
            };
            if folders.all().map(place).zip(opened).any(is_another) {
                return (None, vec![false; names.len()]);
            }
            let is_missing = |name: String| matches!(folders.find(&name).try_exists(), Ok(false));
            let missing = names.into_iter().map(is_missing).collect();
            (folders.room().ok(), missing)
        };
        // A panic in a blocking task would lose its worker thread: nothing here can panic.
        let (room, missing) = glommio::executor().spawn_blocking(look).await;
        #[cfg(any(test, feature = "testing"))]
        let room = self.faults.room(room);
        (room, missing)
    }

    /// Copies these bytes of files to files of their own below `quarantine/`, durable. Done on another thread, as the
    /// system may take its time.
    pub async fn keep_tails(&self, tails: Vec<Tail>, unix_ms: u64) -> KeptTails {
        let folders = self.folders.clone();
        // A panic in a blocking task would lose its worker thread: nothing here can panic.
        let keep = move || crate::disk::quarantine::keep_tails(&folders, &tails, unix_ms);
        glommio::executor().spawn_blocking(keep).await
    }

    async fn open_at(
        &self,
        path: &Path,
        options: &mut OpenOptions,
        name: &str,
    ) -> Result<DirectFile> {
        let opened = options.read(true).write(true).custom_flags(self.write_flags);
        let file = opened.dma_open(path).await;
        let file = file.map_err(|error| failed("open", name, error))?;
        Ok(DirectFile {
            file,
            name: name.into(),
            #[cfg(any(test, feature = "testing"))]
            faults: self.faults.clone(),
        })
    }
}

/// A file opened with O_DIRECT.
pub struct DirectFile {
    file: DmaFile,
    name: String,
    #[cfg(any(test, feature = "testing"))]
    faults: Faults,
}

impl DirectFile {
    /// Checks a read that has ended at `offset`. A bad sector in the middle of a request also shortens the read, so
    /// the file's length tells whether `offset` is its end.
    async fn check_end(&self, offset: u64) -> Result<()> {
        let size = self.file.file_size().await;
        let size = size.map_err(|error| failed("examine", &self.name, error))?;
        if offset >= size { Ok(()) } else { Err(crate::disk::cut_short(&self.name, offset, size)) }
    }
}

#[cfg(any(test, feature = "testing"))]
impl DirectFile {
    /// Waits, and fails, as the faults set for tests demand.
    async fn begin_read(&self, offset: u64, bytes: usize) -> Result<super::faults::Reading> {
        const TICK: std::time::Duration = std::time::Duration::from_millis(1);
        let reading = self.faults.begin_read();
        let mut waited = std::time::Duration::ZERO;
        while waited < self.faults.stall_of(&self.name) {
            glommio::timer::Timer::new(TICK).await;
            waited += TICK;
        }
        self.faults.check_range("read", &self.name, offset..offset + bytes as u64)?;
        Ok(reading)
    }
}

/// Memory aligned for O_DIRECT, registered with the ring if its quota allows.
pub struct DirectBuffer(DmaBuffer);

impl AsMut<[u8]> for DirectBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

impl Disk for DirectDisk {
    type File = DirectFile;
    type Buffer = DirectBuffer;

    fn buffer(&self, bytes: usize) -> DirectBuffer {
        assert_eq!(bytes % BLOCK, 0, "O_DIRECT wants whole blocks");
        let mut buffer = glommio::allocate_dma_buffer(bytes);
        buffer.as_bytes_mut().fill(0);
        DirectBuffer(buffer)
    }

    async fn create(&self, name: &str, bytes: u64) -> Result<DirectFile> {
        assert_eq!(bytes % BLOCK as u64, 0);
        #[cfg(any(test, feature = "testing"))]
        self.faults.check("create", name)?;
        let file = self.begin(name).await?;
        // Reserving first turns a full disk into an error here, not half-way through.
        file.file
            .pre_allocate(bytes, false)
            .await
            .map_err(|error| failed("allocate", name, error))?;
        let mut offset = 0;
        while offset < bytes {
            let length = (ZEROS_BYTES as u64).min(bytes - offset);
            file.write_at(self.buffer(length as usize), offset).await?;
            offset += length;
        }
        file.sync_data().await?;
        Ok(file)
    }

    async fn begin(&self, name: &str) -> Result<DirectFile> {
        if let Some(former) = self.folders.former_home(name) {
            match remove(former).await.map_err(|error| failed("remove", name, error)) {
                Err(error) if error.kind == Kind::NotFound => {}
                removed => {
                    removed?;
                    self.sync_dir().await?;
                }
            }
        }
        let mut options = OpenOptions::new();
        self.open_at(&self.folders.home(name), options.create(true).truncate(true), name).await
    }

    async fn open(&self, name: &str) -> Result<DirectFile> {
        let opened = self.open_at(&self.folders.home(name), &mut OpenOptions::new(), name).await;
        match (opened, self.folders.former_home(name)) {
            (Err(error), Some(former)) if error.kind == Kind::NotFound => {
                self.open_at(&former, &mut OpenOptions::new(), name).await
            }
            (opened, _) => opened,
        }
    }

    async fn rename(&self, source: &str, target: &str) -> Result<()> {
        rename(self.folders.home(source), self.folders.home(target))
            .await
            .map_err(|error| failed("rename", source, error))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let removed = remove(self.folders.home(name)).await;
        let removed = removed.map_err(|error| failed("remove", name, error));
        match (removed, self.folders.former_home(name)) {
            (Err(error), Some(former)) if error.kind == Kind::NotFound => {
                remove(former).await.map_err(|error| failed("remove", name, error))
            }
            (removed, _) => removed,
        }
    }

    async fn list(&self) -> Result<Vec<String>> {
        let folders = self.folders.clone();
        // A panic in a blocking task would lose its worker thread: nothing here can panic.
        let listed = glommio::executor().spawn_blocking(move || folders.list()).await;
        listed.map_err(|error| DiskError {
            kind: Kind::Failed,
            operation: "list",
            file: self.folders.data().display().to_string(),
            reason: error.to_string(),
        })
    }

    async fn rest(&self) {
        glommio::executor().yield_if_needed().await;
    }

    async fn sync_dir(&self) -> Result<()> {
        for folder in self.folders.all() {
            let name = folder.display().to_string();
            let directory = Directory::open(folder)
                .await
                .map_err(|error| failed("open directory", &name, error))?;
            let synced = directory.sync().await;
            directory.close().await.map_err(|error| failed("close directory", &name, error))?;
            synced.map_err(|error| failed("sync directory", &name, error))?;
        }
        Ok(())
    }
}

impl File for DirectFile {
    type Buffer = DirectBuffer;

    async fn write_at(&self, source: DirectBuffer, offset: u64) -> Result<()> {
        let length = source.0.len();
        assert_eq!((length % BLOCK, offset % BLOCK as u64), (0, 0));
        #[cfg(any(test, feature = "testing"))]
        self.faults.check_range("write", &self.name, offset..offset + length as u64)?;
        let mut source = Rc::new(source.0);
        let mut done = 0;
        loop {
            let written = self
                .file
                .write_rc_at(source.clone(), offset + done as u64)
                .await
                .map_err(|error| failed("write", &self.name, error))?;
            done += written;
            if done == length {
                return Ok(());
            }
            // A short write is legal; after one that ends within a block, writing can't continue.
            if written == 0 || written % BLOCK != 0 {
                let reason = format!("{done} of {length} bytes were written");
                let (operation, file) = ("write", self.name.clone());
                return Err(DiskError { kind: Kind::Failed, operation, file, reason });
            }
            let mut rest = self.file.alloc_dma_buffer(length - done);
            rest.as_bytes_mut().copy_from_slice(&source.as_bytes()[written..]);
            source = Rc::new(rest);
        }
    }

    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        assert_eq!((bytes % BLOCK, offset % BLOCK as u64), (0, 0));
        #[cfg(any(test, feature = "testing"))]
        let _reading = self.begin_read(offset, bytes).await?;
        let mut done = 0;
        while done < bytes {
            let length = READ_BYTES_MAX.min(bytes - done);
            let read = self
                .file
                .read_at_aligned(offset + done as u64, length)
                .await
                .map_err(|error| failed("read", &self.name, error))?;
            let length = read.len();
            #[cfg(any(test, feature = "testing"))]
            let length = self.faults.shorten(&self.name, offset + done as u64, length);
            let read = &read[..length];
            target.extend_from_slice(read);
            done += read.len();
            // A part of a block is the end of the file, and O_DIRECT can't read on from there.
            if read.is_empty() || !read.len().is_multiple_of(BLOCK) {
                return self.check_end(offset + done as u64).await;
            }
        }
        Ok(())
    }

    async fn sync_data(&self) -> Result<()> {
        #[cfg(any(test, feature = "testing"))]
        self.faults.check("fdatasync", &self.name)?;
        self.file.fdatasync().await.map_err(|error| failed("fdatasync", &self.name, error))
    }

    async fn truncate(&self, bytes: u64) -> Result<()> {
        self.file.truncate(bytes).await.map_err(|error| failed("truncate", &self.name, error))
    }

    async fn close(self) -> Result<()> {
        self.file.close().await.map_err(|error| failed("close", &self.name, error))
    }
}

fn failed(operation: &'static str, file: &str, error: glommio::GlommioError<()>) -> DiskError {
    // The runtime adds text of its own, with the path and the number of a descriptor.
    let error = match error {
        glommio::GlommioError::EnhancedIoError { source, .. } => source,
        other => std::io::Error::from(other),
    };
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::NoSpace,
        std::io::ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Failed,
    };
    DiskError { kind, operation, file: file.into(), reason: error.to_string() }
}

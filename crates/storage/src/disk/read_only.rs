//! A read-only directory: for checks that must change nothing, not even by a probe.
//!
//! It needs neither io_uring nor the right to write. Reads go past the page cache if the file system can do that, so
//! that they show the contents of the device. They block: this is for programs that do nothing else.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::folders::Folders;
use super::{BLOCK, Disk, DiskError, File, Kind, Result};

/// Most bytes of one read request.
const READ_BYTES_MAX: usize = 1 << 20;

/// A directory on a real file system that is not written to.
pub struct ReadOnlyDisk {
    folders: Folders,
}

impl ReadOnlyDisk {
    /// The directory at this path.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { folders: Folders::of(directory) }
    }
}

/// A file of a [`ReadOnlyDisk`], or one anywhere.
pub struct ReadOnlyFile {
    file: std::fs::File,
    name: String,
}

impl ReadOnlyFile {
    /// Opens the file at this path under a name of its own.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or another failure.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let opened = match direct {
            // Not every file system has O_DIRECT, and a copy may be anywhere.
            Err(error) if error.kind() == ErrorKind::InvalidInput => std::fs::File::open(path),
            opened => opened,
        };
        let file = opened.map_err(|error| failed("open", name, &error))?;
        Ok(Self { file, name: name.into() })
    }

    /// Length of the file in bytes.
    ///
    /// # Errors
    /// If the system fails.
    pub fn bytes(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|error| failed("examine", &self.name, &error))?.len())
    }
}

impl Disk for ReadOnlyDisk {
    const IS_READ_ONLY: bool = true;

    type File = ReadOnlyFile;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }

    async fn create(&self, name: &str, _: u64) -> Result<ReadOnlyFile> {
        Err(refused("create", name))
    }

    async fn begin(&self, name: &str) -> Result<ReadOnlyFile> {
        Err(refused("begin", name))
    }

    async fn open(&self, name: &str) -> Result<ReadOnlyFile> {
        ReadOnlyFile::open(&self.folders.find(name), name)
    }

    async fn rename(&self, source: &str, _: &str) -> Result<()> {
        Err(refused("rename", source))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        Err(refused("remove", name))
    }

    async fn list(&self) -> Result<Vec<String>> {
        let listed = self.folders.list();
        listed.map_err(|error| failed("list", &self.folders.data().display().to_string(), &error))
    }

    async fn sync_dir(&self) -> Result<()> {
        Err(refused("sync", &self.folders.data().display().to_string()))
    }
}

impl File for ReadOnlyFile {
    type Buffer = Vec<u8>;

    async fn write_at(&self, _: Vec<u8>, _: u64) -> Result<()> {
        Err(refused("write", &self.name))
    }

    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()> {
        assert_eq!((bytes % BLOCK, offset % BLOCK as u64), (0, 0));
        let length_max = bytes.min(READ_BYTES_MAX);
        // O_DIRECT needs memory that begins at a multiple of a block.
        let mut memory = vec![0; length_max + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        let buffer = &mut memory[start..start + length_max];
        let mut done = 0;
        while done < bytes {
            let length = length_max.min(bytes - done);
            let read = match self.file.read_at(&mut buffer[..length], offset + done as u64) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read", &self.name, &error)),
            };
            target.extend_from_slice(&buffer[..read]);
            done += read;
            // A part of a block is the end of the file, and O_DIRECT can't read on from there.
            if read == 0 || read % BLOCK != 0 {
                let (end, size) = (offset + done as u64, self.bytes()?);
                // A bad sector also shortens the read.
                return if end >= size {
                    Ok(())
                } else {
                    Err(super::cut_short(&self.name, end, size))
                };
            }
        }
        Ok(())
    }

    async fn sync_data(&self) -> Result<()> {
        Err(refused("sync", &self.name))
    }

    async fn truncate(&self, _: u64) -> Result<()> {
        Err(refused("truncate", &self.name))
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn refused(operation: &'static str, file: &str) -> DiskError {
    let reason = "this directory is only read".into();
    DiskError { kind: Kind::Failed, operation, file: file.into(), reason }
}

fn failed(operation: &'static str, file: &str, error: &std::io::Error) -> DiskError {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Failed,
    };
    DiskError { kind, operation, file: file.into(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::disk::read_all;

    fn run<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("reads block")
    }

    fn looked_at(parent: &Path) {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let content: Vec<u8> = (0..3 * READ_BYTES_MAX + 700).map(|i| (i / 97) as u8).collect();
        std::fs::write(directory.path().join("a"), &content).unwrap();
        std::fs::create_dir(directory.path().join("b")).unwrap();
        let disk = ReadOnlyDisk::new(directory.path());
        assert_eq!(run(disk.list()).unwrap(), ["a"]);
        assert_eq!(run(read_all(&disk, "a", content.len())).unwrap(), content);
        let file = run(disk.open("a")).unwrap();
        let mut part = vec![7];
        run(file.read_at(5 * BLOCK as u64, 2 * BLOCK, &mut part)).unwrap();
        assert_eq!(part[1..], content[5 * BLOCK..7 * BLOCK]);
        run(file.read_at(blocks_after(&content), BLOCK, &mut part)).unwrap();
        assert_eq!(part.len(), 1 + 2 * BLOCK, "there is nothing behind the end");
        assert_eq!(run(disk.open("c")).err().unwrap().kind, Kind::NotFound);
        // Every change is refused, and the directory has not changed.
        let errors = [
            run(disk.create("d", 0)).err(),
            run(disk.begin("d")).err(),
            run(disk.rename("a", "e")).err(),
            run(disk.remove("a")).err(),
            run(disk.sync_dir()).err(),
            run(file.write_at(vec![0; BLOCK], 0)).err(),
            run(file.truncate(0)).err(),
            run(file.sync_data()).err(),
        ];
        assert!(errors.iter().all(|error| error.as_ref().unwrap().reason.contains("only read")));
        assert_eq!(std::fs::read(directory.path().join("a")).unwrap(), content);
    }

    fn blocks_after(content: &[u8]) -> u64 {
        crate::disk::blocks(content.len()) as u64
    }

    #[test]
    fn files_are_read_and_nothing_else() {
        looked_at(std::env::current_exe().unwrap().parent().unwrap());
    }

    #[test]
    fn a_file_system_without_o_direct_will_do() {
        let shared_memory = Path::new("/dev/shm");
        if tempfile::tempdir_in(shared_memory).is_err() {
            return eprintln!("skipped: there is no /dev/shm to write to");
        }
        looked_at(shared_memory);
    }
}

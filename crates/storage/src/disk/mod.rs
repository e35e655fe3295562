//! The only door to storage: two traits, the real disk, and a simulated one.
//!
//! Assumptions about a medium, made here and nowhere else:
//! - a sector of 512 bytes is written whole or not at all; a longer write may be torn, at any sectors, until it is
//!   synced;
//! - [`File::sync_data`] that succeeds makes durable all data written to the file before it was called; one that
//!   fails says nothing about which data is durable, ever after;
//! - a name made, changed or removed is durable after [`Disk::sync_dir`].
//!
//! A disk is one flat directory, though segments of logs may lie in another one ([`folders`]). All offsets and
//! lengths are whole blocks.

pub mod blocking;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod folders;
pub mod kind;
pub mod owner;
pub mod probe;
pub mod quarantine;
pub mod read_only;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod space;
#[cfg(test)]
mod tests;
pub mod view;

use crate::sabotage::{Pillar, is_off};

pub use crate::types::limits::BLOCK;

/// `bytes` rounded up to whole blocks.
#[must_use]
pub const fn blocks(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK)
}

/// The kind of a failure, by the reaction to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The disk is full. Nothing is damaged.
    NoSpace,
    /// There is no such file.
    NotFound,
    /// Anything else: the file must not be trusted with another write.
    Failed,
}

/// A failure of the disk.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {file}: {reason}")]
pub struct DiskError {
    /// Kind of the failure.
    pub kind: Kind,
    /// Operation that was tried.
    pub operation: &'static str,
    /// The file, by name.
    pub file: String,
    /// Message of the system.
    pub reason: String,
}

/// The error of a read that ended at `offset`, inside a file of `size` bytes.
pub fn cut_short(file: &str, offset: u64, size: u64) -> DiskError {
    let reason = format!("the disk gives nothing from byte {offset} on, of {size}");
    DiskError { kind: Kind::Failed, operation: "read", file: file.into(), reason }
}

/// Result type of disks.
pub type Result<T> = std::result::Result<T, DiskError>;

/// A directory of files. One owner, one thread.
#[expect(async_fn_in_trait, reason = "a disk belongs to one thread; its futures need no Send")]
pub trait Disk: 'static {
    /// True if nothing can be written: a reader of such a disk makes no lasting decisions.
    const IS_READ_ONLY: bool = false;

    /// An open file.
    type File: File<Buffer = Self::Buffer> + 'static;
    /// Memory that a file can be written from.
    type Buffer: AsMut<[u8]>;

    /// Zeroed memory of `bytes`, which are whole blocks.
    fn buffer(&self, bytes: usize) -> Self::Buffer;

    /// Makes a file of `bytes` zeros, all of them written and durable, so that later writes
    /// change no metadata. Replaces a file of that name. The name is not yet durable.
    ///
    /// # Errors
    /// [`Kind::NoSpace`], or another failure; then there may be a part of a file.
    async fn create(&self, name: &str, bytes: u64) -> Result<Self::File>;

    /// Makes an empty file, which grows as it is written from its beginning on. Replaces a file
    /// of that name. Neither the name nor the length is durable yet.
    ///
    /// # Errors
    /// If the system fails.
    async fn begin(&self, name: &str) -> Result<Self::File>;

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or another failure.
    async fn open(&self, name: &str) -> Result<Self::File>;

    /// Gives a file another name, replacing a file of that name.
    ///
    /// # Errors
    /// If the system fails.
    async fn rename(&self, source: &str, target: &str) -> Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or another failure.
    async fn remove(&self, name: &str) -> Result<()>;

    /// The names of all files, sorted.
    ///
    /// # Errors
    /// If the system fails.
    async fn list(&self) -> Result<Vec<String>>;

    /// Makes all changes of names durable.
    ///
    /// # Errors
    /// If the system fails.
    async fn sync_dir(&self) -> Result<()>;

    /// Lets other tasks of the thread go on, between two pieces of work in memory. Only a disk of a core has such
    /// tasks beside it.
    async fn rest(&self) {}
}

/// An open file.
#[expect(async_fn_in_trait, reason = "a file belongs to one thread; its futures need no Send")]
pub trait File {
    /// Memory that this file can be written from.
    type Buffer;

    /// Writes all of `source` at `offset`.
    ///
    /// # Errors
    /// If any of it could not be written; part of it may have been.
    async fn write_at(&self, source: Self::Buffer, offset: u64) -> Result<()>;

    /// Appends the `bytes` at `offset` to `target`, or fewer at the end of the file, and only there.
    ///
    /// # Errors
    /// If the system fails, or gives fewer bytes than the file has.
    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> Result<()>;

    /// Makes durable all writes that completed before.
    ///
    /// # Errors
    /// If the system fails. Do not try again: the kernel may have dropped the pages and
    /// forgotten the error.
    async fn sync_data(&self) -> Result<()>;

    /// Cuts the file to `bytes`, durable with the next sync.
    ///
    /// # Errors
    /// If the system fails.
    async fn truncate(&self, bytes: u64) -> Result<()>;

    /// Closes the file.
    ///
    /// # Errors
    /// If the system fails.
    async fn close(self) -> Result<()>;
}

/// Writes a small file so that after a crash there is the old one or the new one, whole:
/// temporary name, sync, rename, sync of the directory.
///
/// `content` is padded with spaces to whole blocks.
///
/// # Errors
/// If any step fails; the old file is still in place, unless only the last step failed, when
/// either may come back after a crash.
pub async fn replace<D: Disk>(disk: &D, name: &str, content: &[u8]) -> Result<()> {
    let temporary = format!("{name}.tmp");
    let bytes = blocks(content.len());
    let mut buffer = disk.buffer(bytes);
    let target = buffer.as_mut();
    target[..content.len()].copy_from_slice(content);
    target[content.len()..].fill(b' ');
    let file = disk.create(&temporary, bytes as u64).await?;
    file.write_at(buffer, 0).await?;
    if !is_off(Pillar::SyncBeforeRename) {
        file.sync_data().await?;
    }
    file.close().await?;
    disk.rename(&temporary, name).await?;
    disk.sync_dir().await
}

/// Reads a whole file of at most `bytes_max`.
///
/// # Errors
/// [`Kind::NotFound`], another failure, or a file that is longer.
pub async fn read_all<D: Disk>(disk: &D, name: &str, bytes_max: usize) -> Result<Vec<u8>> {
    let file = disk.open(name).await?;
    let mut content = Vec::new();
    let read = file.read_at(0, blocks(bytes_max + 1), &mut content).await;
    file.close().await?;
    read?;
    if content.len() > bytes_max {
        let reason = format!("longer than the {bytes_max} bytes it may have");
        return Err(DiskError { kind: Kind::Failed, operation: "read", file: name.into(), reason });
    }
    Ok(content)
}

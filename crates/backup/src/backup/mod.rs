//! Backups of a data directory: full copies, incremental ones, and restoring.
//!
//! A backup needs no help of the server and never stops a write. Everything that it reads is immutable: snapshots and
//! complete segments never change, MANIFEST is replaced as a whole, and the active segment grows by whole groups that
//! are never written again. [`source`] opens every file that one MANIFEST names, so that none can be removed, takes the
//! moment T, and checks whether MANIFEST has changed meanwhile: if so it starts over. So every group stamped up to T is
//! in an opened file.
//!
//! A backup is a state that existed. All shards are cut at T ([`log`]): it has every write that was acknowledged before
//! T, and with a write also every write that was acknowledged before that one was sent, in any shard, because a group
//! is stamped after the write was asked for and before it is acknowledged. All the shards' stamps come from one clock;
//! if that was set back, each shard is taken as far as it goes, and the result says so.
//!
//! ```text
//! <backup-dir>/<id>/backup.json     what it is, and where each of its files lies
//!                  /wal_*.wal …     the files that no backup before it has
//! <backup-dir>/.<id>.tmp/           one being written, or what a crash has left of one
//! ```
//!
//! [`record`] has the format of `backup.json`. An incremental backup names a parent and leaves out files that the
//! parent's chain has with equal bytes. Equality is decided without reading all of them: the header of a snapshot has
//! the checksum of its table, which has those of all extents; the end of a complete segment is recorded with its chain,
//! which goes on from its first record; and both headers have the random epoch of the server that wrote them. So an
//! incremental backup reads only new data.
//!
//! [`textfile`] tells monitoring when a backup was made and verified last.
//!
//! Only [`storage`] depends on where backups are, a directory as above or a bucket, and only [`crate::disk::view`] on
//! how their files are read. Nothing here needs io_uring, or the memory of a database; [`verify`] and [`restore()`]
//! open a shard at a time for a trial, which takes the memory of that shard.

pub mod count;
pub mod create;
pub mod log;
mod pace;
pub mod progress;
pub mod prune;
pub mod record;
pub mod restore;
pub mod source;
pub mod storage;
mod swap;
#[cfg(test)]
mod tests;
pub mod textfile;
pub mod time;
pub mod verify;

pub use self::create::create;
pub use self::pace::give_way;
pub use self::prune::prune;
pub use self::record::Backup;
pub use self::restore::restore;
pub use self::storage::Storage;

use crate::manifest::Manifest;
use crate::types::ShardId;

/// Errors are texts for a person.
pub type Result<T> = std::result::Result<T, String>;

/// All shards of a directory.
fn shards(manifest: &Manifest) -> impl Iterator<Item = ShardId> + use<> {
    (0..manifest.shards).map(ShardId)
}

/// Raises the limit of open files as far as the system allows: a log may have thousands of segments.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    tracing::debug!(?raised, "limit of open files");
}

//! Backups of a data directory: complete copies and what has come since, and the way back.
//!
//! A backup asks nothing of the server and never stops a write. All that it reads is immutable:
//! snapshots and complete segments never change, MANIFEST is replaced as a whole, and the active
//! segment grows by whole groups that are never written again. [`source`] opens every file that
//! one MANIFEST names, so that none can be taken away, takes the moment T, and looks whether
//! MANIFEST has changed meanwhile: if so it starts over. So whatever was stamped up to T is in an
//! opened file.
//!
//! A backup is a state that existed. All shards are cut at T ([`log`]): it has every write that
//! was acknowledged before T, and with a write also whatever was acknowledged before that one was
//! sent, in whichever shard, because a group is stamped after the write was asked for and before
//! it is acknowledged. All the shards' stamps come from one clock; where that is found set
//! back, each shard is taken as far as it goes, and that is said.
//!
//! ```text
//! <backup-dir>/<id>/backup.json     what it is, and where each of its files lies
//!                  /wal_*.wal …     the files that no backup before it has
//! <backup-dir>/.<id>.tmp/           one being written, or what a crash has left of one
//! ```
//!
//! [`record`] has the format of `backup.json`. An incremental backup names a parent and leaves
//! out what the parent's chain has in the same bytes. Whether it has is told without reading all
//! of them: the header of a snapshot has the checksum of its table, which has those of all
//! extents; the end of a complete segment is recorded with its chain, which goes on from its
//! first record; and both headers have the random epoch of the server that wrote them. So an
//! incremental backup reads only what is new.
//!
//! [`textfile`] tells monitoring when a backup was made and verified last.
//!
//! [`storage`] alone knows where backups are, a directory as above or a bucket, and
//! [`crate::disk::view`] alone how their files are read. Nothing here needs io_uring, or the memory of a database; [`verify`] and [`restore()`]
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

/// What goes wrong is told to a person.
pub type Result<T> = std::result::Result<T, String>;

/// All shards of a directory.
fn shards(manifest: &Manifest) -> impl Iterator<Item = ShardId> + use<> {
    (0..manifest.shards).map(ShardId)
}

/// Lets this process hold as many files open as the system allows: a log may have thousands of
/// segments.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    tracing::debug!(?raised, "limit of open files");
}

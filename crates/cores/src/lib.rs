//! The pinned cores of KyroDB: mailboxes, searches, group commit, maintenance, snapshots, and the counters they keep.
//! The only crate that names glommio.

#![forbid(unsafe_code)]

pub mod observe;
pub mod shard;

// Modules below, by the paths that the modules here use.
use kyrodb_engine::{engine, store};
use kyrodb_recovery::recovery;
use kyrodb_storage::{disk, manifest, snapshot, wal};
use kyrodb_types as types;
use kyrodb_types::{clock, error};

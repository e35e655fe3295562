//! The pinned cores of KyroDB: mailboxes, searches, group commit, maintenance, snapshots, and the counters they keep. The only crate that names glommio.

#![forbid(unsafe_code)]

pub mod observe;
pub mod shard;

#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_engine::{engine, graph, kernels, store, with_distance};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_recovery::{directory, recovery, repair, verify};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_storage::{disk, manifest, snapshot, wal};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types as types;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types::{clock, error, sabotage, sync};

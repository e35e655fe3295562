//! Backups of a data directory, whole or incremental, in a directory or in S3-compatible storage, and restores.

#![forbid(unsafe_code)]

pub mod backup;

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

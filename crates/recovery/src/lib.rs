//! From files to an engine, online and offline: recovery, verification, repair, and the lock on a data directory.

#![forbid(unsafe_code)]

pub mod directory;
#[cfg(test)]
mod flip_tests;
#[cfg(test)]
mod log_failure_tests;
pub mod recovery;
pub mod repair;
#[cfg(test)]
mod snapshot_tests;
pub mod verify;

#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_engine::{engine, graph, kernels, store, with_distance};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_storage::{disk, manifest, snapshot, wal};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types as types;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types::{clock, error, sabotage, sync};

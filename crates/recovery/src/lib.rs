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

// Modules below, by the paths that the modules here use.
use kyrodb_engine::{engine, graph, store};
use kyrodb_storage::{disk, manifest, snapshot, wal};
use kyrodb_types as types;

//! Backups of a data directory, whole or incremental, in a directory or in S3-compatible storage, and restores.

#![forbid(unsafe_code)]

pub mod backup;

// Modules below, by the paths that the modules here use.
use kyrodb_engine::{engine, graph};
use kyrodb_recovery::{directory, recovery};
use kyrodb_storage::{disk, manifest, snapshot, wal};
use kyrodb_types as types;
use kyrodb_types::clock;

//! The files of KyroDB: log, snapshots and MANIFEST as bytes, over a disk that is real, read-only or simulated. Knows
//! no engine.

#![forbid(unsafe_code)]

pub mod disk;
pub mod manifest;
pub mod snapshot;
pub mod wal;

// Modules below, by the paths that the modules here use.
use kyrodb_types as types;
use kyrodb_types::sabotage;

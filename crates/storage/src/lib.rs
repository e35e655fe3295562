//! The files of KyroDB: log, snapshots and MANIFEST as bytes, over a disk that is real, read-only or simulated. Knows no engine.

#![forbid(unsafe_code)]

pub mod disk;
pub mod manifest;
pub mod snapshot;
pub mod wal;

#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types as types;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types::{clock, error, sabotage, sync};

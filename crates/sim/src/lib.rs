//! Simulation of whole machines on a simulated disk: crashes, faults and damage by a seed, against an oracle.

#![forbid(unsafe_code)]

pub mod simulation;

#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_backup::backup;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_cores::{observe, shard};
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

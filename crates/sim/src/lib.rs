//! Simulation of whole machines on a simulated disk: crashes, faults and damage by a seed, against an oracle.

#![forbid(unsafe_code)]

pub mod simulation;

// Modules below, by the paths that the modules here use.
#[cfg(test)]
use kyrodb_backup::backup;
use kyrodb_cores::shard;
use kyrodb_engine::{engine, graph};
#[cfg(test)]
use kyrodb_recovery::repair;
use kyrodb_recovery::{recovery, verify};
use kyrodb_storage::{disk, manifest, snapshot, wal};
use kyrodb_types as types;
#[cfg(test)]
use kyrodb_types::sabotage;

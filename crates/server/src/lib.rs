//! The server of KyroDB around its cores: configuration, access, router, gRPC gateway, HTTP for operators, checks of
//! the host.

pub mod access;
pub mod cache;
pub mod config;
#[cfg(test)]
mod cores_tests;
pub mod doctor;
pub mod gateway;
#[cfg(test)]
mod reference;
pub mod router;
pub mod server;
pub mod sizing;
pub mod status;
pub mod tls;
pub mod watched;

// Modules below, by the paths that the modules here use.
use kyrodb_cores::{observe, shard};
use kyrodb_engine::{engine, graph, kernels, store, with_distance};
use kyrodb_proto::proto;
use kyrodb_recovery::{directory, recovery, repair, verify};
use kyrodb_storage::{disk, manifest, snapshot, wal};
use kyrodb_types as types;
use kyrodb_types::{clock, error};

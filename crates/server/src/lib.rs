//! The server of KyroDB around its cores: configuration, access, router, gRPC gateway, HTTP for operators, checks of the host.

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

#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_cores::{observe, shard};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_engine::{engine, graph, kernels, store, with_distance};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_proto::proto;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_recovery::{directory, recovery, repair, verify};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_storage::{disk, manifest, snapshot, wal};
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types as types;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types::{clock, error, sabotage, sync};

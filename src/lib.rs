//! KyroDB.
pub mod config;
pub mod dataset;
pub mod disk;
pub mod engine;
pub mod error;
pub mod gateway;
pub mod graph;
pub mod kernels;
pub mod manifest;
pub mod observe;
pub mod proto;
pub mod router;
pub mod shard;
pub mod status;
pub mod store;
pub mod types;
pub mod wal;

//! KyroDB.
pub mod dataset;
pub mod disk;
pub mod engine;
pub mod error;
pub mod graph;
pub mod kernels;
pub mod manifest;
pub mod observe;
pub mod shard;
pub mod store;
pub mod types;
pub mod wal;

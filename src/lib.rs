//! KyroDB.
pub mod dataset;
pub mod engine;
pub mod error;
pub mod graph;
pub mod kernels;
pub mod store;
pub mod types;
pub mod wal;

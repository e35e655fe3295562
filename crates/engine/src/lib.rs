//! The search engine of KyroDB as state machines: distance kernels, HNSW graph, documents, metadata index. No I/O,
//! clock, thread or executor.

pub mod engine;
pub mod graph;
pub mod kernels;
mod pieces;
pub mod store;

// Modules below, by the paths that the modules here use.
#[cfg(test)]
use kyrodb_storage::disk;
use kyrodb_types as types;
use kyrodb_types::{error, sync};

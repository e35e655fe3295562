//! The search engine of KyroDB as state machines: distance kernels, HNSW graph, documents, metadata index. No I/O, clock, thread or executor.

pub mod engine;
pub mod graph;
pub mod kernels;
mod pieces;
pub mod store;

#[cfg(test)]
pub(crate) use kyrodb_storage::disk;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types as types;
#[allow(unused_imports, reason = "modules name what is below by these paths")]
pub(crate) use kyrodb_types::{clock, error, sabotage, sync};

//! Traces of requests of searches to a core's vector cache, and hit rates of several caches on them: the server's own
//! (files of the main package), S3-FIFO, and crates.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the traces do not ask for all that is in the files"
)]

#[path = "../../../crates/cores/src/shard/vectors/cache/mod.rs"]
mod cache;
pub mod caches;
pub mod replay;
pub mod report;
pub mod s3_fifo;
pub mod traces;
#[path = "../../../crates/types/src/ids.rs"]
pub mod types;

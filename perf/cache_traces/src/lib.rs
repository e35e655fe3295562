//! Traces of what searches ask a core's cache of vectors for, and how often each way to keep rows has
//! them: the server's own (the files of the main package), S3-FIFO, and crates.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the traces do not ask for all that is in the files"
)]

#[path = "../../../src/shard/vectors/cache/mod.rs"]
mod cache;
pub mod caches;
pub mod replay;
pub mod report;
pub mod s3_fifo;
pub mod traces;
#[path = "../../../src/types/ids.rs"]
pub mod types;

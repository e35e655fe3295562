//! What answers that were given once are kept by, so that they can be given again: the parts that know
//! neither the wire, nor shards, nor executors. `router/cached` makes the cache of queries of them.
//!
//! - [`changes`] says whether anything has been written that an answer rests on: written by whoever
//!   owns the documents, before a client hears of its write, and read before each search.
//! - [`table`] keeps so many things in so many bytes, and no search waits for it.
//! - [`seen`] knows what was asked lately, for less memory than keeping it would take.

pub mod seen;
pub mod table;

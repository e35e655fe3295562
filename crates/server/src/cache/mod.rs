//! Building blocks of the query-result cache: a bounded hash table and a first-seen filter. They depend neither on the
//! wire format, nor on shards, nor on executors. `router/cached` makes the query cache of them.
//!
//! - [`table`] keeps a bounded number of entries in a bounded number of bytes; no search waits for it.
//! - [`seen`] remembers recent queries, in less memory than their answers would take.
//!
//! Whether a write has invalidated an answer is told by [`crate::types::changes`]: written by the owner of the
//! documents before a client hears of its write, and read before each search.

pub mod seen;
pub mod table;

//! KyroDB: a vector database for people who answer for the 99th percentile.
//!
//! One process; one pinned io_uring thread a core; each core owns shards of the documents, their
//! HNSW graphs and their logs; a gRPC gateway fans searches out and merges them under a deadline.
//! `ARCHITECTURE.md` shows the paths of a search, a write, a start and a snapshot; this is the map.
//!
//! From the client to the disk, each knowing only what is below it:
//!
//! | Module | What it is |
//! |---|---|
//! | [`server`], [`config`] | puts the parts together from one validated configuration |
//! | [`gateway`] | gRPC: connections, deadlines, validation, statuses; alone knows the wire |
//! | [`access`] | who may do what, and how much of it: keys, tenants, quotas, rate limits, usage |
//! | [`router`] | placement, whom to ask, beams, bounds on what is in flight, merge, coverage |
//! | [`cache`] | what answers are kept by: what has changed since, and a table that nobody waits for |
//! | [`shard`] | pinned cores: mailboxes, search slices, group commit, upkeep; alone knows executors |
//! | [`engine`] | one shard as a state machine: stage, apply, search, link, in bounded steps |
//! | [`graph`], [`store`], [`kernels`] | HNSW, documents by slot, distances |
//! | [`wal`], [`snapshot`], [`manifest`] | the log, what it came to, and which files are the state |
//! | [`recovery`] | from files to a shard: the newest good snapshot, then the log after it |
//! | [`verify`] | checks the log of a directory that no server uses, and tells all that is wrong |
//! | [`repair`] | inspects such a directory as a whole, repairs it, gives it other shards |
//! | [`disk`] | the only door to storage: O_DIRECT, read-only, or simulated |
//! | [`tls`], [`watched`] | certificates, and connections that use them; files that are read again |
//! | [`observe`], [`status`] | counters that take no lock; health, metrics and HTTP made of them |
//! | [`types`], [`layout`], [`error`], [`clock`] | ids and positions; which shards have one graph; errors by what the caller must do; the wall clock |
//! | `sync` | the atomics of the parts that the package in `models/` models |
//! | [`doctor`] | looks at a host and its disk, and says what to change there |
//! | [`backup`] | copies of a data directory, whole or of what is new, and the way back from them |
//! | [`ctl`] | what an operator's program asks of a server |
//! | [`programs`] | command lines, exit codes and output of all programs, and of `kyrodb` in front of them |
//! | [`credentials`], [`packaging`] | the API key that programs bring along; manual pages and completions of all programs |
//! | `table` | tables that programs print |
//! | [`load`] | the load tester: open and closed loops, recall, sweeps, reports |
//! | [`demo`], [`dataset`], [`proto`] | the sample, vector files, the generated wire format |
//!
//! What is deliberately absent:
//! - [`engine`] and everything below it name no executor, clock, thread, file or random state: the
//!   code that serves is the code that a simulation replays. The tables of ids go by a secret (`secret`),
//!   which changes nothing that can be seen.
//! - No lock is on the way of a search. What a core owns no other thread writes, links to its nodes
//!   excepted, which whoever links a document adds; and none waits to do so.
//! - No file whose write or sync failed is written again: the log goes on in a fresh one.
//! - No input is checked twice: [`gateway`] validates, inside bad input is a bug.
//!
//! The crate is made for its programs, and its API may change with any version; clients use gRPC.

pub mod programs;

pub use kyrodb_backup::backup;
pub use kyrodb_cores::{observe, shard};
pub use kyrodb_engine::{engine, graph, kernels, store, with_distance};
pub use kyrodb_proto::proto;
pub use kyrodb_recovery::{recovery, repair, verify};
pub use kyrodb_server::{
    access, cache, config, doctor, gateway, router, server, sizing, status, tls, watched,
};
pub use kyrodb_storage::{disk, manifest, snapshot, wal};
pub use kyrodb_tools::{credentials, ctl, dataset, demo, load, packaging, table};
pub use kyrodb_types as types;
pub use kyrodb_types::{clock, error};

//! KyroDB: a vector database for people who answer for the 99th percentile.
//!
//! One process; one pinned io_uring thread per core; each core owns shards of the documents, their
//! HNSW graphs and their logs; a gRPC gateway fans searches out and merges them under a deadline.
//! `ARCHITECTURE.md` shows the paths of a search, a write, a start and a snapshot; this is the map.
//!
//! This package has the programs, and names the modules of the crates under `crates/` by short paths. From the client
//! to the disk, each crate depends on lower ones only:
//!
//! | Crate | Modules | Content |
//! |---|---|---|
//! | this one | [`programs`] | command lines, exit codes and output of all programs, and of `kyrodb` in front of them |
//! | `server` | [`server`], [`config`] | assembles the parts from one validated configuration |
//! | | [`gateway`] | gRPC: connections, deadlines, validation, statuses; the only module that knows the wire |
//! | | [`access`] | permissions and quantities: keys, tenants, quotas, rate limits, usage |
//! | | [`router`], [`cache`] | placement, choice of cores, beam widths, bounds on searches in flight, merge, coverage; the query cache |
//! | | [`status`] | health, metrics and HTTP pages, from the counters of the cores |
//! | | [`tls`], [`watched`] | certificates and connections that use them; files that are read again when they change |
//! | | [`doctor`], [`sizing`] | checks of a host and its disk, with the changes to make; needs of a data set |
//! | `cores` | [`shard`], [`observe`] | pinned cores: mailboxes, search slices, group commit, maintenance; counters without locks |
//! | `backup` | [`backup`] | copies of a data directory, whole or incremental, and restores |
//! | `recovery` | [`recovery`] | from files to a shard: the newest good snapshot, then the log after it |
//! | | [`verify`], [`repair`] | checks of a directory that no server uses; its repair, and a change of its number of shards |
//! | `engine` | [`engine`] | one shard as a state machine: stage, apply, search, link, in bounded steps |
//! | | [`graph`], [`store`], [`kernels`] | HNSW, documents by slot, distances |
//! | `storage` | [`wal`], [`snapshot`], [`manifest`] | the log, the state it leads to, and the list of files that are the state |
//! | | [`disk`] | the only door to storage: O_DIRECT, read-only, or simulated |
//! | `types` | [`types`], [`error`], [`clock`] | ids, positions, records, limits; errors by what the caller must do; the wall clock |
//! | `proto` | [`proto`] | the generated wire format |
//! | `tools` | [`ctl`], [`credentials`], [`packaging`], [`table`] | requests of an operator's program; API keys; manual pages and completions; tables |
//! | | [`load`], [`demo`], [`dataset`] | the load tester; the sample and vector files |
//!
//! Deliberately absent:
//! - [`engine`] and everything below it name no executor, clock, thread, file or random state: the
//!   code that serves is the code that a simulation replays. The tables of ids use a secret of the process,
//!   which changes no visible result.
//! - No search takes a lock. Only the owning core writes its memory, except for links to its nodes, which the core
//!   that links a document adds; no core waits to do so.
//! - No file whose write or sync failed is written again: the log goes on in a new one.
//! - No input is checked twice: [`gateway`] validates, and bad input further inside is a bug.
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

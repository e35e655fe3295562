//! Requests of the gateway to a core, each with the reply that takes the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::{Command, Report};
use super::keeper::Change;
use super::open::{Open, Opened, Refusal};
use super::reply::Reply;
use super::rotate::Rotated;
use super::snapshot::Taken;
use super::truncate::Truncated;
use crate::engine::filter::Filter;
use crate::engine::{Document, Lent, Outcome, Query, Scope, SearchOutcome, Write};
use crate::error::{Error, Result};
use crate::manifest::{LoadError, Manifest, Segment};
use crate::observe::trace::Span;
use crate::types::realm::Realm;
use crate::types::{DocId, ShardId};
use crate::wal::reader::Left;

/// A message to a core. The core owns the shard that the message names.
pub enum Request {
    /// Search for the nearest documents.
    Search(SearchRequest),
    /// Make one change.
    Write {
        /// The owner of the document.
        shard: ShardId,
        /// The change.
        write: Write,
        /// Result, sent once the change is durable.
        reply: Reply<Result<Outcome>>,
    },
    /// Store many documents, at the pace at which they can be linked.
    Load {
        /// The owner of all documents.
        shard: ShardId,
        /// [`Write::Put`]s.
        puts: Vec<Write>,
        /// Results in the order of `puts`, sent once all are durable.
        reply: Reply<Vec<Result<Outcome>>>,
    },
    /// Delete many documents, all or none.
    DeleteMany {
        /// The shard to delete from.
        shard: ShardId,
        /// Only these documents, in pieces; the shard owns all of them. `None`: every document that passes.
        ids: Option<Vec<Vec<DocId>>>,
        /// Only documents that pass.
        filter: Filter,
        /// Time at which to stop looking for them.
        deadline: Instant,
        /// Result, sent once all deletes are durable.
        reply: Reply<Result<Outcome>>,
    },
    /// Read documents by id.
    Get {
        /// The owner of all documents.
        shard: ShardId,
        /// Ids, each with its index in the client's list.
        ids: Vec<(usize, DocId)>,
        /// Only documents of this realm.
        realm: Arc<Realm>,
        /// Return the vectors too.
        include_embeddings: bool,
        /// Documents that were found, with their indices.
        reply: Reply<Result<Vec<(usize, Document)>>>,
    },
    /// List ids of documents.
    List {
        /// The shard to list.
        shard: ShardId,
        /// Only documents that pass.
        filter: Filter,
        /// Only ids larger than this one.
        after: DocId,
        /// Number of ids, the smallest ones.
        max: usize,
        /// Time at which to give up.
        deadline: Instant,
        /// The ids in ascending order.
        reply: Reply<Result<Vec<DocId>>>,
    },
    /// Link everything that is in the hot tier now.
    Flush {
        /// The shard to flush.
        shard: ShardId,
        /// Answer 0 at once and link in the background.
        only_count: bool,
        /// Number of documents that were in the hot tier, sent once they are linked; 0 with `only_count`.
        reply: Reply<Result<u64>>,
    },
    /// Take a snapshot of the present state.
    Snapshot {
        /// The shard to snapshot.
        shard: ShardId,
        /// Sent once the snapshot is durable and in MANIFEST.
        reply: Reply<Result<Taken>>,
    },
    /// Remove all dead documents from the graph now, however few.
    Compact {
        /// The shard to compact.
        shard: ShardId,
        /// Number of dead documents, sent once they are removed.
        reply: Reply<Result<u64>>,
    },
    /// Drop the log segments that snapshots cover.
    Truncate {
        /// The shard whose log is truncated.
        shard: ShardId,
        /// The remaining segments.
        reply: Reply<Result<Truncated>>,
    },
    /// Begin a fresh segment of the log.
    Rotate {
        /// The shard whose log is rotated.
        shard: ShardId,
        /// The fresh segment.
        reply: Reply<Result<Rotated>>,
    },
    /// Prepare a quick next start: link unlinked documents and take a snapshot, if enough has changed since the last
    /// one.
    Settle {
        /// The shard to prepare.
        shard: ShardId,
        /// Sent when that is done, or was not worth it.
        reply: Reply<Result<()>>,
    },
    /// Read a shard's snapshot and log without changing the directory.
    Open(Box<Open>, Reply<Result<Opened, Refusal>>),
    /// Take a shard that has been read into service. Sent once all are read.
    Begin {
        /// The shard to begin.
        shard: ShardId,
        /// Generation of its writer, which MANIFEST already contains.
        epoch: u64,
        /// The segment in which its log continues.
        reply: Reply<Result<Segment, Refusal>>,
    },
    /// Drop links of a restored shard to slots that other shards of its partition do not have. Sent once, after all
    /// shards are open and before the directory is.
    FitGraph {
        /// The shard to fit.
        shard: ShardId,
        /// Sent when it is done.
        reply: Reply<()>,
    },
    /// Set the dimension. Sent before the first document only.
    SetDimension {
        /// The shard to tell.
        shard: ShardId,
        /// Values in a vector.
        dimension: usize,
        /// Sent when it is set.
        reply: Reply<()>,
    },
    /// Read MANIFEST; sent to the first core only.
    LoadManifest(Reply<Result<Option<Manifest>, LoadError>>),
    /// Change MANIFEST; sent to the first core only.
    Keep(Change, Reply<Result<(), String>>),
    /// Report the breaker of a shard's log, after executing a command of an operator, if any.
    Breaker {
        /// The shard whose breaker is meant.
        shard: ShardId,
        /// The command, if any.
        command: Option<Command>,
        /// State of the breaker after the command.
        reply: Reply<Report>,
    },
    /// Copy data behind the ends of logs to quarantine. Sent before MANIFEST records those ends.
    KeepTails {
        /// The data, by segment file.
        left: Vec<(String, Left)>,
        /// Segments that could not be copied and must not be cut, sent once the other copies are durable.
        reply: Reply<Vec<String>>,
    },
    /// Give back disk space.
    Tidy {
        /// Files to remove, which MANIFEST does not name.
        unused: Vec<String>,
        /// Complete segments to cut to their length.
        complete: Vec<(String, u64)>,
        /// Sent when it is done or has failed; a failure costs only space.
        reply: Reply<()>,
    },
    /// All shards of all cores are in service, and MANIFEST says so.
    DirectoryIsOpen,
    /// Restart the task that trains the cache of vectors on disk.
    RestartTraining,
    /// Complete running work, seal the logs, and end.
    Stop,
}

impl Request {
    /// Answers a write with an error.
    ///
    /// # Panics
    /// If it is not a write.
    pub(super) fn refuse(self, error: &Error) {
        match self {
            Self::Write { reply, .. } | Self::DeleteMany { reply, .. } => {
                reply.send(Err(error.clone()));
            }
            Self::Load { puts, reply, .. } => reply.send(vec![Err(error.clone()); puts.len()]),
            _ => unreachable!("only writes are put off"),
        }
    }
}

/// A search of one shard.
pub struct SearchRequest {
    /// The shard to search; it may answer for its whole partition.
    pub shard: ShardId,
    /// The query.
    pub query: Arc<Query>,
    /// Documents near the query, if some are known: the walk begins there.
    pub starts: Option<Arc<[DocId]>>,
    /// Documents to search: those of the shard, those of the shard with lending, or those of its partition.
    pub scope: Scope,
    /// Sets of documents that pass the filter, lent by shards; the search is among these.
    pub lent: Vec<Arc<Lent>>,
    /// Time at which to stop and answer with what was found.
    pub deadline: Instant,
    /// Longest scan of the hot tier.
    pub hot_budget: Duration,
    /// Time at which the gateway sent the request.
    pub sent: Instant,
    /// The answer has to contain a span.
    pub is_traced: bool,
    /// Receives the answer.
    pub reply: Reply<SearchAnswer>,
}

/// The answer of one shard.
pub struct SearchAnswer {
    /// The shard that answers.
    pub shard: ShardId,
    /// Documents that it has searched.
    pub scope: Scope,
    /// The result.
    pub outcome: Result<SearchOutcome, Error>,
    /// Times and work on the core; `None` if not traced, or after a panic.
    pub span: Option<Span>,
}

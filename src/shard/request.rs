//! What the gateway asks of a core.

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

/// A message to a core. The shard named in it is one of the core's own.
pub enum Request {
    /// Find what is near.
    Search(SearchRequest),
    /// Change one thing.
    Write {
        /// The owner of the document.
        shard: ShardId,
        /// What to change.
        write: Write,
        /// Told once the change is durable.
        reply: Reply<Result<Outcome>>,
    },
    /// Store many documents, at the pace at which they can be linked.
    Load {
        /// The owner of all of them.
        shard: ShardId,
        /// [`Write::Put`]s.
        puts: Vec<Write>,
        /// Told once all are durable, in the order of `puts`.
        reply: Reply<Vec<Result<Outcome>>>,
    },
    /// Delete many documents, all or none.
    DeleteMany {
        /// The shard.
        shard: ShardId,
        /// Only of these documents, in pieces, of which it owns all; of every one if `None`.
        ids: Option<Vec<Vec<DocId>>>,
        /// Only those that pass.
        filter: Filter,
        /// When to give up looking for them.
        deadline: Instant,
        /// Told once all are durably gone.
        reply: Reply<Result<Outcome>>,
    },
    /// Read documents by id.
    Get {
        /// The owner of all of them.
        shard: ShardId,
        /// Which documents, each with its place in the client's list.
        ids: Vec<(usize, DocId)>,
        /// Only in this realm.
        realm: Arc<Realm>,
        /// Return the vectors too.
        include_embeddings: bool,
        /// Told what was found.
        reply: Reply<Result<Vec<(usize, Document)>>>,
    },
    /// Say which documents there are, by their ids.
    List {
        /// The shard.
        shard: ShardId,
        /// Only those that pass.
        filter: Filter,
        /// Only those with ids behind this one.
        after: DocId,
        /// So many, those with the smallest ids.
        max: usize,
        /// When to give up.
        deadline: Instant,
        /// Told their ids, in order.
        reply: Reply<Result<Vec<DocId>>>,
    },
    /// Link everything that is in the hot tier now.
    Flush {
        /// The shard.
        shard: ShardId,
        /// Do not wait for it.
        only_count: bool,
        /// Told how many documents there were, once they are linked.
        reply: Reply<Result<u64>>,
    },
    /// Take a snapshot of what is there now.
    Snapshot {
        /// The shard.
        shard: ShardId,
        /// Told when it is durable and in MANIFEST.
        reply: Reply<Result<Taken>>,
    },
    /// Take dead documents out of the graph now, however few.
    Compact {
        /// The shard.
        shard: ShardId,
        /// Told how many there were, once they are gone.
        reply: Reply<Result<u64>>,
    },
    /// Drop what snapshots cover of the log.
    Truncate {
        /// The shard.
        shard: ShardId,
        /// Told what is left of it.
        reply: Reply<Result<Truncated>>,
    },
    /// Begin a fresh segment of the log.
    Rotate {
        /// The shard.
        shard: ShardId,
        /// Told which one it is.
        reply: Reply<Result<Rotated>>,
    },
    /// Leave little to do to the next start: link what is not linked and take a snapshot, if
    /// there is enough that is in neither.
    Settle {
        /// The shard.
        shard: ShardId,
        /// Told when that is done, or was not worth it.
        reply: Reply<Result<()>>,
    },
    /// Read a shard's snapshot and log, and change nothing.
    Open(Box<Open>, Reply<Result<Opened, Refusal>>),
    /// Take a shard that has been read into service. Once all are read.
    Begin {
        /// The shard.
        shard: ShardId,
        /// The generation of its writer, which MANIFEST has by now.
        epoch: u64,
        /// Told the segment that its log goes on in.
        reply: Reply<Result<Segment, Refusal>>,
    },
    /// Fit a shard's part of a graph that others own too to theirs. Once all are open, and before the
    /// directory is.
    FitGraph {
        /// The shard.
        shard: ShardId,
        /// Told when it is done.
        reply: Reply<()>,
    },
    /// Take vectors of this many values from now on. Before the first document only.
    SetDimension {
        /// The shard.
        shard: ShardId,
        /// Values in a vector.
        dimension: usize,
        /// Told when it is so.
        reply: Reply<()>,
    },
    /// Read MANIFEST; the first core only.
    LoadManifest(Reply<Result<Option<Manifest>, LoadError>>),
    /// Change MANIFEST; the first core only.
    Keep(Change, Reply<Result<(), String>>),
    /// Say how the breaker of a shard's log is, after doing as an operator says.
    Breaker {
        /// The shard.
        shard: ShardId,
        /// What to do to it, if anything.
        command: Option<Command>,
        /// Told how it is then.
        reply: Reply<Report>,
    },
    /// Keep what lies behind the ends of logs in quarantine, before MANIFEST says that they end there.
    KeepTails {
        /// What lies behind, by segment.
        left: Vec<(String, Left)>,
        /// Told the segments of which there is no copy, which are not to be cut, once the rest is durable.
        reply: Reply<Vec<String>>,
    },
    /// Give back space.
    Tidy {
        /// Files to remove, which MANIFEST does not name.
        unused: Vec<String>,
        /// Complete segments to cut to their length.
        complete: Vec<(String, u64)>,
        /// Told when it is done, or has failed, which loses nothing but space.
        reply: Reply<()>,
    },
    /// All shards of all cores are in service, and MANIFEST says so.
    DirectoryIsOpen,
    /// Begin the task anew that learns what to keep of vectors on disk.
    RestartTraining,
    /// Finish what was begun, seal the logs, and end.
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
    /// The shard.
    pub shard: ShardId,
    /// What is looked for.
    pub query: Arc<Query>,
    /// Documents that are near what is looked for, if some are known: a walk begins there.
    pub starts: Option<Arc<[DocId]>>,
    /// Among which documents.
    pub scope: Scope,
    /// What passes the filter, where shards have lent that: among those.
    pub lent: Vec<Arc<Lent>>,
    /// When to stop and answer what there is.
    pub deadline: Instant,
    /// How long the hot tier may be scanned.
    pub hot_budget: Duration,
    /// When the gateway sent this.
    pub sent: Instant,
    /// The gateway wants to know where the time goes.
    pub is_traced: bool,
    /// Told what was found.
    pub reply: Reply<SearchAnswer>,
}

/// The answer of one shard.
pub struct SearchAnswer {
    /// Which shard.
    pub shard: ShardId,
    /// Among which documents it has searched.
    pub scope: Scope,
    /// What it found.
    pub outcome: Result<SearchOutcome, Error>,
    /// Where its time went; `None` if nobody asked, or it panicked.
    pub span: Option<Span>,
}

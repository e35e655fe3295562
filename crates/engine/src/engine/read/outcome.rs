//! Results of reads.

use std::sync::Arc;

use super::Lent;
use crate::graph::search::Work;
use crate::types::payload::Payload;
use crate::types::{DocId, Slot};

/// A document found.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Id of the document.
    pub id: DocId,
    /// Its score, as the client sees it.
    pub score: f32,
    /// Its metadata.
    pub payload: Payload,
    /// Its vector, if asked for.
    pub embedding: Option<Box<[f32]>>,
    /// True if it has not been linked into the graph yet.
    pub is_hot: bool,
}

/// A document read by id.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its metadata.
    pub payload: Payload,
    /// Its vector, if asked for.
    pub embedding: Option<Box<[f32]>>,
    /// Slot whose vector is to be read from disk: it was asked for and is not in memory.
    pub on_disk: Option<Slot>,
    /// True if it has not been linked into the graph yet.
    pub is_hot: bool,
}

/// Outcome of a search of one shard or partition.
#[derive(Clone, Debug, Default)]
pub struct SearchOutcome {
    /// At most k documents, best first.
    pub hits: Vec<Hit>,
    /// Documents that passed every condition before the cut to k.
    pub found: u64,
    /// Work of the search.
    pub work: Work,
    /// Documents of the hot tier looked at; their distances are in `work`.
    pub hot_scanned: u64,
    /// True if the scan of the hot tier was stopped by its budget.
    pub hot_cut: bool,
    /// True if the search ran to its end.
    pub complete: bool,
    /// Owners of the partition, by number, whose documents it has left out: they are fenced.
    pub missing: Vec<u32>,
    /// Owners of the partition with documents that are left out because their vectors could not be read, and the
    /// number of these.
    pub lost: Vec<(u32, u64)>,
    /// True if it was cut short while it waited for the disk.
    pub awaits_disk: bool,
    /// Documents that pass, if one search for all shards of the partition is to walk among them.
    pub lent: Option<Arc<Lent>>,
}

//! What reads come to.

use std::sync::Arc;

use super::Lent;
use crate::graph::search::Work;
use crate::types::payload::Payload;
use crate::types::{DocId, Slot};

/// A document found.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The document.
    pub id: DocId,
    /// Its score, as the client sees it.
    pub score: f32,
    /// Its metadata.
    pub payload: Payload,
    /// Its vector, if asked for.
    pub embedding: Option<Box<[f32]>>,
    /// It has not been linked into the graph yet.
    pub is_hot: bool,
}

/// A document read by id.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its metadata.
    pub payload: Payload,
    /// Its vector, if asked for.
    pub embedding: Option<Box<[f32]>>,
    /// Where its vector is to be read, which was asked for and is not in memory.
    pub on_disk: Option<Slot>,
    /// It has not been linked into the graph yet.
    pub is_hot: bool,
}

/// What a search found in one shard.
#[derive(Clone, Debug, Default)]
pub struct SearchOutcome {
    /// At most k documents, best first.
    pub hits: Vec<Hit>,
    /// Documents that passed every condition before the cut to k.
    pub found: u64,
    /// What it cost.
    pub work: Work,
    /// Documents of the hot tier that it has looked at; their distances are in `work`.
    pub hot_scanned: u64,
    /// The scan of the hot tier was stopped by its budget.
    pub hot_cut: bool,
    /// The search ran to its end.
    pub complete: bool,
    /// Owners of the partition, by number, whose documents it has left out: they are fenced.
    pub missing: Vec<u32>,
    /// Owners of the partition whose documents are missing because their vectors could not be read, and
    /// of how many.
    pub lost: Vec<(u32, u64)>,
    /// It was cut short while it waited for the disk.
    pub awaits_disk: bool,
    /// What passes, where that is to be walked among by one search for all shards of the partition.
    pub lent: Option<Arc<Lent>>,
}

//! Result of a repair, for programs and for people.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter, Result};

use serde::Serialize;

use crate::types::DocId;
use crate::types::record::Record;

/// Most lines of one kind that are kept.
const LINES_MAX: usize = 50;

/// Most documents that are named to people.
const SHOWN_MAX: usize = 20;

/// Data of a shard that is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// First and last LSNs of changes that can't be read. The state is as if they had not been made: documents
    /// written in them are missing or have their former vector, and documents deleted in them are there again.
    pub lsns: Vec<(u64, u64)>,
    /// Documents whose vector or metadata can't be read.
    #[serde(serialize_with = "ids")]
    pub documents: BTreeSet<DocId>,
    /// Descriptions of losses of unknown extent.
    pub unknown: Vec<String>,
    /// Descriptions of data that was skipped without a loss.
    pub notes: Vec<String>,
}

fn ids<S: serde::Serializer>(
    documents: &BTreeSet<DocId>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(documents.iter().map(|id| id.0))
}

impl Loss {
    /// True if nothing is lost.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.lsns.is_empty() && self.documents.is_empty() && self.unknown.is_empty()
    }

    /// Removes the documents of a record from the loss: they are known again.
    pub(super) fn forget(&mut self, record: &Record) {
        match record {
            Record::Put { id, .. } | Record::Delete { id } => {
                self.documents.remove(id);
            }
            Record::DeleteBatch { ids, .. } => self.documents.retain(|id| !ids.contains(id)),
            Record::SetPayload { .. } => {}
        }
    }

    pub(super) fn note(&mut self, what: String) {
        if self.notes.len() < LINES_MAX {
            self.notes.push(what);
        }
    }

    pub(super) fn lose(&mut self, what: String) {
        if self.unknown.len() < LINES_MAX {
            self.unknown.push(what);
        }
    }

    /// Number of changes that can't be read.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lsns.iter().map(|(first, last)| last + 1 - first).sum()
    }
}

/// A directory that was repaired.
#[derive(Clone, Debug, Serialize)]
pub struct Repaired {
    /// True if nothing is known to be lost.
    pub is_lossless: bool,
    /// True if also nothing else can be lost: MANIFEST was there, with the files that there should be, and their
    /// ends.
    pub is_certain: bool,
    /// Shards that were not touched.
    pub intact: Vec<u32>,
    /// Shards that were rebuilt.
    pub shards: Vec<RepairedShard>,
    /// The files that they were made of, and MANIFEST: they are in quarantine.
    pub quarantined: Vec<String>,
}

/// A shard that was rebuilt.
#[derive(Clone, Debug, Serialize)]
pub struct RepairedShard {
    /// Number of the shard.
    pub shard: u32,
    /// Number of documents that it has now.
    pub documents: usize,
    /// File of the snapshot with which it was begun.
    pub base: Option<String>,
    /// Number of records of the log that were applied to it.
    pub records: u64,
    /// Data that it lacks.
    pub loss: Loss,
    /// Descriptions of the former faults.
    pub was: Vec<String>,
}

impl Display for Repaired {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for shard in &self.shards {
            let base = shard.base.as_deref().unwrap_or("no snapshot");
            writeln!(
                f,
                "shard {}: {} documents, from {base} and {} records of the log",
                shard.shard, shard.documents, shard.records
            )?;
            shard.loss.fmt(f)?;
        }
        if !self.intact.is_empty() {
            let intact: Vec<String> = self.intact.iter().map(ToString::to_string).collect();
            writeln!(f, "not touched: shard {}", intact.join(", "))?;
        }
        writeln!(f, "in quarantine: {} files", self.quarantined.len())?;
        let verdict = match (self.is_lossless, self.is_certain) {
            (true, true) => "REPAIRED: nothing was lost",
            (true, false) => {
                "REPAIRED: nothing is known to be lost; but without the MANIFEST nothing tells \
                 whether the last files were all there"
            }
            (false, _) => {
                "REPAIRED WITH LOSS: what is told above is not there any more; a backup may have it"
            }
        };
        writeln!(f, "\n{verdict}")
    }
}

impl Display for Loss {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for (first, last) in self.lsns.iter().take(LINES_MAX) {
            let count = last + 1 - first;
            writeln!(f, "  lost: {count} changes, LSN {first} to {last}")?;
        }
        if self.lsns.len() > LINES_MAX {
            writeln!(f, "  and more such gaps; {} changes in all", self.changes())?;
        }
        if !self.documents.is_empty() {
            let shown = self.documents.iter().take(SHOWN_MAX).map(|id| id.0.to_string());
            let shown: Vec<String> = shown.collect();
            let more = if self.documents.len() > SHOWN_MAX { ", …" } else { "" };
            let count = self.documents.len();
            writeln!(f, "  lost: {count} documents: {}{more}", shown.join(", "))?;
        }
        for what in &self.unknown {
            writeln!(f, "  lost, and nobody can tell how much: {what}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  passed over: {note}"))
    }
}

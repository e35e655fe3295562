//! Requests of an operator to free space: dropping log segments that snapshots cover, and removing dead versions from
//! the graph without waiting until there are many.
//!
//! Both happen by themselves, too. These requests repeat what failed then, for example because MANIFEST could not be
//! written, and do now what would be done later.

use std::rc::Rc;

use super::core::Core;
use super::keeper::Change;
use super::reply::Reply;
use super::state::Shard;
use crate::error::{Error, Result};
use crate::wal::segment_name;

/// The log of a shard after truncation.
#[derive(Clone, Debug)]
pub struct Truncated {
    /// Names of removed files.
    pub removed: Vec<String>,
    /// Number of complete segments that are kept.
    pub kept: usize,
    /// Bytes in these segments.
    pub kept_bytes: u64,
    /// First LSN that is needed: the segments are kept for changes after the older of two snapshots.
    pub needed_from: u64,
}

/// A request that waits until dead documents have left the graph.
pub(super) struct Compaction {
    /// Number of removals since the start at which the request is done.
    removed: u64,
    /// Number of dead documents when it was made.
    count: u64,
    reply: Reply<Result<u64>>,
}

impl Shard {
    /// Drops the segments that snapshots cover.
    ///
    /// # Errors
    /// If MANIFEST can't be written, or vectors can't be read from the newest snapshot: then no file is removed.
    pub(super) async fn truncate(&self, core: &Core) -> Result<Truncated> {
        self.end_snapshots().await;
        let segments = self.snapshots.drop_covered();
        let mut names = self.snapshots.take_dispensable();
        names.extend(segments.iter().map(|&number| segment_name(self.id, number)));
        // Every change that made one of the files dispensable was requested before this one, so a MANIFEST with this
        // change contains those too.
        let kept = core.keep(Change::Truncated(self.id, segments)).await;
        let kept = kept.map_err(|why| format!("MANIFEST could not be written: {why}"));
        // Before a file is removed, no vector may be read from it any more.
        let noted = match kept {
            Ok(()) => self.note_named().await,
            failed => failed,
        };
        if let Err(why) = noted {
            self.snapshots.give_back_dispensable(names);
            return Err(Error::unavailable(why));
        }
        super::snapshot::remove(&*core.disk, names.iter().cloned()).await;
        let (kept, kept_bytes, needed_from) = self.snapshots.log_kept();
        tracing::info!(shard = self.id.0, removed = names.len(), kept, "the log is truncated");
        Ok(Truncated { removed: names, kept, kept_bytes, needed_from })
    }

    /// Removes the dead nodes that exist now from the graph.
    pub(super) fn compact(self: &Rc<Self>, core: &Core, reply: Reply<Result<u64>>) {
        if let Err(error) = self.check_readable() {
            return reply.send(Err(error));
        }
        let mut engine = self.engine.borrow_mut();
        let Some(engine) = &mut *engine else { return reply.send(Ok(0)) };
        let count = engine.compact() as u64;
        if count == 0 {
            return reply.send(Ok(0));
        }
        let removed = engine.healing().removed + count;
        self.compactions.borrow_mut().push(Compaction { removed, count, reply });
        core.upkeep.raise();
    }

    /// Answers requests whose dead nodes have been removed.
    pub(super) fn end_compactions(&self) {
        if self.compactions.borrow().is_empty() {
            return;
        }
        let is_readable = self.check_readable();
        // The engine of a fenced shard is not read.
        let removed = match is_readable {
            Ok(()) => self.engine.borrow().as_ref().map_or(0, |engine| engine.healing().removed),
            Err(_) => 0,
        };
        let is_done = |one: &mut Compaction| is_readable.is_err() || removed >= one.removed;
        let done: Vec<Compaction> = self.compactions.borrow_mut().extract_if(.., is_done).collect();
        for one in done {
            one.reply.send(is_readable.clone().map(|()| one.count));
        }
    }
}

//! An operator's asking for room: segments of the log that snapshots cover go, and dead versions are
//! taken out of the graph without waiting until there are many.
//!
//! Both happen by themselves. What is left to do here is what could not be done then, as where
//! MANIFEST could not be written, and what would be done later.

use std::rc::Rc;

use super::core::Core;
use super::keeper::Change;
use super::reply::Reply;
use super::state::Shard;
use crate::error::{Error, Result};
use crate::wal::segment_name;

/// What is left of a shard's log.
#[derive(Clone, Debug)]
pub struct Truncated {
    /// Files that are gone.
    pub removed: Vec<String>,
    /// Complete segments that are kept.
    pub kept: usize,
    /// Bytes in them.
    pub kept_bytes: u64,
    /// They are kept for what comes after the older of two snapshots: from this LSN on.
    pub needed_from: u64,
}

/// Somebody who waits until dead documents have left the graph.
pub(super) struct Compaction {
    /// Once so many have left it since the start.
    removed: u64,
    /// How many that is.
    count: u64,
    reply: Reply<Result<u64>>,
}

impl Shard {
    /// Drops the segments that snapshots cover.
    ///
    /// # Errors
    /// If MANIFEST can't be written, or vectors can't be read from where the newest snapshot has them: then
    /// nothing is gone.
    pub(super) async fn truncate(&self, core: &Core) -> Result<Truncated> {
        self.end_snapshots().await;
        let segments = self.snapshots.drop_covered();
        let mut names = self.snapshots.take_dispensable();
        names.extend(segments.iter().map(|&number| segment_name(self.id, number)));
        // Every change by which one of the files became dispensable was asked for before this one,
        // so the MANIFEST that has this one has that too.
        let kept = core.keep(Change::Truncated(self.id, segments)).await;
        let kept = kept.map_err(|why| format!("MANIFEST could not be written: {why}"));
        // No vector may be looked for in a file that goes.
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

    /// Has the dead nodes that there are now taken out of the graph.
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

    /// Tells those who wait for dead nodes to go.
    pub(super) fn end_compactions(&self) {
        if self.compactions.borrow().is_empty() {
            return;
        }
        let is_readable = self.check_readable();
        // Of a fenced shard nobody looks at the engine.
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

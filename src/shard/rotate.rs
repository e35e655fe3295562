//! An operator's asking for a fresh segment of a log: the one before is complete then, and can be copied,
//! checked or, once snapshots cover it, dropped.

use std::cell::RefCell;

use super::core::{Core, Shard};
use super::keeper::Change;
use super::reply::Reply;
use crate::error::Result;
use crate::manifest::Sealed;
use crate::types::ShardId;

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Number of the segment that is written now.
    pub segment: u64,
    /// It was begun for this; else nothing had been written to it yet, and it stays.
    pub is_new: bool,
}

/// Those who wait for a fresh segment.
pub(super) type Rotations = RefCell<Vec<Reply<Result<Rotated>>>>;

impl Shard {
    /// Has the log begin a fresh segment before it writes anything else.
    pub(super) fn rotate(&self, reply: Reply<Result<Rotated>>) {
        if let Err(error) = self.check_writable() {
            return reply.send(Err(error));
        }
        self.rotations.borrow_mut().push(reply);
        self.staged_event.raise();
    }
}

/// Has MANIFEST say where a segment ends; true if it does. Until then the header of the next
/// segment says so.
pub(super) async fn keep_end(core: &Core, id: ShardId, number: u64, sealed: Sealed) -> bool {
    let kept = core.keep(Change::Sealed(id, number, sealed)).await;
    if let Err(error) = &kept {
        tracing::warn!(shard = id.0, "MANIFEST could not be updated: {error}");
    }
    kept.is_ok()
}

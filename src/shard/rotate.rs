//! An operator's asking for a fresh segment of a log: the one before is complete then, and can be copied,
//! checked or, once snapshots cover it, dropped.

use std::cell::RefCell;
use std::time::Duration;

use super::core::Core;
use super::keeper::Change;
use super::reply::Reply;
use super::serve::cut;
use super::state::Shard;
use crate::disk::BLOCK;
use crate::error::Result;
use crate::manifest::Sealed;
use crate::types::ShardId;
use crate::wal::segment_name;

/// How long a change that MANIFEST has to record is waited for, where something else waits for that.
pub(super) const KEEP_PATIENCE: Duration = Duration::from_secs(2);

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

/// Has MANIFEST say where a log ends that is not written any more, so that the next start knows if
/// something of it is missing; then gives back the room behind. Where that fails, the next start reads
/// the log to its end and says so itself.
pub(super) async fn record_end(core: &Core, id: ShardId, number: u64, sealed: Sealed) {
    let keep = async { Ok(keep_end(core, id, number, sealed).await) };
    if !glommio::timer::timeout(KEEP_PATIENCE, keep).await.unwrap_or(false) {
        return;
    }
    // One without a group is removed by the next start, which knows it by its whole length.
    if sealed.end_bytes == BLOCK as u64 {
        return;
    }
    let name = segment_name(id, number);
    if let Err(error) = cut(&*core.disk, &name, sealed.end_bytes).await {
        tracing::warn!(shard = id.0, "space could not be given back: {error}");
    }
}

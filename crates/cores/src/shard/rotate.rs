//! Rotation of a log by an operator: the log continues in a fresh segment, and the one before is complete, so that it
//! can be copied, checked or, once snapshots cover it, dropped.

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

/// Longest wait for a change of MANIFEST while other work waits for the caller.
pub(super) const KEEP_PATIENCE: Duration = Duration::from_secs(2);

/// Result of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// Number of the active segment.
    pub segment: u64,
    /// The segment was begun for this request. False: the active segment had no groups yet, and stays.
    pub is_new: bool,
}

/// Requests that wait for a fresh segment.
pub(super) type Rotations = RefCell<Vec<Reply<Result<Rotated>>>>;

impl Shard {
    /// Makes the log begin a fresh segment before its next write.
    pub(super) fn rotate(&self, reply: Reply<Result<Rotated>>) {
        if let Err(error) = self.check_writable() {
            return reply.send(Err(error));
        }
        self.rotations.borrow_mut().push(reply);
        self.staged_event.raise();
    }
}

/// Records the end of a segment in MANIFEST; true if that is durable. Until then the header of the next segment records
/// it.
pub(super) async fn keep_end(core: &Core, id: ShardId, number: u64, sealed: Sealed) -> bool {
    let kept = core.keep(Change::Sealed(id, number, sealed)).await;
    if let Err(error) = &kept {
        tracing::warn!(shard = id.0, "MANIFEST could not be updated: {error}");
    }
    kept.is_ok()
}

/// Records in MANIFEST the end of a log that is not written any more, so that the next start knows if a part of it is
/// missing; then frees the space behind it. If that fails, the next start reads the log to its end and reports a torn
/// tail itself.
pub(super) async fn record_end(core: &Core, id: ShardId, number: u64, sealed: Sealed) {
    let keep = async { Ok(keep_end(core, id, number, sealed).await) };
    if !glommio::timer::timeout(KEEP_PATIENCE, keep).await.unwrap_or(false) {
        return;
    }
    // The next start removes a segment without a group, which it recognises by its unchanged length.
    if sealed.end_bytes == BLOCK as u64 {
        return;
    }
    let name = segment_name(id, number);
    if let Err(error) = cut(&*core.disk, &name, sealed.end_bytes).await {
        tracing::warn!(shard = id.0, "space could not be given back: {error}");
    }
}

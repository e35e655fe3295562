//! The only writer of MANIFEST: a task of the first core, whom the others send their changes.
//!
//! Changes that come while one is being written go into the next version together.

use std::cell::RefCell;
use std::rc::Rc;

use super::event::Event;
use super::reply::Reply;
use crate::disk::Disk;
use crate::manifest::{Manifest, Sealed, Segment, Snapshot};
use crate::types::ShardId;
use crate::wal::segment_name;

/// A change of MANIFEST.
#[derive(Clone, Debug)]
pub enum Change {
    /// All of it: at start.
    Replace(Manifest),
    /// A segment will be written next.
    Added(ShardId, u64),
    /// A segment is complete.
    Sealed(ShardId, u64, Sealed),
    /// A segment could not be begun: the log goes on in another one.
    Unused(ShardId, u64),
    /// Complete segments that snapshots cover go.
    Truncated(ShardId, Vec<u64>),
    /// The first document has decided the dimension.
    Dimension(u32),
    /// A snapshot is durable; what it makes dispensable goes.
    Snapshotted {
        /// The new one.
        snapshot: Snapshot,
        /// Numbers of snapshots of the shard that are not needed any more.
        dropped_snapshots: Vec<u64>,
        /// Numbers of segments of the shard that are not needed any more.
        dropped_segments: Vec<u64>,
    },
}

impl Change {
    pub(crate) fn apply(self, manifest: &mut Option<Manifest>) {
        if let Self::Replace(whole) = self {
            *manifest = Some(whole);
            return;
        }
        let manifest = manifest.as_mut().expect("a directory is opened before it changes");
        match self {
            Self::Replace(_) => {}
            Self::Added(shard, number) => {
                let file = segment_name(shard, number);
                let shard = shard.0;
                // Asked again, where it is not known whether the first time has reached the disk.
                if !manifest.segments.iter().any(|segment| segment.file == file) {
                    manifest.segments.push(Segment { shard, number, file, sealed: None });
                }
            }
            Self::Sealed(shard, number, sealed) => {
                let is_it = |s: &&mut Segment| (s.shard, s.number) == (shard.0, number);
                if let Some(segment) = manifest.segments.iter_mut().find(is_it) {
                    segment.sealed = Some(sealed);
                }
            }
            Self::Unused(shard, number) => {
                manifest.segments.retain(|s| (s.shard, s.number) != (shard.0, number));
            }
            Self::Truncated(shard, numbers) => {
                manifest.segments.retain(|s| s.shard != shard.0 || !numbers.contains(&s.number));
            }
            Self::Dimension(dimension) => manifest.dimension = dimension,
            Self::Snapshotted { snapshot, dropped_snapshots, dropped_segments } => {
                let shard = snapshot.shard;
                manifest.snapshots.retain(|s| {
                    s.shard != shard
                        || s.number != snapshot.number && !dropped_snapshots.contains(&s.number)
                });
                manifest.snapshots.push(snapshot);
                manifest
                    .segments
                    .retain(|s| s.shard != shard || !dropped_segments.contains(&s.number));
            }
        }
    }
}

type Asked = (Change, Reply<Result<(), String>>);

/// What the task and those who ask share.
#[derive(Default)]
pub(super) struct Keeper {
    asked: RefCell<Vec<Asked>>,
    event: Event,
}

impl Keeper {
    /// Asks for a change; the reply comes when it is durable.
    pub(super) fn ask(&self, change: Change, reply: Reply<Result<(), String>>) {
        self.asked.borrow_mut().push((change, reply));
        self.event.raise();
    }

    /// Runs for ever.
    pub(super) async fn run<D: Disk>(self: Rc<Self>, disk: Rc<D>) {
        let mut manifest = None;
        loop {
            self.event.wait().await;
            let asked = std::mem::take(&mut *self.asked.borrow_mut());
            let mut replies = Vec::with_capacity(asked.len());
            for (change, reply) in asked {
                change.apply(&mut manifest);
                replies.push(reply);
            }
            let Some(manifest) = &manifest else {
                continue;
            };
            let published = manifest.publish(&*disk).await.map_err(|error| error.to_string());
            for reply in replies {
                reply.send(published.clone());
            }
        }
    }
}

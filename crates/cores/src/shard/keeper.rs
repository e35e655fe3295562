//! The only writer of MANIFEST: a task of the first core, to which other cores send their changes.
//!
//! Changes that arrive while a version is being written go into the next version together.

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
    /// Replace the whole content, at start.
    Replace(Manifest),
    /// The log will write to this segment next.
    Added(ShardId, u64),
    /// A segment is complete.
    Sealed(ShardId, u64, Sealed),
    /// A segment could not be begun: the log goes on in another one.
    Unused(ShardId, u64),
    /// These complete segments, which snapshots cover, are dropped.
    Truncated(ShardId, Vec<u64>),
    /// The first document has decided the dimension.
    Dimension(u32),
    /// A snapshot is durable; older snapshots and segments are dropped.
    Snapshotted {
        /// The new snapshot.
        snapshot: Snapshot,
        /// Numbers of the shard's snapshots that are not needed any more.
        dropped_snapshots: Vec<u64>,
        /// Numbers of the shard's segments that are not needed any more.
        dropped_segments: Vec<u64>,
    },
}

impl Change {
    /// True if the change reports a fact: if MANIFEST can't be written, its next version contains it. Any other change
    /// is a request, and is undone if it is refused.
    fn is_fact(&self) -> bool {
        match self {
            Self::Sealed(..)
            | Self::Unused(..)
            | Self::Truncated(..)
            | Self::Snapshotted { .. } => true,
            Self::Replace(_) | Self::Added(..) | Self::Dimension(_) => false,
        }
    }

    fn apply(self, manifest: &mut Option<Manifest>) {
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
                // The change is sent again if it is not known whether the first one reached the disk.
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

/// Applies `changes` to `manifest`. Returns the state to continue with if the new one can't be published: it contains
/// the facts among the changes and none of the requests.
pub fn apply_all(
    manifest: &mut Option<Manifest>,
    changes: impl IntoIterator<Item = Change>,
) -> Option<Manifest> {
    let mut refused = manifest.clone();
    for change in changes {
        if change.is_fact() {
            change.clone().apply(&mut refused);
        }
        change.apply(manifest);
    }
    refused
}

type Asked = (Change, Reply<Result<(), String>>);

/// State that the task and its callers share.
#[derive(Default)]
pub(super) struct Keeper {
    asked: RefCell<Vec<Asked>>,
    event: Event,
}

impl Keeper {
    /// Sends a change; the reply comes once it is durable.
    pub(super) fn ask(&self, change: Change, reply: Reply<Result<(), String>>) {
        self.asked.borrow_mut().push((change, reply));
        self.event.raise();
    }

    /// Runs until the executor ends.
    pub(super) async fn run<D: Disk>(self: Rc<Self>, disk: Rc<D>) {
        let mut manifest = None;
        loop {
            self.event.wait().await;
            let asked = std::mem::take(&mut *self.asked.borrow_mut());
            let (changes, replies): (Vec<Change>, Vec<_>) = asked.into_iter().unzip();
            let refused = apply_all(&mut manifest, changes);
            let Some(changed) = &manifest else {
                continue;
            };
            let published = changed.publish(&*disk).await.map_err(|error| error.to_string());
            if published.is_err() && refused != manifest {
                manifest = refused;
                put_back(&*disk, &manifest).await;
            }
            for reply in replies {
                reply.send(published.clone());
            }
        }
    }
}

/// Writes the state before a failed publication once more, if the disk permits. The failed version may be the one in
/// the directory if only the last step failed.
async fn put_back<D: Disk>(disk: &D, manifest: &Option<Manifest>) {
    if let Some(manifest) = manifest
        && let Err(error) = manifest.publish(disk).await
    {
        tracing::debug!("MANIFEST is not put back yet: {error}");
    }
}

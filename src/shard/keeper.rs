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
    /// True if it tells what has happened already: where MANIFEST can't be written, its next
    /// version says so. Any other change asks for something, and is undone if that is refused.
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

/// Makes `changes` to `manifest`. Returns the state to go on with if the new one can't be published:
/// it has what has happened, and nothing of what was asked for.
pub(crate) fn apply_all(
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

/// A version that could not be published may have become the one of the directory all the same,
/// where only the last step failed. Writes the state before it once more, if the disk lets us.
async fn put_back<D: Disk>(disk: &D, manifest: &Option<Manifest>) {
    if let Some(manifest) = manifest
        && let Err(error) = manifest.publish(disk).await
    {
        tracing::debug!("MANIFEST is not put back yet: {error}");
    }
}

//! The order in which files have to become durable: the disk checks it at every rename and every acknowledgement, in
//! all simulations but the one that shows that crashes alone would reveal a fault.

use crate::disk::sim::Claim;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::snapshot::snapshot_name;
use crate::types::ShardId;

/// The files on which MANIFEST relies: complete segments up to their ends, the names of those that are being written,
/// and all files of snapshots.
pub(super) fn claims(name: &str, content: &[u8]) -> Vec<Claim> {
    if name != MANIFEST_NAME {
        return Vec::new();
    }
    let manifest = Manifest::decode(content).expect("MANIFEST was just written");
    let segments = manifest.segments.iter().map(|segment| Claim {
        name: segment.file.clone(),
        bytes: Some(segment.sealed.map_or(0, |sealed| sealed.end_bytes)),
    });
    let snapshots = manifest.snapshots.iter().flat_map(|snapshot| {
        let name = |&number| snapshot_name(ShardId(snapshot.shard), number);
        snapshot.files.iter().map(name).map(|name| Claim { name, bytes: None })
    });
    segments.chain(snapshots).collect()
}

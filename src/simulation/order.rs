//! The order in which files have to become durable: the disk checks it at every rename and every acknowledgement, in
//! all simulations but the one that shows that crashes alone would reveal a fault.

use std::panic::catch_unwind;
use std::rc::Rc;

use super::Known;
use super::machine::{Machine, SHARDS, watched_disk};
use super::script::{LENGTH, perform};
use crate::disk::Kind;
use crate::disk::sim::{Claim, Fault};
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::sabotage::{Pillar, switch_off};
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

/// The script on a disk that works until the last sync of its first write, and is then found by another process.
fn work() {
    let disk = watched_disk();
    let fresh = vec![Known::default(); SHARDS as usize];
    let mut machine = Machine::boot(&disk, &fresh).expect("a disk that works");
    (0..LENGTH).for_each(|index| perform(&mut machine, index, 0).expect("a disk that works"));
    disk.fault_from(disk.calls() + 2, Fault::Fails(Kind::Failed));
    perform(&mut machine, 0, 1).expect_err("its sync fails");
    let disk = Rc::new(disk.restarted());
    Machine::boot(&disk, &machine.known()).expect("a disk that works again");
}

/// Nothing crashes here: the order alone is noticed.
#[test]
fn a_wrong_order_is_noticed_when_it_happens() {
    work();
    for (pillar, noticed) in [
        (Pillar::SyncBeforeAck, "an acknowledgement relies on wal_"),
        (Pillar::SyncBeforeRename, "MANIFEST gets a file that is not durable"),
        (Pillar::NameBeforeManifest, "whose name is not durable"),
        (Pillar::SyncBeforeSnapshot, ".snap gets a file that is not durable"),
        (Pillar::WriteAgain, ".wal, which is not durable"),
    ] {
        switch_off(Some(pillar));
        let panic = catch_unwind(work);
        switch_off(None);
        let panic = panic.expect_err("it goes unnoticed").downcast::<String>();
        let message = panic.expect("a message with a name");
        assert!(message.contains(noticed), "{pillar:?} off: {message}");
    }
}

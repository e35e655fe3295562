//! The watch of the order notices a durability step that is switched off, without any crash.

use std::panic::catch_unwind;
use std::rc::Rc;

use super::Known;
use super::machine::{Machine, SHARDS, watched_disk};
use super::script::{LENGTH, perform};
use crate::disk::Kind;
use crate::disk::sim::Fault;
use crate::sabotage::{Pillar, switch_off};

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

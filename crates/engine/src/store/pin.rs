//! Pins: how an owner learns which of its states others look at, and keeps those.
//!
//! An owner drops versions, and fills slots again, that no open view sees. Each reader tells each owner the oldest of
//! the owner's states that the reader looks at, a *pin*. No lock is taken, so the two may miss each other by a
//! moment:
//!
//! - the reader sets its pin to the owner's applied LSN, and *then* reads that LSN again: the second value is the LSN
//!   of its view;
//! - the owner publishes its applied LSN, and *then* reads the pins.
//!
//! Between the two halves of each lies a sequentially consistent fence. So either the owner sees the pin, and keeps
//! the versions that are visible at it; or the reader sees all that the owner had applied when it read the pins, and
//! a view of that state has no use for the versions that the owner drops.

use super::member::{Member, NEVER};
use crate::sync::atomic::{Ordering, fence};
use crate::types::Lsn;

/// Pins the current applied LSN of every owner for `reader`, and writes the LSNs that it may look at to `pins`.
/// `is_first` if the reader holds no other pin.
pub(super) fn pin(members: &[Member], reader: u32, pins: &mut Vec<Lsn>, is_first: bool) {
    let others = || members.iter().enumerate().filter(|&(owner, _)| owner != reader as usize);
    if is_first {
        for (_, member) in others() {
            member.set_pin(reader, member.applied().0);
        }
        fence(Ordering::SeqCst);
    }
    pins.clear();
    pins.extend(members.iter().map(Member::applied));
}

/// Publishes the LSNs of the oldest view of `reader`, by owner; `None` if it has no view.
pub(super) fn publish(members: &[Member], reader: u32, pins: Option<&[Lsn]>) {
    for (owner, member) in members.iter().enumerate() {
        if owner != reader as usize {
            member.set_pin(reader, pins.map_or(NEVER, |pins| pins[owner].0));
        }
    }
}

/// The oldest state of `owner` that others look at, read after the owner has published its applied LSN; [`NEVER`] if
/// there is none.
pub(super) fn oldest(members: &[Member], owner: u32) -> u64 {
    fence(Ordering::SeqCst);
    let member = &members[owner as usize];
    let readers = (0..members.len() as u32).filter(|&reader| reader != owner);
    readers.map(|reader| member.pin(reader)).min().unwrap_or(NEVER)
}

//! Pins: how an owner learns which of its states others look at, and keeps those.
//!
//! An owner drops versions, and fills slots again, that no open view sees. Each reader tells each
//! owner the oldest of its states that it looks at, a *pin*. No lock is taken, so the two may miss
//! each other by a moment:
//!
//! - the reader sets its pin to what the owner has applied, and *then* asks again what that is: the
//!   answer is the LSN of its view;
//! - the owner publishes what it has applied, and *then* asks for the pins.
//!
//! Between the two halves of each lies a sequentially consistent fence. So either the owner sees
//! the pin, and keeps what is of use at it; or the reader sees all that the owner had applied when
//! it asked, and a view of that has no use for what the owner drops.

use super::member::{Member, NEVER};
use crate::sync::atomic::{Ordering, fence};
use crate::types::Lsn;

/// Sees to it that `reader` can look at a state of each owner, and says at which: `is_first` if it
/// looks at none yet.
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

/// The oldest view of `reader` has these LSNs.
pub(super) fn publish(members: &[Member], reader: u32, pins: Option<&[Lsn]>) {
    for (owner, member) in members.iter().enumerate() {
        if owner != reader as usize {
            member.set_pin(reader, pins.map_or(NEVER, |pins| pins[owner].0));
        }
    }
}

/// The oldest state of `owner` that others look at, after it has published what it has applied;
/// [`NEVER`] if nobody does.
pub(super) fn oldest(members: &[Member], owner: u32) -> u64 {
    fence(Ordering::SeqCst);
    let member = &members[owner as usize];
    let readers = (0..members.len() as u32).filter(|&reader| reader != owner);
    readers.map(|reader| member.pin(reader)).min().unwrap_or(NEVER)
}

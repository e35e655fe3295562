//! Lifetime of the version in a slot: its LSNs of birth and death, read by searches while the owner fills the slot
//! again.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::types::Lsn;

/// `[born, died]` as LSNs. `died` is 0 in a slot never used, [`ALIVE`] while the version is alive.
pub(super) type Life = [AtomicU64; 2];

pub(super) const ALIVE: u64 = u64::MAX;

/// LSNs of birth and death.
#[inline]
pub(super) fn read(life: &Life) -> [u64; 2] {
    // In the opposite order to the writes: while the slot is being filled again, `died` is either that of the former
    // version, which no open view sees, or the new birth is visible.
    let died = life[1].load(Ordering::Acquire);
    [life[0].load(Ordering::Acquire), died]
}

/// Begins another version, of which all other data is written. For the owner alone.
pub(super) fn write(life: &Life, [born, died]: [u64; 2]) {
    life[0].store(born, Ordering::Release);
    life[1].store(died, Ordering::Release);
}

/// Ends the version. For the owner alone.
pub(super) fn end(life: &Life, died: Lsn) {
    life[1].store(died.0, Ordering::Release);
}

/// True if the version is alive now.
#[inline]
pub(super) fn is_live(life: &Life) -> bool {
    life[1].load(Ordering::Acquire) == ALIVE
}

/// True if the state at `snapshot` has the version.
#[inline]
pub(super) fn is_visible(life: &Life, snapshot: Lsn) -> bool {
    let [born, died] = read(life);
    born <= snapshot.0 && snapshot.0 < died
}

//! Switches off, in tests alone, one of the things that durability rests on: a simulation that
//! does not notice would be worth nothing. Elsewhere nothing is ever off, at no cost.

/// Something that durability rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pillar {
    /// A write is synced before it is acknowledged.
    SyncBeforeAck,
    /// A record is what its checksum says.
    RecordChecksum,
    /// A group, a segment and a snapshot continue the very log before them.
    Chain,
    /// LSNs go on from segment to segment without a gap.
    LsnGap,
    /// A file is synced before it takes the name of another.
    SyncBeforeRename,
    /// A segment's name is durable before MANIFEST has it.
    NameBeforeManifest,
    /// A snapshot is synced before it gets its name.
    SyncBeforeSnapshot,
    /// What nothing vouches for is written again before MANIFEST relies on it.
    WriteAgain,
}

#[cfg(test)]
thread_local! {
    static OFF: std::cell::Cell<Option<Pillar>> = const { std::cell::Cell::new(None) };
}

/// True if it is switched off.
#[cfg(test)]
pub(crate) fn is_off(pillar: Pillar) -> bool {
    OFF.get() == Some(pillar)
}

/// True if it is switched off: never.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn is_off(_: Pillar) -> bool {
    false
}

/// Switches one off on this thread, or none.
#[cfg(test)]
pub(crate) fn switch_off(pillar: Option<Pillar>) {
    OFF.set(pillar);
}

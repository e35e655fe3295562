//! Switches off one durability step, in tests alone: a simulation that does not notice would be worth nothing.
//! Outside of tests no step is ever off, at no cost.

/// A step that durability rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pillar {
    /// A write is synced before it is acknowledged.
    SyncBeforeAck,
    /// A record is checked against its checksum.
    RecordChecksum,
    /// A group, a segment and a snapshot continue the very log before them.
    Chain,
    /// LSNs continue from segment to segment without a gap.
    LsnGap,
    /// A file is synced before it takes the name of another.
    SyncBeforeRename,
    /// The name of a segment is durable before MANIFEST lists the segment.
    NameBeforeManifest,
    /// A snapshot is synced before it gets its name.
    SyncBeforeSnapshot,
    /// Records that no seal, sync or later group confirms are written again before MANIFEST relies on them.
    WriteAgain,
}

#[cfg(any(test, feature = "testing"))]
thread_local! {
    static OFF: std::cell::Cell<Option<Pillar>> = const { std::cell::Cell::new(None) };
}

/// True if this step is switched off.
#[cfg(any(test, feature = "testing"))]
pub fn is_off(pillar: Pillar) -> bool {
    OFF.get() == Some(pillar)
}

/// True if this step is switched off: never, outside of tests.
#[cfg(not(any(test, feature = "testing")))]
#[inline(always)]
pub const fn is_off(_: Pillar) -> bool {
    false
}

/// Switches one step off on this thread, or none.
#[cfg(any(test, feature = "testing"))]
pub fn switch_off(pillar: Option<Pillar>) {
    OFF.set(pillar);
}

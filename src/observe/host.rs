//! What the system says of this process and its files. Threads of their own look (`status/look`), since
//! a disk that hangs holds up who looks; everybody else reads what they saw last.

use super::counters::Gauge;

/// Seen last.
#[derive(Default)]
pub struct Host {
    /// Resident memory, in bytes.
    pub resident_bytes: Gauge,
    /// The most there has been, in bytes.
    pub peak_bytes: Gauge,
    /// File descriptors that are open.
    pub open_fds: Gauge,
    /// Bytes that the files of the data directory take on disk.
    pub disk_used_bytes: Gauge,
}

//! Memory, file descriptors and disk use of this process. Threads of their own measure them (`status/look`), since a
//! disk that hangs blocks the measuring thread; other threads read the last values.

use super::counters::Gauge;

/// The last measured values.
#[derive(Default)]
pub struct Host {
    /// Resident memory, in bytes.
    pub resident_bytes: Gauge,
    /// Peak of resident memory, in bytes.
    pub peak_bytes: Gauge,
    /// Open file descriptors.
    pub open_fds: Gauge,
    /// Bytes that the files of the data directory take on disk.
    pub disk_used_bytes: Gauge,
}

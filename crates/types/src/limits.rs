//! Bounds that several parts of the program share: sizes in bytes, counts of slots, shards and values.

/// Bytes of a disk block, the unit of direct reads and writes: the largest sector of common devices.
pub const BLOCK: usize = 4_096;

/// Most bytes of records in one group of the log. The limit bounds memory while a log is read, and the work of one
/// sync.
pub const GROUP_BYTES_MAX: usize = 1 << 20;

/// Most slots of one shard. A partition has at most as many per owner, and 2³⁰ in all (`types/stripe.rs`).
pub const SLOTS_MAX: usize = 1 << 26;

/// Most owners of a partition.
pub const OWNERS_MAX: u32 = 256;

/// Most shards of a directory, and most cores.
pub const SHARDS_MAX: u32 = 1_024;

/// Most values of a vector.
pub const DIMENSION_MAX: usize = 4_096;

/// Most levels above level 0 that a node can have. With M = 5, the smallest, the expected top level of
/// 67 million nodes is 11.
pub const LEVEL_MAX: u8 = 15;

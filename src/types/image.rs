//! The state of a shard as a value: parts in blocks of rows, as snapshots store them and as the engine gives
//! and takes them.

use super::metric::Metric;
use super::stripe::Stripe;

/// Extents looked at in one piece of work on a core.
pub const EXTENTS_AT_ONCE: usize = 1_024;

/// Longest extent: a block of payloads, each of the largest size.
pub const EXTENT_BYTES_MAX: usize = 32 << 20;

/// Slots in a block of the parts that have a small row for each.
pub const SLOTS_IN_BLOCK: u32 = 4_096;

/// Slots in a block of payloads.
pub const PAYLOADS_IN_BLOCK: u32 = 256;

/// Entries in a block of the index.
pub const INDEX_IN_BLOCK: u32 = 16_384;

/// Rows in a block of vectors, each of `row_bytes`.
#[must_use]
pub const fn vectors_in_block(row_bytes: usize) -> u32 {
    power_of_two(256 << 10, row_bytes)
}

/// Rows in a block of links, each of `row_bytes`.
#[must_use]
pub const fn links_in_block(row_bytes: usize) -> u32 {
    power_of_two(64 << 10, row_bytes)
}

/// The largest power of two of rows that fits, at least one.
const fn power_of_two(bytes: usize, row_bytes: usize) -> u32 {
    let rows = bytes / row_bytes;
    if rows == 0 { 1 } else { 1 << rows.ilog2() }
}

/// What an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Part {
    /// Rows of vectors.
    Vectors = 1,
    /// Metadata.
    Payloads = 2,
    /// When versions were born and died.
    Lives = 3,
    /// Document ids.
    Ids = 4,
    /// Levels of nodes.
    Levels = 5,
    /// Where the lists above level 0 of a node are.
    UpperStarts = 6,
    /// Adjacency on level 0.
    Links = 7,
    /// Adjacency above.
    UpperLinks = 8,
    /// Document id to slot.
    Index = 9,
}

impl Part {
    /// Every part, in the order of its numbers.
    pub const ALL: [Self; 9] = [
        Self::Vectors,
        Self::Payloads,
        Self::Lives,
        Self::Ids,
        Self::Levels,
        Self::UpperStarts,
        Self::Links,
        Self::UpperLinks,
        Self::Index,
    ];

    /// True if blocks that have not changed stay where an earlier snapshot has put them.
    #[must_use]
    pub fn is_carried(self) -> bool {
        matches!(self, Self::Vectors | Self::Payloads)
    }
}

/// Some rows of a part, in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What it holds.
    pub part: Part,
    /// Which of the part's blocks.
    pub block: u32,
    /// Number of the snapshot in whose file it lies.
    pub file: u64,
    /// Where in the file.
    pub offset: u64,
    /// Its length without padding.
    pub bytes: u32,
    /// Checksum of its whole blocks.
    pub crc: u32,
}

/// What kind of state it is, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How vectors are compared.
    pub metric: Metric,
    /// Values in a vector.
    pub dimension: u32,
    /// Links of a node, as in the graph's parameters.
    pub m: u32,
    /// Slots.
    pub slots: u32,
    /// Documents alive.
    pub live: u32,
    /// Nodes in the graph.
    pub linked: u32,
    /// Those of them that are dead.
    pub dead_linked: u32,
    /// Lists above level 0.
    pub upper_lists: u32,
    /// Where walks begin, as the graph keeps it.
    pub entry: u64,
    /// Whose slots they are, of those in the partition.
    pub stripe: Stripe,
}

//! The state of a shard as a value: parts in blocks of rows, as snapshots store them and as the engine writes and
//! restores them.

use super::metric::Metric;
use super::stripe::Stripe;

/// Extents processed in one slice of work on a core.
pub const EXTENTS_AT_ONCE: usize = 1_024;

/// Largest length of an extent, in bytes: a block of payloads, each of the largest size.
pub const EXTENT_BYTES_MAX: usize = 32 << 20;

/// Slots in a block of each part that has a small row per slot.
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

/// The largest power of two of rows that fits into `bytes`, at least 1.
const fn power_of_two(bytes: usize, row_bytes: usize) -> u32 {
    let rows = bytes / row_bytes;
    if rows == 0 { 1 } else { 1 << rows.ilog2() }
}

/// The kind of data in an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Part {
    /// Rows of vectors.
    Vectors = 1,
    /// Metadata.
    Payloads = 2,
    /// LSNs at which versions were born and died.
    Lives = 3,
    /// Document ids.
    Ids = 4,
    /// Levels of nodes.
    Levels = 5,
    /// Positions of a node's lists above level 0.
    UpperStarts = 6,
    /// Links on level 0.
    Links = 7,
    /// Links above level 0.
    UpperLinks = 8,
    /// The index from document id to slot.
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

    /// True if unchanged blocks of this part stay in the file of an earlier snapshot.
    #[must_use]
    pub fn is_carried(self) -> bool {
        matches!(self, Self::Vectors | Self::Payloads)
    }
}

/// A block of rows of one part, in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The kind of data.
    pub part: Part,
    /// Number of the block within its part.
    pub block: u32,
    /// Number of the snapshot in whose file the extent lies.
    pub file: u64,
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes, without padding.
    pub bytes: u32,
    /// Checksum of its whole 4 KiB blocks.
    pub crc: u32,
}

/// The parameters of a shard's state, and its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How vectors are compared.
    pub metric: Metric,
    /// Values in a vector.
    pub dimension: u32,
    /// Links of a node, as in the graph's parameters.
    pub m: u32,
    /// Slots in use.
    pub slots: u32,
    /// Live documents.
    pub live: u32,
    /// Nodes in the graph.
    pub linked: u32,
    /// Dead nodes among them.
    pub dead_linked: u32,
    /// Lists above level 0.
    pub upper_lists: u32,
    /// Entry point of walks, in the graph's own encoding.
    pub entry: u64,
    /// The slots of the shard among those of its partition.
    pub stripe: Stripe,
}

//! A shard's state in files, so that a start reads the changes since, and not the whole log.
//!
//! A snapshot is what the shard was after one record of its log: vectors, ids, lifetimes, metadata and the graph, in
//! *extents* of whole blocks, each with its checksum. Its file holds the extents that have changed since the snapshot
//! before, and a table of all of them, also of those that lie in files of earlier snapshots: the bytes written follow
//! the changes. Vectors and metadata are carried over like that; adjacency, ids and lifetimes are small, change often
//! and are written whole.
//!
//! ```text
//! header, one block                        table of extents, 32 bytes each, at the table offset
//!   0 magic "KYSN"      u32                 0 part             u32
//!   4 format version    u16                 4 block            u32
//!   6 metric            u16                 8 file number      u64
//!   8 shard             u32                16 offset           u64
//!  12 chain             u32                24 bytes            u32
//!  16 number            u64                28 crc              u32
//!  24 epoch             u64
//!  32 next LSN          u64                part    rows of                       a block has
//!  40 made, Unix ms     u64                1  vectors, padded to 64 bytes        256 KiB of rows
//!  48 dimension         u32                2  payloads: 257 ends u32, the bytes  256 slots
//!  52 m                 u32                3  born u64, died u64                 4,096 slots
//!  56 slots             u32                4  document id u64                    4,096 slots
//!  60 live documents    u32                5  level + 1 u8, 0: not linked        4,096 slots
//!  64 linked nodes      u32                6  first upper list + 1 u32           4,096 slots
//!  68 dead linked nodes u32                7  links u32, slot + 1, 0: none       64 KiB of rows
//!  72 upper lists       u32                8  links above level 0                64 KiB of rows
//!  76 extents           u32                9  index: slot + 1 u32 by hash of id  16,384 entries
//!  80 entry             u64
//!  88 table offset      u64
//!  96 file bytes        u64
//! 104 table crc         u32
//! 108 crc of 0..108     u32
//! 112 zeros to the end of the block
//! ```
//!
//! The index has no entries if ids are constructed to crowd in it: then a start makes tables of the ids.
//!
//! For a shard that shares its graph with others, version 2 adds its place: its number among the owners at 108, their
//! count at 112, and the checksum of 0..116 at 116. Slots are numbered among those of the shard, except in links,
//! which have their names in the partition ([`stripe`](crate::types::stripe)).
//!
//! Integers are little-endian, checksums CRC-32C over whole blocks, padding included. The position (next LSN, chain)
//! is where the log goes on, and proves that it is the log of this snapshot. The file is written under a temporary
//! name, synced, read back and compared, renamed, and only then named in MANIFEST ([`writer`]); it is never changed
//! afterwards. Everything is read through the same door as the log ([`reader`]), past the page cache and straight to
//! where it is used, so that no search ever waits for a page.

pub mod reader;
pub mod retain;
pub mod writer;

use crate::disk::BLOCK;
use crate::types::image::{EXTENT_BYTES_MAX, EXTENTS_AT_ONCE, Extent, Part, Shape};
use crate::types::metric::Metric;
use crate::types::position::Position;
use crate::types::stripe::{OWNERS_MAX, Stripe};
use crate::types::{Lsn, ShardId};

/// Version of the format.
pub const FORMAT_VERSION: u16 = 1;

/// Version of the format of a shard that shares its graph.
pub const FORMAT_VERSION_SHARED: u16 = 2;

const MAGIC: &[u8; 4] = b"KYSN";
const CHECKED_BYTES: usize = 108;
const CHECKED_BYTES_SHARED: usize = 116;
const EXTENT_BYTES: usize = 32;

/// Most extents of a snapshot: those of the most slots a shard can have, and some more.
const EXTENTS_MAX: u32 = 1 << 22;

const fn checked_bytes(version: u16) -> usize {
    if version == FORMAT_VERSION_SHARED { CHECKED_BYTES_SHARED } else { CHECKED_BYTES }
}

fn encode_extent(extent: &Extent, target: &mut Vec<u8>) {
    target.extend_from_slice(&(extent.part as u32).to_le_bytes());
    target.extend_from_slice(&extent.block.to_le_bytes());
    target.extend_from_slice(&extent.file.to_le_bytes());
    target.extend_from_slice(&extent.offset.to_le_bytes());
    target.extend_from_slice(&extent.bytes.to_le_bytes());
    target.extend_from_slice(&extent.crc.to_le_bytes());
}

fn decode_extent(bytes: &[u8; EXTENT_BYTES]) -> Result<Extent, String> {
    let part = read_u32(bytes, 0);
    let part = Part::ALL.into_iter().find(|known| *known as u32 == part);
    let extent = Extent {
        part: part.ok_or("an extent of an unknown part")?,
        block: read_u32(bytes, 4),
        file: read_u64(bytes, 8),
        offset: read_u64(bytes, 16),
        bytes: read_u32(bytes, 24),
        crc: read_u32(bytes, 28),
    };
    if extent.bytes as usize > EXTENT_BYTES_MAX || !extent.offset.is_multiple_of(BLOCK as u64) {
        return Err("an extent that is too long, or not at a block".into());
    }
    Ok(extent)
}

/// The first block of a snapshot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Shard whose state it is.
    pub shard: ShardId,
    /// Number of the snapshot, from 1.
    pub number: u64,
    /// Epoch of the log's writer when it was made.
    pub epoch: u64,
    /// Position at which the log continues.
    pub position: Position,
    /// Time at which it was made, Unix milliseconds.
    pub unix_ms: u64,
    /// Parameters and counts of the state.
    pub shape: Shape,
    /// Number of extents in its table.
    pub extents: u32,
    /// Offset of the table, in bytes.
    pub table_offset: u64,
    /// Checksum of the table's whole blocks.
    pub table_crc: u32,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

impl Header {
    /// Writes the header to a zeroed block.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK);
        let shape = &self.shape;
        let is_shared = shape.stripe.owners() > 1;
        let version = if is_shared { FORMAT_VERSION_SHARED } else { FORMAT_VERSION };
        block[..4].copy_from_slice(MAGIC);
        block[4..6].copy_from_slice(&version.to_le_bytes());
        block[6..8].copy_from_slice(&metric_code(shape.metric).to_le_bytes());
        let words: [(usize, u32); 11] = [
            (8, self.shard.0),
            (12, self.position.chain),
            (48, shape.dimension),
            (52, shape.m),
            (56, shape.slots),
            (60, shape.live),
            (64, shape.linked),
            (68, shape.dead_linked),
            (72, shape.upper_lists),
            (76, self.extents),
            (104, self.table_crc),
        ];
        let longs: [(usize, u64); 7] = [
            (16, self.number),
            (24, self.epoch),
            (32, self.position.next_lsn.0),
            (40, self.unix_ms),
            (80, shape.entry),
            (88, self.table_offset),
            (96, self.file_bytes),
        ];
        for (offset, value) in words {
            block[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        }
        for (offset, value) in longs {
            block[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        }
        if is_shared {
            block[108..112].copy_from_slice(&shape.stripe.owner().to_le_bytes());
            block[112..116].copy_from_slice(&shape.stripe.owners().to_le_bytes());
        }
        let checked = checked_bytes(version);
        let crc = crc32c::crc32c(&block[..checked]);
        block[checked..checked + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// The format of a snapshot that a later version of this program made; `None` for any other block.
    /// Formats after 2 keep the checksum of bytes 0 to 116 at 116.
    #[must_use]
    pub fn newer_version(block: &[u8]) -> Option<u16> {
        let header = block.get(..CHECKED_BYTES_SHARED + 4)?;
        let crc = crc32c::crc32c(&header[..CHECKED_BYTES_SHARED]);
        let is_whole = crc == read_u32(header, CHECKED_BYTES_SHARED);
        let version = u16::from_le_bytes([header[4], header[5]]);
        (&header[..4] == MAGIC && is_whole && version > FORMAT_VERSION_SHARED).then_some(version)
    }

    /// Reads a header, and checks all of its bytes.
    ///
    /// # Errors
    /// The reason why the block is no header.
    pub fn decode(block: &[u8]) -> Result<Self, String> {
        if block.len() != BLOCK || &block[..4] != MAGIC {
            return Err("not a snapshot".into());
        }
        let version = u16::from_le_bytes([block[4], block[5]]);
        let checked = checked_bytes(version);
        if crc32c::crc32c(&block[..checked]) != read_u32(block, checked) {
            return Err("bad checksum of the snapshot header".into());
        }
        if ![FORMAT_VERSION, FORMAT_VERSION_SHARED].contains(&version) {
            return Err(format!(
                "snapshot format version {version}; this program reads the versions \
                 {FORMAT_VERSION} and {FORMAT_VERSION_SHARED}"
            ));
        }
        let stripe = match version {
            FORMAT_VERSION_SHARED => {
                let (owner, owners) = (read_u32(block, 108), read_u32(block, 112));
                if owner >= owners || owners > OWNERS_MAX {
                    return Err(format!("a snapshot of owner {owner} of {owners}"));
                }
                Stripe::new(owner, owners)
            }
            _ => Stripe::WHOLE,
        };
        if block[checked + 4..].iter().any(|&byte| byte != 0) {
            return Err("bytes after the snapshot header that nobody wrote".into());
        }
        let metric = u16::from_le_bytes([block[6], block[7]]);
        let shape = Shape {
            metric: metric_of(metric).ok_or("an unknown metric")?,
            dimension: read_u32(block, 48),
            m: read_u32(block, 52),
            slots: read_u32(block, 56),
            live: read_u32(block, 60),
            linked: read_u32(block, 64),
            dead_linked: read_u32(block, 68),
            upper_lists: read_u32(block, 72),
            entry: read_u64(block, 80),
            stripe,
        };
        let next_lsn = Lsn(read_u64(block, 32));
        let header = Self {
            shard: ShardId(read_u32(block, 8)),
            number: read_u64(block, 16),
            epoch: read_u64(block, 24),
            position: Position { next_lsn, chain: read_u32(block, 12) },
            unix_ms: read_u64(block, 40),
            shape,
            extents: read_u32(block, 76),
            table_offset: read_u64(block, 88),
            table_crc: read_u32(block, 104),
            file_bytes: read_u64(block, 96),
        };
        if header.extents > EXTENTS_MAX || !header.table_offset.is_multiple_of(BLOCK as u64) {
            return Err("a table of extents that can't be".into());
        }
        Ok(header)
    }
}

const METRICS: [(u16, Metric); 3] =
    [(0, Metric::Cosine), (1, Metric::InnerProduct), (2, Metric::Euclidean)];

fn metric_code(metric: Metric) -> u16 {
    METRICS.iter().find(|(_, known)| *known == metric).map_or(0, |(code, _)| *code)
}

fn metric_of(code: u16) -> Option<Metric> {
    METRICS.iter().find(|(known, _)| *known == code).map(|(_, metric)| *metric)
}

/// File name of a snapshot.
#[must_use]
pub fn snapshot_name(shard: ShardId, number: u64) -> String {
    format!("snapshot_{:04}_{number:08}.snap", shard.0)
}

/// Shard and number of a snapshot from its file name, temporary names included.
#[must_use]
pub fn parse_snapshot_name(name: &str) -> Option<(ShardId, u64)> {
    let whole = name.strip_suffix(".tmp").unwrap_or(name);
    let (shard, number) =
        whole.strip_prefix("snapshot_")?.strip_suffix(".snap")?.split_once('_')?;
    let parsed = (ShardId(shard.parse().ok()?), number.parse().ok()?);
    (snapshot_name(parsed.0, parsed.1) == whole).then_some(parsed)
}

fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

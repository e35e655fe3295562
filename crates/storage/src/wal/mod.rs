//! The log of one shard: all acknowledged changes, in order.
//!
//! A log is a sequence of segments, files of a fixed size that are zeroed before use, so that a
//! commit overwrites blocks and changes no file metadata. A segment is a header block and then
//! groups; a group is what one commit wrote: whole blocks, never written again. Groups hold
//! records, whose LSNs run on without a gap through all segments.
//!
//! ```text
//! segment header, one block                   group header, 64 bytes, at a block boundary
//!  0 magic "KYSG"      u32                     0 magic "KYGR"      u32
//!  4 format version    u16                     4 format version    u16
//!  6 0                 u16                     6 0                 u16
//!  8 shard             u32                     8 shard             u32
//! 12 chain before      u32                    12 record count      u32
//! 16 epoch             u64                    16 epoch             u64
//! 24 number            u64                    24 first LSN         u64
//! 32 first LSN         u64                    32 durable bytes     u64
//! 40 made, Unix ms     u64                    40 written, Unix ms  u64
//! 48 segment bytes     u64                    48 record bytes      u32
//! 56 0                 u32                    52 chain before      u32
//! 60 crc of 0..60      u32                    56 chain after       u32
//! 64 zeros to the end of the block            60 crc of 0..60      u32
//!
//! record, 8-byte aligned: 32 bytes, then the payload ([`record`]), then zeros to 8 bytes
//!  0 payload bytes u32 |  4 kind u8, 3 × 0 |  8 shard u32 | 12 crc u32 | 16 epoch u64 | 24 LSN u64
//! ```
//!
//! Integers are little-endian, checksums CRC-32C. The *chain* is the checksum that goes on from one record to the
//! next, through groups and segments: the crc of a record covers its header, its payload and the crc of the record
//! before; that of a group's first record also covers the group header before its byte 52. So a block of another
//! life, place or order is never taken for one of this log.
//!
//! The *durable bytes* in a group say up to which offset the segment was known to be durable when the group was
//! written. A bad group before that offset in any later group, or in a segment that another one follows, is
//! corruption, and the log is not opened; a bad group that none of these confirms was being written when the power
//! went, and the log ends before it. [`reader`] decides for a segment, [`recover`] for the log; [`Writer::seal`] has
//! the last group confirmed when the writer rests.
//!
//! A segment whose write or sync failed is given up, and the log goes on in a fresh one whose header continues it at
//! the last position known to be durable ([`Writer::replace`]). That header is the decision: the former segment ends
//! where this one begins, and groups that may follow there, whole or not, were refused and are not read. If the power
//! goes before the header is durable, nothing has been acknowledged that the former segment does not hold. No
//! position comes twice in a log, since the chain changes with every group, one without records included.

#[cfg(any(test, feature = "testing"))]
pub mod forge;
pub mod group;
pub mod reader;
pub mod recover;
#[cfg(any(test, feature = "testing"))]
pub mod sample;
pub mod segment;
#[cfg(test)]
mod tail_tests;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod writer;

pub use self::writer::{Prepared, RestoreError, Stats, Writer};
pub use crate::types::limits::GROUP_BYTES_MAX;
pub use crate::types::position::Position;

use crate::types::ShardId;

/// Version of all formats that this module writes.
pub const FORMAT_VERSION: u16 = 1;

/// File name of a segment.
#[must_use]
pub fn segment_name(shard: ShardId, number: u64) -> String {
    format!("wal_{:04}_{number:08}.wal", shard.0)
}

/// Shard and number of a segment from its file name.
#[must_use]
pub fn parse_segment_name(name: &str) -> Option<(ShardId, u64)> {
    let (shard, number) = name.strip_prefix("wal_")?.strip_suffix(".wal")?.split_once('_')?;
    let parsed = (ShardId(shard.parse().ok()?), number.parse().ok()?);
    (segment_name(parsed.0, parsed.1) == name).then_some(parsed)
}

fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

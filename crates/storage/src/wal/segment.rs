//! The header block of a segment.

use super::reader::Place;
use super::{FORMAT_VERSION, Position, read_u32, read_u64};
use crate::disk::BLOCK;
use crate::types::{Lsn, ShardId};

const MAGIC: &[u8; 4] = b"KYSG";
const CHECKED_BYTES: usize = 60;

/// Fields of the first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Shard whose log it belongs to.
    pub shard: ShardId,
    /// Position of the segment in the log, from 1.
    pub number: u64,
    /// Epoch of its writer.
    pub epoch: u64,
    /// Position of the log that its first group continues.
    pub start: Position,
    /// Time at which it was taken into use, Unix milliseconds.
    pub unix_ms: u64,
    /// Length of the file in bytes.
    pub segment_bytes: u64,
}

impl SegmentHeader {
    /// Place of its first group.
    #[must_use]
    pub fn first(&self) -> Place {
        let (offset, position, epoch) = (BLOCK as u64, self.start, self.epoch);
        Place { offset, position, epoch, from: None }
    }

    /// Writes the header to a zeroed block.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK);
        block[..4].copy_from_slice(MAGIC);
        block[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[8..12].copy_from_slice(&self.shard.0.to_le_bytes());
        block[12..16].copy_from_slice(&self.start.chain.to_le_bytes());
        block[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        block[24..32].copy_from_slice(&self.number.to_le_bytes());
        block[32..40].copy_from_slice(&self.start.next_lsn.0.to_le_bytes());
        block[40..48].copy_from_slice(&self.unix_ms.to_le_bytes());
        block[48..56].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&block[..CHECKED_BYTES]);
        block[60..64].copy_from_slice(&crc.to_le_bytes());
    }

    /// Format version of a segment header that a later version of this program wrote; `None` for any other block.
    #[must_use]
    pub fn newer_version(block: &[u8]) -> Option<u16> {
        let header = block.get(..CHECKED_BYTES + 4)?;
        let is_whole = crc32c::crc32c(&header[..CHECKED_BYTES]) == read_u32(header, 60);
        let version = u16::from_le_bytes([header[4], header[5]]);
        (&header[..4] == MAGIC && is_whole && version > FORMAT_VERSION).then_some(version)
    }

    /// Reads a header, and checks all of its bytes.
    ///
    /// # Errors
    /// The reason why the block is no header.
    pub fn decode(block: &[u8]) -> Result<Self, String> {
        if block.len() < BLOCK {
            return Err("the file is shorter than a segment header".into());
        }
        let block = &block[..BLOCK];
        if &block[..4] != MAGIC {
            return Err("not a log segment".into());
        }
        if crc32c::crc32c(&block[..CHECKED_BYTES]) != read_u32(block, 60) {
            return Err("bad checksum of the segment header".into());
        }
        let version = u16::from_le_bytes([block[4], block[5]]);
        if version != FORMAT_VERSION {
            return Err(format!(
                "log format version {version}; this program reads version {FORMAT_VERSION}"
            ));
        }
        if block[64..].iter().any(|&byte| byte != 0) {
            return Err("bytes after the segment header that nobody wrote".into());
        }
        Ok(Self {
            shard: ShardId(read_u32(block, 8)),
            number: read_u64(block, 24),
            epoch: read_u64(block, 16),
            start: Position { next_lsn: Lsn(read_u64(block, 32)), chain: read_u32(block, 12) },
            unix_ms: read_u64(block, 40),
            segment_bytes: read_u64(block, 48),
        })
    }
}

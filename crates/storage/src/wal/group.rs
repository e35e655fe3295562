//! A group: the records of one commit, in whole blocks.

use super::{FORMAT_VERSION, GROUP_BYTES_MAX, Position, read_u32, read_u64};
use crate::disk::blocks;
use crate::sabotage::{Pillar, is_off};
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};

const MAGIC: &[u8; 4] = b"KYGR";
/// Bytes of the header of a group.
pub const GROUP_HEADER_BYTES: usize = 64;
const RECORD_HEADER_BYTES: usize = 32;

/// Bytes of a record in a group.
pub(super) fn record_bytes(record: &Record) -> usize {
    (RECORD_HEADER_BYTES + record.encoded_bytes()).next_multiple_of(8)
}

/// Fields of a group header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub(super) shard: ShardId,
    pub(super) epoch: u64,
    pub(super) record_count: u32,
    pub(super) record_bytes: u32,
    pub(super) start: Position,
    pub(super) durable_bytes: u64,
    pub(super) unix_ms: u64,
    pub(super) chain_after: u32,
}

impl GroupHeader {
    fn encode_before_chain(&self, target: &mut [u8]) {
        target[..4].copy_from_slice(MAGIC);
        target[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        target[8..12].copy_from_slice(&self.shard.0.to_le_bytes());
        target[12..16].copy_from_slice(&self.record_count.to_le_bytes());
        target[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        target[24..32].copy_from_slice(&self.start.next_lsn.0.to_le_bytes());
        target[32..40].copy_from_slice(&self.durable_bytes.to_le_bytes());
        target[40..48].copy_from_slice(&self.unix_ms.to_le_bytes());
        target[48..52].copy_from_slice(&self.record_bytes.to_le_bytes());
    }

    /// Reads a header whose checksum is right; `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..GROUP_HEADER_BYTES)?;
        let version = u16::from_le_bytes([header[4], header[5]]);
        if &header[..4] != MAGIC
            || crc32c::crc32c(&header[..60]) != read_u32(header, 60)
            || version != FORMAT_VERSION
        {
            return None;
        }
        Some(Self {
            shard: ShardId(read_u32(header, 8)),
            epoch: read_u64(header, 16),
            record_count: read_u32(header, 12),
            record_bytes: read_u32(header, 48),
            start: Position { next_lsn: Lsn(read_u64(header, 24)), chain: read_u32(header, 52) },
            durable_bytes: read_u64(header, 32),
            unix_ms: read_u64(header, 40),
            chain_after: read_u32(header, 56),
        })
    }

    /// Bytes of the whole group on disk; `None` if the header claims more than a group may have.
    pub(super) fn disk_bytes(&self) -> Option<usize> {
        let record_bytes = self.record_bytes as usize;
        (record_bytes <= GROUP_BYTES_MAX).then(|| blocks(GROUP_HEADER_BYTES + record_bytes))
    }
}

/// Writes a group to zeroed memory of `blocks(GROUP_HEADER_BYTES + Σ record_bytes)` and returns the chain after it.
/// `header` gives all fields but sizes and `chain_after`.
pub(super) fn encode(header: GroupHeader, records: &[Record], target: &mut [u8]) -> u32 {
    let bytes: usize = records.iter().map(record_bytes).sum();
    assert_eq!(target.len(), blocks(GROUP_HEADER_BYTES + bytes));
    let header = GroupHeader {
        record_count: u32::try_from(records.len()).expect("bounded by GROUP_BYTES_MAX"),
        record_bytes: u32::try_from(bytes).expect("bounded by GROUP_BYTES_MAX"),
        ..header
    };
    let (head, mut rest) = target.split_at_mut(GROUP_HEADER_BYTES);
    header.encode_before_chain(head);
    let mut chain = crc32c::crc32c_append(header.start.chain, &head[..52]);
    let mut lsn = header.start.next_lsn;
    for record in records {
        let (slot, after) = rest.split_at_mut(record_bytes(record));
        let payload_bytes = record.encoded_bytes();
        let (head, payload) = slot.split_at_mut(RECORD_HEADER_BYTES);
        head[..4].copy_from_slice(&u32::try_from(payload_bytes).expect("bounded").to_le_bytes());
        head[4] = record.kind();
        head[8..12].copy_from_slice(&header.shard.0.to_le_bytes());
        head[16..24].copy_from_slice(&header.epoch.to_le_bytes());
        head[24..32].copy_from_slice(&lsn.0.to_le_bytes());
        record.encode(&mut payload[..payload_bytes]);
        chain = record_crc(chain, head, payload);
        head[12..16].copy_from_slice(&chain.to_le_bytes());
        lsn = lsn.next();
        rest = after;
    }
    head[52..56].copy_from_slice(&header.start.chain.to_le_bytes());
    head[56..60].copy_from_slice(&chain.to_le_bytes());
    let crc = crc32c::crc32c(&head[..60]);
    head[60..64].copy_from_slice(&crc.to_le_bytes());
    chain
}

/// Checks the records of a group against its header and the chain, then decodes them.
/// `bytes` are those of the whole group on disk.
///
/// # Errors
/// The fault, with the LSN of the record.
pub(super) fn decode(header: &GroupHeader, bytes: &[u8]) -> Result<Vec<Record>, (Lsn, String)> {
    let end = GROUP_HEADER_BYTES + header.record_bytes as usize;
    let mut chain = crc32c::crc32c_append(header.start.chain, &bytes[..52]);
    let mut lsn = header.start.next_lsn;
    let mut rest = &bytes[GROUP_HEADER_BYTES..end];
    // A count is believed only as far as there are bytes for it.
    let mut records = Vec::with_capacity(rest.len() / RECORD_HEADER_BYTES);
    while !rest.is_empty() {
        let (record, after) =
            decode_record(header, lsn, &mut chain, rest).map_err(|why| (lsn, why.to_owned()))?;
        records.push(record);
        rest = after;
        lsn = lsn.next();
    }
    let fail = |why: &str| Err((header.start.next_lsn, why.to_owned()));
    let is_last = chain == header.chain_after || is_off(Pillar::RecordChecksum);
    if records.len() != header.record_count as usize || !is_last {
        return fail("the records are not those that the group header names");
    }
    if bytes[end..].iter().any(|&byte| byte != 0) {
        return fail("bytes after the last record that nobody wrote");
    }
    Ok(records)
}

fn decode_record<'a>(
    group: &GroupHeader,
    lsn: Lsn,
    chain: &mut u32,
    bytes: &'a [u8],
) -> Result<(Record, &'a [u8]), &'static str> {
    let head = bytes.get(..RECORD_HEADER_BYTES).ok_or("a record header is cut off")?;
    let payload_bytes = read_u32(head, 0) as usize;
    let slot_bytes = (RECORD_HEADER_BYTES.saturating_add(payload_bytes)).next_multiple_of(8);
    let (slot, after) = bytes.split_at_checked(slot_bytes).ok_or("a record is cut off")?;
    let payload = &slot[RECORD_HEADER_BYTES..];
    *chain = record_crc(*chain, head, payload);
    if *chain != read_u32(head, 12) && !is_off(Pillar::RecordChecksum) {
        return Err("bad checksum");
    }
    if read_u32(head, 8) != group.shard.0 || read_u64(head, 16) != group.epoch {
        return Err("a record of another shard or epoch");
    }
    if read_u64(head, 24) != lsn.0 {
        return Err("a record with another LSN");
    }
    if head[5..8] != [0; 3] || payload[payload_bytes..].iter().any(|&byte| byte != 0) {
        return Err("bytes that nobody wrote");
    }
    Ok((Record::decode(head[4], &payload[..payload_bytes])?, after))
}

/// The chain after a record: all of it but the crc field itself.
fn record_crc(chain: u32, head: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(chain, &head[..12]);
    let crc = crc32c::crc32c_append(crc, &head[16..]);
    crc32c::crc32c_append(crc, payload)
}

//! Fuzz targets: one function per decoder. Used by `main.rs` here, which runs with every `cargo test`, and by the
//! programs in `fuzz/`.
//!
//! Each asserts what holds for any input, and returns whether it was accepted.

#![allow(dead_code, unreachable_pub, reason = "each program uses its part")]

use futures_util::FutureExt;
use kyrodb::config;
use kyrodb::disk::{self, BLOCK, File, blocks};
use kyrodb::manifest::{Manifest, Sealed};
use kyrodb::types::payload::Payload;
use kyrodb::types::record::Record;
use kyrodb::types::{Lsn, ShardId};
use kyrodb::wal::reader::{ReadError, Scan, Tail, next_good, read};
use kyrodb::wal::segment::SegmentHeader;
use kyrodb::wal::{GROUP_BYTES_MAX, Position};

pub type Target = fn(&[u8]) -> bool;

/// All targets, by the names of their seeds' folders.
pub const TARGETS: [(&str, Target); 7] = [
    ("payload", payload),
    ("record", record),
    ("segment_header", segment_header),
    ("group", group),
    ("manifest", manifest),
    ("config_toml", config_toml),
    ("config_yaml", config_yaml),
];

/// The metadata of a document, as encoded in memory and in the log.
pub fn payload(data: &[u8]) -> bool {
    let Ok(payload) = Payload::parse(data) else {
        return false;
    };
    assert_eq!(payload.bytes(), data);
    for (key, value) in payload.user_pairs() {
        assert_eq!(payload.get(key), Some(value));
    }
    // The result of an update is either within the limits or refused.
    if let Ok(merged) = payload.merged(&payload) {
        assert_eq!(merged.namespace(), payload.namespace());
        assert!(merged.user_pairs().eq(payload.user_pairs()));
    }
    true
}

/// A log record: its kind, then its payload.
pub fn record(data: &[u8]) -> bool {
    let Some((&kind, data)) = data.split_first() else {
        return false;
    };
    let Ok(record) = Record::decode(kind, data) else {
        return false;
    };
    let mut again = vec![0; record.encoded_bytes()];
    record.encode(&mut again);
    assert_eq!((record.kind(), again.as_slice()), (kind, data));
    true
}

/// The first block of a segment: as it is, and with a corrected checksum.
pub fn segment_header(data: &[u8]) -> bool {
    let mut block = data.to_vec();
    let as_it_is = decode_header(&block);
    if let Some(header) = block.get_mut(..64) {
        let crc = crc32c::crc32c(&header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
    }
    decode_header(&block) || as_it_is
}

fn decode_header(block: &[u8]) -> bool {
    let Ok(header) = SegmentHeader::decode(block) else {
        return false;
    };
    let mut again = vec![0; BLOCK];
    header.encode(&mut again);
    // Two bytes behind the version and four before the checksum are covered, not read.
    again[6..8].copy_from_slice(&block[6..8]);
    again[56..60].copy_from_slice(&block[56..60]);
    let crc = crc32c::crc32c(&again[..60]);
    again[60..64].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(again, block[..BLOCK]);
    true
}

/// The shard and epoch for which [`group`] reads groups.
pub const SHARD: ShardId = ShardId(3);
/// See [`SHARD`].
pub const EPOCH: u64 = 0xabcd_0000_0001;

/// A segment without its header: as it is, with corrected checksums of group headers, and with corrected checksums of
/// the records as well.
pub fn group(data: &[u8]) -> bool {
    let length = data.len().min(1 << 20);
    let mut file = vec![0; BLOCK + blocks(length)];
    file[BLOCK..BLOCK + length].copy_from_slice(&data[..length]);
    let as_it_is = read_groups(&file);
    mend_groups(&mut file, false);
    let with_headers = read_groups(&file);
    mend_groups(&mut file, true);
    let with_records = read_groups(&file);
    as_it_is || with_headers || with_records
}

/// Reads with each kind of end. True if there was a record.
fn read_groups(file: &[u8]) -> bool {
    let whole = read_with(file, Tail::Open);
    let Ok((scan, records)) = whole else {
        return false;
    };
    let end = scan.end_bytes;
    assert!(end <= file.len() as u64 && end % BLOCK as u64 == 0);
    assert_eq!((scan.records, scan.end.next_lsn), (records, Lsn(records + 1)));
    // Sealed or followed at its end, the result is equal. At any other end, it is damaged.
    let sealed = Sealed { first_lsn: 1, last_lsn: records, end_bytes: end, chain: scan.end.chain };
    let untorn = Scan { torn: None, left: None, ..scan };
    let same = Some((untorn, records));
    assert_eq!(read_with(file, Tail::Sealed(sealed)).ok(), same);
    assert_eq!(read_with(file, Tail::Followed(scan.end)).ok(), same);
    let further = Sealed { last_lsn: records + 1, end_bytes: end + BLOCK as u64, ..sealed };
    assert!(read_with(file, Tail::Sealed(further)).is_err());
    let elsewhere = Position { chain: !scan.end.chain, ..scan.end };
    assert!(read_with(file, Tail::Followed(elsewhere)).is_err());
    records > 0
}

fn read_with(file: &[u8], tail: Tail) -> Result<(Scan, u64), ReadError> {
    let header = SegmentHeader {
        shard: SHARD,
        number: 1,
        epoch: EPOCH,
        start: Position::START,
        unix_ms: 0,
        segment_bytes: file.len() as u64,
    };
    let memory = Memory(file);
    let mut next = 1;
    let apply = |lsn: Lsn, _| {
        assert_eq!(lsn.0, next);
        next += 1;
    };
    let read = now(read(&memory, &header, tail, None, apply));
    if let Err(ReadError::Corrupt { offset, .. }) = &read {
        let range = *offset..file.len() as u64;
        let good = now(next_good(&memory, SHARD, Some(EPOCH), Lsn(1), range.clone()));
        assert!(good.expect("memory does not fail").is_none_or(|g| range.contains(&g.offset)));
    }
    read.map(|scan| (scan, next - 1))
}

/// Makes every block that claims to be a group one of ours that continues the one before. With `records` those are
/// corrected too, as far as their lengths allow.
fn mend_groups(file: &mut [u8], records: bool) {
    let (mut lsn, mut chain) = (1_u64, 0_u32);
    let mut offset = BLOCK;
    while offset + BLOCK <= file.len() {
        if &file[offset..offset + 4] != b"KYGR" {
            offset += BLOCK;
            continue;
        }
        let bytes = read_u32(file, offset + 48) as usize;
        let is_whole = bytes <= GROUP_BYTES_MAX && offset + blocks(64 + bytes) <= file.len();
        let end = if is_whole { offset + 64 + bytes } else { offset + BLOCK };
        let group = &mut file[offset..end];
        group[4..6].copy_from_slice(&1_u16.to_le_bytes());
        group[8..12].copy_from_slice(&SHARD.0.to_le_bytes());
        group[16..24].copy_from_slice(&EPOCH.to_le_bytes());
        group[24..32].copy_from_slice(&lsn.to_le_bytes());
        group[52..56].copy_from_slice(&chain.to_le_bytes());
        if records && is_whole {
            let count;
            (chain, count) = mend_records(group, lsn, chain);
            lsn += u64::from(count);
            group[12..16].copy_from_slice(&count.to_le_bytes());
            group[56..60].copy_from_slice(&chain.to_le_bytes());
        }
        let crc = crc32c::crc32c(&group[..60]);
        group[60..64].copy_from_slice(&crc.to_le_bytes());
        offset += blocks(end - offset);
    }
}

/// Corrects the records of a group; returns the chain after them, and their number.
fn mend_records(group: &mut [u8], first_lsn: u64, chain: u32) -> (u32, u32) {
    // The count is part of the checksum, and unknown before the records are walked.
    let mut count = 0_u32;
    let mut at = 64;
    while let Some(end) = record_end(group, at) {
        count += 1;
        at = end;
    }
    group[12..16].copy_from_slice(&count.to_le_bytes());
    let mut chain = crc32c::crc32c_append(chain, &group[..52]);
    let (mut at, mut lsn) = (64, first_lsn);
    while let Some(end) = record_end(group, at) {
        let record = &mut group[at..end];
        let payload_bytes = read_u32(record, 0) as usize;
        record[5..8].fill(0);
        record[8..12].copy_from_slice(&SHARD.0.to_le_bytes());
        record[16..24].copy_from_slice(&EPOCH.to_le_bytes());
        record[24..32].copy_from_slice(&lsn.to_le_bytes());
        record[32 + payload_bytes..].fill(0);
        chain = crc32c::crc32c_append(chain, &record[..12]);
        chain = crc32c::crc32c_append(chain, &record[16..]);
        record[12..16].copy_from_slice(&chain.to_le_bytes());
        (at, lsn) = (end, lsn + 1);
    }
    (chain, count)
}

fn record_end(group: &[u8], at: usize) -> Option<usize> {
    let head = group.get(at..at + 32)?;
    let bytes = (32 + read_u32(head, 0) as usize).next_multiple_of(8);
    (at + bytes <= group.len()).then_some(at + bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// MANIFEST with its checksum: as it is, and with the inner object in a valid envelope.
pub fn manifest(data: &[u8]) -> bool {
    let as_it_is = decode_manifest(data);
    let inner = String::from_utf8_lossy(data);
    let inner = inner.split_once("\"manifest\":").map_or(&*inner, |(_, inner)| inner.trim());
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let crc = crc32c::crc32c(inner.as_bytes());
    let whole = format!("{{\"crc32c\":\"{crc:08x}\",\"manifest\":{inner}}}");
    decode_manifest(whole.as_bytes()) || as_it_is
}

fn decode_manifest(data: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(data) else {
        return false;
    };
    assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest));
    true
}

/// A config file.
pub fn config_toml(data: &[u8]) -> bool {
    read_config(data, "toml")
}

/// A config file.
pub fn config_yaml(data: &[u8]) -> bool {
    read_config(data, "yaml")
}

fn read_config(data: &[u8], format: &str) -> bool {
    match config::from_bytes(data, format) {
        Ok(config) => {
            assert!(config.validate().is_empty());
            true
        }
        Err(faults) => {
            assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.is_empty()));
            false
        }
    }
}

/// A file in memory that is only read.
struct Memory<'a>(&'a [u8]);

impl File for Memory<'_> {
    type Buffer = Vec<u8>;

    async fn write_at(&self, _: Vec<u8>, _: u64) -> disk::Result<()> {
        unreachable!("a decoder writes nothing")
    }

    async fn read_at(&self, offset: u64, bytes: usize, target: &mut Vec<u8>) -> disk::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        target.extend_from_slice(&self.0[start..(start + bytes).min(self.0.len())]);
        Ok(())
    }

    async fn sync_data(&self) -> disk::Result<()> {
        unreachable!("a decoder writes nothing")
    }

    async fn truncate(&self, _: u64) -> disk::Result<()> {
        unreachable!("a decoder writes nothing")
    }

    async fn close(self) -> disk::Result<()> {
        Ok(())
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory does not wait")
}

//! Segments that are whole in themselves, but not of this log: for tests.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests alone use it")]

use super::group::{self, GroupHeader};
use crate::disk::BLOCK;
use crate::types::record::Record;

/// The segment with one stored vector changed, and every checksum from there on corrected. `None` if it has no
/// vector.
pub fn another_segment(segment: &[u8], pick: u64) -> Option<Vec<u8>> {
    let groups = groups(segment);
    let is_put = |record: &Record| matches!(record, Record::Put { .. });
    let puts = groups.iter().flat_map(|(_, _, records)| records).filter(|r| is_put(r)).count();
    let picked = pick.checked_rem(puts as u64)? as usize;
    let (mut bytes, mut seen, mut chain) = (segment.to_vec(), 0, None);
    for (offset, mut header, mut records) in groups {
        for record in records.iter_mut().filter(|record| is_put(record)) {
            if seen == picked
                && let Record::Put { vector, .. } = record
            {
                vector.reverse();
                vector[0] += 0.5;
            }
            seen += 1;
        }
        header.start.chain = chain.unwrap_or(header.start.chain);
        let length = header.disk_bytes()?;
        let target = &mut bytes[offset..offset + length];
        target.fill(0);
        chain = Some(group::encode(header, &records, target));
    }
    Some(bytes)
}

fn groups(segment: &[u8]) -> Vec<(usize, GroupHeader, Vec<Record>)> {
    let mut groups = Vec::new();
    let mut offset = BLOCK;
    while let Some(header) = segment.get(offset..).and_then(GroupHeader::decode)
        && let Some(length) = header.disk_bytes()
        && let Some(bytes) = segment.get(offset..offset + length)
        && let Ok(records) = group::decode(&header, bytes)
    {
        groups.push((offset, header, records));
        offset += length;
    }
    groups
}

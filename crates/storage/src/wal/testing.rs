//! A log that tests write, on a simulated disk, and what it holds.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests alone use it")]

use std::rc::Rc;

use super::reader::ReadError;
use super::recover::{Recovered, recover};
use super::*;
use crate::disk::sim::{Fault, SimDisk, run};
use crate::disk::{BLOCK, DiskError, Kind};
use crate::manifest::{Sealed, Segment};
use crate::types::payload::Payload;
use crate::types::record::Record;
use crate::types::{DocId, ShardId, mix};

pub const SHARD: ShardId = ShardId(3);
pub const EPOCH: u64 = 0xabcd_0000_0001;

pub fn put(id: u64, values: usize) -> Record {
    let vector = (0..values).map(|i| (mix(id * 1_000 + i as u64) >> 50) as f32 + 1.0).collect();
    let text = id.to_string();
    let payload = Payload::new([("id", text.as_str())], "").unwrap();
    Record::Put { id: DocId(id), vector, payload }
}

pub fn segment(number: u64) -> Segment {
    Segment { shard: SHARD.0, number, file: segment_name(SHARD, number), sealed: None }
}

/// A log being written: its records, and the segments that MANIFEST would name.
pub struct Log {
    pub disk: Rc<SimDisk>,
    pub writer: Writer<SimDisk>,
    pub segments: Vec<Segment>,
    pub records: Vec<Record>,
    pub segment_bytes: u64,
}

impl Log {
    pub fn begin(segment_blocks: u64) -> Self {
        let disk = Rc::new(SimDisk::default());
        let segment_bytes = segment_blocks * BLOCK as u64;
        let writer = run(async {
            let first = Prepared::create(&*disk, SHARD, 1, segment_bytes).await.unwrap();
            Writer::begin(disk.clone(), SHARD, EPOCH, first, Position::START, 7).await.unwrap()
        });
        Self { disk, writer, segments: vec![segment(1)], records: Vec::new(), segment_bytes }
    }

    pub fn append(&mut self, records: Vec<Record>, sync: bool) -> Result<(), DiskError> {
        if !self.writer.fits(&records) {
            let number = self.writer.segment() + 1;
            let prepared = run(Prepared::create(&*self.disk, SHARD, number, self.segment_bytes))?;
            self.segments.push(segment(number));
            run(self.writer.rotate(prepared, 8))?;
        }
        run(self.writer.append(&records, 9, sync))?;
        self.records.extend(records);
        Ok(())
    }

    /// Appends `groups` of a few records each.
    pub fn fill(&mut self, groups: u64) {
        for _ in 0..groups {
            let next = self.records.len() as u64 + 1;
            let records = (next..next + 1 + next % 3).map(|id| put(id, 40)).collect();
            self.append(records, true).unwrap();
        }
    }
}

pub fn read_back(
    disk: &SimDisk,
    segments: &[Segment],
) -> Result<(Recovered, Vec<Record>), ReadError> {
    let mut records = Vec::new();
    let recovered = run(recover(disk, SHARD, segments, None, |lsn, record| {
        records.push(record);
        assert_eq!(lsn.0, records.len() as u64);
    }))?;
    Ok((recovered, records))
}

impl Log {
    /// Changes to a new segment, as the commit task does after a failure.
    pub fn replace(&mut self) -> Result<Vec<(u64, Sealed)>, DiskError> {
        let number = self.writer.next_number();
        let prepared = run(Prepared::create(&*self.disk, SHARD, number, self.segment_bytes))?;
        self.segments.push(segment(number));
        run(self.writer.replace(prepared, 8))
    }

    /// Fails the call of the disk after the next `skip` ones.
    pub fn fail_after(&self, skip: u64) {
        self.disk.fault_at(self.disk.calls() + 1 + skip, Fault::Fails(Kind::Failed));
    }

    /// The segments that MANIFEST would name, with these ends recorded.
    pub fn with_ends(&self, ends: &[(u64, Sealed)]) -> Vec<Segment> {
        let end = |number| ends.iter().find(|(n, _)| *n == number).map(|(_, sealed)| *sealed);
        let segments = self.segments.iter().cloned();
        segments.map(|segment| Segment { sealed: end(segment.number), ..segment }).collect()
    }
}

//! A small data directory for tests, written by the code that writes real ones: two shards, two lives, segments that
//! are sealed in MANIFEST and one in each shard that is not.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::new_without_default,
    reason = "tests alone use it"
)]

use std::rc::Rc;

use super::recover::recover;
use super::{Position, Prepared, Writer, segment_name};
use crate::disk::BLOCK;
use crate::disk::sim::{Crash, SimDisk, run};
use crate::manifest::{MANIFEST_VERSION, Manifest, Segment};
use crate::types::payload::Payload;
use crate::types::record::{Record, delete_batch};
use crate::types::{DocId, ShardId, mix};

pub const SHARDS: u32 = 2;
pub const DIMENSION: usize = 8;

/// A header, up to four groups with records, and room for a group without.
const SEGMENT_BLOCKS: u64 = 6;

pub struct Sample {
    pub disk: Rc<SimDisk>,
    pub manifest: Manifest,
    /// Records by shard.
    pub records: Vec<Vec<Record>>,
    pub writers: Vec<Writer<SimDisk>>,
    /// True if each group is durable before it is acknowledged, as under all policies but `periodic` and `none`.
    pub syncs: bool,
    segment_bytes: u64,
}

impl Sample {
    /// A directory after two lives, the second ended in good order.
    pub fn made() -> Self {
        let mut sample = Self::new();
        for _ in 0..2 {
            sample.start();
            sample.fill(6);
            sample.stop();
        }
        sample
    }

    pub fn new() -> Self {
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            shards: SHARDS,
            dimension: DIMENSION as u32,
            distance: "cosine".into(),
            epoch: 0x5eed_0000_0000,
            snapshots: Vec::new(),
            segments: Vec::new(),
        };
        let records = vec![Vec::new(); SHARDS as usize];
        let disk = Rc::new(SimDisk::default());
        let segment_bytes = SEGMENT_BLOCKS * BLOCK as u64;
        Self { disk, manifest, records, writers: Vec::new(), syncs: true, segment_bytes }
    }

    /// Starts a life as a server does: another epoch, and a new segment in every shard.
    pub fn start(&mut self) {
        self.manifest.epoch += (1 << 40) + 1;
        self.publish();
        let before = std::mem::take(&mut self.manifest.segments);
        for shard in (0..SHARDS).map(ShardId) {
            let disk = &*self.disk;
            let recovered = run(recover(disk, shard, &before, None, |_, _| {})).unwrap();
            assert_eq!(recovered.records as usize, self.records[shard.0 as usize].len());
            let number = recovered.next_number;
            let writer = self.begin(shard, number, recovered.position);
            self.manifest.segments.extend(recovered.segments);
            self.manifest.segments.push(open_segment(shard, number));
            self.writers.push(writer);
        }
        self.publish();
    }

    pub fn start_with_segments_of(&mut self, blocks: u64) {
        self.segment_bytes = blocks * BLOCK as u64;
        self.start();
    }

    fn begin(&self, shard: ShardId, number: u64, position: Position) -> Writer<SimDisk> {
        run(async {
            let prepared = Prepared::create(&*self.disk, shard, number, self.segment_bytes).await?;
            let epoch = self.manifest.epoch;
            Writer::begin(self.disk.clone(), shard, epoch, prepared, position, 7).await
        })
        .unwrap()
    }

    pub fn publish(&self) {
        run(self.manifest.publish(&*self.disk)).unwrap();
    }

    /// Appends `groups` groups to every shard, each acknowledged.
    pub fn fill(&mut self, groups: usize) {
        for _ in 0..groups {
            for shard in 0..SHARDS {
                let records = self.next_records(ShardId(shard));
                self.append(ShardId(shard), records);
            }
        }
    }

    /// A few records that follow from those so far.
    fn next_records(&self, shard: ShardId) -> Vec<Record> {
        let count = self.records[shard.0 as usize].len() as u64;
        let mut ids = (count * 100 + 1..).map(DocId).filter(|id| id.shard(SHARDS) == shard);
        let mut next = || ids.next().unwrap();
        let payload = |n: u64| Payload::new([("n", n.to_string().as_str())], "ns").unwrap();
        let put = |id: DocId| {
            let value = |i| (mix(id.0 * 100 + i) >> 50) as f32 + 1.0;
            let vector = (0..DIMENSION as u64).map(value).collect();
            Record::Put { id, vector, payload: payload(id.0) }
        };
        let (first, second) = (next(), next());
        let mut records = vec![put(first), put(second)];
        records.push(Record::SetPayload { id: first, payload: payload(count) });
        match count % 3 {
            0 => records.push(Record::Delete { id: second }),
            1 => records.extend(delete_batch(&[first, second])),
            _ => {}
        }
        records
    }

    pub fn append(&mut self, shard: ShardId, records: Vec<Record>) {
        let index = shard.0 as usize;
        if !self.writers[index].fits(&records) {
            let number = self.writers[index].segment() + 1;
            let disk = self.disk.clone();
            let prepared =
                run(Prepared::create(&*disk, shard, number, self.segment_bytes)).unwrap();
            // MANIFEST names a segment before it is used.
            self.manifest.segments.push(open_segment(shard, number));
            self.publish();
            let (number, sealed) = run(self.writers[index].rotate(prepared, 8)).unwrap();
            let is_it = |s: &&mut Segment| (s.shard, s.number) == (shard.0, number);
            self.manifest.segments.iter_mut().find(is_it).unwrap().sealed = Some(sealed);
            self.publish();
        }
        run(self.writers[index].append(&records, 9, self.syncs)).unwrap();
        self.records[index].extend(records);
    }

    /// Ends a life in good order.
    pub fn stop(&mut self) {
        for mut writer in self.writers.drain(..) {
            run(writer.seal(10)).unwrap();
        }
    }

    /// The segments of a shard that MANIFEST names, by number.
    pub fn segments(&self, shard: u32) -> Vec<Segment> {
        let segments = self.manifest.segments.iter().filter(|segment| segment.shard == shard);
        let mut segments: Vec<Segment> = segments.cloned().collect();
        segments.sort_by_key(|segment| segment.number);
        segments
    }

    /// Another disk with equal files.
    pub fn copy(&self) -> SimDisk {
        self.disk.after(Crash::Everything)
    }
}

fn open_segment(shard: ShardId, number: u64) -> Segment {
    Segment { shard: shard.0, number, file: segment_name(shard, number), sealed: None }
}

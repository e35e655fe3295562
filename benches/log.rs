//! One group appended to the log: encoded alone, and written and synced on a real file.
//! `cargo bench --bench log`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kyrodb::disk::blocking::BlockingDisk;
use kyrodb::disk::view::run;
use kyrodb::disk::{Disk, File, Result};
use kyrodb::types::payload::Payload;
use kyrodb::types::record::Record;
use kyrodb::types::{DocId, ShardId};
use kyrodb::wal::{Position, Prepared, Writer};

const SHARD: ShardId = ShardId(0);
const WIDTH: usize = 384;

/// Bytes of a segment on the real disk.
const SEGMENT_BYTES: u64 = 16 << 20;

/// Records in a group: a single client, and many at once.
const RECORDS: [usize; 2] = [1, 64];

/// A disk that accepts everything and stores nothing, so that only the log's own work is left.
struct Nowhere;

impl Disk for Nowhere {
    type File = Nowhere;
    type Buffer = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Vec<u8> {
        vec![0; bytes]
    }

    async fn create(&self, _: &str, _: u64) -> Result<Self> {
        Ok(Self)
    }

    async fn begin(&self, _: &str) -> Result<Self> {
        Ok(Self)
    }

    async fn open(&self, _: &str) -> Result<Self> {
        Ok(Self)
    }

    async fn rename(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn sync_dir(&self) -> Result<()> {
        Ok(())
    }
}

impl File for Nowhere {
    type Buffer = Vec<u8>;

    async fn write_at(&self, source: Vec<u8>, _: u64) -> Result<()> {
        std::hint::black_box(source);
        Ok(())
    }

    async fn read_at(&self, _: u64, _: usize, _: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    async fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    async fn truncate(&self, _: u64) -> Result<()> {
        Ok(())
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn records(count: usize) -> Vec<Record> {
    let payload = Payload::new([("colour", "blue"), ("year", "1999")], "").unwrap();
    let put = |number: usize| Record::Put {
        id: DocId(number as u64 + 1),
        vector: (0..WIDTH).map(|d| (number * WIDTH + d) as f32).collect(),
        payload: payload.clone(),
    };
    (0..count).map(put).collect()
}

/// A new log, in a segment of its own.
fn begin<D: Disk>(disk: &Rc<D>) -> Writer<D> {
    let prepared = run(Prepared::create(&**disk, SHARD, 1, SEGMENT_BYTES)).unwrap();
    run(Writer::begin(disk.clone(), SHARD, 1, prepared, Position::START, 0)).unwrap()
}

/// The time of `groups` appends, without that of creating segments for them.
fn append<D: Disk>(disk: &Rc<D>, records: &[Record], groups: u64) -> Duration {
    let mut taken = Duration::ZERO;
    let mut writer = begin(disk);
    for number in 0..groups {
        if !writer.fits(records) {
            writer = begin(disk);
        }
        let begun = Instant::now();
        run(writer.append(records, number, true)).unwrap();
        taken += begun.elapsed();
    }
    taken
}

fn groups(criterion: &mut Criterion) {
    let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let real = Rc::new(BlockingDisk::new(directory.path()));
    let nowhere = Rc::new(Nowhere);
    let mut group = criterion.benchmark_group("append");
    for count in RECORDS {
        let records = records(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("encode", count), |bench| {
            bench.iter_custom(|groups| append(&nowhere, &records, groups));
        });
        group.bench_function(BenchmarkId::new("write_and_sync", count), |bench| {
            bench.iter_custom(|groups| append(&real, &records, groups));
        });
    }
    group.finish();
}

criterion_group!(benches, groups);
criterion_main!(benches);

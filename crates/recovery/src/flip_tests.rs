//! Every bit of a small data directory, flipped, one at a time, and read back by the code that reads a directory at a
//! start: refused, or harmless, as this table says beforehand.
//!
//! | the bit is in | result |
//! |---|---|
//! | MANIFEST | it is damaged |
//! | a segment that MANIFEST has sealed, before its end | refused, and the file is named |
//! | such a segment, behind its end | not read: nothing changes |
//! | the last segment: its header, or a group that a later one confirms | refused |
//! | the group without records that the end of a process left | a torn tail, nothing is lost |
//! | the last group with records, after `kill -9` | a torn tail without that group |
//! | where the next group would begin, 64 bytes | a torn tail, nothing is lost |
//! | anywhere behind | its contents are reported, for quarantine: nothing changes |
//!
//! The table holds under every policy: with `periodic` and `none` groups are appended without a sync, and groups at
//! rest are synced before the group that says so.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::BLOCK;
use crate::disk::sim::{SimDisk, run};
use crate::manifest::{LoadError, MANIFEST_NAME, Manifest, Segment};
use crate::types::ShardId;
use crate::types::record::Record;
use crate::verify::{State, verify};
use crate::wal::group::GROUP_HEADER_BYTES;
use crate::wal::reader::ReadError;
use crate::wal::recover::{Recovered, recover};
use crate::wal::sample::Sample;

/// The shard whose bits are flipped. Its number is not 0, so that a lost number shows.
const SHARD: u32 = 1;

/// A directory with a full segment, a segment that the end of a life left, and an open one.
fn stopped() -> Sample {
    stopped_after(true)
}

/// The directory of [`stopped`], by a writer that never waited for a sync.
fn stopped_unsynced() -> Sample {
    stopped_after(false)
}

fn stopped_after(syncs: bool) -> Sample {
    let mut sample = Sample::new();
    sample.syncs = syncs;
    for groups in [5, 2] {
        sample.start();
        sample.fill(groups);
        sample.stop();
    }
    assert_eq!(sample.segments(SHARD).len(), 3);
    sample
}

/// The directory of [`stopped`], but with `kill -9` before the end.
fn killed() -> Sample {
    let mut sample = stopped();
    sample.start();
    sample.fill(2);
    sample
}

/// The log as a start reads it.
fn start(disk: &SimDisk, manifest: &Manifest) -> Result<(Recovered, Vec<Record>), ReadError> {
    let mut records = Vec::new();
    let recovered = run(recover(disk, ShardId(SHARD), &manifest.segments, None, |_, record| {
        records.push(record);
    }))?;
    Ok((recovered, records))
}

/// Result that a flipped bit has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Refused,
    /// Torn, with this number of records read.
    Torn(usize),
    Same,
}

/// The bytes of a segment, by the table of this module.
struct Map {
    /// A later group or MANIFEST confirms everything before this offset.
    vouched: usize,
    /// Offset of the end of the last group.
    end: usize,
    records_vouched: usize,
    records: usize,
    is_open: bool,
}

impl Map {
    fn of(sample: &Sample, segment: &Segment) -> Self {
        let records = sample.records[SHARD as usize].len();
        if let Some(sealed) = segment.sealed {
            let end = sealed.end_bytes as usize;
            return Self { vouched: end, end, records_vouched: records, records, is_open: false };
        }
        let content = sample.disk.content(&segment.file);
        let is_used = |block: &[u8]| block.iter().any(|&byte| byte != 0);
        let last = content.chunks(BLOCK).rposition(is_used).unwrap();
        let in_last = content[last * BLOCK + 12..][..4].try_into().unwrap();
        let in_last = u32::from_le_bytes(in_last) as usize;
        let (vouched, end) = (last * BLOCK, (last + 1) * BLOCK);
        Self { vouched, end, records_vouched: records - in_last, records, is_open: true }
    }

    fn verdict(&self, byte: usize) -> Verdict {
        if byte < self.vouched {
            Verdict::Refused
        } else if byte < self.end {
            Verdict::Torn(self.records_vouched)
        } else if self.is_open && byte < self.end + GROUP_HEADER_BYTES {
            Verdict::Torn(self.records)
        } else {
            Verdict::Same
        }
    }
}

/// Flips the bits of a segment from the one at `first` on, `step` apart; returns the number of bits by verdict.
fn flip(sample: &Sample, segment: &Segment, first: usize, step: usize) -> [u64; 3] {
    let map = Map::of(sample, segment);
    let (disk, manifest) = (sample.copy(), &sample.manifest);
    let good = disk.content(&segment.file);
    let (undamaged, all) = start(&disk, manifest).unwrap();
    assert_eq!(all, sample.records[SHARD as usize]);
    let mut counts = [0; 3];
    let mut bad = good.clone();
    for bit in (first..good.len() * 8).step_by(step) {
        bad[bit / 8] ^= 1 << (bit % 8);
        disk.set_content(&segment.file, bad.clone());
        bad[bit / 8] = good[bit / 8];
        let verdict = map.verdict(bit / 8);
        match (start(&disk, manifest), verdict) {
            (Err(ReadError::Corrupt { file, .. }), Verdict::Refused) if file == segment.file => {
                counts[0] += 1;
            }
            (Ok((recovered, read)), Verdict::Torn(count))
                if read == all[..count]
                    && recovered.torn.len() == 1
                    && recovered.torn[0].starts_with(&segment.file) =>
            {
                counts[1] += 1;
            }
            (Ok((mut recovered, read)), Verdict::Same) if read == all => {
                assert_eq!(recovered.left.len(), usize::from(map.is_open), "bit {bit}");
                recovered.left.clear();
                assert_eq!(recovered, undamaged, "bit {bit}");
                counts[2] += 1;
            }
            (came, _) => {
                let came = came.map(|(recovered, read)| (recovered, read.len()));
                panic!("{}, bit {bit}: {verdict:?} was to come, not {came:?}", segment.file)
            }
        }
    }
    counts
}

/// Flips every bit of these segments of the shard.
fn flip_all(make: fn() -> Sample, segments: std::ops::RangeFrom<usize>) -> [u64; 3] {
    let counts = [const { AtomicU64::new(0) }; 3];
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(8));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (counts, segments) = (&counts, segments.clone());
            scope.spawn(move || {
                // A simulated disk belongs to one thread: each thread writes its own, with equal contents.
                let sample = make();
                for segment in &sample.segments(SHARD)[segments] {
                    let counted = flip(&sample, segment, thread, threads);
                    for (count, counted) in counts.iter().zip(counted) {
                        count.fetch_add(counted, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    counts.map(AtomicU64::into_inner)
}

const BLOCK_BITS: u64 = 8 * BLOCK as u64;
const HEADER_BITS: u64 = 8 * GROUP_HEADER_BYTES as u64;

#[test]
fn every_flipped_bit_after_an_orderly_end_is_refused_or_harmless() {
    assert_all_flips_after_an_end(stopped);
}

#[test]
fn every_flipped_bit_after_an_orderly_end_is_refused_without_waiting_for_syncs() {
    assert_all_flips_after_an_end(stopped_unsynced);
}

fn assert_all_flips_after_an_end(make: fn() -> Sample) {
    let [refused, torn, same] = flip_all(make, 0..);
    // Three headers and seven groups, and the seal that ended the first life.
    assert_eq!(refused, (3 + 7 + 1) * BLOCK_BITS);
    assert_eq!(torn, BLOCK_BITS + HEADER_BITS);
    assert_eq!(refused + torn + same, 18 * BLOCK_BITS);
}

#[test]
fn every_flipped_bit_after_a_kill_costs_at_most_the_unconfirmed_group() {
    let [refused, torn, same] = flip_all(killed, 3..);
    // A header and the first of two groups.
    assert_eq!(refused, 2 * BLOCK_BITS);
    assert_eq!(torn, BLOCK_BITS + HEADER_BITS);
    assert_eq!(refused + torn + same, 6 * BLOCK_BITS);
}

/// Under every policy, and after a kill as well: the contents of MANIFEST differ.
#[test]
fn every_flipped_bit_of_manifest_is_damage_and_no_failure_of_the_disk() {
    for sample in [stopped(), stopped_unsynced(), killed()] {
        let disk = sample.copy();
        let good = disk.content(MANIFEST_NAME);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            disk.set_content(MANIFEST_NAME, bad);
            let loaded = run(Manifest::load(&disk));
            assert!(matches!(loaded, Err(LoadError::Damaged(_))), "bit {bit}: {loaded:?}");
        }
    }
}

/// `--verify-wal` finds damage where a start does, and only there.
#[test]
fn a_check_and_a_start_agree_on_flipped_bits() {
    // Prime, so that all bits of a byte and all places in a block get their turn.
    const STEP: usize = 211;
    let sample = killed();
    let disk = sample.copy();
    let (mut clean, mut torn, mut damaged) = (0, 0, 0);
    for segment in sample.segments(SHARD) {
        let good = disk.content(&segment.file);
        for bit in (0..good.len() * 8).step_by(STEP) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            disk.set_content(&segment.file, bad);
            let report = run(verify(&disk, &mut |_, _, _| {})).unwrap().unwrap();
            let is_torn = report.segments.iter().any(|row| row.state == State::TornTail);
            let at = || format!("{}, bit {bit}: {report}", segment.file);
            match start(&disk, &sample.manifest) {
                Ok((recovered, read)) => {
                    assert!(report.is_clean, "{}", at());
                    assert_eq!(is_torn, !recovered.torn.is_empty(), "{}", at());
                    assert_eq!(report.shards[SHARD as usize].records, read.len() as u64);
                    *if is_torn { &mut torn } else { &mut clean } += 1;
                }
                Err(ReadError::Corrupt { file, offset, lsn, .. }) => {
                    assert!(!report.is_clean, "{}", at());
                    let fault = &report.faults[0];
                    assert_eq!((&fault.file, fault.offset), (&file, Some(offset)), "{}", at());
                    // A start that finds a header damaged does not look for the LSN behind it.
                    assert!(lsn.0 == 0 || fault.lsn == Some(lsn.0), "{}", at());
                    damaged += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        disk.set_content(&segment.file, good);
    }
    assert!(clean > 100 && torn > 100 && damaged > 1_000, "{clean} {torn} {damaged}");
}

//! The log on a simulated disk: crashes, torn writes, flipped bits, lying syncs.

use std::rc::Rc;

use super::reader::ReadError;
use super::testing::{EPOCH, Log, SHARD, put, read_back, segment};
use super::*;
use crate::disk::sim::{Crash, Fault, SimDisk, run};
use crate::disk::{BLOCK, Disk, DiskError, Kind};
use crate::manifest::Segment;
use crate::types::mix;

#[test]
fn written_records_are_read_back_across_segments() {
    let mut log = Log::begin(6);
    log.fill(40);
    assert!(log.segments.len() > 5);
    let (recovered, records) = read_back(&log.disk, &log.segments).unwrap();
    assert_eq!(records, log.records);
    assert_eq!(recovered.position.next_lsn, log.writer.next_lsn());
    assert_eq!((recovered.torn.len(), recovered.unused.len()), (0, 0));
    assert_eq!(recovered.segments.len(), log.segments.len());
    // The ends that recovery has found are true, and checked, the next time.
    let (again, records) = read_back(&log.disk, &recovered.segments).unwrap();
    assert_eq!((again, records), (recovered, log.records));
}

#[test]
fn a_log_goes_on_after_recovery_in_a_new_epoch() {
    let mut log = Log::begin(6);
    log.fill(9);
    let (recovered, _) = read_back(&log.disk, &log.segments).unwrap();
    let number = recovered.next_number;
    let disk = log.disk.clone();
    log.writer = run(async {
        let prepared = Prepared::create(&*disk, SHARD, number, 6 * BLOCK as u64).await.unwrap();
        let position = recovered.position;
        Writer::begin(disk.clone(), SHARD, EPOCH + 1, prepared, position, 7).await.unwrap()
    });
    log.segments = recovered.segments;
    log.segments.push(segment(number));
    log.fill(9);
    assert_eq!(read_back(&log.disk, &log.segments).unwrap().1, log.records);
}

/// The last group is torn in every way that a handful of sectors can be, and in many that 128 can: either all of it
/// is there, or none, and acknowledged groups always are.
#[test]
fn a_torn_group_is_cut_off_whole() {
    let mut log = Log::begin(40);
    log.fill(5);
    let acknowledged = log.records.clone();
    log.append((101..=110).map(|id| put(id, 1_500)).collect(), false).unwrap();
    let sectors = log.disk.unsynced_sectors();
    assert!(sectors > 100, "{sectors}");
    let prefixes = (0..=sectors).map(Crash::Prefix);
    let without = (0..sectors).map(Crash::Without);
    let only = (0..sectors).map(Crash::Only);
    let random = (0..2_000).map(Crash::Random);
    let (mut whole, mut torn) = (0, 0);
    for crash in prefixes.chain(without).chain(only).chain(random) {
        let disk = log.disk.after(crash);
        let (recovered, records) =
            read_back(&disk, &log.segments).unwrap_or_else(|error| panic!("{crash:?}: {error}"));
        if records == log.records {
            whole += 1;
        } else {
            assert_eq!(records, acknowledged, "{crash:?}");
            torn += usize::from(!recovered.torn.is_empty());
        }
    }
    // If the first sector is lost too, no trace of the tear is left.
    assert!(whole >= 1 && torn > 1_000, "{whole} whole, {torn} torn");
}

/// A crash at every call of the disk, in several modes: nothing acknowledged is missing, nothing is there that was
/// not written, and recovery itself never fails.
#[test]
fn a_crash_at_any_call_loses_nothing_acknowledged() {
    let run_until = |call: u64| {
        let disk = Rc::new(SimDisk::default());
        disk.fault_at(call, Fault::Crash);
        let mut acknowledged = 0;
        let mut written = Vec::new();
        let mut segments = vec![];
        let mut work = || -> Result<(), DiskError> {
            let bytes = 5 * BLOCK as u64;
            let first = run(Prepared::create(&*disk, SHARD, 1, bytes))?;
            segments.push(segment(1));
            let mut writer =
                run(Writer::begin(disk.clone(), SHARD, EPOCH, first, Position::START, 7))?;
            for id in 0..14 {
                let records = vec![put(2 * id + 1, 30), put(2 * id + 2, 900)];
                if !writer.fits(&records) {
                    let next = writer.segment() + 1;
                    let prepared = run(Prepared::create(&*disk, SHARD, next, bytes))?;
                    // MANIFEST names a segment before it is used.
                    segments.push(segment(next));
                    run(writer.rotate(prepared, 8))?;
                }
                written.extend(records.clone());
                run(writer.append(&records, 9, true))?;
                acknowledged = written.len();
            }
            Ok(())
        };
        let done = work().is_ok();
        (disk, segments, written, acknowledged, done)
    };
    let mut crashes = 0;
    for call in 1.. {
        let (disk, segments, written, acknowledged, done) = run_until(call);
        if done {
            break;
        }
        let modes = [Crash::Nothing, Crash::Everything, Crash::Prefix(1), Crash::Without(0)];
        for crash in modes.into_iter().chain((0..6).map(|seed| Crash::Random(call * 10 + seed))) {
            let after = disk.after(crash);
            // A file whose name was not durable yet can't have been named by MANIFEST.
            let names = run(after.list()).unwrap();
            let listed: Vec<Segment> =
                segments.iter().filter(|s| names.contains(&s.file)).cloned().collect();
            let (_, records) = read_back(&after, &listed)
                .unwrap_or_else(|error| panic!("call {call}, {crash:?}: {error}"));
            assert!(records.len() >= acknowledged, "call {call}, {crash:?}");
            assert_eq!(records, written[..records.len()], "call {call}, {crash:?}");
            crashes += 1;
        }
    }
    assert!(crashes > 400, "{crashes}");
}

/// Every bit of a small log that is not padding, and one in each byte of padding, flipped: sealed data is never read
/// wrong and never skipped in silence.
#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let mut log = Log::begin(6);
    log.fill(3);
    run(log.writer.seal(10)).unwrap();
    let name = segment_name(SHARD, 1);
    let good = log.disk.content(&name);
    let end = {
        let (recovered, _) = read_back(&log.disk, &log.segments).unwrap();
        recovered.segments[0].sealed.unwrap().end_bytes as usize
    };
    let is_tried = |bit: &usize| good[bit / 8] != 0 || bit % 8 == bit / 8 % 8;
    let (mut tried, mut detected) = (0, 0);
    for bit in (0..(end + BLOCK) * 8).filter(is_tried) {
        tried += usize::from(bit / 8 < end - BLOCK);
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        log.disk.set_content(&name, bad);
        match read_back(&log.disk, &log.segments) {
            Err(ReadError::Corrupt { .. }) => detected += 1,
            Err(error) => panic!("bit {bit}: {error}"),
            // The seal has no record to lose, and nothing follows it.
            Ok((_, records)) => {
                assert_eq!(records, log.records, "bit {bit}");
                assert!(bit / 8 >= end - BLOCK, "bit {bit} went unseen");
            }
        }
    }
    assert_eq!(detected, tried);
    assert!(tried > 20_000, "{tried}");
}

#[test]
fn stale_groups_of_a_former_life_are_not_read() {
    let mut old = Log::begin(30);
    old.fill(20);
    let stale = old.disk.content(&segment_name(SHARD, 1));
    let mut log = Log::begin(30);
    log.fill(4);
    let name = segment_name(SHARD, 1);
    let mut content = log.disk.content(&name);
    let (recovered, _) = read_back(&log.disk, &log.segments).unwrap();
    let end = recovered.segments[0].sealed.unwrap().end_bytes as usize;
    // Shard, number and LSNs are equal, from the block after the end on: with the epoch of this life only the chain
    // tells them apart, with another epoch none of them counts.
    content[end..].copy_from_slice(&stale[end..]);
    log.disk.set_content(&name, content);
    let same_epoch = read_back(&log.disk, &log.segments);
    assert!(matches!(same_epoch, Ok((_, records)) if records == old.records));
    let other = Log::begin_with_epoch(30, EPOCH + 5);
    assert_eq!(other_life(other, &stale, &name), 4);
}

impl Log {
    pub(super) fn begin_with_epoch(segment_blocks: u64, epoch: u64) -> Self {
        let mut log = Self::begin(segment_blocks);
        let disk = log.disk.clone();
        log.writer = run(async {
            let bytes = segment_blocks * BLOCK as u64;
            let first = Prepared::create(&*disk, SHARD, 1, bytes).await.unwrap();
            Writer::begin(disk.clone(), SHARD, epoch, first, Position::START, 7).await.unwrap()
        });
        log
    }
}

/// Lays the groups of another epoch behind those of `log`; returns how many groups are read.
fn other_life(mut log: Log, stale: &[u8], name: &str) -> u64 {
    log.fill(4);
    let (recovered, _) = read_back(&log.disk, &log.segments).unwrap();
    let end = recovered.segments[0].sealed.unwrap().end_bytes as usize;
    let mut content = log.disk.content(name);
    content[end..].copy_from_slice(&stale[end..]);
    log.disk.set_content(name, content);
    let (_, records) = read_back(&log.disk, &log.segments).unwrap();
    assert_eq!(records, log.records);
    4
}

#[test]
fn files_missing_swapped_or_foreign_are_refused() {
    let mut log = Log::begin(6);
    log.fill(30);
    let refused = |disk: &SimDisk, segments: &[Segment]| match read_back(disk, segments) {
        Err(ReadError::Corrupt { why, .. }) => why,
        other => panic!("{:?}", other.map(|(recovered, _)| recovered)),
    };
    let content = |number| log.disk.content(&segment_name(SHARD, number));
    let with = |number, bytes| {
        let disk = log.disk.after(Crash::Everything);
        disk.set_content(&segment_name(SHARD, number), bytes);
        disk
    };
    // Two segments exchanged; one of another shard; a stale copy; one left out of MANIFEST.
    assert!(refused(&with(2, content(3)), &log.segments).contains("another log"));
    let mut foreign = content(2);
    foreign[8] = 9;
    let crc = crc32c::crc32c(&foreign[..60]);
    foreign[60..64].copy_from_slice(&crc.to_le_bytes());
    assert!(refused(&with(2, foreign), &log.segments).contains("another log"));
    let mut short = content(2);
    short[2 * BLOCK..].fill(0);
    assert!(refused(&with(2, short.clone()), &log.segments).contains("another segment follows"));
    short.truncate(2 * BLOCK);
    assert!(refused(&with(2, short), &log.segments).contains("and has fewer"));
    let left_out: Vec<_> = log.segments.iter().filter(|s| s.number != 2).cloned().collect();
    assert!(refused(&log.disk, &left_out).contains("MANIFEST does not name it"));
    let removed = log.disk.after(Crash::Everything);
    run(removed.remove(&segment_name(SHARD, 2))).unwrap();
    assert!(refused(&removed, &log.segments).contains("missing"));
    assert!(refused(&removed, &left_out).contains("another segment follows"));
    // A sealed end beyond the end of the file.
    let (recovered, _) = read_back(&log.disk, &log.segments).unwrap();
    let last = recovered.segments.last().unwrap();
    let mut cut = content(last.number);
    let end = last.sealed.unwrap().end_bytes as usize;
    cut[end - BLOCK..].fill(0);
    assert!(refused(&with(last.number, cut), &recovered.segments).contains("MANIFEST"));
}

#[test]
fn a_sync_that_lied_is_noticed() {
    let mut log = Log::begin(40);
    log.fill(2);
    log.disk.lie_about_syncs();
    log.fill(3);
    // The power fails; of the groups reported durable one is lost, later ones are not.
    let lost = log.disk.after(Crash::Without(0));
    match read_back(&lost, &log.segments) {
        Err(ReadError::Corrupt { offset, .. }) => assert!(offset > BLOCK as u64),
        other => panic!("{:?}", other.map(|(recovered, _)| recovered.records)),
    }
}

#[test]
fn without_syncs_a_lost_group_ends_the_log_in_silence() {
    let mut log = Log::begin(40);
    log.fill(2);
    let acknowledged = log.records.len();
    for id in 0..3 {
        log.append(vec![put(50 + id, 2_000)], false).unwrap();
    }
    // The first unsynced group is lost, the later ones survive: they confirm nothing.
    let disk = log.disk.after(Crash::Without(0));
    assert_eq!(read_back(&disk, &log.segments).unwrap().1, log.records[..acknowledged]);
}

#[test]
fn a_writer_that_failed_writes_no_more() {
    for (operation, call) in [("write", 1), ("sync", 2)] {
        let mut log = Log::begin(40);
        log.fill(2);
        let acknowledged = log.records.clone();
        log.disk.fault_at(log.disk.calls() + call, Fault::Fails(Kind::Failed));
        let error = log.append(vec![put(70, 10)], true).unwrap_err();
        assert_eq!(error.operation, operation);
        let calls = log.disk.calls();
        assert!(log.append(vec![put(71, 10)], true).is_err());
        assert!(run(log.writer.sync()).is_err() && run(log.writer.seal(9)).is_err());
        assert_eq!(log.disk.calls(), calls, "a failed sync is not retried");
        let (_, records) = read_back(&log.disk, &log.segments).unwrap();
        assert_eq!(records[..acknowledged.len()], acknowledged);
    }
}

#[test]
fn any_bytes_in_a_segment_are_read_or_refused() {
    let mut log = Log::begin(8);
    log.fill(4);
    let name = segment_name(SHARD, 1);
    let good = log.disk.content(&name);
    for seed in 0..3_000_u64 {
        let mut bad = good.clone();
        for change in 0..1 + seed % 4 {
            let random = mix(seed * 10 + change);
            let start = random as usize % bad.len();
            let length = (random >> 32) as usize % 600;
            let end = (start + length).min(bad.len());
            if random & 1 == 0 {
                bad[start..end].fill((random >> 50) as u8);
            } else {
                bad.truncate(start);
                bad.resize(good.len(), 0);
            }
        }
        log.disk.set_content(&name, bad);
        if let Ok((_, records)) = read_back(&log.disk, &log.segments) {
            assert_eq!(records, log.records[..records.len()]);
        }
    }
}

/// The last group of a full segment is confirmed at rest like any other: damage to it is no torn write.
#[test]
fn a_flipped_bit_in_the_last_group_of_a_full_segment_is_damage() {
    let mut log = Log::begin(6);
    let mut id = 0;
    while log.writer.fits(&[put(id + 1, 40)]) {
        id += 1;
        log.append(vec![put(id, 40)], true).unwrap();
    }
    run(log.writer.seal(9)).unwrap();
    assert_eq!(log.segments.len(), 1);
    let (_, records) = read_back(&log.disk, &log.segments).unwrap();
    assert_eq!(records, log.records);
    let name = segment_name(SHARD, 1);
    let whole = log.disk.content(&name);
    // The header, a block for each group with a record, and the group without.
    assert_eq!(whole.len(), (id as usize + 2) * BLOCK);
    for offset in [0, 40, 64, 100, 200] {
        let mut content = whole.clone();
        content[id as usize * BLOCK + offset] ^= 1;
        log.disk.set_content(&name, content);
        let found = read_back(&log.disk, &log.segments);
        assert!(matches!(found, Err(ReadError::Corrupt { .. })), "byte {offset}: {found:?}");
    }
}

//! A log that goes on after failed writes and syncs: nothing acknowledged is lost, and nothing refused comes back
//! once another group was acknowledged in its place.

use crate::disk::sim::{Crash, Fault, SimDisk, run};
use crate::disk::{BLOCK, Disk, blocks};
use crate::manifest::{MANIFEST_NAME, MANIFEST_VERSION, Manifest, Sealed, Segment};
use crate::types::record::Record;
use crate::verify::verify;
use crate::wal::testing::{EPOCH, Log, SHARD, put, read_back, segment};
use crate::wal::*;

fn crashes(seeds: u64) -> impl Iterator<Item = Crash> {
    let fixed = [Crash::Nothing, Crash::Everything, Crash::Prefix(1), Crash::Without(0)];
    let only = (0..8).map(Crash::Only);
    fixed.into_iter().chain(only).chain((0..seeds).map(Crash::Random))
}

/// Checks that the check of a data directory finds no fault either.
fn assert_verified(disk: &SimDisk, segments: Vec<Segment>) {
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        shards: SHARD.0 + 1,
        dimension: 0,
        distance: "cosine".into(),
        epoch: EPOCH,
        snapshots: Vec::new(),
        segments,
    };
    let mut bytes = manifest.encode();
    bytes.resize(blocks(bytes.len()), b' ');
    disk.set_content(MANIFEST_NAME, bytes);
    let report = run(verify(disk, &mut |_, _, _| {})).unwrap().unwrap();
    // The vectors of these tests are of any length.
    let is_fault = |what: &str| !what.starts_with("a vector of");
    assert!(!report.faults.iter().any(|fault| is_fault(&fault.what)), "{report}");
}

/// Checks of a log that has failed.
trait Exact {
    fn assert_exact(&self, ends: &[(u64, Sealed)]);
}

impl Exact for Log {
    /// Checks that after any crash the log is exactly the acknowledged records, whichever ends MANIFEST has.
    fn assert_exact(&self, ends: &[(u64, Sealed)]) {
        for crash in crashes(50) {
            let disk = self.disk.after(crash);
            for segments in [self.segments.clone(), self.with_ends(ends)] {
                let (recovered, records) = read_back(&disk, &segments)
                    .unwrap_or_else(|error| panic!("{crash:?}: {error}"));
                assert_eq!(records, self.records, "{crash:?}");
                assert_eq!(recovered.position.next_lsn, self.writer.next_lsn());
                // And once more from the segments as recovery has left them.
                let (again, records) = read_back(&disk, &recovered.segments).unwrap();
                assert_eq!((again.position, records), (recovered.position, self.records.clone()));
                assert_verified(&disk, segments);
            }
        }
    }
}

/// The refused group is on disk, whole, in part or not at all; the group acknowledged in its place has equal LSNs.
#[test]
fn a_refused_group_does_not_come_back() {
    for (failing, skip) in [("write", 0), ("sync", 1)] {
        let mut log = Log::begin(40);
        log.fill(3);
        log.fail_after(skip);
        let refused: Vec<Record> = (901..905).map(|id| put(id, 700)).collect();
        let error = log.append(refused, true).unwrap_err();
        assert_eq!(error.operation, failing);
        let (number, end) = log.writer.broken_end().unwrap();
        assert_eq!((number, end.last_lsn), (1, log.records.len() as u64));
        let ends = log.replace().unwrap();
        assert_eq!(ends, [(1, end)]);
        log.assert_exact(&ends);
        log.fill(4);
        log.assert_exact(&ends);
    }
}

/// Several groups are refused one after the other, each in a segment of its own, and then good ones of the old
/// segment's length follow: leftovers that look like the log do not join it.
#[test]
fn leftovers_of_many_failures_are_ignored() {
    let mut log = Log::begin(12);
    log.fill(2);
    let mut ends = Vec::new();
    for attempt in 0..4 {
        log.fail_after(1);
        log.append(vec![put(910 + attempt, 40)], true).unwrap_err();
        ends.extend(log.replace().unwrap());
        log.assert_exact(&ends);
        if attempt == 2 {
            log.fill(3);
        }
    }
    log.fill(24);
    log.assert_exact(&ends);
    assert!(log.segments.len() > 6, "segments are full and rotated meanwhile");
}

/// The new segment can't be begun, at any of its calls: it is given up too, whether its header has reached the disk
/// or not, and the next one takes its place.
#[test]
fn a_fresh_segment_that_fails_is_followed_by_another() {
    for skip in 0..8 {
        let mut log = Log::begin(12);
        log.fill(3);
        log.fail_after(1);
        log.append(vec![put(900, 40)], true).unwrap_err();
        log.fail_after(skip);
        let first = log.replace();
        assert_eq!(first.is_ok(), skip >= 4, "call {skip}: create, sync, header, sync");
        if first.is_err() {
            assert!(log.writer.is_broken());
            let calls = log.disk.calls();
            assert!(run(log.writer.append(&[put(901, 4)], 9, true)).is_err());
            assert_eq!(log.disk.calls(), calls, "nothing is written before it is mended");
            log.replace().unwrap();
        }
        // The fault of the later rounds hits later calls.
        log.disk.fault_at(0, Fault::Crash);
        log.fill(3);
        log.assert_exact(&[]);
    }
}

/// A full segment can't be followed by another: the full one is good, and nothing is lost.
#[test]
fn a_failed_rotation_is_mended() {
    for skip in 2..4 {
        let mut log = Log::begin(6);
        log.fill(2);
        while log.writer.fits(&[put(1, 40)]) {
            log.append(vec![put(log.records.len() as u64 + 1, 40)], true).unwrap();
        }
        log.fail_after(skip);
        log.append(vec![put(900, 40)], true).unwrap_err();
        // The last block is left for a group without records.
        assert_eq!(log.writer.broken_end().unwrap().1.end_bytes, 5 * BLOCK as u64);
        assert_eq!(log.writer.next_number(), 3, "a number is not given twice");
        let ends = log.replace().unwrap();
        log.fill(3);
        log.assert_exact(&ends);
    }
}

/// Groups are acknowledged without a sync, and then the sync fails: all of them are in the new segment, in their
/// order and with their LSNs, also if that takes several tries.
#[test]
fn groups_acknowledged_without_a_sync_are_written_again() {
    for failing in ["write", "sync"] {
        for skip in 0..12 {
            let mut log = Log::begin(20);
            log.fill(2);
            for id in 0..3 {
                log.append(vec![put(50 + id, 200), put(60 + id, 3)], false).unwrap();
            }
            log.fail_after(0);
            let failed = match failing {
                "write" => log.append(vec![put(900, 4)], false),
                _ => run(log.writer.sync()),
            };
            assert_eq!(failed.unwrap_err().operation, failing);
            assert!(log.writer.has_unsynced());
            assert_eq!(log.writer.broken_end(), None, "its end is not decided yet");
            log.fail_after(skip);
            let ends = match log.replace() {
                Ok(ends) => ends,
                Err(_) => log.replace().unwrap(),
            };
            log.disk.fault_at(0, Fault::Crash);
            assert!(!log.writer.has_unsynced());
            log.assert_exact(&ends);
            log.fill(2);
            log.assert_exact(&ends);
        }
    }
}

/// A life in which a call fails, is mended, and later the power goes: all acknowledged groups are there, and at most
/// the last group that was tried besides.
#[test]
fn a_failure_and_then_a_crash_at_any_call() {
    let mut checked = 0;
    for failure in 1..24 {
        for crash_at in 1..20 {
            let mut log = Log::begin(6);
            log.fail_after(failure);
            let mut has_failed = false;
            let mut tried = Vec::new();
            for id in 1..=9 {
                let group = vec![put(id, 30), put(100 + id, 500)];
                tried.clone_from(&group);
                if log.append(group, true).is_ok() {
                    continue;
                }
                if has_failed {
                    break;
                }
                has_failed = true;
                log.disk.fault_at(log.disk.calls() + crash_at, Fault::Crash);
                // If the failure came before any write, there is nothing to mend.
                if log.writer.is_broken() && log.replace().is_err() {
                    break;
                }
            }
            for crash in crashes(8) {
                let disk = log.disk.after(crash);
                let names = run(disk.list()).unwrap();
                let listed: Vec<Segment> =
                    log.segments.iter().filter(|s| names.contains(&s.file)).cloned().collect();
                let (_, records) = read_back(&disk, &listed).unwrap_or_else(|error| {
                    panic!("failure {failure}, crash {crash_at} {crash:?}: {error}")
                });
                let (acknowledged, more) = records.split_at(log.records.len());
                assert_eq!(acknowledged, log.records, "failure {failure}, crash {crash_at}");
                assert!(more.is_empty() || more == tried, "failure {failure}, crash {crash_at}");
                checked += 1;
            }
        }
    }
    assert!(checked > 5_000, "{checked}");
}

/// Damage to acknowledged groups in a segment that was given up is still damage.
#[test]
fn a_segment_that_was_given_up_is_checked_up_to_its_end() {
    let mut log = Log::begin(40);
    log.fill(4);
    log.fail_after(1);
    log.append(vec![put(900, 40)], true).unwrap_err();
    let ends = log.replace().unwrap();
    log.fill(2);
    let name = segment_name(SHARD, 1);
    let good = log.disk.content(&name);
    for block in 0..ends[0].1.end_bytes as usize / BLOCK {
        let mut bad = good.clone();
        bad[block * BLOCK + 50] ^= 4;
        log.disk.set_content(&name, bad);
        for segments in [log.segments.clone(), log.with_ends(&ends)] {
            assert!(read_back(&log.disk, &segments).is_err(), "block {block}");
        }
    }
}

/// An operator removes the file of the active segment: it is made again from the open file.
#[test]
fn a_removed_segment_is_restored() {
    let mut log = Log::begin(40);
    log.fill(3);
    log.append(vec![put(50, 20)], false).unwrap();
    let name = segment_name(SHARD, 1);
    run(log.disk.remove(&name)).unwrap();
    assert!(read_back(&log.disk, &log.segments).is_err());
    run(log.writer.restore()).unwrap();
    log.assert_exact(&[]);
    log.fill(3);
    log.assert_exact(&[]);
    // Of a segment that has failed, the part known to be durable.
    log.fail_after(1);
    log.append(vec![put(900, 40)], true).unwrap_err();
    run(log.disk.remove(&name)).unwrap();
    run(log.writer.restore()).unwrap();
    let ends = log.replace().unwrap();
    log.fill(3);
    log.assert_exact(&ends);
}

/// A restore that fails or is cut short leaves no half of a segment under its name.
#[test]
fn a_restore_is_whole_or_not_at_all() {
    for skip in 0..7 {
        let mut log = Log::begin(40);
        log.fill(3);
        let name = segment_name(SHARD, 1);
        run(log.disk.remove(&name)).unwrap();
        log.fail_after(skip);
        let restored = run(log.writer.restore());
        assert_eq!(restored.is_ok(), skip == 6, "create, read, write, sync, rename, sync");
        let is_lost = matches!(restored, Err(RestoreError::Lost(_)));
        assert_eq!(is_lost, skip == 1, "only what can't be read is lost");
        let names = run(SimDisk::list(&log.disk.after(Crash::Everything))).unwrap();
        assert_eq!(names.contains(&name), skip >= 5, "call {skip}");
        log.disk.fault_at(0, Fault::Crash);
        run(log.writer.restore()).unwrap();
        log.assert_exact(&[]);
    }
}

/// MANIFEST names a prepared segment before it is used: if the sync before it fails, its number is not used again,
/// and it is among those that MANIFEST is to forget.
#[test]
fn a_sync_that_fails_before_the_next_segment_gives_its_number_up() {
    let mut log = Log::begin(40);
    log.fill(2);
    let records = vec![put(90, 40)];
    log.append(records, false).unwrap();
    let number = log.writer.next_number();
    let prepared = run(Prepared::create(&*log.disk, SHARD, number, log.segment_bytes)).unwrap();
    log.segments.push(segment(number));
    log.fail_after(0);
    assert!(run(log.writer.rotate(prepared, 8)).is_err());
    assert_eq!(log.writer.next_number(), number + 1);
    log.replace().unwrap();
    assert_eq!(log.writer.take_unused(), [number]);
    assert_eq!(read_back(&log.disk, &log.segments).unwrap().1, log.records);
}

//! Each kind of damage on a simulated disk, reported with its file, offset and LSN.

use super::*;
use crate::disk::BLOCK;
use crate::disk::sim::{SimDisk, run};
use crate::manifest::Segment;
use crate::wal::recover::recover;
use crate::wal::sample::{SHARDS, Sample};

pub(super) fn report(disk: &SimDisk) -> Report {
    run(verify(disk, &mut |_, _, _| {})).unwrap().unwrap()
}

/// A disk with one file changed.
pub(super) fn with(sample: &Sample, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let disk = sample.copy();
    let mut content = disk.content(name);
    change(&mut content);
    disk.set_content(name, content);
    disk
}

fn flipped(sample: &Sample, name: &str, offset: usize) -> SimDisk {
    with(sample, name, |content| content[offset] ^= 0x10)
}

fn removed(sample: &Sample, name: &str) -> SimDisk {
    let disk = sample.copy();
    run(disk.remove(name)).unwrap();
    disk
}

/// The only fault, and the row of its file.
fn only_fault(report: &Report) -> (&Fault, &SegmentReport) {
    assert!(!report.is_clean);
    assert_eq!(report.faults.len(), 1, "{report}");
    let fault = &report.faults[0];
    (fault, row(report, &fault.file))
}

pub(super) fn row<'a>(report: &'a Report, file: &str) -> &'a SegmentReport {
    report.segments.iter().find(|row| row.file == file).unwrap()
}

pub(super) fn states(report: &Report, shard: u32) -> Vec<State> {
    report.segments.iter().filter(|row| row.shard == shard).map(|row| row.state).collect()
}

fn first_lsn(segment: &Segment) -> u64 {
    segment.sealed.unwrap().first_lsn
}

/// The LSN of the first record after `groups` groups of the segment.
fn lsn_of_group(sample: &Sample, segment: &Segment, groups: u64) -> u64 {
    let content = sample.disk.content(&segment.file);
    let at = (1 + groups as usize) * BLOCK + 24;
    u64::from_le_bytes(content[at..at + 8].try_into().unwrap())
}

#[test]
fn a_good_directory_is_clean_and_described() {
    let sample = Sample::made();
    let report = report(&sample.disk);
    assert!(report.is_clean && report.faults.is_empty(), "{report}");
    assert!(report.notes.is_empty(), "{report}");
    for shard in 0..SHARDS {
        let records = sample.records[shard as usize].len() as u64;
        let sum = &report.shards[shard as usize];
        assert_eq!((sum.records, sum.is_continuous), (records, true));
        assert_eq!((sum.first_lsn, sum.last_lsn), (Some(1), Some(records)));
        let states = states(&report, shard);
        assert_eq!(states.last(), Some(&State::Open));
        assert!(states.len() > 3 && states[..states.len() - 1].iter().all(|s| *s == State::Sealed));
    }
    for segment in sample.segments(0).iter().chain(&sample.segments(1)) {
        let row = row(&report, &segment.file);
        if let Some(sealed) = segment.sealed {
            assert_eq!((row.good_bytes, row.end_bytes), (sealed.end_bytes, sealed.end_bytes));
            assert_eq!(row.first_lsn, Some(sealed.first_lsn));
            assert_eq!(row.last_lsn, Some(sealed.last_lsn));
        }
    }
    let text = report.to_string();
    let count = sample.records[0].len() + sample.records[1].len();
    assert!(
        text.contains(&format!("\nclean: {} segments, {count} records\n", report.segments.len()))
    );
    assert!(text.contains("shard 1: "), "{text}");
    assert!(text.contains("without a gap"), "{text}");
}

#[test]
fn an_empty_directory_has_nothing_to_check() {
    let disk = SimDisk::default();
    assert!(run(verify(&disk, &mut |_, _, _| {})).unwrap().is_none());
    disk.set_content("letters.txt", vec![b'x'; 10]);
    assert!(run(verify(&disk, &mut |_, _, _| {})).unwrap().is_none());
}

#[test]
fn the_last_segments_of_a_running_server_are_open() {
    let mut sample = Sample::new();
    sample.start();
    let fresh = report(&sample.disk);
    assert!(fresh.is_clean, "{fresh}");
    assert_eq!(states(&fresh, 0), [State::Open]);
    sample.fill(2);
    // kill -9: MANIFEST has no end, and nothing confirms the last group.
    let killed = report(&sample.disk);
    assert!(killed.is_clean, "{killed}");
    assert_eq!(row(&killed, "wal_0001_00000001.wal").good_bytes, 3 * BLOCK as u64);
}

#[test]
fn a_flipped_bit_is_named_and_the_rest_is_read() {
    let sample = Sample::made();
    let segment = &sample.segments(0)[0];
    let (file, sealed) = (segment.file.as_str(), segment.sealed.unwrap());
    let (second, third) = (lsn_of_group(&sample, segment, 1), lsn_of_group(&sample, segment, 2));
    let places = [
        (2 * BLOCK + 9, "bad checksum of a group header"),
        (2 * BLOCK + 61, "bad checksum of a group header"),
        (2 * BLOCK + 64 + 26, "bad checksum in the record with LSN"),
        (2 * BLOCK + 64 + 60, "bad checksum in the record with LSN"),
        (3 * BLOCK - 3, "bytes after the last record that nobody wrote"),
    ];
    for (offset, what) in places {
        let report = report(&flipped(&sample, file, offset));
        let (fault, row) = only_fault(&report);
        assert_eq!(fault.file, file);
        assert_eq!((fault.offset, fault.lsn), (Some(2 * BLOCK as u64), Some(second)), "{offset}");
        assert!(fault.what.contains(what), "{offset}: {}", fault.what);
        assert_eq!(fault.lost, Some((second, third - 1)), "{offset}");
        assert_eq!(fault.goes_on, Some((3 * BLOCK as u64, third)), "{offset}");
        assert_eq!(row.state, State::Damaged);
        assert_eq!((row.good_bytes, row.end_bytes), (2 * BLOCK as u64, sealed.end_bytes));
        assert_eq!((row.first_lsn, row.last_lsn), (Some(1), Some(sealed.last_lsn)));
        assert_eq!(row.records, sealed.last_lsn - (third - second));
        assert!(!report.shards[0].is_continuous && report.shards[1].is_continuous);
        let text = report.to_string();
        let said = format!("{file} at byte 8192 (LSN {second}): ");
        assert!(text.contains(&said) && text.contains("DAMAGED: 1 fault in 1 file"), "{text}");
    }
}

#[test]
fn a_damaged_segment_header_does_not_hide_the_groups() {
    let sample = Sample::made();
    let segment = &sample.segments(1)[1];
    for (offset, what) in [(17, "bad checksum of the segment header"), (70, "nobody wrote")] {
        let report = report(&flipped(&sample, &segment.file, offset));
        let (fault, row) = only_fault(&report);
        assert_eq!((fault.offset, fault.lsn), (Some(0), Some(first_lsn(segment))));
        assert!(fault.what.contains(what), "{}", fault.what);
        assert_eq!(fault.lost, None);
        assert_eq!(fault.goes_on, Some((BLOCK as u64, first_lsn(segment))));
        let sealed = segment.sealed.unwrap();
        assert_eq!((row.state, row.good_bytes, row.epoch.as_ref()), (State::Damaged, 0, None));
        assert_eq!(row.records, sealed.last_lsn + 1 - sealed.first_lsn);
        assert!(report.shards[1].is_continuous);
    }
    // Header and groups gone: nothing can be read, and the log goes on behind.
    let disk = with(&sample, &segment.file, |content| content.fill(0));
    let report = report(&disk);
    let (fault, _) = only_fault(&report);
    let sealed = segment.sealed.unwrap();
    assert_eq!(fault.lost, Some((sealed.first_lsn, sealed.last_lsn)));
    assert!(fault.what.contains("no group can be read"), "{}", fault.what);
}

#[test]
fn all_damage_is_reported_not_only_the_first() {
    let sample = Sample::made();
    let (first, second) = (&sample.segments(0)[0], &sample.segments(0)[1]);
    let other = &sample.segments(1)[0];
    let disk = flipped(&sample, &first.file, BLOCK + 100);
    let mut content = disk.content(&first.file);
    content[3 * BLOCK + 100] ^= 1;
    disk.set_content(&first.file, content);
    for segment in [second, other] {
        let mut content = disk.content(&segment.file);
        content[2 * BLOCK + 30] ^= 1;
        disk.set_content(&segment.file, content);
    }
    let report = report(&disk);
    let found: Vec<_> =
        report.faults.iter().map(|fault| (fault.file.as_str(), fault.offset.unwrap())).collect();
    let block = BLOCK as u64;
    let expected = [(first, block), (first, 3 * block), (second, 2 * block), (other, 2 * block)];
    assert_eq!(found, expected.map(|(segment, offset)| (segment.file.as_str(), offset)));
    assert!(report.to_string().contains("DAMAGED: 4 faults in 3 files"), "{report}");
}

#[test]
fn a_segment_full_of_damage_is_given_up_in_the_end() {
    use crate::types::record::Record;
    let mut sample = Sample::new();
    sample.start_with_segments_of(4 * FAULTS_MAX as u64);
    let id = (1..).map(crate::types::DocId).find(|id| id.shard(SHARDS) == ShardId(0)).unwrap();
    for _ in 0..3 * FAULTS_MAX {
        sample.append(ShardId(0), vec![Record::Delete { id }]);
    }
    let segment = &sample.segments(0)[0].file;
    let disk = with(&sample, segment, |content| {
        for group in (1..=3 * FAULTS_MAX).step_by(2) {
            content[group * BLOCK + 5] ^= 1;
        }
    });
    let report = report(&disk);
    assert_eq!(report.faults.len(), FAULTS_MAX, "{report}");
    let (last, others) = report.faults.split_last().unwrap();
    assert!(last.what.contains("the rest of the segment was not looked at") && others.len() > 9);
    assert!(others.iter().all(|fault| fault.goes_on.is_some() && fault.lost.is_some()));
    assert_eq!(row(&report, segment).records, FAULTS_MAX as u64 - 1);
}

#[test]
fn a_segment_that_ends_too_early_is_named() {
    let sample = Sample::made();
    // Sealed: its last groups are gone, and not even a part of a block is left.
    let segment = &sample.segments(0)[0];
    let third = lsn_of_group(&sample, segment, 2);
    for bytes in [3 * BLOCK, 3 * BLOCK + 100] {
        let report = report(&with(&sample, &segment.file, |content| content.truncate(bytes)));
        let (fault, row) = only_fault(&report);
        assert_eq!((fault.offset, fault.lsn), (Some(3 * BLOCK as u64), Some(third)));
        assert!(fault.what.contains("the file ends here, before the end that MANIFEST"));
        assert_eq!(fault.lost, Some((third, segment.sealed.unwrap().last_lsn)));
        assert_eq!((fault.goes_on, row.end_bytes), (None, 3 * BLOCK as u64));
    }
    // Zeroed instead.
    let report = report(&with(&sample, &segment.file, |content| content[3 * BLOCK..].fill(0)));
    assert!(only_fault(&report).0.what.contains("a group is missing here"));
    // Open: all its groups are there, but the file was longer once.
    let last = sample.segments(0).pop().unwrap();
    let length = sample.disk.content(&last.file).len();
    let report = self::report(&with(&sample, &last.file, |content| content.truncate(length - 1)));
    let (fault, _) = only_fault(&report);
    assert_eq!(fault.offset, Some(length as u64 - 1));
    assert!(fault.what.contains("it was made with"), "{}", fault.what);
    // Without its header only room behind the last group shows that none is missing.
    let end = row(&self::report(&sample.disk), &last.file).end_bytes as usize;
    for (bytes, is_told) in [(length, false), (end + BLOCK, false), (end, true)] {
        let report = self::report(&with(&sample, &last.file, |content| {
            content[17] ^= 1;
            content.truncate(bytes);
        }));
        let cut = report.faults.iter().find(|fault| fault.what.contains("no header to tell"));
        assert_eq!(cut.map(|fault| fault.offset), is_told.then_some(Some(end as u64)), "{report}");
        assert_eq!(report.shards[0].is_continuous, !is_told);
    }
}

#[test]
fn a_missing_segment_is_named_with_its_records() {
    let sample = Sample::made();
    let segment = &sample.segments(0)[1];
    let sealed = segment.sealed.unwrap();
    let report = report(&removed(&sample, &segment.file));
    let (fault, row) = only_fault(&report);
    assert_eq!(fault.file, segment.file);
    assert!(fault.what.contains("missing, but MANIFEST names it"));
    assert_eq!(fault.lost, Some((sealed.first_lsn, sealed.last_lsn)));
    assert_eq!(row.state, State::Missing);
    assert!(!report.shards[0].is_continuous);
    assert_eq!(states(&report, 0)[2], State::Sealed, "what follows is read");
}

#[test]
fn a_missing_segment_that_was_not_sealed_shows_by_the_next_one() {
    let mut sample = Sample::made();
    // MANIFEST as it was before it had any end.
    sample.manifest.segments.iter_mut().for_each(|segment| segment.sealed = None);
    sample.publish();
    let whole = report(&sample.disk);
    assert!(whole.is_clean, "{whole}");
    assert_eq!(states(&whole, 0)[0], State::Followed);
    let rows = whole.segments;
    let disk = removed(&sample, &rows[1].file);
    let report = report(&disk);
    let (fault, _) = only_fault(&report);
    assert_eq!(fault.lost, rows[1].first_lsn.zip(rows[1].last_lsn));
    assert_eq!(fault.lsn, rows[1].first_lsn);
}

#[test]
fn exchanged_and_foreign_files_are_named() {
    let sample = Sample::made();
    let (second, third) = (&sample.segments(0)[1].file, &sample.segments(0)[2].file);
    let other = &sample.segments(1)[1].file;
    let disk = sample.copy();
    disk.set_content(second, sample.disk.content(third));
    disk.set_content(third, sample.disk.content(second));
    let report = report(&disk);
    let said: Vec<_> = report.faults.iter().map(|fault| (&fault.file, &fault.what)).collect();
    assert_eq!(said.len(), 2, "{report}");
    assert_eq!(said[0].0, second);
    assert!(said[0].1.contains("the file is segment 3 of shard 0"), "{}", said[0].1);
    assert!(said[1].1.contains("the file is segment 2 of shard 0"), "{}", said[1].1);
    let disk = sample.copy();
    disk.set_content(second, sample.disk.content(other));
    let report = self::report(&disk);
    let (fault, _) = only_fault(&report);
    assert!(fault.what.contains("segment 2 of shard 1"), "{}", fault.what);
    assert_eq!(fault.offset, Some(0));
}

/// Groups of another log, or of another life of this one, in place of a group of this one.
#[test]
fn a_group_of_another_log_is_no_group_of_this_one() {
    let sample = Sample::made();
    let segment = &sample.segments(0)[1];
    let lsn = lsn_of_group(&sample, segment, 1);
    let last = sample.segments(0).pop().unwrap();
    let sources = [
        (sample.segments(1)[1].file.clone(), "a group of shard 1"),
        (last.file, "a group of another epoch, "),
        (sample.segments(0)[0].file.clone(), "a group that begins with LSN"),
    ];
    for (source, what) in sources {
        let group = sample.disk.content(&source)[2 * BLOCK..3 * BLOCK].to_vec();
        let disk = with(&sample, &segment.file, |content| {
            content[2 * BLOCK..3 * BLOCK].copy_from_slice(&group);
        });
        let report = report(&disk);
        let (fault, _) = only_fault(&report);
        assert_eq!((&fault.file, fault.offset), (&segment.file, Some(2 * BLOCK as u64)));
        assert_eq!(fault.lsn, Some(lsn));
        assert_eq!(fault.goes_on, Some((3 * BLOCK as u64, lsn_of_group(&sample, segment, 2))));
        assert!(fault.what.contains(what), "{}", fault.what);
    }
}

#[test]
fn a_gap_between_segments_is_named() {
    let mut sample = Sample::made();
    let segments = sample.segments(0);
    let (first, second, third) = (&segments[0], &segments[1], &segments[2]);
    // MANIFEST without it, and the file gone: only LSNs show it.
    sample.manifest.segments.retain(|segment| segment.file != second.file);
    sample.publish();
    let report = report(&removed(&sample, &second.file));
    let (fault, _) = only_fault(&report);
    let lost = (first.sealed.unwrap().last_lsn + 1, first_lsn(third) - 1);
    assert_eq!((&fault.file, fault.lost), (&third.file, Some(lost)));
    assert_eq!((fault.offset, fault.lsn), (Some(0), Some(lost.0)));
    assert!(fault.what.contains(&format!("begins with LSN {}", first_lsn(third))));
    // Still there, and not named.
    let report = self::report(&sample.disk);
    let (fault, row) = only_fault(&report);
    assert_eq!((&fault.file, row.is_named), (&second.file, false));
    assert!(fault.what.contains("MANIFEST does not name it"), "{}", fault.what);
    assert!(report.shards[0].is_continuous);
}

#[test]
fn segments_of_another_time_are_named() {
    let sample = Sample::made();
    let last = sample.segments(0).pop().unwrap();
    // MANIFEST of before the last start would not know the epoch of the last segment.
    let mut older = sample.manifest.clone();
    older.epoch -= (1 << 40) + 1;
    let disk = sample.copy();
    run(older.publish(&disk)).unwrap();
    let report = report(&disk);
    let newer: Vec<_> =
        report.faults.iter().filter(|fault| fault.what.contains("newer than MANIFEST")).collect();
    assert!(newer.iter().any(|fault| fault.file == last.file), "{report}");
    // An empty segment that goes on from the right position, of a life that is over.
    let mut sample = Sample::made();
    sample.start();
    let last = sample.segments(0).pop().unwrap().file;
    let stale = with(&sample, &last, |content| {
        content[16..24].copy_from_slice(&1_u64.to_le_bytes());
        let crc = crc32c::crc32c(&content[..60]);
        content[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let report = self::report(&stale);
    let (fault, _) = only_fault(&report);
    assert!(fault.what.contains("0000000000000001 is older"), "{}", fault.what);
}

#[test]
fn a_torn_tail_is_reported_and_clean() {
    let mut sample = Sample::made();
    sample.start();
    sample.fill(2);
    let last = sample.segments(1).pop().unwrap().file;
    // Nothing confirms the last group.
    let report = report(&flipped(&sample, &last, 2 * BLOCK + 80));
    assert!(report.is_clean, "{report}");
    let row = row(&report, &last);
    assert_eq!((row.state, row.good_bytes), (State::TornTail, 2 * BLOCK as u64));
    assert!(row.torn.as_ref().unwrap().contains("at byte 8192"));
    let text = report.to_string();
    assert!(text.contains("1 torn tail\n") && text.contains("Torn tails:"), "{text}");
    // Equal damage in a segment that another one follows is reported, sealed in MANIFEST or not.
    sample.manifest.segments.iter_mut().for_each(|segment| segment.sealed = None);
    sample.publish();
    let segment = &sample.segments(1)[0];
    // Behind the last group with records there is room for one without.
    let end = sample.disk.content(&segment.file).len() - 2 * BLOCK;
    let report = self::report(&flipped(&sample, &segment.file, end + 80));
    let (fault, _) = only_fault(&report);
    assert_eq!(fault.offset, Some(end as u64));
    assert!(fault.what.contains("another segment follows"), "{}", fault.what);
}

/// If no sync is waited for, a power loss may have left later groups and taken earlier ones: a start succeeds, and
/// yet the groups that it will leave out may have been acknowledged.
#[test]
fn good_groups_behind_an_unconfirmed_hole_are_a_fault() {
    let mut sample = Sample::new();
    sample.syncs = false;
    sample.start();
    sample.fill(4);
    let segment = &sample.segments(0)[0];
    let (second, third) = (lsn_of_group(&sample, segment, 1), lsn_of_group(&sample, segment, 2));
    let disk = flipped(&sample, &segment.file, 2 * BLOCK + 80);
    let report = report(&disk);
    let (fault, row) = only_fault(&report);
    assert_eq!((fault.offset, fault.lsn), (Some(2 * BLOCK as u64), Some(second)));
    assert_eq!(fault.goes_on, Some((3 * BLOCK as u64, third)));
    assert_eq!(fault.lost, Some((second, third - 1)));
    assert!(fault.what.contains("Nothing says that the hole had been synced"), "{}", fault.what);
    assert!(fault.what.contains("2 whole groups between LSN"), "{}", fault.what);
    assert_eq!(row.good_bytes, 2 * BLOCK as u64);
    assert_eq!(row.records, sample.records[0].len() as u64 - (third - second));
    // A start takes it for the result of a power loss.
    let listed = &sample.manifest.segments;
    let started = run(recover(&disk, ShardId(0), listed, None, |_, _| {})).unwrap();
    assert_eq!(started.records, second - 1);
}

/// The last file of a log, cut where a group ends, or gone while a snapshot has all of it: no damage, but reported.
#[test]
fn a_cut_at_a_group_and_a_file_that_a_snapshot_makes_dispensable_are_noted() {
    let sample = Sample::made();
    let last = sample.segments(0).pop().unwrap();
    for blocks in [1, 2] {
        let disk = with(&sample, &last.file, |content| content.truncate(blocks * BLOCK));
        let report = report(&disk);
        assert!(report.is_clean, "{report}");
        let note = format!("{}: the file was cut at byte {}", last.file, blocks * BLOCK);
        assert!(report.notes.iter().any(|said| said.starts_with(&note)), "{report}");
    }
    // A later format is no damage that a repair may mend.
    let disk = with(&sample, &last.file, |content| {
        content[4] = 9;
        let crc = crc32c::crc32c(&content[..60]);
        content[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let report = report(&disk);
    let (fault, row) = only_fault(&report);
    assert!(fault.what.contains("made by a newer version of KyroDB"), "{}", fault.what);
    assert_eq!(row.state, State::Newer);
}

#[test]
fn without_manifest_the_readable_files_are_checked() {
    let sample = Sample::made();
    let without = removed(&sample, "MANIFEST");
    let report = report(&without);
    assert_eq!((report.faults.len(), report.manifest.is_none()), (1, true), "{report}");
    assert!(report.faults[0].file == "MANIFEST" && report.faults[0].what.contains("missing"));
    let records = (sample.records[0].len() + sample.records[1].len()) as u64;
    assert_eq!(report.records(), records);
    // Damaged, and a segment missing as well.
    let disk = flipped(&sample, "MANIFEST", 60);
    let second = &sample.segments(0)[1];
    run(disk.remove(&second.file)).unwrap();
    let report = self::report(&disk);
    assert_eq!(report.faults.len(), 2, "{report}");
    assert!(report.faults[0].what.contains("MANIFEST is damaged"), "{report}");
    let sealed = second.sealed.unwrap();
    assert_eq!(report.faults[1].lost, Some((sealed.first_lsn, sealed.last_lsn)));
}

#[test]
fn a_file_that_was_prepared_and_never_used_is_noted() {
    let sample = Sample::made();
    let disk = sample.copy();
    disk.set_content("wal_0000_00000099.wal", vec![0; 3 * BLOCK]);
    disk.set_content("MANIFEST.tmp", vec![b'{'; 7]);
    disk.set_content("wal_0000_99.wal", vec![0; BLOCK]);
    let report = report(&disk);
    assert!(report.is_clean, "{report}");
    assert_eq!(row(&report, "wal_0000_00000099.wal").state, State::Unused);
    assert_eq!(report.notes.len(), 3, "{report}");
    assert!(report.notes[0].contains("wal_0000_00000099.wal: MANIFEST does not name it"));
    assert!(report.notes[1].contains("MANIFEST.tmp: left by a write"));
}

#[test]
fn records_that_do_not_fit_the_directory_are_named() {
    let sample = Sample::made();
    for (change, what) in [
        ((|m: &mut Manifest| m.dimension = 9) as fn(&mut Manifest), "a vector of 8 values"),
        (|m| m.shards = 3, "belongs to shard"),
    ] {
        let mut manifest = sample.manifest.clone();
        change(&mut manifest);
        let disk = sample.copy();
        run(manifest.publish(&disk)).unwrap();
        let report = report(&disk);
        assert!(report.faults[0].what.contains(what), "{report}");
        assert!(report.faults[0].lsn.is_some() && report.faults[0].offset.is_some());
    }
}

#[test]
fn a_file_that_can_not_be_read_is_damage_and_the_rest_is_checked() {
    use crate::disk::{Kind, sim::Fault};
    let sample = Sample::made();
    let calls = {
        let disk = sample.copy();
        report(&disk);
        disk.calls()
    };
    let mut seen = 0;
    // The calls before the first segment are about MANIFEST and the directory.
    for call in 4..=calls {
        let disk = sample.copy();
        disk.fault_at(call, Fault::Fails(Kind::Failed));
        let report = report(&disk);
        assert!(!report.is_clean, "call {call}: {report}");
        if report.faults[0].file == "MANIFEST" {
            continue;
        }
        assert_eq!(report.faults.len(), 1, "call {call}: {report}");
        assert!(report.faults[0].what.contains("can't be read: injected"), "{report}");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

/// Any bytes in the files give a report, in bounded time and memory, and a start finds damage in the files in which
/// the check finds some.
#[test]
fn any_bytes_give_a_report() {
    let sample = Sample::made();
    let segments = sample.segments(0);
    let random = |seed: u64| crate::types::mix(seed);
    let (mut clean, mut damaged) = (0, 0);
    for seed in 0..2_000 {
        let segment = &segments[random(seed) as usize % segments.len()];
        let disk = with(&sample, &segment.file, |content| {
            for change in 1..=1 + seed % 4 {
                let random = random(seed * 10 + change);
                let start = random as usize % content.len();
                let end = (start + (random >> 32) as usize % 5_000).min(content.len());
                match random >> 62 {
                    0 => content[start..end].fill(0),
                    1 => content[start..end].iter_mut().for_each(|byte| *byte ^= 0x55),
                    2 => content.copy_within(start..end, 0),
                    _ => content.truncate(start.max(1)),
                }
            }
        });
        let report = report(&disk);
        let mut records = 0;
        let listed = &sample.manifest.segments;
        let started = run(recover(&disk, ShardId(0), listed, None, |_, _| records += 1));
        assert_eq!(report.is_clean, started.is_ok(), "seed {seed}: {report}");
        if report.is_clean {
            assert_eq!(report.shards[0].records, records, "seed {seed}: {report}");
            clean += 1;
        } else {
            assert!(report.shards[0].records <= sample.records[0].len() as u64, "seed {seed}");
            damaged += 1;
        }
    }
    assert!(clean > 50 && damaged > 1_000, "{clean} clean, {damaged} damaged");
}

//! Logs that do not begin with LSN 1, and segments that others follow.

use super::State;
use super::tests::{report, row, states, with};
use crate::disk::sim::{SimDisk, run};
use crate::disk::{BLOCK, Disk};
use crate::manifest::{Sealed, Segment, Snapshot};
use crate::wal::sample::Sample;

/// The log may begin where a snapshot was made; nothing may be missing after that.
#[test]
fn a_log_may_begin_where_a_snapshot_was_made() {
    let sample = Sample::made();
    let segments = sample.segments(0);
    let (first, third) = (segments[0].sealed.unwrap(), segments[2].sealed.unwrap());
    let made_at = |end: Sealed| Snapshot {
        shard: 0,
        number: 1,
        file: "snapshot_0000_00000001.snap".into(),
        next_lsn: end.last_lsn + 1,
        chain: end.chain,
        file_bytes: 4096,
        files: vec![1],
    };
    let removed = |disk: &SimDisk, count: usize, snapshot: Snapshot| {
        let mut manifest = sample.manifest.clone();
        manifest.segments.retain(|s| segments[count..].contains(s) || s.shard == 1);
        manifest.snapshots = vec![snapshot];
        for segment in &segments[..count] {
            run(disk.remove(&segment.file)).unwrap();
        }
        run(manifest.publish(disk)).unwrap();
    };
    let faults = |disk: &SimDisk| {
        let report = report(disk);
        let (about, others): (Vec<_>, Vec<_>) =
            report.faults.into_iter().partition(|fault| fault.file.starts_with("snapshot_"));
        assert_eq!(about.len(), 1, "there is no such file");
        assert!(about[0].what.contains("missing") && !report.snapshots[0].is_good);
        others
    };
    // Directly behind the segment that is gone, and further on.
    for end in [first, third] {
        let disk = sample.copy();
        removed(&disk, 1, made_at(end));
        assert!(faults(&disk).is_empty());
    }
    // Still there, and about to be removed.
    let disk = sample.copy();
    removed(&disk, 1, made_at(first));
    disk.set_content(&segments[0].file, sample.disk.content(&segments[0].file));
    assert!(faults(&disk).is_empty());
    // Two are gone, and the snapshot has only the records of one.
    let disk = sample.copy();
    removed(&disk, 2, made_at(first));
    let gap = faults(&disk);
    assert_eq!(gap.len(), 1);
    let lost = (first.last_lsn + 1, segments[1].sealed.unwrap().last_lsn);
    assert_eq!((&gap[0].file, gap[0].lost), (&segments[2].file, Some(lost)));
    // The header with the beginning of the third is damaged as well.
    let mut content = disk.content(&segments[2].file);
    content[17] ^= 1;
    disk.set_content(&segments[2].file, content);
    let gap = faults(&disk);
    assert_eq!(gap.len(), 1);
    assert!(gap[0].what.contains("bad checksum of the segment header"));
    assert_eq!((&gap[0].file, gap[0].lost), (&segments[2].file, Some(lost)));
    // Made from another log: the right LSN, another chain.
    let disk = sample.copy();
    removed(&disk, 0, Snapshot { chain: !first.chain, ..made_at(first) });
    let other = faults(&disk);
    assert_eq!(other.len(), 1);
    assert!(other[0].what.contains("was made from another log"), "{}", other[0].what);
}

/// After a write that failed the log goes on in another segment: groups behind the end of the former one were
/// refused, and are not read.
#[test]
fn groups_behind_the_end_of_a_segment_are_not_read() {
    let mut sample = Sample::made();
    sample.manifest.segments.iter_mut().for_each(|segment| segment.sealed = None);
    sample.publish();
    let segments = sample.segments(0);
    let whole = report(&sample.disk);
    let end = row(&whole, &segments[1].file).end_bytes as usize;
    let group = sample.disk.content(&segments[1].file)[BLOCK..2 * BLOCK].to_vec();
    for garbage in [group, vec![0x55; BLOCK]] {
        let disk = with(&sample, &segments[1].file, |content| {
            content[end..end + BLOCK].copy_from_slice(&garbage);
        });
        let report = report(&disk);
        assert!(report.is_clean, "{report}");
        assert_eq!(report.records(), whole.records());
    }
    // A segment whose header could not be written was given up between the two.
    let disk = sample.copy();
    let mut manifest = sample.manifest.clone();
    let last = segments.last().unwrap();
    let given_up = "wal_0000_00000005.wal";
    let next = "wal_0000_00000006.wal";
    assert_eq!(last.number, 4);
    let mut content = sample.disk.content(&last.file);
    let start = content[..BLOCK].to_vec();
    disk.set_content(given_up, vec![0; 5 * BLOCK]);
    content.fill(0);
    content[..BLOCK].copy_from_slice(&start);
    let end = row(&whole, &last.file);
    content[24..32].copy_from_slice(&6_u64.to_le_bytes());
    content[32..40].copy_from_slice(&(end.last_lsn.unwrap() + 1).to_le_bytes());
    let groups = sample.disk.content(&last.file);
    let seal = &groups[end.end_bytes as usize - BLOCK..];
    content[12..16].copy_from_slice(&seal[56..60]);
    let crc = crc32c::crc32c(&content[..60]);
    content[60..64].copy_from_slice(&crc.to_le_bytes());
    disk.set_content(next, content);
    for (number, file) in [(5, given_up), (6, next)] {
        manifest.segments.push(Segment { shard: 0, number, file: file.into(), sealed: None });
    }
    run(manifest.publish(&disk)).unwrap();
    let report = report(&disk);
    assert!(report.is_clean, "{report}");
    let states = states(&report, 0);
    assert_eq!(states[states.len() - 3..], [State::Followed, State::Unused, State::Open]);
}

//! The end of a log that was being written: groups of which any sectors are there, in files that were new or had
//! other contents before, and blocks that went to the wrong place.

use super::reader::ReadError;
use super::recover::recover;
use super::testing::{EPOCH, Log, SHARD, put, read_back, segment};
use super::{Position, Prepared, Writer, segment_name};
use crate::disk::sim::{Crash, SECTOR, run};
use crate::disk::{BLOCK, Disk};
use crate::manifest::Segment;
use crate::types::record::Record;
use crate::types::{Lsn, mix};

/// Every way to tear the pending writes, and `seeds` random ones, with sectors of both sizes.
fn tears(pending: usize, seeds: u64) -> impl Iterator<Item = (Crash, usize)> {
    let each = |crash: fn(usize) -> Crash| (0..=pending).map(crash);
    let fixed = [Crash::Nothing, Crash::Everything, Crash::HalfBlocks];
    let all = fixed.into_iter().chain(each(Crash::Prefix)).chain(each(Crash::Suffix));
    let all = all.chain(each(Crash::Without)).chain(each(Crash::Only));
    let all = all.chain((0..seeds).map(Crash::Random));
    all.flat_map(|crash| [SECTOR, BLOCK].map(|sector| (crash, sector)))
}

/// Tears the pending writes in every way: the records read are the synced ones, and after them whole groups of
/// `unsynced` in their order. Returns, by number of those groups, how often that number was there.
fn tear(log: &Log, unsynced: &[Vec<Record>], seeds: u64) -> Vec<usize> {
    let prefixes: Vec<Vec<Record>> = (0..=unsynced.len())
        .map(|count| {
            log.records.iter().chain(unsynced[..count].iter().flatten()).cloned().collect()
        })
        .collect();
    let mut found = vec![0; prefixes.len()];
    for (crash, sector) in tears(log.disk.pending(), seeds) {
        let disk = log.disk.after_torn(crash, sector);
        let (recovered, records) = read_back(&disk, &log.segments)
            .unwrap_or_else(|error| panic!("{crash:?}, {sector}: {error}"));
        // And once more from the result of recovery, the files being as they were.
        let (_, again) = read_back(&disk, &recovered.segments)
            .unwrap_or_else(|error| panic!("{crash:?}, {sector}, then: {error}"));
        assert!(again == records, "{crash:?}, {sector}");
        let count = prefixes.iter().position(|prefix| *prefix == records);
        found[count.unwrap_or_else(|| panic!("{crash:?}, {sector}: {}", records.len()))] += 1;
    }
    found
}

/// Groups of several blocks each, appended without a sync.
fn append_unsynced(log: &mut Log, groups: u64) -> Vec<Vec<Record>> {
    let group = |number: u64| (1..3 + number).map(|id| put(900 + number * 10 + id, 700)).collect();
    let unsynced: Vec<Vec<Record>> = (0..groups).map(group).collect();
    let acknowledged = log.records.clone();
    for group in &unsynced {
        log.append(group.clone(), false).unwrap();
    }
    log.records = acknowledged;
    unsynced
}

/// As under `fsync_policy: periodic`.
#[test]
fn unsynced_groups_are_kept_as_a_prefix() {
    for groups in [0, 3] {
        let mut log = Log::begin(40);
        log.fill(groups);
        let unsynced = append_unsynced(&mut log, 3);
        let found = tear(&log, &unsynced, 1_000);
        assert!(found[0] > 1_000 && found[1..].iter().all(|&count| count > 0), "{found:?}");
    }
}

/// As under `fsync_policy: periodic`, at rest: the group that ends the rest knows which groups were synced.
#[test]
fn damage_before_a_seal_is_refused_without_waiting_for_syncs() {
    let mut log = Log::begin(40);
    append_unsynced(&mut log, 6);
    run(log.writer.seal(10)).unwrap();
    let name = segment_name(SHARD, 1);
    let good = log.disk.content(&name);
    let seal = log.writer.end().unwrap().1.end_bytes as usize - BLOCK;
    assert!(seal > 6 * BLOCK);
    for byte in (BLOCK..seal).step_by(301) {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        log.disk.set_content(&name, bad);
        let read = read_back(&log.disk, &log.segments);
        assert!(matches!(read, Err(ReadError::Corrupt { .. })), "byte {byte}");
    }
}

/// Whole groups behind a hole may be left by a power loss: the start succeeds without them, and they are reported, so
/// that they can be kept.
#[test]
fn whole_groups_behind_a_hole_are_reported() {
    let mut log = Log::begin(40);
    log.fill(3);
    let begin = log.writer.end().unwrap().1.end_bytes as usize;
    let unsynced = append_unsynced(&mut log, 4);
    let records: u64 = unsynced[1..].iter().map(|group| group.len() as u64).sum();
    let first = log.records.len() as u64 + unsynced[0].len() as u64 + 1;
    let name = segment_name(SHARD, 1);
    let good = log.disk.content(&name);
    let last = good.chunks(BLOCK).rposition(|block| block.iter().any(|&b| b != 0)).unwrap();
    for hole in [true, false] {
        let mut bad = good.clone();
        match hole {
            true => bad[begin..begin + BLOCK].fill(0),
            false => bad[begin + 100] ^= 1,
        }
        log.disk.set_content(&name, bad);
        let (recovered, read) = read_back(&log.disk, &log.segments).unwrap();
        assert_eq!(read, log.records);
        assert!(recovered.losses[0].contains(&format!("whole groups from LSN {first} on")));
        assert_eq!((recovered.losses.len(), recovered.torn.len()), (1, 0));
        let [(of, left)] = &recovered.left[..] else { panic!("{:?}", recovered.left) };
        assert_eq!((of, left.groups), (&name, 3));
        assert_eq!(left.bytes, begin as u64..((last + 1) * BLOCK) as u64);
        assert_eq!(left.lsns, Some((first, first + records - 1)));
        // Once MANIFEST has the end there is nothing more to report.
        let (again, read) = read_back(&log.disk, &recovered.segments).unwrap();
        assert_eq!((read, again.left.len(), again.losses.len()), (log.records.clone(), 0, 0));
    }
}

/// The last file of a log, cut: at the end of a group the log ends there, and the cut is reported; anywhere else it
/// is damage.
#[test]
fn a_file_that_was_cut_ends_where_a_group_ends_or_is_damaged() {
    let mut log = Log::begin(40);
    let mut ends = vec![(BLOCK, 0)];
    for _ in 0..5 {
        log.fill(1);
        ends.push((log.writer.end().unwrap().1.end_bytes as usize, log.records.len()));
    }
    let name = segment_name(SHARD, 1);
    let good = log.disk.content(&name);
    let (_, sealed) = log.writer.end().unwrap();
    let with_end = vec![Segment { sealed: Some(sealed), ..segment(1) }];
    for blocks in 1..20 {
        let cut = good[..blocks * BLOCK].to_vec();
        log.disk.set_content(&name, cut.clone());
        let kept = ends.iter().find(|(end, _)| *end == cut.len()).map(|(_, records)| *records);
        for (listed, is_recorded) in [(&log.segments, false), (&with_end, true)] {
            let is_whole = is_recorded && cut.len() as u64 >= sealed.end_bytes;
            match (read_back(&log.disk, listed), kept) {
                (Ok((recovered, read)), _) if is_whole => {
                    assert_eq!(read, log.records);
                    assert_eq!((recovered.warnings.len(), recovered.losses.len()), (0, 0));
                }
                (Ok((recovered, read)), Some(kept)) => {
                    assert_eq!(read, log.records[..kept]);
                    let count = log.records.len() - kept;
                    // An error only if MANIFEST says that changes were behind the cut.
                    let told = match !is_recorded || count == 0 {
                        true => &recovered.warnings,
                        false => &recovered.losses,
                    };
                    let [warning] = &told[..] else { panic!("{recovered:?}") };
                    let lost = match is_recorded {
                        true if count == 0 => "nothing is lost by it".into(),
                        true => format!("{count} changes are lost, LSN {} to", kept + 1),
                        false => "nothing tells how many".into(),
                    };
                    assert!(warning.contains(&format!("cut at byte {}", cut.len())), "{warning}");
                    assert!(warning.contains(&lost), "{warning}");
                }
                (Err(ReadError::Corrupt { file, .. }), None) => assert_eq!(file, name),
                (came, _) => panic!("{blocks} blocks: {:?}", came.map(|(_, read)| read.len())),
            }
        }
    }
    // Half a block is no end of a group.
    log.disk.set_content(&name, good[..3 * BLOCK - 5].to_vec());
    assert!(read_back(&log.disk, &log.segments).is_err());
}

/// A file that is missing is a loss, unless MANIFEST has its end and the snapshot is beyond it.
#[test]
fn a_missing_segment_is_skipped_if_the_snapshot_has_its_records() {
    let mut log = Log::begin(6);
    log.fill(9);
    run(log.writer.seal(10)).unwrap();
    let (number, sealed) = log.writer.end().unwrap();
    let (recovered, _) = read_back(&log.disk, &log.segments).unwrap();
    let mut listed = recovered.segments;
    assert_eq!(listed.last().unwrap().number, number);
    assert_eq!(listed.last().unwrap().sealed, Some(sealed));
    let at = |segment: &Segment| {
        let sealed = segment.sealed.unwrap();
        Position { next_lsn: Lsn(sealed.last_lsn + 1), chain: sealed.chain }
    };
    let read = |listed: &[Segment], from: Option<Position>| {
        let mut records = 0;
        let read = run(recover(&*log.disk, SHARD, listed, from, |_, _| records += 1));
        read.map(|recovered| (recovered, records))
    };
    for name in run(log.disk.list()).unwrap() {
        run(log.disk.remove(&name)).unwrap();
    }
    let (end, before) = (at(&listed[listed.len() - 1]), at(&listed[0]));
    let (recovered, records) = read(&listed, Some(end)).unwrap();
    assert_eq!((recovered.warnings.len(), records), (listed.len(), 0));
    assert_eq!((recovered.position, recovered.next_number), (end, number + 1));
    assert!(recovered.segments.is_empty());
    for from in [None, Some(before)] {
        let error = read(&listed, from).unwrap_err().to_string();
        assert!(error.contains("the file is missing, but MANIFEST names it"), "{error}");
        assert!(!error.contains("LSN 0") && !error.contains("at byte 0"), "{error}");
    }
    // Nothing says where the last one ended.
    listed.last_mut().unwrap().sealed = None;
    assert!(read(&listed, Some(end)).is_err());
}

/// A snapshot was made behind the seal of a log, and the seal was cut off: the log goes on where the snapshot was
/// made, also for the start after the next.
#[test]
fn a_log_whose_seal_was_cut_off_goes_on_where_the_snapshot_was_made() {
    let mut log = Log::begin(40);
    log.fill(3);
    run(log.writer.seal(10)).unwrap();
    let (_, sealed) = log.writer.end().unwrap();
    let from = Position { next_lsn: Lsn(sealed.last_lsn + 1), chain: sealed.chain };
    let name = segment_name(SHARD, 1);
    let mut content = log.disk.content(&name);
    content.truncate(sealed.end_bytes as usize - BLOCK);
    log.disk.set_content(&name, content);
    let read = |log: &Log| {
        let mut records = Vec::new();
        let read = run(recover(&*log.disk, SHARD, &log.segments, Some(from), |_, record| {
            records.push(record);
        }));
        (read.unwrap_or_else(|error| panic!("{error}")), records)
    };
    let before = log.records.len();
    for start in 1..=3 {
        let (recovered, records) = read(&log);
        assert_eq!(records, log.records[before..], "start {start}");
        assert_eq!(recovered.position.next_lsn, log.writer.next_lsn(), "start {start}");
        if start == 1 {
            assert_eq!((recovered.position, recovered.warnings.len()), (from, 1));
        }
        let (disk, number) = (log.disk.clone(), recovered.next_number);
        log.writer = run(async {
            let prepared =
                Prepared::create(&*disk, SHARD, number, 40 * BLOCK as u64).await.unwrap();
            let position = recovered.position;
            Writer::begin(disk.clone(), SHARD, EPOCH + start, prepared, position, 7).await.unwrap()
        });
        log.segments = recovered.segments;
        log.segments.push(segment(number));
        log.fill(2);
    }
    assert_eq!(read(&log).1, log.records[before..]);
}

/// The space of the segment holds the groups of another life of it, whole and where groups of this one go, or
/// shifted. However the last write is torn over them, they are not read.
#[test]
fn former_contents_of_a_segment_are_never_taken_for_live() {
    for seed in 0..40 {
        let random = |what: u64| mix(seed * 100 + what);
        let mut old = Log::begin_with_epoch(40, EPOCH - 1 - random(1) % 3);
        // Half of them are equal groups, but for their epoch.
        for group in 0..14 {
            let next = old.records.len() as u64 + 1;
            let count = if seed % 2 == 0 { 1 + next % 3 } else { 1 + random(group) % 6 };
            old.append((next..next + count).map(|id| put(id, 40)).collect(), true).unwrap();
        }
        let name = segment_name(SHARD, 1);
        let mut log = Log::begin(40);
        let mut content = log.disk.content(&name);
        content[BLOCK..].copy_from_slice(&old.disk.content(&name)[BLOCK..]);
        let shift = (random(2) % 3) as usize * BLOCK * usize::from(seed % 4 > 1);
        content[BLOCK..].rotate_right(shift);
        log.disk.set_content(&name, content);
        log.fill(1 + random(3) % 8);
        assert_eq!(read_back(&log.disk, &log.segments).unwrap().1, log.records);
        let unsynced = append_unsynced(&mut log, 1 + seed % 2);
        tear(&log, &unsynced, 60);
    }
}

/// Two blocks of a log change places; one is written over another; one was written to the place of another and not to
/// its own, and the log went on. All of it is at rest at the end.
#[test]
fn misplaced_blocks_are_noticed_or_harmless() {
    let mut log = Log::begin(6);
    log.fill(11);
    run(log.writer.seal(10)).unwrap();
    assert!(log.segments.len() >= 2);
    let names: Vec<String> = log.segments.iter().map(|segment| segment.file.clone()).collect();
    let good: Vec<Vec<u8>> = names.iter().map(|name| log.disk.content(name)).collect();
    let places: Vec<(usize, usize)> =
        (0..names.len()).flat_map(|file| (0..6).map(move |block| (file, block))).collect();
    let at = |(file, block): (usize, usize)| &good[file][block * BLOCK..(block + 1) * BLOCK];
    let zeros = [0; BLOCK];
    let (mut noticed, mut harmless) = (0, 0);
    for (&source, &target) in places.iter().flat_map(|s| places.iter().map(move |t| (s, t))) {
        let (from, over) = (at(source), at(target));
        // Blocks are written in their order: a later write mends a block that a stray one has overwritten.
        let is_mended = target > source && over != zeros;
        let stray = if is_mended { over } else { from };
        for (left, put) in [(over, from), (from, from), (&zeros, stray)] {
            let mut bad = good.clone();
            bad[source.0][source.1 * BLOCK..][..BLOCK].copy_from_slice(left);
            bad[target.0][target.1 * BLOCK..][..BLOCK].copy_from_slice(put);
            if source == target || bad == good {
                continue;
            }
            for (name, content) in names.iter().zip(bad) {
                log.disk.set_content(name, content);
            }
            match read_back(&log.disk, &log.segments) {
                Err(ReadError::Corrupt { .. }) => noticed += 1,
                Err(error) => panic!("{source:?} to {target:?}: {error}"),
                Ok((_, records)) => {
                    assert!(records == log.records, "{source:?} to {target:?}");
                    harmless += 1;
                }
            }
        }
    }
    println!("{noticed} noticed, {harmless} harmless");
    assert!(noticed > 5 * harmless && harmless > 0, "{noticed} noticed, {harmless} harmless");
}

//! The end of a log: after a crash, after damage, and after changes by operators.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kyrodb::proto::SnapshotRequest;

use crate::common::documents::query;
use crate::common::{Process, Settings, directory, get, metric_sum, runtime};
use crate::{BLOCK, COUNT, ONE_SHARD, SETTINGS, assert_says, flip, made, name, segments, store};

/// Each insert is a group of its own, acknowledged before it is synced.
const PERIODIC: Settings<'static> = &[
    ("runtime.shards", "1"),
    ("persistence.fsync_policy", "periodic"),
    ("persistence.wal_flush_interval_ms", "100"),
];

/// As [`PERIODIC`], without a sync before the end.
const NEVER_SYNCED: Settings<'static> = &[
    ("runtime.shards", "1"),
    ("persistence.fsync_policy", "periodic"),
    ("persistence.wal_flush_interval_ms", "60000"),
];

/// Documents that a server has, of 1 to [`COUNT`].
fn stored(process: &Process) -> Vec<u64> {
    runtime().block_on(async {
        let mut client = process.client().await;
        let mut stored = Vec::new();
        for id in 1..=COUNT {
            if query(&mut client, id, "").await.found {
                stored.push(id);
            }
        }
        stored
    })
}

fn everything() -> Vec<u64> {
    (1..=COUNT).collect()
}

/// Runs the check of a directory; returns exit code and output.
fn verify(data_dir: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let output = command.arg("--data-dir").arg(data_dir).arg("--verify-wal").output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// A directory that a server has filled until `is_done` was true of its log, and was killed.
fn killed(data_dir: &Path, settings: Settings<'_>, is_done: impl Fn(&[u8]) -> bool) {
    let process = Process::start(data_dir, settings);
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    let begun = Instant::now();
    while !is_done(&std::fs::read(&segments(data_dir)[0]).unwrap()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the log never came to rest");
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill();
}

/// True if the log ends with a group without records: it is sealed.
fn is_sealed(content: &[u8]) -> bool {
    let blocks = || content.chunks(BLOCK as usize);
    let last = blocks().rposition(|block| block.iter().any(|&byte| byte != 0)).unwrap();
    last > 0 && blocks().nth(last).unwrap()[12..16] == [0; 4]
}

/// Offset of the group with this document.
fn offset_of(data_dir: &Path, lsn: u64) -> u64 {
    let content = std::fs::read(&segments(data_dir)[0]).unwrap();
    let is_it = |block: &[u8]| {
        &block[..4] == b"KYGR" && block[12] == 1 && block[24..32] == lsn.to_le_bytes()
    };
    content.chunks(BLOCK as usize).position(is_it).unwrap() as u64 * BLOCK
}

#[test]
fn damage_to_synced_groups_is_refused_with_periodic_syncs() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    killed(&data_dir, PERIODIC, is_sealed);
    // The last group is synced by sealing the log, and not before.
    for lsn in [COUNT, 5] {
        let (segment, offset) = (segments(&data_dir).remove(0), offset_of(&data_dir, lsn));
        flip(&segment, offset + 100);
        let (code, said) = verify(&data_dir);
        assert_eq!(code, 1, "{said}");
        assert_says(&said, &[&format!("LSN {lsn} can't be read"), "19 records"]);
        let said = Process::refused(&data_dir, PERIODIC);
        assert_says(&said, &[&name(&segment), &format!("damaged at byte {offset} (LSN {lsn})")]);
        flip(&segment, offset + 100);
    }
    let process = Process::start(&data_dir, PERIODIC);
    assert_eq!(stored(&process), everything());
    process.stop();
}

/// A power loss may do this to groups that were never synced: the start succeeds, and the data that it leaves out is
/// neither destroyed nor dropped silently.
#[test]
fn data_cut_off_at_a_start_is_reported_and_kept() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    killed(&data_dir, NEVER_SYNCED, |_| true);
    let (segment, offset) = (segments(&data_dir).remove(0), offset_of(&data_dir, 5));
    flip(&segment, offset + 100);
    let before = std::fs::read(&segment).unwrap();
    let (code, said) = verify(&data_dir);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &["15 whole groups between LSN 6 and 20", "quarantine/"]);
    let process = Process::start(&data_dir, NEVER_SYNCED);
    assert_eq!(stored(&process), [1, 2, 3, 4]);
    let log = process.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("quarantine/tail_")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert_says(told[0], &["ERROR", &name(&segment), "15 whole groups between LSN 6 and 20"]);
    let loss = log.lines().find(|line| line.contains("changes may be missing")).unwrap();
    assert_says(loss, &["ERROR", &name(&segment), "whole groups from LSN 6 on lie behind"]);
    assert!(!log.contains("the last write of the log was cut off"), "{log}");
    process.stop();
    let mut kept = std::fs::read_dir(data_dir.join("quarantine")).unwrap();
    let kept = std::fs::read(kept.next().unwrap().unwrap().path()).unwrap();
    let end = before.iter().rposition(|&byte| byte != 0).unwrap().next_multiple_of(BLOCK as usize);
    assert!(kept == before[offset as usize..end]);
    let (code, said) = verify(&data_dir);
    assert_eq!(code, 0, "{said}");
}

/// Once MANIFEST records the end of the log, no start reads what follows: the copy exists before, even if the process
/// dies in between.
#[test]
fn a_tail_is_kept_before_manifest_says_that_the_log_ends() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    killed(&data_dir, NEVER_SYNCED, |_| true);
    let (segment, offset) = (segments(&data_dir).remove(0), offset_of(&data_dir, 5));
    flip(&segment, offset + 100);
    let before = std::fs::read(&segment).unwrap();
    let end = before.iter().rposition(|&byte| byte != 0).unwrap().next_multiple_of(BLOCK as usize);
    let process = Process::spawn(&data_dir, NEVER_SYNCED);
    let begun = Instant::now();
    let has_end = || {
        let manifest = std::fs::read_to_string(data_dir.join("MANIFEST")).unwrap_or_default();
        manifest.contains("\"last_lsn\": 4") || manifest.contains("\"last_lsn\":4")
    };
    while !has_end() {
        assert!(begun.elapsed() < Duration::from_secs(60), "MANIFEST never has the end");
    }
    process.kill();
    let mut kept = std::fs::read_dir(data_dir.join("quarantine")).unwrap();
    let kept = std::fs::read(kept.next().unwrap().unwrap().path()).unwrap();
    assert!(kept == before[offset as usize..end]);
    let process = Process::start(&data_dir, NEVER_SYNCED);
    assert_eq!(stored(&process), [1, 2, 3, 4]);
    process.stop();
    assert_eq!(std::fs::read_dir(data_dir.join("quarantine")).unwrap().count(), 1);
}

/// `truncate -s GOOD_TO_BYTE`: after a kill nothing tells that data followed, after an orderly end MANIFEST does.
#[test]
fn a_log_cut_where_a_group_ends_starts_and_says_so() {
    for is_killed in [true, false] {
        let directory = directory();
        let data_dir = directory.path().join("data");
        match is_killed {
            true => killed(&data_dir, ONE_SHARD, is_sealed),
            false => drop(made(directory.path(), ONE_SHARD, COUNT)),
        }
        let (segment, offset) = (segments(&data_dir).remove(0), offset_of(&data_dir, 11));
        let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
        file.set_len(offset + 7).unwrap();
        Process::refused(&data_dir, ONE_SHARD);
        file.set_len(offset).unwrap();
        let (code, said) = verify(&data_dir);
        assert_eq!(code, 0, "{said}");
        assert_says(&said, &[&format!("the file was cut at byte {offset}")]);
        let process = Process::start(&data_dir, ONE_SHARD);
        assert_eq!(stored(&process), (1..=10).collect::<Vec<_>>());
        let lost = if is_killed { "nothing tells how many" } else { "10 changes are lost, LSN 11" };
        let log = process.log();
        let warning = log.lines().find(|line| line.contains("where a group ends")).unwrap();
        // An error only if changes are known to be missing.
        let level = if is_killed { "WARN" } else { "ERROR" };
        assert_says(warning, &[level, "10 records are left", lost]);
        let metrics = get(process.http, "/metrics").unwrap().1;
        assert_eq!(metric_sum(&metrics, "kyrodb_wal_torn_writes_total"), 1.0);
        process.stop();
        Process::start(&data_dir, ONE_SHARD).stop();
    }
}

/// `rm wal_*.wal`: an orderly end records the contents of the log, and a snapshot may have all of them. After a kill
/// there is no such record.
#[test]
fn a_log_that_is_gone_is_no_loss_where_a_snapshot_has_all_of_it() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let without_log = |settings| {
        for segment in segments(&data_dir) {
            std::fs::remove_file(segment).unwrap();
        }
        Process::spawn(&data_dir, settings)
    };
    let process = Process::start(&data_dir, SETTINGS);
    runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, COUNT).await;
        let taken = client.create_snapshot(SnapshotRequest::default()).await;
        assert!(taken.unwrap().into_inner().success);
    });
    process.stop();
    let mut process = without_log(SETTINGS);
    process.wait_ready();
    assert_eq!(stored(&process), everything());
    let log = process.log();
    let told = log.lines().filter(|line| line.contains("the file is missing; the snapshot has"));
    assert!(told.count() >= 2, "{log}");
    process.stop();
    // No write since, and the log is gone once more.
    let mut process = without_log(SETTINGS);
    process.wait_ready();
    assert_eq!(stored(&process), everything());
    process.kill();
    let said = without_log(SETTINGS).refuses();
    assert_says(&said, &["the file is missing, but MANIFEST names it", "no good snapshot"]);
    assert!(!said.contains("at byte 0") && !said.contains("LSN 0"), "{said}");
}

/// A log that was moved to a directory `wal` is read there, and continues there.
#[test]
fn a_log_that_was_moved_to_a_directory_of_its_own_is_found_there() {
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, COUNT);
    let elsewhere = data_dir.join("wal");
    std::fs::create_dir(&elsewhere).unwrap();
    let segment = segments(&data_dir).remove(0);
    std::fs::rename(&segment, elsewhere.join(name(&segment))).unwrap();
    let (code, said) = verify(&data_dir);
    assert_eq!(code, 0, "{said}");
    let process = Process::start(&data_dir, ONE_SHARD);
    assert_eq!(stored(&process), everything());
    assert!(segments(&data_dir).is_empty() && segments(&elsewhere).len() >= 2);
    process.kill();
    let process = Process::start(&data_dir, ONE_SHARD);
    assert_eq!(stored(&process), everything());
    process.stop();
}

/// All files of a directory except the lock.
fn state(data_dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.map(|path| (name(&path), std::fs::read(&path).unwrap_or_default()));
    let mut files: Vec<_> = files.filter(|(name, _)| name != "LOCK").collect();
    files.sort();
    files
}

#[test]
fn a_start_that_is_refused_changes_nothing() {
    let directory = directory();
    let settings: Settings<'_> = &[("runtime.shards", "4")];
    let data_dir = made(directory.path(), settings, COUNT);
    let damaged = segments(&data_dir).into_iter().find(|path| name(path).contains("wal_0002"));
    flip(&damaged.unwrap(), BLOCK + 100);
    let before = state(&data_dir);
    assert_says(&Process::refused(&data_dir, settings), &["nothing in it was changed"]);
    let after = state(&data_dir);
    let names = |state: &[(String, Vec<u8>)]| {
        state.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&after), names(&before));
    assert!(after == before, "a file has changed");
}

/// Writes MANIFEST with a changed text, under a valid checksum.
fn remake(data_dir: &Path, from: &str, to: &str) {
    let path = data_dir.join("MANIFEST");
    let text = std::fs::read_to_string(&path).unwrap();
    let inner = text.split_once("\"manifest\":").unwrap().1.trim_end().trim_end_matches('}');
    let inner = format!("{}}}", inner.trim_end().trim_end_matches('}'));
    let changed = inner.replacen(from, to, 1);
    assert_ne!(changed, inner, "{text}");
    let crc = crc32c::crc32c(changed.as_bytes());
    std::fs::write(path, format!("{{\"crc32c\":\"{crc:08x}\",\"manifest\":{changed}}}")).unwrap();
}

#[test]
fn absurd_numbers_under_a_good_checksum_are_refused() {
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, COUNT);
    let manifest = std::fs::read(data_dir.join("MANIFEST")).unwrap();
    for (shards, what) in [
        ("2", "not placed on the 2 shards that MANIFEST has"),
        ("100000", "it has 100000 shards"),
        ("1000000000", "it has 1000000000 shards"),
        ("0", "it has 0 shards; a directory has 1 to 1024"),
    ] {
        remake(&data_dir, "\"shards\": 1", &format!("\"shards\": {shards}"));
        assert_says(&Process::refused(&data_dir, &[]), &[what]);
        assert_eq!(verify(&data_dir).0, 1);
        std::fs::write(data_dir.join("MANIFEST"), &manifest).unwrap();
    }
    let process = Process::start(&data_dir, &[]);
    assert_eq!(stored(&process), everything());
    process.stop();
}

/// Repair, restore and a fresh start are not suggested for a directory that only needs its own version.
#[test]
fn a_directory_of_a_newer_version_is_left_to_that_one() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, 1);
    remake(&data_dir, "\"version\": 1", "\"version\": 7");
    let allowed = [SETTINGS[0], ("persistence.allow_fresh_start_on_recovery_failure", "true")];
    for settings in [SETTINGS, &allowed] {
        let said = Process::refused(&data_dir, settings);
        assert_says(&said, &["format version 7", "made by a newer version", "start that one"]);
        assert!(!said.contains("Ways out") && !said.contains("--repair"), "{said}");
    }
    assert!(data_dir.join("MANIFEST").exists());
}

/// A snapshot of a later format is not taken for damage, which a start and a repair would pass over for an
/// older snapshot.
#[test]
fn a_snapshot_of_a_newer_version_is_left_to_that_one() {
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, COUNT);
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime().block_on(async {
        let taken = process.client().await.create_snapshot(SnapshotRequest::default()).await;
        assert!(taken.unwrap().into_inner().success);
    });
    process.stop();
    let is_snapshot = |name: &String| name.starts_with("snapshot_") && name.ends_with(".snap");
    let names = std::fs::read_dir(&data_dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let newest = names.filter(is_snapshot).max().expect("the server has made a snapshot");
    let path = data_dir.join(newest);
    let content = std::fs::read(&path).unwrap();
    let mut newer = content.clone();
    newer[4] = 7;
    let crc = crc32c::crc32c(&newer[..116]);
    newer[116..120].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, newer).unwrap();
    let before = state(&data_dir);
    let said = Process::refused(&data_dir, ONE_SHARD);
    assert_says(&said, &["made by a newer version", "snapshot format 7", "start that version"]);
    let (code, said) = verify(&data_dir);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &["snapshot format 7"]);
    let mut repair = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let repair = repair.arg("--data-dir").arg(&data_dir).args(["--verify", "--repair"]);
    let output = repair.output().unwrap();
    assert!(!output.status.success());
    let said = [output.stdout, output.stderr].concat();
    assert_says(
        &String::from_utf8(said).unwrap(),
        &["made by a newer version of KyroDB: repair the directory with that"],
    );
    assert_eq!(state(&data_dir), before, "nothing was changed");
    std::fs::write(&path, content).unwrap();
    let process = Process::start(&data_dir, ONE_SHARD);
    assert_eq!(stored(&process), everything());
    process.stop();
}

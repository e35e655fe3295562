//! `--verify-wal` on directories of a real server: its output, its exit code, and that the directory does not change.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use crate::common::{Process, directory, runtime};
use crate::{BLOCK, COUNT, ONE_SHARD, SETTINGS, assert_says, flip, made, name, segments, store};

/// Runs it: exit code, standard output, standard error.
fn run(data_dir: &Path, more: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let output = command.arg("--data-dir").arg(data_dir).arg("--verify-wal").args(more).output();
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Runs it, and asserts that the directory stays unchanged, to the byte and the second.
fn verify(data_dir: &Path, more: &[&str]) -> (i32, String, String) {
    let before = state(data_dir);
    let output = run(data_dir, more);
    assert_eq!(state(data_dir), before, "{}", output.1);
    output
}

type State = BTreeMap<String, (Vec<u8>, SystemTime)>;

/// The files of a directory, and times of their last change.
fn state(data_dir: &Path) -> State {
    let changed = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let mut state = State::from([(".".to_owned(), (Vec::new(), changed(data_dir)))]);
    for entry in std::fs::read_dir(data_dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        state.insert(name, (std::fs::read(&path).unwrap(), changed(&path)));
    }
    state
}

/// The words of the table's line for a file.
fn row<'a>(said: &'a str, path: &Path) -> Vec<&'a str> {
    let line = said.lines().find(|line| line.starts_with(&name(path))).unwrap();
    line.split_whitespace().collect()
}

#[test]
fn a_directory_that_was_stopped_well_is_clean() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, COUNT);
    let (code, said, errors) = verify(&data_dir, &[]);
    assert_eq!((code, errors.as_str()), (0, ""), "{said}");
    assert_says(&said, &["FILE", "GOOD TO BYTE", "2 shards, vectors of 8 values, cosine"]);
    assert_says(&said, &["shard 0: ", "shard 1: ", "without a gap", "\nclean: 2 segments, 20 rec"]);
    // A second run: MANIFEST records where the segments of both end.
    let process = Process::start(&data_dir, SETTINGS);
    process.stop();
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 0, "{said}");
    let files = segments(&data_dir);
    assert_eq!(row(&said, &files[0]).last(), Some(&"sealed"));
    assert_eq!(row(&said, &files[1]).last(), Some(&"sealed"));
    let (code, json, _) = verify(&data_dir, &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &report["is_clean"]), (0, &serde_json::json!(true)));
    assert_eq!(report["manifest"]["shards"], 2);
    let records: u64 = (0..2).map(|i| report["shards"][i]["records"].as_u64().unwrap()).sum();
    assert_eq!(records, COUNT);
    assert_eq!(report["segments"].as_array().unwrap().len(), files.len());
    Process::start(&data_dir, SETTINGS).stop();
}

#[test]
fn a_directory_of_a_server_that_was_killed_is_clean() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    // A running server excludes a check.
    let pid = process.pid().to_string();
    let (code, said, errors) = run(&data_dir, &[]);
    assert_eq!((code, said.as_str()), (2, ""));
    assert_says(&errors, &["in use by a server", &pid, "stop it first"]);
    process.kill();
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 0, "{said}");
    let segment = segments(&data_dir).pop().unwrap();
    let row = row(&said, &segment);
    assert_eq!((row[4], row[5], row[7]), ("20", "1-20", "open"), "{said}");
    // A last write that was cut off.
    let end: u64 = row[6].parse().unwrap();
    let part = std::fs::read(&segment).unwrap()[BLOCK as usize..][64..600].to_vec();
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&part, end).unwrap();
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 0, "{said}");
    let torn = format!("bad checksum of a group header at byte {end}");
    assert_says(&said, &["torn tail\n", &torn, "20 records, 1 torn tail"]);
    Process::start(&data_dir, ONE_SHARD).stop();
}

#[test]
fn a_flipped_bit_in_the_middle_is_damage_and_what_follows_is_read() {
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, COUNT);
    let segment = segments(&data_dir).remove(0);
    // The header of the segment is block 0, and each document has a block.
    flip(&segment, 5 * BLOCK + 200);
    flip(&segment, 9 * BLOCK + 1);
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 1, "{said}");
    let at = |offset: u64, lsn: u64| format!("{} at byte {offset} (LSN {lsn}): ", name(&segment));
    assert_says(&said, &[&at(20_480, 5), "LSN 5 can't be read", "go on at byte 24576 with LSN 6"]);
    assert_says(&said, &[&at(36_864, 9), "LSN 9 can't be read", "DAMAGED: 2 faults in 1 file"]);
    assert_eq!(row(&said, &segment)[4..], ["18", "1-20", "20480", "DAMAGED"]);
    let (code, json, _) = verify(&data_dir, &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &report["is_clean"]), (1, &serde_json::json!(false)));
    assert_eq!(report["faults"][1]["goes_on"], serde_json::json!([40_960, 10]));
    // The server refuses this as well, and suggests this check.
    assert_says(&Process::refused(&data_dir, ONE_SHARD), &["--verify-wal", "LSN 5"]);
    flip(&segment, 5 * BLOCK + 200);
    flip(&segment, 9 * BLOCK + 1);
    assert_eq!(verify(&data_dir, &[]).0, 0);
}

#[test]
fn a_missing_file_is_damage() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, COUNT);
    Process::start(&data_dir, SETTINGS).stop();
    let segment = segments(&data_dir).remove(0);
    let aside = directory.path().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &[&name(&segment), "missing, but MANIFEST names it", "WITH A GAP"]);
    assert_eq!(row(&said, &segment).last(), Some(&"MISSING"));
    std::fs::rename(&aside, &segment).unwrap();
    std::fs::rename(data_dir.join("MANIFEST"), &aside).unwrap();
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &["MANIFEST: it is missing", "20 records can be read"]);
    std::fs::rename(&aside, data_dir.join("MANIFEST")).unwrap();
    assert_eq!(verify(&data_dir, &[]).0, 0);
}

#[test]
fn directories_that_can_not_be_checked_are_not_called_damaged() {
    let directory = directory();
    let nowhere = directory.path().join("nowhere");
    let (code, _, errors) = run(&nowhere, &[]);
    assert_eq!(code, 2);
    assert_says(&errors, &["nowhere", "can't be read"]);
    assert!(!nowhere.exists(), "it was not made");
    std::fs::write(directory.path().join("letter"), "").unwrap();
    let (code, _, errors) = verify(directory.path(), &[]);
    assert_eq!(code, 2);
    assert_says(&errors, &["is no data directory", "MANIFEST"]);
    assert_eq!(run(directory.path(), &["--demo"]).0, 2, "one or the other");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    assert_eq!(command.arg("--json").output().unwrap().status.code(), Some(2));
}

/// Without the lock file, as in a copy, and on a file system without locks or write access.
#[test]
fn a_copy_can_be_checked_anywhere() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, COUNT);
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped: there is no /dev/shm");
    };
    for path in segments(&data_dir).into_iter().chain([data_dir.join("MANIFEST")]) {
        std::fs::copy(&path, memory.path().join(name(&path))).unwrap();
    }
    let (code, said, _) = verify(memory.path(), &[]);
    assert_eq!(code, 0, "{said}");
    assert_says(&said, &["20 records"]);
}

/// A log whose beginning is only in snapshots, and possible damage to them.
#[test]
fn snapshots_are_checked_and_log_that_they_cover_is_not_missed() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    for life in 0..4 {
        let process = Process::start(&data_dir, ONE_SHARD);
        runtime().block_on(async {
            let mut client = process.client().await;
            store(&mut client, COUNT + life).await;
            let request = kyrodb::proto::SnapshotRequest::default();
            assert!(client.create_snapshot(request).await.unwrap().into_inner().success);
        });
        process.stop();
    }
    let (code, json, _) = verify(&data_dir, &["--json"]);
    assert_eq!(code, 0, "{json}");
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(report["shards"][0]["first_lsn"].as_u64().unwrap() > 1, "{json}");
    assert_eq!(report["shards"][0]["last_lsn"].as_u64().unwrap(), 4 * COUNT + 1 + 2 + 3);
    let snapshots = report["snapshots"].as_array().unwrap();
    assert!(snapshots.len() == 2 && snapshots.iter().all(|snapshot| snapshot["is_good"] == true));
    let newest = data_dir.join(snapshots[1]["file"].as_str().unwrap());
    flip(&newest, BLOCK + 9);
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &[&name(&newest), "DAMAGED: 1 fault in 1 file", "without a gap"]);
    flip(&newest, BLOCK + 9);
    let aside = directory.path().join("aside");
    std::fs::rename(&newest, &aside).unwrap();
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &[&name(&newest), "missing, but MANIFEST names it"]);
    std::fs::rename(&aside, &newest).unwrap();
    std::fs::copy(&newest, data_dir.join("snapshot_0000_00000099.snap")).unwrap();
    let (code, said, _) = verify(&data_dir, &[]);
    assert_eq!(code, 0, "{said}");
    assert_says(&said, &["snapshot_0000_00000099.snap: no snapshot that MANIFEST names needs it"]);
}

//! Damaged files: the effects of a crash are repaired and reported, any other damage stops the start, and no data is
//! dropped silently.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::common::documents::query;
use crate::common::{Process, directory, get, metric_sum, runtime};
use crate::{BLOCK, COUNT, ONE_SHARD, SETTINGS, assert_says, flip, made, name, segments};

/// Documents that a server on this directory has, of 1 to [`COUNT`].
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

#[test]
fn a_flipped_bit_in_the_log_stops_the_start_with_file_offset_and_lsn() {
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, COUNT);
    let segment = segments(&data_dir).remove(0);
    // The header of the segment is block 0, and each document has a block.
    flip(&segment, 5 * BLOCK + 200);
    let said = Process::refused(&data_dir, ONE_SHARD);
    assert_says(&said, &[&name(&segment), "damaged at byte 20480", "LSN 5", "Ways out"]);
    assert_says(&said, &["allow_fresh_start_on_recovery_failure", "nothing in it was changed"]);
    // The refusal changed nothing: after undoing the damage, the server starts as before.
    flip(&segment, 5 * BLOCK + 200);
    let process = Process::start(&data_dir, ONE_SHARD);
    assert_eq!(stored(&process), (1..=COUNT).collect::<Vec<_>>());
    process.stop();
}

#[test]
fn a_missing_file_stops_the_start() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, COUNT);
    let segment = segments(&data_dir).remove(0);
    let aside = directory.path().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    let said = Process::refused(&data_dir, SETTINGS);
    assert_says(&said, &[&name(&segment), "missing, but MANIFEST names it"]);
    std::fs::rename(&aside, &segment).unwrap();
    std::fs::rename(data_dir.join("MANIFEST"), &aside).unwrap();
    assert_says(&Process::refused(&data_dir, SETTINGS), &["no MANIFEST", "wal_"]);
    std::fs::rename(&aside, data_dir.join("MANIFEST")).unwrap();
    flip(&data_dir.join("MANIFEST"), 60);
    assert_says(&Process::refused(&data_dir, SETTINGS), &["MANIFEST is damaged"]);
    flip(&data_dir.join("MANIFEST"), 60);
    let process = Process::start(&data_dir, SETTINGS);
    assert_eq!(stored(&process).len() as u64, COUNT);
    process.stop();
}

#[test]
fn a_damaged_directory_is_moved_aside_where_that_is_allowed() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, COUNT);
    let before = segments(&data_dir).len();
    flip(&data_dir.join("MANIFEST"), 60);
    let settings = [("persistence.allow_fresh_start_on_recovery_failure", "true"), SETTINGS[0]];
    let process = Process::start(&data_dir, &settings);
    assert_eq!(stored(&process), [0; 0]);
    assert_says(&process.log(), &["was moved to", "data_corrupt_", "MANIFEST is damaged"]);
    process.stop();
    let entries = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<PathBuf> =
        entries.filter(|path| name(path).starts_with("data_corrupt_")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(segments(&aside[0]).len(), before, "everything is still there");
    // A setting that does not match the directory is not damage.
    let settings = [settings[0], ("hnsw.distance", "euclidean")];
    assert_says(&Process::refused(&data_dir, &settings), &["made with hnsw.distance cosine"]);
}

/// The last write after a power loss, not acknowledged and only partly written.
#[test]
fn a_torn_tail_is_cut_off_said_and_counted() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime().block_on(async { crate::store(&mut process.client().await, COUNT).await });
    process.kill();
    let segment = segments(&data_dir).pop().unwrap();
    // The server may have sealed the last group: the space after it is free.
    let bytes = std::fs::read(&segment).unwrap();
    let last = bytes.chunks(BLOCK as usize).rposition(|block| block.iter().any(|&b| b != 0));
    let torn = bytes[BLOCK as usize..][..600].to_vec();
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&torn[64..], (last.unwrap() as u64 + 1) * BLOCK).unwrap();
    let process = Process::start(&data_dir, ONE_SHARD);
    assert_eq!(stored(&process), (1..=COUNT).collect::<Vec<_>>());
    let log = process.log();
    let told = log.lines().find(|line| line.contains("the last write of the log was cut off"));
    assert_says(told.unwrap(), &["WARN", &name(&segment)]);
    assert!(!log.contains("ERROR"), "nothing acknowledged is missing: {log}");
    let metrics = get(process.http, "/metrics").unwrap().1;
    assert_eq!(metric_sum(&metrics, "kyrodb_wal_torn_writes_total"), 1.0);
    process.stop();
    // It is cut off for good: the next start reports nothing.
    let process = Process::start(&data_dir, ONE_SHARD);
    assert!(!process.log().contains("cut off"), "{}", process.log());
    process.stop();
}

#[test]
fn a_directory_of_a_later_version_is_refused_by_its_version() {
    let directory = directory();
    let data_dir = made(directory.path(), SETTINGS, 1);
    let text = std::fs::read_to_string(data_dir.join("MANIFEST")).unwrap();
    let inner = text.split_once("\"manifest\":").unwrap().1.trim_end().trim_end_matches('}');
    let inner = format!("{}}}", inner.trim_end().trim_end_matches('}'));
    let later = inner.replacen("\"version\": 1", "\"version\": 7", 1);
    assert_ne!(later, inner, "{text}");
    let crc = crc32c::crc32c(later.as_bytes());
    let whole = format!("{{\"crc32c\":\"{crc:08x}\",\"manifest\":{later}}}");
    std::fs::write(data_dir.join("MANIFEST"), whole).unwrap();
    assert_says(&Process::refused(&data_dir, SETTINGS), &["format version 7", "reads version 1"]);
}

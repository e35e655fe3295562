//! `--verify` and `--repair` on directories of a real server, and `best_effort`, which repairs
//! where a strict start refuses: the table of what happens to a damaged directory, row by row.

use std::path::{Path, PathBuf};
use std::process::Command;

use kyrodb::proto::SnapshotRequest;

use crate::common::documents::query;
use crate::common::{Process, Settings, directory, insert, runtime, vector};
use crate::{BLOCK, COUNT, DIMENSION, ONE_SHARD, assert_says, flip, made, name, segments};

const BEST_EFFORT: Settings<'static> = &[
    ("runtime.shards", "1"),
    ("environment.type", "benchmark"),
    ("persistence.recovery_mode", "best_effort"),
];

/// Runs the program as a check; returns exit code and output.
fn check(data_dir: &Path, options: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let output = command.arg("--data-dir").arg(data_dir).args(options).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// Documents that a server has, of 1 to twice [`COUNT`].
fn stored(process: &Process) -> Vec<u64> {
    runtime().block_on(async {
        let mut client = process.client().await;
        let mut stored = Vec::new();
        for id in 1..=2 * COUNT {
            let found = query(&mut client, id, "").await;
            if found.found {
                assert_eq!(found.metadata["n"], id.to_string());
                stored.push(id);
            }
        }
        stored
    })
}

/// The snapshots of a directory, by name.
fn snapshots(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "snap")).collect();
    found.sort();
    found
}

/// A directory with snapshots after 20 and 30 documents and 40 in all, whose log begins with the eleventh.
fn with_snapshots(parent: &Path) -> PathBuf {
    let data_dir = parent.join("data");
    for (ids, snapshot_after) in [(1..=10, None), (11..=20, Some(20)), (21..=40, Some(30))] {
        let process = Process::start(&data_dir, ONE_SHARD);
        runtime().block_on(async {
            let mut client = process.client().await;
            for id in ids {
                let request = insert(id, &vector(id, DIMENSION), &[("n", &id.to_string())]);
                client.insert(request).await.unwrap();
                if snapshot_after == Some(id) {
                    let taken = client.create_snapshot(SnapshotRequest::default()).await;
                    assert!(taken.unwrap().into_inner().success);
                }
            }
        });
        process.kill();
    }
    data_dir
}

fn everything() -> Vec<u64> {
    (1..=2 * COUNT).collect()
}

/// Files in quarantine.
fn quarantined(data_dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data_dir.join("quarantine")).into_iter().flatten() {
        let entries = std::fs::read_dir(entry.unwrap().path()).unwrap();
        names.extend(entries.map(|entry| name(&entry.unwrap().path())));
    }
    names.sort();
    names
}

#[test]
fn a_sound_directory_is_called_sound_and_not_touched() {
    let directory = directory();
    let data_dir = with_snapshots(directory.path());
    let (code, said) = check(&data_dir, &["--verify"]);
    assert_eq!(code, 0, "{said}");
    assert_says(&said, &["clean: ", "shard 0: sound; 40 documents", "of 40 sought", "\nSOUND"]);
    let (code, json) = check(&data_dir, &["--verify", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, report["is_clean"].as_bool()), (0, Some(true)));
    assert_eq!(report["inspected"][0]["documents"], 2 * COUNT);
    assert_eq!(report["inspected"][0]["found"], 2 * COUNT);
    let (code, said) = check(&data_dir, &["--verify", "--repair"]);
    assert_eq!((code, said.as_str()), (0, "there is nothing to repair\n"));
    assert_eq!(quarantined(&data_dir), [""; 0]);
    let process = Process::start(&data_dir, ONE_SHARD);
    let (code, said) = check(&data_dir, &["--verify"]);
    assert_eq!(code, 2, "{said}");
    assert_says(&said, &["in use by a server"]);
    let (code, said) = check(&data_dir, &["--verify", "--repair"]);
    assert_eq!(code, 2, "{said}");
    assert_eq!(stored(&process), everything());
    process.stop();
}

/// Damages a directory, and has it refused, repaired, and checked; returns the output of the repair.
fn repaired(data_dir: &Path, is_lossless: bool, expected: &[u64]) -> String {
    Process::refused(data_dir, ONE_SHARD);
    repaired_if_asked(data_dir, is_lossless, expected)
}

fn repaired_if_asked(data_dir: &Path, is_lossless: bool, expected: &[u64]) -> String {
    assert_eq!(check(data_dir, &["--verify"]).0, 1);
    let (code, said) = check(data_dir, &["--verify", "--repair"]);
    assert_eq!(code, i32::from(!is_lossless), "{said}");
    let (code, checked) = check(data_dir, &["--verify"]);
    assert_eq!(code, 0, "{checked}");
    assert!(quarantined(data_dir).contains(&"MANIFEST".to_owned()));
    let process = Process::start(data_dir, ONE_SHARD);
    assert_eq!(stored(&process), expected, "{said}");
    process.stop();
    said
}

#[test]
fn a_damaged_record_costs_its_change_and_nothing_else() {
    let directory = directory();
    let data_dir = made(directory.path(), ONE_SHARD, COUNT);
    // The header of the segment is block 0, and each document has a block.
    flip(&segments(&data_dir)[0], 5 * BLOCK + 200);
    let others: Vec<u64> = (1..=COUNT).filter(|id| *id != 5).collect();
    let said = repaired(&data_dir, false, &others);
    assert_says(&said, &["lost: 1 changes, LSN 5 to 5", "REPAIRED WITH LOSS", "19 documents"]);
}

#[test]
fn a_damaged_snapshot_costs_nothing_while_the_log_has_it() {
    let directory = directory();
    let data_dir = with_snapshots(directory.path());
    // The newest one; a start can do without it, and a check finds the damage.
    let newest = snapshots(&data_dir).pop().unwrap();
    let middle = std::fs::metadata(&newest).unwrap().len() / 2;
    flip(&newest, middle);
    let said = repaired_if_asked(&data_dir, true, &everything());
    assert_says(&said, &["REPAIRED: nothing was lost", "40 documents"]);
    assert!(quarantined(&data_dir).contains(&name(&newest)));
}

/// The graph can be rebuilt from the other parts: damage to it costs no documents either, with no other snapshot and no
/// log to fall back to.
#[test]
fn a_damaged_graph_is_rebuilt() {
    let directory = directory();
    let data_dir = with_snapshots(directory.path());
    let [older, newest] = snapshots(&data_dir).try_into().unwrap();
    // Both snapshots have only extents of one block: the fifth is that of the links.
    flip(&older, 5 * BLOCK);
    flip(&newest, 5 * BLOCK);
    let said = repaired(&data_dir, true, &everything());
    assert_says(&said, &["REPAIRED: nothing was lost", "40 documents", &name(&older)]);
}

#[test]
fn a_missing_segment_costs_only_changes_that_no_snapshot_has() {
    let directory = directory();
    let data_dir = with_snapshots(directory.path());
    // Every segment but the active one: documents that the newest snapshot does not have are lost.
    let process = Process::start(&data_dir, ONE_SHARD);
    process.stop();
    for segment in segments(&data_dir).split_last().unwrap().1 {
        std::fs::remove_file(segment).unwrap();
    }
    let kept: Vec<u64> = (1..=COUNT + COUNT / 2).collect();
    let said = repaired(&data_dir, false, &kept);
    assert_says(&said, &["changes, LSN 31 to 40", "REPAIRED WITH LOSS"]);
}

#[test]
fn a_lost_manifest_is_rebuilt() {
    let directory = directory();
    let data_dir = with_snapshots(directory.path());
    flip(&data_dir.join("MANIFEST"), 60);
    let said = repaired(&data_dir, true, &everything());
    assert_says(&said, &["nothing is known to be lost", "without the MANIFEST"]);
}

/// The rows of the table, one after the other, with equal damage to a strict start and to one in `best_effort` mode.
#[test]
fn best_effort_opens_directories_that_strict_refuses_and_names_the_loss() {
    type Damage = fn(&Path);
    let rows: [(&str, Damage, bool, usize, &str); 5] = [
        (
            "no MANIFEST beside log and snapshots",
            |data_dir| std::fs::remove_file(data_dir.join("MANIFEST")).unwrap(),
            true,
            40,
            "nothing is known to be lost",
        ),
        (
            "no snapshot can be used, and the log does not go back far enough",
            |data_dir| {
                for snapshot in snapshots(data_dir) {
                    flip(&snapshot, 5 * BLOCK);
                }
            },
            true,
            40,
            "nothing was lost",
        ),
        (
            "a segment is missing",
            |data_dir| {
                Process::start(data_dir, ONE_SHARD).stop();
                let segments = segments(data_dir);
                segments[..segments.len() - 1]
                    .iter()
                    .for_each(|s| std::fs::remove_file(s).unwrap());
            },
            true,
            30,
            "LSN 31 to 40",
        ),
        (
            "a bad record that is not at the end",
            |data_dir| {
                let segment = segments(data_dir).pop().unwrap();
                // Of documents 31 to 40, which the newest snapshot does not have.
                let bytes = std::fs::read(&segment).unwrap();
                let used = bytes.chunks(BLOCK as usize).rposition(|b| b.iter().any(|&b| b != 0));
                flip(&segment, (used.unwrap() as u64 - 5) * BLOCK + 200);
            },
            true,
            39,
            "REPAIRED WITH LOSS",
        ),
        ("another dimension", |data_dir| assert!(!segments(data_dir).is_empty()), false, 0, ""),
    ];
    for (row, damage, is_opened, documents, said) in rows {
        let directory = directory();
        let data_dir = with_snapshots(directory.path());
        damage(&data_dir);
        if !is_opened {
            let other = [BEST_EFFORT, &[("hnsw.dimension", "9")]].concat();
            assert_says(&Process::refused(&data_dir, &other), &["vectors of 8 values"]);
            continue;
        }
        assert_says(&Process::refused(&data_dir, ONE_SHARD), &["Ways out", "--verify --repair"]);
        let process = Process::start(&data_dir, BEST_EFFORT);
        assert_eq!(stored(&process).len(), documents, "{row}: {}", process.log());
        assert_says(&process.log(), &["is repaired", said]);
        process.stop();
        assert!(!quarantined(&data_dir).is_empty(), "{row}");
        // From now on it is a directory like any other.
        let process = Process::start(&data_dir, ONE_SHARD);
        assert_eq!(stored(&process).len(), documents, "{row}");
        process.stop();
    }
}

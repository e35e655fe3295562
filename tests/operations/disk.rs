//! Drills of disks, logs, damage and backups.

use std::path::{Path, PathBuf};

use tonic::Code;

use crate::common::volume::Volume;
use crate::common::{Process, directory, eventually, http, runtime};
use crate::{Runbook, code, put, store, stored};

const SETTINGS: &[(&str, &str)] = &[("runtime.shards", "1")];

#[test]
fn the_disk_is_full() {
    let directory = directory();
    let Some(volume) = Volume::mount(directory.path(), 64 << 20) else { return };
    let settings = [("runtime.shards", "1"), ("persistence.disk_reserve_bytes", "8388608")];
    let process = Process::start(&volume.path("data"), &settings);
    let mut runbook = Runbook::open("The disk is full", directory.path());
    runbook.ask(&process);
    let runtime = runtime();
    runtime.block_on(async { store(&mut process.client().await, 20).await });
    volume.fill();
    runtime.block_on(async {
        let refused = async || put(&mut process.client().await, 21).await.is_err();
        eventually("the reserve", refused).await;
        assert_eq!(code(put(&mut process.client().await, 22).await), Code::ResourceExhausted);
        // Deletes succeed while the log has room.
        let mut client = process.client().await;
        let update = |n: u64| kyrodb::proto::UpdateMetadataRequest {
            doc_id: 5,
            metadata: [("n".to_owned(), n.to_string())].into(),
            ..Default::default()
        };
        let mut n = 0;
        while client.update_metadata(update(n)).await.is_ok() {
            n += 1;
        }
        assert!(n > 100, "{n}");
    });
    runbook.next().has(0, &["kyrodb_disk_available_bytes", "kyrodb_disk_reserve_bytes 8388608"]);
    runbook.next().has(0, &["state: open", "shards.0.state: open"]);
    volume.empty();
    // The breaker opens again if the server finds no room yet.
    runtime.block_on(eventually("inserts come back", async || {
        runbook_reset(&process);
        put(&mut process.client().await, 31).await.is_ok()
    }));
    runbook.next().has(0, &["state: closed"]);
    runbook.next().has(0, &["shards.0.file: snapshot_"]);
    runbook.done();
    let found = runtime.block_on(async { stored(&mut process.client().await, 20).await });
    assert_eq!(found, 20);
    process.stop();
}

fn runbook_reset(process: &Process) {
    http(process.http, "POST", "/admin/circuit-breaker/reset").unwrap();
}

#[test]
fn the_log_can_not_be_written() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let mut runbook = Runbook::open("The log can not be written", directory.path());
    runbook.ask(&process);
    let write = || runtime().block_on(async { code(put(&mut process.client().await, 1).await) });
    assert_eq!(write(), Code::Ok);
    http(process.http, "POST", "/admin/circuit-breaker/trip").unwrap();
    assert_eq!(write(), Code::Unavailable);
    runbook.next().has(0, &["shards.0.state: open", "retry_after_ms"]);
    runbook.next().has(0, &["kyrodb_wal_circuit_breaker_state 1"]);
    runbook.next().has(0, &["shards.0.state: closed"]);
    assert_eq!(write(), Code::Ok);
    runbook.next().has(0, &["shards.0.reason: it was tripped by an operator"]);
    assert_eq!(write(), Code::Unavailable);
    runbook.done();
    process.stop();
}

#[test]
fn a_shard_is_fenced_or_its_log_is_lost() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, SETTINGS);
    let mut runbook = Runbook::open("A shard is fenced, or its log is lost", directory.path());
    runbook.ask(&process);
    let runtime = runtime();
    runtime.block_on(async { store(&mut process.client().await, 20).await });
    runbook.next().has(0, &["shutting_down: true"]);
    assert_eq!(process.wait(), Some(0));
    runbook.next().has(0, &["clean: 1 segment, 20 records"]);
    runbook.done();
    let process = Process::start(&data_dir, SETTINGS);
    let found = runtime.block_on(async { stored(&mut process.client().await, 20).await });
    assert_eq!(found, 20);
    process.stop();
}

/// Overwrites a byte of a record in the first segment, which is not its last.
pub(crate) fn damage(data_dir: &Path) {
    use std::os::unix::fs::FileExt;
    let names = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<PathBuf> =
        names.filter(|path| path.extension().is_some_and(|e| e == "wal")).collect();
    logs.sort();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&logs[0]).unwrap();
    // The second of the groups of one record each, each a block long, after the header.
    let offset = 2 * 4_096 + 64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], offset).unwrap();
}

#[test]
fn the_server_does_not_start() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let runtime = runtime();
    let process = Process::start(&data_dir, SETTINGS);
    runtime.block_on(async { store(&mut process.client().await, 20).await });
    let mut runbook = Runbook::open("The server does not start: damage", directory.path());
    let backup = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"))
        .args(["create", "--fast"])
        .env("KYRODB_DATA_DIR", &data_dir)
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(backup.status.success(), "{backup:?}");
    process.kill();
    damage(&data_dir);
    let said = Process::refused(&data_dir, SETTINGS);
    assert!(said.contains("--verify --repair") && said.contains("kyrodb_backup restore"), "{said}");
    runbook.next().has(1, &["DAMAGED"]);
    runbook.next().has(1, &["NOT SOUND"]);
    runbook.next().has(0, &["Full"]);
    runbook.next().has(0, &[]);
    let process = Process::start(&data_dir, SETTINGS);
    let count = || runtime.block_on(async { stored(&mut process.client().await, 20).await });
    assert_eq!(count(), 20);
    process.kill();
    damage(&data_dir);
    // A document was lost, and the program says so.
    runbook.next().has(1, &["quarantine"]);
    runbook.done();
    let process = Process::start(&data_dir, SETTINGS);
    let found = runtime.block_on(async { stored(&mut process.client().await, 20).await });
    assert!((1..20).contains(&found), "{found}");
    process.stop();
}

#[test]
fn the_log_moves_and_comes_back() {
    let directory = directory();
    let (data_dir, logs) = (directory.path().join("data"), directory.path().join("logs"));
    std::fs::create_dir(&logs).unwrap();
    let there = [SETTINGS, &[("persistence.wal_dir", logs.to_str().unwrap())]].concat();
    let runtime = runtime();
    for settings in [SETTINGS, &there] {
        let process = Process::start(&data_dir, settings);
        runtime.block_on(async { store(&mut process.client().await, 20).await });
        process.kill();
    }
    assert!(data_dir.join("wal").exists());
    let mut runbook = Runbook::open("The log has to move to another disk", directory.path());
    runbook.next().has(0, &[]);
    runbook.done();
    let process = Process::start(&data_dir, SETTINGS);
    let found = runtime.block_on(async { stored(&mut process.client().await, 20).await });
    assert_eq!(found, 20);
    assert!(!data_dir.join("wal").exists());
    process.stop();
}

#[test]
fn a_backup_fails() {
    let directory = directory();
    let Some(volume) = Volume::mount(directory.path(), 64 << 20) else { return };
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    runtime().block_on(async { store(&mut process.client().await, 200).await });
    let mut runbook = Runbook::open("A backup fails", directory.path());
    // The default directory of backups, on a file system of its own.
    std::fs::create_dir(volume.path("backups")).unwrap();
    std::os::unix::fs::symlink(volume.path("backups"), directory.path().join("backups")).unwrap();
    let create = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
        command.args(["create", "--fast"]).env("KYRODB_DATA_DIR", directory.path().join("data"));
        command.current_dir(directory.path()).output().unwrap()
    };
    assert!(create().status.success() && create().status.success());
    volume.fill();
    let failed = create();
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let listed = runbook.next().has(0, &["Full"]).text;
    assert_eq!(listed.matches("Full").count(), 2, "one that is not whole is not listed:\n{listed}");
    runbook.next().has(0, &[]);
    volume.empty();
    runbook.next().has(0, &["Backup ID"]);
    runbook.next().has(0, &["is good"]);
    // While the server is running.
    let needs = ["Would restore", "Before a restore:", "in use by another server", "--allow-clear"];
    runbook.next().has(0, &needs);
    runbook.set("TEXTFILES", directory.path().to_string_lossy());
    let noted = || std::fs::read_to_string(directory.path().join("kyrodb_backup.prom")).unwrap();
    runbook.next().has(0, &["Backup ID"]);
    assert!(noted().contains("kyrodb_backup_last_success_timestamp_seconds "), "{}", noted());
    runbook.next().has(0, &["is good"]);
    assert!(noted().contains("kyrodb_backup_last_verified_timestamp_seconds "), "{}", noted());
    runbook.done();
    process.stop();
}

/// The file system fails under the server: acknowledged writes are there when it is back.
#[test]
fn the_disk_fails() {
    let directory = directory();
    let Some(volume) = Volume::mount(directory.path(), 96 << 20) else { return };
    let data_dir = volume.path("data");
    let process = Process::start(&data_dir, SETTINGS);
    let mut runbook = Runbook::open("The disk fails", directory.path());
    runbook.ask(&process);
    runbook.set("KYRODB_DATA_DIR", data_dir.to_string_lossy());
    let runtime = runtime();
    let stored_documents = |process: &Process, count| {
        runtime.block_on(async { stored(&mut process.client().await, count).await })
    };
    runtime.block_on(async { store(&mut process.client().await, 20).await });
    if !volume.fail() {
        process.stop();
        return;
    }
    runtime.block_on(async {
        let mut client = process.client().await;
        let mut codes = Vec::new();
        for id in 21..=30 {
            codes.push(code(put(&mut client, id).await));
        }
        assert!(codes.iter().all(|code| *code == Code::Unavailable), "{codes:?}");
    });
    assert_eq!(stored_documents(&process, 30), 20, "reads go on, and see what was acknowledged");
    runbook.next().has(0, &["state: open", "shards.0.state: open"]);
    runbook.next().has(0, &["kyrodb_wal_writes_failed"]);
    runbook.next().has(0, &["shutting_down: true"]);
    // It ends, though it can't seal its log.
    process.wait();
    volume.mend();
    runbook.next().has(0, &["clean"]);
    runbook.done();
    let process = Process::start(&data_dir, SETTINGS);
    assert_eq!(stored_documents(&process, 30), 20);
    runtime.block_on(async { put(&mut process.client().await, 21).await.unwrap() });
    process.stop();
}

#[test]
fn a_snapshot_is_damaged() {
    use std::os::unix::fs::FileExt;
    let directory = directory();
    let data_dir = directory.path().join("data");
    let runtime = runtime();
    let process = Process::start(&data_dir, SETTINGS);
    for _ in 0..2 {
        runtime.block_on(async { store(&mut process.client().await, 20).await });
        assert_eq!(http(process.http, "POST", "/admin/snapshot").unwrap().code, 200);
    }
    process.kill();
    let names = std::fs::read_dir(&data_dir).unwrap().map(|entry| entry.unwrap().path());
    let mut snapshots: Vec<PathBuf> =
        names.filter(|path| path.extension().is_some_and(|e| e == "snap")).collect();
    snapshots.sort();
    assert_eq!(snapshots.len(), 2);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&snapshots[1]).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5_000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], 5_000).unwrap();
    let process = Process::start(&data_dir, SETTINGS);
    let mut runbook = Runbook::open("A snapshot is damaged", directory.path());
    runbook.ask(&process);
    let found = runtime.block_on(async { stored(&mut process.client().await, 20).await });
    assert_eq!(found, 20);
    runbook.next().has(0, &["kyrodb_hnsw_corruption_detected_total 1"]);
    for _ in 0..2 {
        runbook.next().has(0, &["shards.0.file: snapshot_"]);
    }
    runbook.next().has(0, &["shards.0.kept_bytes", "needed_from_lsn"]);
    runbook.next().has(0, &["shutting_down: true"]);
    assert_eq!(process.wait(), Some(0));
    runbook.next().has(0, &["20 documents"]);
    runbook.done();
}

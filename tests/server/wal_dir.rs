//! `persistence.wal_dir`: the log in a directory of its own, on another file system if the host permits the test to
//! mount one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kyrodb::proto::SnapshotRequest;

use crate::common::documents::query;
use crate::common::volume::Volume;
use crate::common::{
    PATIENCE, Process, Settings, directory, get, insert, metric_sum, runtime, vector,
};
use crate::{BLOCK, COUNT, DIMENSION, assert_says, flip, made, name, segments, store};

/// A data directory, and one for logs.
struct Made {
    directory: tempfile::TempDir,
    data_dir: PathBuf,
    logs: PathBuf,
    _volume: Option<Volume>,
}

impl Made {
    fn new() -> Self {
        let directory = directory();
        let volume = Volume::mount(directory.path(), 256 << 20);
        let logs = match &volume {
            Some(volume) => volume.path("logs"),
            None => directory.path().join("logs"),
        };
        std::fs::create_dir(&logs).unwrap();
        Self { data_dir: directory.path().join("data"), directory, logs, _volume: volume }
    }

    fn start(&self) -> Process {
        let mut process = self.spawn(&self.data_dir);
        process.wait_ready();
        process
    }

    fn spawn(&self, data_dir: &Path) -> Process {
        Process::spawn(data_dir, &self.settings())
    }

    fn settings(&self) -> [(&'static str, &str); 2] {
        [("runtime.shards", "2"), ("persistence.wal_dir", self.logs.to_str().unwrap())]
    }

    /// Path of the log.
    fn log(&self) -> PathBuf {
        self.data_dir.join("wal").canonicalize().unwrap()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path()).env("KYRODB_DATA_DIR", &self.data_dir);
        let output = command.args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    fn server(&self, arguments: &[&str]) -> (i32, String) {
        self.run(env!("CARGO_BIN_EXE_kyrodb_server"), arguments)
    }

    fn backup(&self, arguments: &[&str]) -> (i32, String) {
        self.run(env!("CARGO_BIN_EXE_kyrodb_backup"), arguments)
    }
}

/// Stores these documents, each acknowledged.
fn put(process: &Process, ids: std::ops::RangeInclusive<u64>) {
    runtime().block_on(async {
        let mut client = process.client().await;
        for id in ids {
            let request = insert(id, &vector(id, DIMENSION), &[]);
            assert!(client.insert(request).await.unwrap().into_inner().success);
        }
    });
}

/// Asserts that a server has exactly the documents 1 to `count`, of twice as many.
#[track_caller]
fn has(process: &Process, count: u64) {
    let found: Vec<u64> = runtime().block_on(async {
        let mut client = process.client().await;
        let mut found = Vec::new();
        for id in 1..=2 * count {
            if query(&mut client, id, "").await.found {
                found.push(id);
            }
        }
        found
    });
    assert_eq!(found, (1..=count).collect::<Vec<_>>());
}

#[test]
fn the_log_is_written_and_read_in_a_directory_of_its_own() {
    let made = Made::new();
    let process = made.start();
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    assert!(segments(&made.data_dir).is_empty());
    assert!(
        segments(&made.log()).len() >= 2
            && made.log().starts_with(made.logs.canonicalize().unwrap())
    );
    let log_bytes: u64 =
        segments(&made.log()).iter().map(|path| path.metadata().unwrap().blocks() * 512).sum();
    let begun = Instant::now();
    // Measured once a second.
    while metric_sum(&get(process.http, "/metrics").unwrap().1, "kyrodb_disk_used_bytes")
        < log_bytes as f64
    {
        assert!(begun.elapsed() < PATIENCE, "the log is not counted");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let (code, said) = made.backup(&["--backup-dir", "backups", "create"]);
    assert_eq!(code, 0, "{said}");
    process.kill();
    for option in ["--verify-wal", "--verify"] {
        let (code, said) = made.server(&[option]);
        assert_eq!(code, 0, "{said}");
        assert_says(&said, &["wal_0000_00000001.wal", "wal_0001_00000001.wal"]);
    }
    let process = made.start();
    has(&process, COUNT);
    put(&process, COUNT + 1..=2 * COUNT);
    process.kill();
    let process = made.start();
    has(&process, 2 * COUNT);
    process.stop();
    // A restore leaves no part of the former log, and begins another one.
    let former = made.log();
    let restore = ["--backup-dir", "backups", "restore", "--backup-id", "latest", "--allow-clear"];
    let (code, said) = made.backup(&restore);
    assert_eq!(code, 0, "{said}");
    assert!(!former.exists() && !made.data_dir.join("wal").exists());
    let process = made.start();
    has(&process, COUNT);
    assert_ne!(made.log(), former);
    process.stop();
}

#[test]
fn a_database_changes_from_one_place_of_its_log_to_the_other() {
    let there = Made::new();
    let data_dir = made(there.directory.path(), &[("runtime.shards", "2")], COUNT);
    let before = segments(&data_dir);
    let process = there.start();
    has(&process, COUNT);
    put(&process, COUNT + 1..=COUNT + 5);
    assert_eq!(segments(&data_dir), before, "they are read where they are");
    process.kill();
    let process = there.start();
    has(&process, COUNT + 5);
    // Two snapshots make the former segments dispensable, wherever they are.
    for id in [COUNT + 6, COUNT + 7] {
        put(&process, id..=id);
        runtime().block_on(async {
            let mut client = process.client().await;
            let taken = client.create_snapshot(SnapshotRequest::default()).await;
            assert!(taken.unwrap().into_inner().success);
        });
    }
    process.stop();
    let process = there.start();
    has(&process, COUNT + 7);
    process.stop();
    assert!(segments(&data_dir).is_empty());
    // Without the setting the directory knows the path of its log.
    let process = Process::start(&data_dir, &[]);
    has(&process, COUNT + 7);
    assert_says(&process.log(), &["the log is in", "data/wal leads"]);
    process.stop();
    // Moved back, as described in OPERATIONS.md.
    let log = there.log();
    for segment in segments(&log) {
        std::fs::copy(&segment, data_dir.join(name(&segment))).unwrap();
        if segment == segments(&log)[0] {
            let said = Process::refused(&data_dir, &[]);
            assert_says(&said, &["a move was cut off", &name(&segment)]);
        }
        std::fs::remove_file(segment).unwrap();
    }
    std::fs::remove_file(data_dir.join("wal")).unwrap();
    let process = Process::start(&data_dir, &[]);
    has(&process, COUNT + 7);
    put(&process, COUNT + 8..=COUNT + 9);
    process.kill();
    assert!(!data_dir.join("wal").exists());
    let process = Process::start(&data_dir, &[]);
    has(&process, COUNT + 9);
    process.stop();
}

#[test]
fn a_log_that_is_not_there_or_not_its_own_is_refused_with_the_way_out() {
    let made = Made::new();
    let nowhere = made.logs.join("nowhere");
    let asks: Settings<'_> = &[("persistence.wal_dir", nowhere.to_str().unwrap())];
    let said = Process::refused(&made.data_dir, asks);
    assert_says(&said, &["persistence.wal_dir", "nowhere can't be used", "Mount", "install -d"]);
    let process = made.start();
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    // A copy made while the server runs, and one after.
    let copy = made.directory.path().join("copy");
    let copied = Command::new("cp").arg("-a").args([&made.data_dir, &copy]).status();
    assert!(copied.unwrap().success());
    process.stop();
    let said = made.spawn(&copy).refuses();
    assert_says(&said, &["two databases can't have one log", "cp -a"]);
    // Only the link to it is gone.
    let (link, log) = (made.data_dir.join("wal"), made.log());
    std::fs::remove_file(&link).unwrap();
    let said = made.spawn(&made.data_dir).refuses();
    assert_says(&said, &["does not lead there any more", &format!("ln -s {}", log.display())]);
    std::os::unix::fs::symlink(&log, &link).unwrap();
    // Its file system is not mounted.
    let away = log.with_file_name("away");
    std::fs::rename(&log, &away).unwrap();
    for settings in [&made.settings()[..], &[]] {
        let said = Process::refused(&made.data_dir, settings);
        assert_says(&said, &["Mount its file system", &log.display().to_string()]);
    }
    let (code, said) = made.server(&["--verify-wal"]);
    assert_eq!(code, 2, "{said}");
    assert_says(&said, &["Mount its file system"]);
    let (code, said) = made.backup(&["--backup-dir", "backups", "create"]);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &["Mount its file system"]);
    std::fs::rename(&away, &log).unwrap();
    let process = made.start();
    has(&process, COUNT);
    process.stop();
}

#[test]
fn a_repair_and_a_fresh_start_keep_the_log_of_before() {
    let made = Made::new();
    let process = made.start();
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    process.stop();
    let damaged = segments(&made.log()).remove(0);
    flip(&damaged, 2 * BLOCK + 100);
    let allowed =
        [&made.settings()[..], &[("persistence.allow_fresh_start_on_recovery_failure", "true")]];
    let before = made.log();
    let process = Process::start(&made.data_dir, &allowed.concat());
    assert_ne!(made.log(), before);
    process.stop();
    let entries = std::fs::read_dir(made.directory.path()).unwrap().map(|e| e.unwrap().path());
    let aside = entries.into_iter().find(|path| name(path).starts_with("data_corrupt_")).unwrap();
    assert_eq!(aside.join("wal").canonicalize().unwrap(), before);
    let options = ["--data-dir", aside.to_str().unwrap(), "--verify", "--repair"];
    let (code, said) = made.server(&options);
    assert_eq!(code, 1, "{said}");
    assert_says(&said, &["REPAIRED"]);
    let kept =
        std::fs::read_dir(before.join("quarantine")).unwrap().next().unwrap().unwrap().path();
    assert!(kept.join(name(&damaged)).exists());
    assert!(aside.join("quarantine").join(name(&kept)).join("MANIFEST").exists());
    let process = made.spawn(&aside);
    let mut process = process;
    process.wait_ready();
    process.stop();
}

/// A directory of the log in the data directory is often the mount point of a file system of its own. If that is not
/// mounted, there is an empty directory, and the start is refused instead of beginning another log below it.
#[test]
fn an_empty_place_of_the_log_is_not_taken_for_a_new_one() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (inner, aside) = (data_dir.join("wal"), directory.path().join("aside"));
    let settings = [("runtime.shards", "2"), ("persistence.wal_dir", inner.to_str().unwrap())];
    let process = Process::start(&data_dir, &settings);
    put(&process, 1..=8);
    process.stop();
    assert!(segments(&data_dir).is_empty() && !segments(&inner).is_empty());
    std::fs::rename(&inner, &aside).unwrap();
    std::fs::create_dir(&inner).unwrap();
    let said = Process::refused(&data_dir, &settings);
    assert_says(&said, &["Mount the file system of the log there", "rmdir"]);
    assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 0, "nothing was made there");
    std::fs::remove_dir(&inner).unwrap();
    std::fs::rename(&aside, &inner).unwrap();
    let process = Process::start(&data_dir, &settings);
    has(&process, 8);
    process.stop();
}

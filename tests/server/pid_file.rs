//! `server.pid_file`: exists while the server runs, and is never another server's.

use std::path::Path;

use crate::common::{Process, directory, eventually, runtime};
use crate::{SETTINGS, assert_says};

fn settings(path: &Path) -> Vec<(&str, &str)> {
    [SETTINGS, &[("server.pid_file", path.to_str().unwrap())]].concat()
}

#[test]
fn pid_file_exists_from_before_ready_to_the_end() {
    let directory = directory();
    let (data_dir, path) = (directory.path().join("data"), directory.path().join("server.pid"));
    let process = Process::start(&data_dir, &settings(&path));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", process.pid()));
    process.stop();
    assert!(!path.exists(), "it stayed behind a clean end");
    assert!(!data_dir.join("server.pid").exists());
}

#[test]
fn pid_file_of_a_killed_server_is_replaced() {
    let directory = directory();
    let (data_dir, path) = (directory.path().join("data"), directory.path().join("server.pid"));
    Process::start(&data_dir, &settings(&path)).kill();
    assert!(path.exists());
    // A longer number, and one of a living process that is not a server.
    for left in ["4194303999\n", "1\n", ""] {
        std::fs::write(&path, left).unwrap();
        let process = Process::start(&data_dir, &settings(&path));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", process.pid()));
        process.stop();
        assert!(!path.exists());
    }
}

#[test]
fn pid_file_of_another_server_is_neither_written_nor_removed() {
    let directory = directory();
    let path = directory.path().join("server.pid");
    let first = Process::start(&directory.path().join("first"), &settings(&path));
    let said = Process::refused(&directory.path().join("second"), &settings(&path));
    assert_says(&said, &["server.pid_file", "another server", &first.pid().to_string()]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", first.pid()));
    // A file that another program has put in its place is not removed.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "1\n").unwrap();
    first.stop();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
}

#[test]
fn a_path_that_can_not_be_written_stops_the_start() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let nowhere = directory.path().join("nowhere/server.pid");
    let said = Process::refused(&data_dir, &settings(&nowhere));
    assert_says(&said, &["server.pid_file", "nowhere/server.pid", "can't be written", "directory"]);
    let said = Process::refused(&data_dir, &settings(directory.path()));
    assert_says(&said, &["server.pid_file", "can't be written"]);
    // A file that does not hold a process number was not written by a server.
    let precious = directory.path().join("notes.txt");
    std::fs::write(&precious, "keep me").unwrap();
    let said = Process::refused(&data_dir, &settings(&precious));
    assert_says(&said, &["server.pid_file", "something else", "Name another file"]);
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "keep me");
}

#[test]
fn a_server_that_did_not_get_ready_removes_its_pid_file() {
    let directory = directory();
    let (data_dir, path) = (directory.path().join("data"), directory.path().join("server.pid"));
    Process::start(&data_dir, SETTINGS).stop();
    let made_for_others = [&settings(&path)[..], &[("hnsw.distance", "euclidean")]].concat();
    Process::refused(&data_dir, &made_for_others);
    assert!(!path.exists());
    // A signal before readiness ends it at once.
    let process = Process::spawn(&data_dir, &settings(&path));
    runtime().block_on(eventually("the file is there", async || path.exists()));
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    assert!(!path.exists());
}

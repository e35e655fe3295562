//! One server per directory, also if LOCK is removed or replaced or the directory is moved: the second is refused, or
//! the first ends, but two never acknowledge writes to one set of files.

use std::fs::{File, create_dir, remove_file, rename};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::common::{PATIENCE, Process, directory, runtime};
use crate::{SETTINGS, assert_says, store};

fn server(data_dir: &Path, options: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let output = command.arg("--data-dir").arg(data_dir).args(options).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn backup(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
    command.current_dir(directory).args(arguments).env_remove("KYRODB_DATA_DIR");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_second_server_is_refused_where_the_lock_file_of_the_first_is_removed() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let first = Process::start(&data_dir, SETTINGS);
    let lock = data_dir.join("LOCK");
    runtime().block_on(async { store(&mut first.client().await, 20).await });
    let (code, said) = backup(directory.path(), &["create"]);
    assert_eq!(code, Some(0), "a backup is made beside a running server: {said}");

    remove_file(&lock).unwrap();
    let said = Process::refused(&data_dir, SETTINGS);
    assert_says(&said, &["in use by another server", "--data-dir"]);
    for options in [&["--verify-wal"][..], &["--verify"], &["--verify", "--repair"]] {
        if lock.exists() {
            remove_file(&lock).unwrap();
        }
        let (code, said) = server(&data_dir, options);
        assert_eq!(code, Some(2), "{options:?}: {said}");
        assert_says(&said, &["in use by"]);
    }
    let restore = ["restore", "--backup-id", "latest", "--allow-clear"];
    let (code, said) = backup(directory.path(), &restore);
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, &["in use by another server"]);

    // LOCK is created again, so that versions which lock only LOCK are kept out too.
    let pid = first.pid().to_string();
    let is_named = |now: String| now.lines().next() == Some(&*pid);
    wait_for("LOCK is made again", || std::fs::read_to_string(&lock).is_ok_and(is_named));
    assert!(File::open(&lock).unwrap().try_lock().is_err(), "it is not locked");
    wait_for("the log says so", || first.log().contains("was removed under this server"));
    runtime().block_on(async { store(&mut first.client().await, 40).await });
    first.stop();
    let process = Process::start(&data_dir, SETTINGS);
    let (_, stats) = crate::common::get(process.http, "/stats").unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["documents"], 40, "{stats}");
    process.stop();
}

#[test]
fn a_server_whose_directory_is_replaced_ends_at_once() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let first = Process::start(&data_dir, SETTINGS);
    let log = first.log_path();
    rename(&data_dir, directory.path().join("moved")).unwrap();
    create_dir(&data_dir).unwrap();
    assert_eq!(first.wait(), Some(1));
    let said = std::fs::read_to_string(log).unwrap();
    assert_says(&said, &["is another directory", "This server ends at once"]);
    let names = std::fs::read_dir(&data_dir).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.is_empty(), "it has written to the other directory: {names:?}");
}

#[test]
fn a_server_whose_lock_file_is_another_ones_ends_at_once() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let first = Process::start(&data_dir, SETTINGS);
    let log = first.log_path();
    // As a version does that locks only LOCK.
    let other = directory.path().join("other");
    std::fs::write(&other, "77\n").unwrap();
    let opened = File::open(&other).unwrap();
    opened.lock().unwrap();
    rename(&other, data_dir.join("LOCK")).unwrap();
    assert_eq!(first.wait(), Some(1));
    let said = std::fs::read_to_string(log).unwrap();
    assert_says(&said, &["process 77 has locked", "This server ends at once"]);
}

//! `--doctor` as its user meets it: exit codes, text and JSON.

use std::path::Path;
use std::process::Command;

use crate::assert_says;
use crate::common::directory;

/// Exit code, standard output and standard error of a check of the host.
fn doctor(data_dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    command.arg("--data-dir").arg(data_dir).arg("--doctor").args(arguments);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn doctor_reports_its_findings_and_leaves_no_file() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (code, json, errors) = doctor(&data_dir, &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 23, "{json}{errors}");
    let is_bad = |check: &serde_json::Value| check["verdict"] == "bad";
    assert_eq!(code, i32::from(checks.iter().any(is_bad)), "{json}");
    // A server can run here, or no test would.
    let ok = |name: &str| checks.iter().any(|c| c["name"] == name && c["verdict"] == "ok");
    assert!(ok("io_uring") && ok("direct_io"), "{json}");
    for check in checks {
        let has = |key: &str| check[key].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("name") && has("found") && has("why"), "{check}");
        assert!(check["verdict"] != "bad" || has("change"), "{check}");
    }
    let (_, text, _) = doctor(&data_dir, &[]);
    assert_says(&text, &["ok      io_uring", "writes of 4 KiB with fdatasync", "an inference"]);
    assert!(!data_dir.exists(), "it was not made");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn obstacles_to_a_start_are_bad() {
    let directory = directory();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 64 && exec \"$0\" --doctor --data-dir \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_kyrodb_server")).arg(directory.path());
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_says(&text, &["BAD     memlock", "64 KiB; 512 KiB are needed", "LimitMEMLOCK"]);
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped in part: there is no /dev/shm");
    };
    let (code, text, _) = doctor(memory.path(), &[]);
    assert_eq!(code, 1, "{text}");
    assert_says(&text, &["BAD     file_system", "tmpfs"]);
}

#[test]
fn doctor_names_a_directory_that_it_can_not_check() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, text, errors) = doctor(&file, &[]);
    assert_eq!((code, text.as_str()), (2, ""));
    assert_says(&errors, &["is no directory", "--data-dir"]);
    assert_eq!(doctor(directory.path(), &["--demo"]).0, 2, "one or the other");
}

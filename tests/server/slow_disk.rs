//! A disk that hangs: pages that need it wait, and no other page does.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Process, directory, get, http};
use crate::{ONE_SHARD, assert_says};

/// Opening a pipe without a reader never returns, as a write on a file system that hangs.
#[test]
fn pages_answer_while_a_file_can_not_be_written() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    let pipe = data_dir.join("READ_ONLY");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let address = process.http;
    let hung = std::thread::spawn(move || http(address, "POST", "/admin/read-only?state=on"));
    let begun = Instant::now();
    let is_on = || {
        let modes = get(address, "/admin/read-only").expect("the pages hang");
        modes.1.contains("\"read_only\":true")
    };
    while !is_on() {
        assert!(begun.elapsed() < PATIENCE, "never read-only");
        std::thread::sleep(Duration::from_millis(5));
    }
    for page in ["/livez", "/readyz", "/health", "/metrics", "/stats", "/slo"] {
        assert_eq!(get(address, page).expect("the pages hang").0, 200, "{page}");
    }
    assert_says(&get(address, "/health").unwrap().1, &["read-only"]);
    // The end does not wait for it either.
    process.stop();
    let answer = hung.join().unwrap();
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.code != 200));
}

//! The program as its operator sees it: start, refusals, HTTP pages, shutdown, and the demo.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod complements;
mod damage;
mod demo;
mod doctor;
mod golden;
mod limits;
mod lock;
mod log;
mod memory;
mod nvme;
mod ownership;
mod pages;
mod pid_file;
mod profile;
mod recall;
mod refusals;
mod repair;
mod requests;
mod shards;
mod shutdown;
mod slow;
mod slow_disk;
mod snapshots;
mod tails;
mod transfer;
mod upkeep;
mod verify;
mod wal_dir;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Client, Process, Settings, insert, runtime, vector};

/// Few shards, for few files.
const SETTINGS: Settings<'static> = &[("runtime.shards", "2")];

const DIMENSION: usize = 8;

/// Bytes in a block of the log.
const BLOCK: u64 = 4_096;

/// Documents in a directory of one shard: every insert is a group of its own.
const COUNT: u64 = 20;
const ONE_SHARD: Settings<'static> = &[("runtime.shards", "1")];

/// Stores the documents 1 to `count`, each acknowledged.
async fn store(client: &mut Client, count: u64) {
    for id in 1..=count {
        let request = insert(id, &vector(id, DIMENSION), &[("n", &id.to_string())]);
        assert!(client.insert(request).await.unwrap().into_inner().success);
    }
}

/// A data directory that a server has filled with some documents and left in good order.
fn made(directory: &Path, settings: Settings<'_>, count: u64) -> PathBuf {
    let data_dir = directory.join("data");
    let process = Process::start(&data_dir, settings);
    runtime().block_on(async { store(&mut process.client().await, count).await });
    process.stop();
    data_dir
}

/// The segments of a data directory, by name, which is by shard and number.
fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|e| e == "wal");
    let mut segments: Vec<PathBuf> = entries.filter(is_segment).collect();
    segments.sort();
    segments
}

/// Flips a bit of a file.
fn flip(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    file.sync_all().unwrap();
}

/// The name of a file in its directory.
fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "does not say {part:?}:\n{text}");
    }
}

//! The backup program on real files and real servers: contents of a backup, results of a restore, and refusals.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod bucket;
mod chain;
mod damage;
mod hot;
mod metrics;
mod point;
mod refusals;
mod s3;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::documents::{Change, Contents, Random, read};
use common::{Client, Process, Settings, directory, runtime};
use kyrodb::proto::SnapshotRequest;
use tempfile::TempDir;

use crate::s3::S3;

/// Two shards with snapshots only on request.
const SETTINGS: Settings<'static> = &[
    ("runtime.shards", "2"),
    ("hnsw.distance", "euclidean"),
    ("persistence.snapshot_interval_mutations", "1000000"),
];

/// Number of documents that random changes concern.
const COUNT: u64 = 200;

/// A data directory, its backups, and a place for restored directories.
struct Place {
    directory: TempDir,
    random: Random,
    contents: Contents,
    /// The bucket server, if backups are not in a directory.
    s3: Option<S3>,
}

impl Place {
    fn new(seed: u64) -> Self {
        let (random, contents) = (Random::new(seed, 0), Contents::new());
        Self { directory: directory(), random, contents, s3: None }
    }

    /// With backups in a bucket.
    fn in_bucket(seed: u64) -> Self {
        let place = Self::new(seed);
        let s3 = S3::start(&place.path("s3"));
        Self { s3: Some(s3), ..place }
    }

    fn s3(&self) -> &S3 {
        self.s3.as_ref().expect("the backups are in a bucket")
    }

    /// With a data directory that a server has filled and left.
    fn made(seed: u64, changes: usize) -> Self {
        Self::new(seed).filled(changes)
    }

    /// Fills the data directory with the help of a server.
    fn filled(mut self, changes: usize) -> Self {
        let process = Process::start(&self.data_dir(), SETTINGS);
        self.change(&process, changes);
        process.stop();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    fn backup_dir(&self) -> PathBuf {
        self.s3.as_ref().map_or_else(|| self.path("backups"), S3::directory)
    }

    /// Names of all entries of the storage that have a file.
    fn left(&self) -> BTreeSet<String> {
        let backups = self.backup_dir();
        let name = |path: PathBuf| {
            let name = path.strip_prefix(&backups).unwrap().iter().next().unwrap();
            name.to_string_lossy().into_owned()
        };
        files(&backups).into_keys().map(name).collect()
    }

    /// Makes random changes, each acknowledged.
    fn change(&mut self, process: &Process, count: usize) {
        runtime().block_on(async {
            let mut client = process.client().await;
            for _ in 0..count {
                let change = Change::random(&mut self.random, 1, COUNT);
                change.send(&mut client, &self.contents).await.unwrap();
                change.apply(&mut self.contents);
            }
        });
    }

    /// The program, on the data directory and its backups.
    fn command(&self, arguments: &[&str]) -> Command {
        self.command_on(&self.data_dir(), arguments)
    }

    fn command_on(&self, data_dir: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"));
        match &self.s3 {
            Some(s3) => {
                command.args(["--backup-dir", &s3.url()]);
                s3.allow(&mut command);
            }
            None => {
                command.arg("--backup-dir").arg(self.backup_dir());
            }
        }
        command.args(arguments).arg("--data-dir").arg(data_dir);
        command.env_remove("BACKUP_ALLOW_CLEAR").env_remove("KYRODB_DATA_DIR");
        command
    }

    /// Output of a run that has to succeed.
    fn run(&self, arguments: &[&str]) -> String {
        succeeds(&mut self.command(arguments))
    }

    /// Messages of a run that has to fail.
    fn fails(&self, arguments: &[&str]) -> String {
        fails(&mut self.command(arguments))
    }

    /// Makes a backup; returns its id.
    fn create(&self, arguments: &[&str]) -> String {
        let printed = self.run(&[&["create"], arguments].concat());
        let id = printed.lines().find_map(|line| line.strip_prefix("Backup ID: "));
        id.unwrap_or_else(|| panic!("{printed}")).to_owned()
    }

    fn create_on(&self, parent: &str) -> String {
        self.create(&["--incremental", "--reference", parent])
    }

    /// Restores to a new directory, and starts a server there.
    fn restored(&self, name: &str, arguments: &[&str]) -> Process {
        let target = self.path(name);
        succeeds(&mut self.command_on(&target, &[&["restore"], arguments].concat()));
        Process::start(&target, SETTINGS)
    }

    /// The backups as JSON, newest first.
    fn list(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.run(&["list", "--json"])).unwrap()
    }

    /// Path of a file of a backup.
    fn file(&self, id: &str, prefix: &str) -> PathBuf {
        let entries = std::fs::read_dir(self.backup_dir().join(id)).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let is_it =
            |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
        paths.into_iter().find(is_it).unwrap_or_else(|| panic!("no {prefix}* in {id}"))
    }
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    said(&output)
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stderr) + &text(&output.stdout)
}

async fn snapshot(client: &mut Client) {
    let answer = client.create_snapshot(SnapshotRequest::default()).await.unwrap().into_inner();
    assert!(answer.success, "{answer:?}");
}

/// The documents stored under these ids.
async fn bulk(client: &mut Client, ids: &[u64]) -> Contents {
    let mut found = Contents::new();
    for ids in ids.chunks(1_000) {
        found.extend(read(client, ids).await);
    }
    found
}

/// Asserts that a server has exactly these documents.
fn assert_contents(process: &Process, contents: &Contents) {
    let all: Vec<u64> = (1..=COUNT).collect();
    let found = runtime().block_on(async { read(&mut process.client().await, &all).await });
    for id in &all {
        assert_eq!(found.get(id), contents.get(id), "document {id}");
    }
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "does not say {part:?}:\n{text}");
    }
}

/// All files below a directory, with their contents.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut open, mut files) = (vec![directory.to_owned()], BTreeMap::new());
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.exists() {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

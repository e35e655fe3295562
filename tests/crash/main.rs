//! kill -9 at random moments, against the real binary with concurrent clients: every acknowledged change is there
//! afterwards, changes in flight are there completely or not at all, and nothing else is there.
//!
//! Six rounds in an ordinary run; `KYRODB_CRASH_ROUNDS=50` for more, `KYRODB_CRASH_SEED=N` for
//! other changes and moments. The seed is printed.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::documents::{Contents, Random, read};
use common::{Client, Process, Settings, directory, get, ids, metric, metric_sum, runtime, search};
use worker::{Journal, Kind, ids_of, work};

/// Vectors are kept as they are sent; documents are spread over several logs, on all cores; snapshots are taken
/// continually.
const SETTINGS: Settings<'static> = &[
    ("hnsw.distance", "euclidean"),
    ("runtime.shards", "3"),
    ("persistence.snapshot_interval_mutations", "100"),
];

/// Kinds of clients, each with documents of its own.
const WORKERS: [Kind; 5] =
    [Kind::Changes, Kind::Changes, Kind::Changes, Kind::BulkLoad, Kind::BulkInsert];

/// Longest time that clients work before the kill, in milliseconds.
const LIFE_MS_MAX: u64 = 600;

/// In one of this many rounds a start is killed as well, before it is ready.
const KILLED_START_EVERY: u64 = 3;

/// Most snapshot files of a shard: two, those that these share parts with, and one that is being made or removed.
const SNAPSHOT_FILES_MAX: usize = 8;

/// Number of files of the data directory with this name prefix.
fn files(data_dir: &std::path::Path, prefix: &str) -> usize {
    let names = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(prefix)).count()
}

fn setting(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

#[test]
fn every_acknowledged_change_survives_a_kill_at_any_moment() {
    let rounds = setting("KYRODB_CRASH_ROUNDS").unwrap_or(6);
    let seed = setting("KYRODB_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("KYRODB_CRASH_SEED={seed} KYRODB_CRASH_ROUNDS={rounds} cargo test --test crash");
    let directory = directory();
    let data_dir = directory.path().join("data");
    let mut random = Random::new(seed, 0);
    let mut contents = vec![Contents::new(); WORKERS.len()];
    let (mut acknowledged, mut torn, mut snapshots) = (0, 0.0, 0);
    for round in 0..rounds {
        let process = Process::start(&data_dir, SETTINGS);
        let life = Duration::from_millis(random.below(LIFE_MS_MAX));
        let journals = run_and_kill(process, &contents, life, seed + round);
        acknowledged += journals.iter().map(|journal| journal.acknowledged).sum::<u64>();
        if round % KILLED_START_EVERY == 0 {
            let start = Process::spawn(&data_dir, SETTINGS);
            std::thread::sleep(Duration::from_millis(random.below(60)));
            start.kill();
        }
        let process = Process::start(&data_dir, SETTINGS);
        contents = runtime().block_on(check(&process, &journals));
        snapshots = snapshots.max(files(&data_dir, "snapshot_"));
        assert!(files(&data_dir, "snapshot_") <= 3 * SNAPSHOT_FILES_MAX, "old snapshots stay");
        let metrics = get(process.http, "/metrics").unwrap().1;
        let stored: usize = contents.iter().map(Contents::len).sum();
        assert_eq!(metric(&metrics, "kyrodb_hnsw_vector_count"), Some(stored as f64));
        torn += metric_sum(&metrics, "kyrodb_wal_torn_writes_total");
        // Half of the rounds begin after a clean end.
        if random.below(2) == 0 { process.stop() } else { process.kill() }
    }
    let stored: usize = contents.iter().map(Contents::len).sum();
    println!(
        "{rounds} kills: {acknowledged} changes acknowledged and found again, {torn} writes \
         torn, {stored} documents and {snapshots} snapshot files at the end"
    );
    assert!(snapshots >= 3, "snapshots were not taken");
    assert!(acknowledged > rounds * 10, "the clients hardly did anything");
}

/// Runs all clients, and kills the server meanwhile.
fn run_and_kill(
    process: Process,
    contents: &[Contents],
    life: Duration,
    seed: u64,
) -> Vec<Journal> {
    let is_killed = Arc::new(AtomicBool::new(false));
    let runtime = runtime();
    let workers: Vec<_> = runtime.block_on(async {
        let mut workers = Vec::new();
        for (index, (kind, contents)) in WORKERS.into_iter().zip(contents).enumerate() {
            let client = process.client().await;
            let random = Random::new(seed, index as u64 + 1);
            let journal = Journal::new(index as u64, contents.clone());
            workers.push(tokio::spawn(work(kind, client, journal, random, is_killed.clone())));
        }
        workers
    });
    std::thread::sleep(life);
    is_killed.store(true, Ordering::SeqCst);
    process.kill();
    runtime.block_on(async {
        let mut journals = Vec::new();
        for worker in workers {
            journals.push(worker.await.unwrap());
        }
        journals
    })
}

/// Compares stored documents with each client's journal; returns the stored ones.
async fn check(process: &Process, journals: &[Journal]) -> Vec<Contents> {
    let mut client = process.client().await;
    let mut all = Vec::new();
    for journal in journals {
        let ids = ids_of(journal.worker);
        let found = read(&mut client, &ids).await;
        let after = journal.after_all();
        for id in &ids {
            let (found, before, after) = (found.get(id), journal.contents.get(id), after.get(id));
            assert!(
                found == before || found == after,
                "document {id}\n is {found:?}\n not {before:?}\n nor {after:?}\n{}",
                process.log()
            );
        }
        assert_findable(&mut client, &found).await;
        all.push(found);
    }
    all
}

/// Asserts that searches find the stored documents in their present state.
async fn assert_findable(client: &mut Client, contents: &Contents) {
    for (id, document) in contents.iter().step_by(9) {
        let answer = client.search(search(&document.vector, 3)).await.unwrap().into_inner();
        assert_eq!(ids(&answer)[0], *id);
        assert_eq!(answer.results[0].score, 1.0);
        let metadata = answer.results[0].metadata.clone().into_iter().collect();
        assert_eq!(document.metadata, metadata, "{id}");
    }
}

//! Snapshots on real files: on request or when due, starts from them, and damage to them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kyrodb::proto::{SnapshotRequest, SnapshotResponse};

use crate::common::documents::{Change, Contents, Random, read};
use crate::common::{
    Client, PATIENCE, Process, Settings, directory, eventually, get, metric, metric_sum, runtime,
};
use crate::{assert_says, segments};

/// Two shards, with snapshots only on request.
const SETTINGS: Settings<'static> = &[
    ("runtime.shards", "2"),
    ("hnsw.distance", "euclidean"),
    ("persistence.snapshot_interval_mutations", "1000000"),
];

const COUNT: u64 = 400;

async fn change(client: &mut Client, random: &mut Random, contents: &mut Contents, count: usize) {
    for _ in 0..count {
        let change = Change::random(random, 1, COUNT);
        change.send(client, contents).await.unwrap();
        change.apply(contents);
    }
}

async fn snapshot(client: &mut Client) -> SnapshotResponse {
    let answer = client.create_snapshot(SnapshotRequest::default()).await.unwrap().into_inner();
    assert!(answer.success && answer.snapshot_size_bytes > 0, "{answer:?}");
    answer
}

async fn assert_contents(client: &mut Client, contents: &Contents) {
    let all: Vec<u64> = (1..=COUNT).collect();
    let found = read(client, &all).await;
    for id in &all {
        assert_eq!(found.get(id), contents.get(id), "document {id}");
    }
}

/// Records that the last start has read from the log.
fn replayed(process: &Process) -> u64 {
    let begun = Instant::now();
    loop {
        // The line follows the moment from which `/ready` reports readiness.
        let log = process.log();
        let number = log.split("records_read=").nth(1).and_then(|rest| rest.split(' ').next());
        if let Some(number) = number {
            return number.parse().unwrap();
        }
        assert!(begun.elapsed() < PATIENCE, "{log}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn snapshots(data_dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.to_string_lossy().contains("/snapshot_")).collect();
    files.sort();
    files
}

#[test]
fn a_start_reads_the_newest_snapshot_and_the_log_after_it() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (mut random, mut contents) = (Random::new(5, 0), Contents::new());
    let runtime = runtime();
    let mut process = Process::start(&data_dir, SETTINGS);
    for round in 0..4 {
        runtime.block_on(async {
            let mut client = process.client().await;
            change(&mut client, &mut random, &mut contents, 600).await;
            // Two concurrent requests are both answered.
            let mut other = client.clone();
            let answers = tokio::join!(snapshot(&mut client), snapshot(&mut other));
            for answer in [answers.0, answers.1] {
                assert_eq!(answer.documents_snapshotted, contents.len() as u64);
            }
            change(&mut client, &mut random, &mut contents, 30).await;
        });
        if round % 2 == 0 {
            process.kill()
        } else {
            process.stop()
        }
        process = Process::start(&data_dir, SETTINGS);
        // A change without effect has no record.
        assert!((1..=30).contains(&replayed(&process)), "{}", replayed(&process));
        runtime.block_on(async { assert_contents(&mut process.client().await, &contents).await });
    }
    // Two of each shard are kept, with shared files, and the log from the older one on.
    assert!(snapshots(&data_dir).len() <= 2 * 4, "{:?}", snapshots(&data_dir));
    assert!(segments(&data_dir).len() <= 2 * 5, "{:?}", segments(&data_dir));
    process.stop();
}

#[test]
fn a_damaged_snapshot_costs_nothing_while_the_older_one_and_the_log_are_good() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (mut random, mut contents) = (Random::new(6, 0), Contents::new());
    let runtime = runtime();
    let process = Process::start(&data_dir, SETTINGS);
    runtime.block_on(async {
        let mut client = process.client().await;
        for _ in 0..3 {
            change(&mut client, &mut random, &mut contents, 500).await;
            snapshot(&mut client).await;
        }
    });
    process.kill();
    let files = snapshots(&data_dir);
    let newest: Vec<&PathBuf> = files.iter().filter(|f| f.ends_with_number(3)).collect();
    assert_eq!(newest.len(), 2, "{files:?}");
    for file in &newest {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
    let process = Process::start(&data_dir, SETTINGS);
    let metrics = get(process.http, "/metrics").unwrap().1;
    assert_eq!(metric_sum(&metrics, "kyrodb_snapshots_damaged_total"), 2.0);
    assert_eq!(metric_sum(&metrics, "kyrodb_hnsw_corruption_detected_total"), 2.0);
    assert_eq!(metric_sum(&metrics, "kyrodb_hnsw_fallback_recovery_success"), 2.0);
    assert_says(&process.log(), &["00000003.snap is damaged at byte", "bad checksum"]);
    runtime.block_on(async { assert_contents(&mut process.client().await, &contents).await });
    process.kill();
    // The older ones too: here, the log still has everything.
    for file in files.iter().filter(|file| file.ends_with_number(2)) {
        std::fs::remove_file(file).unwrap();
    }
    let process = Process::start(&data_dir, SETTINGS);
    assert_says(&process.log(), &["00000002.snap is damaged", "the file is missing"]);
    runtime.block_on(async { assert_contents(&mut process.client().await, &contents).await });
    process.stop();
}

trait Numbered {
    fn ends_with_number(&self, number: u64) -> bool;
}

impl Numbered for PathBuf {
    fn ends_with_number(&self, number: u64) -> bool {
        self.to_string_lossy().ends_with(&format!("_{number:08}.snap"))
    }
}

/// Without a request: after a number of changes, and in a quiet shard.
#[test]
fn snapshots_are_taken_when_they_are_due() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let settings = [SETTINGS[0], SETTINGS[1], ("persistence.snapshot_interval_mutations", "200")];
    let (mut random, mut contents) = (Random::new(7, 0), Contents::new());
    let process = Process::start(&data_dir, &settings);
    let taken = || {
        let metrics = get(process.http, "/metrics").unwrap().1;
        metric_sum(&metrics, "kyrodb_snapshots_total")
    };
    runtime().block_on(async {
        let mut client = process.client().await;
        change(&mut client, &mut random, &mut contents, 1_200).await;
        eventually("both shards have taken a snapshot", async || taken() >= 2.0).await;
        assert_contents(&mut client, &contents).await;
    });
    process.stop();
    let quiet = Process::start(&data_dir, SETTINGS);
    runtime().block_on(async {
        let mut client = quiet.client().await;
        change(&mut client, &mut random, &mut contents, 2_500).await;
        eventually("the quiet shards have taken a snapshot", async || {
            let metrics = get(quiet.http, "/metrics").unwrap().1;
            metric_sum(&metrics, "kyrodb_snapshots_total") >= 2.0
        })
        .await;
    });
    quiet.kill();
    let process = Process::start(&data_dir, SETTINGS);
    assert_eq!(replayed(&process), 0);
    runtime().block_on(async { assert_contents(&mut process.client().await, &contents).await });
    process.stop();
}

/// Documents that searches find only by scanning.
fn hot(process: &Process) -> f64 {
    metric_sum(&get(process.http, "/metrics").unwrap().1, "kyrodb_shard_hot_documents")
}

#[test]
fn a_clean_stop_leaves_nothing_to_read_and_nothing_to_link() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (mut random, mut contents) = (Random::new(8, 0), Contents::new());
    let runtime = runtime();
    let process = Process::start(&data_dir, SETTINGS);
    runtime.block_on(async {
        change(&mut process.client().await, &mut random, &mut contents, 2_500).await;
    });
    process.stop();
    let process = Process::start(&data_dir, SETTINGS);
    assert_eq!(replayed(&process), 0);
    assert_eq!(hot(&process), 0.0);
    runtime.block_on(async {
        let mut client = process.client().await;
        assert_contents(&mut client, &contents).await;
        change(&mut client, &mut random, &mut contents, 30).await;
    });
    let files = snapshots(&data_dir);
    process.stop();
    // So few changes are not worth a snapshot.
    assert_eq!(snapshots(&data_dir), files);
    let process = Process::start(&data_dir, SETTINGS);
    assert!((1..=30).contains(&replayed(&process)), "{}", replayed(&process));
    runtime.block_on(async { assert_contents(&mut process.client().await, &contents).await });
    process.stop();
}

#[test]
fn a_last_snapshot_that_fails_does_not_keep_the_server_from_ending_well() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (mut random, mut contents) = (Random::new(9, 0), Contents::new());
    let runtime = runtime();
    let process = Process::start(&data_dir, SETTINGS);
    runtime.block_on(async {
        change(&mut process.client().await, &mut random, &mut contents, 2_500).await;
    });
    // Blocks files of that name.
    let blocks: Vec<PathBuf> = ["0000", "0001"]
        .map(|shard| data_dir.join(format!("snapshot_{shard}_00000001.snap.tmp")))
        .into();
    blocks.iter().for_each(|path| std::fs::create_dir(path).unwrap());
    process.signal("TERM");
    let log = process.log_path();
    assert_eq!(process.wait(), Some(0));
    let log = std::fs::read_to_string(log).unwrap();
    assert_says(&log, &["the next start has more to do", "no snapshot", "good-bye"]);
    blocks.iter().for_each(|path| std::fs::remove_dir(path).unwrap());
    assert!(snapshots(&data_dir).is_empty(), "{:?}", snapshots(&data_dir));
    let process = Process::start(&data_dir, SETTINGS);
    assert!(replayed(&process) > 1_000, "{}", replayed(&process));
    runtime.block_on(async { assert_contents(&mut process.client().await, &contents).await });
    process.stop();
}

/// A ready server has linked as many documents as there was time for.
#[test]
fn a_start_is_ready_when_all_is_linked_or_it_has_waited_long_enough() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (mut random, mut contents) = (Random::new(10, 0), Contents::new());
    let process = Process::start(&data_dir, SETTINGS);
    runtime().block_on(async {
        change(&mut process.client().await, &mut random, &mut contents, 1_500).await;
    });
    process.kill();
    let process = Process::start(&data_dir, SETTINGS);
    assert!(replayed(&process) > 0);
    let metrics = get(process.http, "/metrics").unwrap().1;
    let hot = metric_sum(&metrics, "kyrodb_shard_hot_documents");
    let uptime_s = metric(&metrics, "kyrodb_uptime_seconds").unwrap();
    assert!(hot == 0.0 || uptime_s >= 2.0, "{hot} documents after {uptime_s} s");
    process.stop();
}

/// Documents of 4 KB, so that there are many blocks, and a snapshot due after few changes.
const LARGE: Settings<'static> = &[
    ("runtime.shards", "1"),
    ("hnsw.distance", "euclidean"),
    ("hnsw.m", "5"),
    ("hnsw.ef_construction", "16"),
    ("hnsw.ef_search", "16"),
    ("persistence.snapshot_interval_mutations", "100"),
];
const LARGE_COUNT: u64 = 4_000;

#[test]
fn snapshots_under_random_upserts_write_no_more_than_three_times_what_has_changed() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), LARGE);
    let document = |id: u64| crate::common::insert(id, &crate::common::vector(id, 1_024), &[]);
    let load = async |client: &mut Client, ids: Vec<u64>| {
        let documents: Vec<_> = ids.into_iter().map(document).collect();
        let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap();
        assert!(loaded.into_inner().success);
    };
    let counts = || {
        let text = get(process.http, "/metrics").unwrap().1;
        ["written_bytes", "changed_bytes"]
            .map(|name| metric_sum(&text, &format!("kyrodb_snapshot_{name}_total")))
    };
    runtime().block_on(async {
        let mut client = process.client().await;
        load(&mut client, (1..=LARGE_COUNT).collect()).await;
        snapshot(&mut client).await;
        let before = counts();
        let mut random = Random::new(6, 0);
        for _ in 0..10 {
            load(&mut client, (0..400).map(|_| 1 + random.below(LARGE_COUNT)).collect()).await;
        }
        eventually("a snapshot that is due", async || counts()[1] > before[1]).await;
        let [written, changed] = [0, 1].map(|index| counts()[index] - before[index]);
        let ratio = written / changed;
        assert!(ratio > 0.5 && ratio <= 3.1, "{written} bytes written for {changed} changed");
        let text = get(process.http, "/metrics").unwrap().1;
        assert!(metric(&text, "kyrodb_snapshot_write_amplification").unwrap() > 0.5);
    });
    process.stop();
}

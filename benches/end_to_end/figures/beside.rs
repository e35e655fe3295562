//! Searches beside other work: latencies at a fixed rate, with the work and without, in turns.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kyrodb::proto::{InsertRequest, SnapshotRequest};

use super::{at_ms, document, flush, latencies, median, micros, shown};
use crate::common::{Client, Process, search};
use crate::data::Data;

/// Length of a phase of the mixed load.
const PHASE: Duration = Duration::from_secs(5);

/// Searches per second.
const RATE: u32 = 500;

/// Rounds of a figure, each with its own ratio, and time of searches alone in each.
const ROUNDS: usize = 5;
const PHASE_ALONE: Duration = Duration::from_secs(4);

/// Documents changed before each round of snapshots.
const UPSERTS: usize = 1_000;

/// Searches at a fixed rate, without and with 500 durable writes per second beside them, in turns: first inserts of new
/// documents, then replacements. Latency counts from the time a search was due.
pub(super) async fn mixed(process: &Process, data: &Data) {
    for (what, first_id) in [("inserts", Some(2_000_000_000)), ("upserts", None)] {
        let mut quiet = latencies();
        let mut busy = latencies();
        let mut written = 0;
        for _ in 0..2 {
            quiet.add(paced_searches(process, data, 500, PHASE).await).expect("same bounds");
            let stop = Arc::new(AtomicBool::new(false));
            let writer = tokio::spawn(paced_inserts(
                process.client().await,
                paced_documents(data, first_id),
                stop.clone(),
            ));
            busy.add(paced_searches(process, data, 500, PHASE).await).expect("same bounds");
            stop.store(true, Ordering::Relaxed);
            written += writer.await.expect("no panic");
        }
        let ratio = busy.value_at_quantile(0.99) as f64 / quiet.value_at_quantile(0.99) as f64;
        println!(
            "500 searches a second: alone {}; with 500 {what} a second, {written} in all, {}; p99 \
             ratio {ratio:.2}",
            shown(&quiet),
            shown(&busy)
        );
    }
}

/// Searches at a fixed rate, alone and while one snapshot after another is taken, in turns.
pub(super) async fn snapshots(process: &Process, data: &Data) {
    let (mut phases, mut taken, mut bytes) = (Phases::default(), 0, 0);
    for round in 0..ROUNDS {
        // A snapshot has changes to write.
        upsert(process, data, round).await;
        flush(process).await;
        let quiet = paced_searches(process, data, RATE, PHASE_ALONE).await;
        let stop = Arc::new(AtomicBool::new(false));
        let mut client = process.client().await;
        let is_over = stop.clone();
        let taking = tokio::spawn(async move {
            let (mut count, mut bytes) = (0, 0);
            while !is_over.load(Ordering::Relaxed) {
                let answer = client.create_snapshot(SnapshotRequest::default()).await;
                bytes += answer.expect("a snapshot").into_inner().snapshot_size_bytes;
                count += 1;
            }
            (count, bytes)
        });
        let busy = paced_searches(process, data, RATE, PHASE_ALONE).await;
        stop.store(true, Ordering::Relaxed);
        let (count, written) = taking.await.expect("no panic");
        taken += count;
        bytes += written;
        phases.add(quiet, busy);
    }
    let each_ms = PHASE_ALONE.as_millis() as u64 * ROUNDS as u64 / taken;
    println!(
        "snapshot: {}; {taken} snapshots, {each_ms} ms and {:.1} MB each",
        phases.shown(),
        bytes as f64 / taken as f64 / 1e6
    );
}

/// Searches at a fixed rate, alone and while `kyrodb_backup create` runs, in turns.
pub(super) async fn backups(process: &Process, data: &Data, data_dir: &Path) {
    let (mut phases, mut took) = (Phases::default(), Vec::new());
    let backup_dir = data_dir.with_extension("backups");
    for _ in 0..ROUNDS {
        let quiet = paced_searches(process, data, RATE, PHASE_ALONE).await;
        let (data_dir, target) = (data_dir.to_path_buf(), backup_dir.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let backup = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let made = Command::new(env!("CARGO_BIN_EXE_kyrodb_backup"))
                .arg("--data-dir")
                .arg(data_dir)
                .arg("--backup-dir")
                .arg(target)
                .arg("create")
                .stdout(Stdio::null())
                .status();
            is_over.store(true, Ordering::Relaxed);
            assert!(made.expect("the program was built").success());
            begun.elapsed().as_secs_f64()
        });
        let busy = paced_searches_until(process, data, RATE, Duration::from_secs(600), &stop);
        let busy = busy.await;
        took.push(backup.await.expect("no panic"));
        std::fs::remove_dir_all(&backup_dir).expect("the backup can be removed");
        phases.add(quiet, busy);
    }
    println!("backup: {}; a full backup takes {:.1} s", phases.shown(), median(took));
}

/// Latencies of searches alone and beside other work, in turns.
#[derive(Default)]
struct Phases(Vec<(Histogram<u64>, Histogram<u64>)>);

impl Phases {
    fn add(&mut self, quiet: Histogram<u64>, busy: Histogram<u64>) {
        self.0.push((quiet, busy));
    }

    fn shown(&self) -> String {
        let alone = |quantile| median(self.0.iter().map(|(q, _)| at_ms(q, quantile)).collect());
        let beside = |quantile| median(self.0.iter().map(|(_, b)| at_ms(b, quantile)).collect());
        let ratio = |quantile| {
            let ratio = |(quiet, busy): &(_, _)| at_ms(busy, quantile) / at_ms(quiet, quantile);
            median(self.0.iter().map(ratio).collect())
        };
        let count: u64 = self.0.iter().map(|(_, busy)| busy.len()).sum();
        format!(
            "search at {RATE} a second, medians of {} rounds: alone p50 {:.3} ms, p99 {:.3} ms; \
             beside p50 {:.3} ms, p99 {:.3} ms ({count} searches); ratio p50 {:.2}, p99 {:.2}",
            self.0.len(),
            alone(0.5),
            alone(0.99),
            beside(0.5),
            beside(0.99),
            ratio(0.5),
            ratio(0.99),
        )
    }
}

/// Replaces some documents.
async fn upsert(process: &Process, data: &Data, round: usize) {
    let mut client = process.client().await;
    let rows = (0..UPSERTS).map(|row| (round * UPSERTS + row) % data.base.count());
    let documents: Vec<InsertRequest> = rows.map(|row| document(data, row)).collect();
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.expect("a load");
    assert!(loaded.into_inner().success);
}

/// Evenly spaced times, each sent when it comes. Not tokio's timer, which has a resolution of a millisecond.
pub(super) fn pace(rate: u32, length: Duration) -> tokio::sync::mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let begun = Instant::now();
        for number in 0.. {
            let due = begun + Duration::from_secs(1) * number / rate;
            if due.duration_since(begun) > length {
                return;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(super) async fn paced_searches(
    process: &Process,
    data: &Data,
    rate: u32,
    length: Duration,
) -> Histogram<u64> {
    paced_searches_until(process, data, rate, length, &AtomicBool::new(false)).await
}

/// Searches until `stop`, or for this length.
async fn paced_searches_until(
    process: &Process,
    data: &Data,
    rate: u32,
    length: Duration,
    stop: &AtomicBool,
) -> Histogram<u64> {
    let client = process.client().await;
    let mut all = latencies();
    let mut moments = pace(rate, length);
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed)
        && let Some(due) = moments.recv().await
    {
        let request = search(data.queries.row(number % data.queries.count()), 10);
        number += 1;
        let mut client = client.clone();
        tasks.spawn(async move {
            client.search(request).await.expect("a search");
            micros(due)
        });
        while let Some(latency) = tasks.try_join_next() {
            all.saturating_record(latency.expect("no panic"));
        }
    }
    while let Some(latency) = tasks.join_next().await {
        all.saturating_record(latency.expect("no panic"));
    }
    all
}

/// Documents with ids from `first_id` on; without one, those that are stored already.
fn paced_documents(data: &Data, first_id: Option<u64>) -> Vec<InsertRequest> {
    let document = |row| {
        let document = document(data, row);
        let doc_id = first_id.map_or(document.doc_id, |first_id| first_id + row as u64);
        InsertRequest { doc_id, ..document }
    };
    (0..10_000.min(data.base.count())).map(document).collect()
}

async fn paced_inserts(
    client: Client,
    documents: Vec<InsertRequest>,
    stop: Arc<AtomicBool>,
) -> usize {
    let mut moments = pace(500, Duration::from_secs(3_600));
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) && moments.recv().await.is_some() {
        let document = documents[number % documents.len()].clone();
        let mut client = client.clone();
        tasks.spawn(async move { client.insert(document).await.is_ok() });
        number += 1;
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    number
}

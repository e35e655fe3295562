//! A start after a kill and after a clean stop: time until readiness, and latency of the first searches compared with
//! later ones.

use std::path::Path;
use std::time::Instant;

use hdrhistogram::Histogram;
use kyrodb::proto::SnapshotRequest;
use tokio::runtime::Runtime;

use super::insert::insert_all;
use super::stages::Stages;
use super::{at_ms, flush, latencies, median, micros};
use crate::common::{Process, Settings, get, metric_sum, search};
use crate::data::Data;

/// Documents written after the newest snapshot, just before each stop: as many as a server leaves in its log at most,
/// by the default settings.
const TAIL: usize = 10_000;

/// Clients that write them.
const CLIENTS: usize = 8;

/// Searches right after the start, and as many later.
const SEARCHES: usize = 1_000;

/// Starts of each kind.
const ROUNDS: usize = 3;

/// Result of one start.
struct Start {
    stop_s: f64,
    ready_s: f64,
    hot: f64,
    first: Histogram<u64>,
    later: Histogram<u64>,
    linked_s: f64,
}

/// Restarts the server, several times in each way.
pub(super) fn restarts(
    runtime: &Runtime,
    mut process: Process,
    data: &Data,
    data_dir: &Path,
    settings: Settings<'_>,
) -> Process {
    for (how, is_clean) in [("kill -9", false), ("a clean stop", true)] {
        let mut starts = Vec::new();
        for _ in 0..ROUNDS {
            runtime.block_on(leave_tail(&process, data));
            let begun = Instant::now();
            if is_clean {
                process.stop();
            } else {
                process.kill();
            }
            let stop_s = begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            process = Process::start(data_dir, settings);
            let ready_s = begun.elapsed().as_secs_f64();
            let start = Start { stop_s, ready_s, ..runtime.block_on(observe(&process, data)) };
            starts.push(start);
        }
        print(how, &starts);
    }
    process
}

/// Leaves [`TAIL`] documents in the log after the newest snapshot.
async fn leave_tail(process: &Process, data: &Data) {
    flush(process).await;
    let mut client = process.client().await;
    client.create_snapshot(SnapshotRequest::default()).await.expect("a snapshot");
    insert_all(process, data, CLIENTS, TAIL).await;
}

async fn observe(process: &Process, data: &Data) -> Start {
    let text = get(process.http, "/metrics").expect("metrics").1;
    let hot = metric_sum(&text, "kyrodb_shard_hot_documents");
    let stages = Stages::now(process);
    let first = searches(process, data).await;
    println!("  first searches in the server: {}", stages.since(process));
    let begun = Instant::now();
    flush(process).await;
    let linked_s = begun.elapsed().as_secs_f64();
    let stages = Stages::now(process);
    let later = searches(process, data).await;
    println!("  later ones: {}", stages.since(process));
    Start { stop_s: 0.0, ready_s: 0.0, hot, first, later, linked_s }
}

async fn searches(process: &Process, data: &Data) -> Histogram<u64> {
    let mut client = process.client().await;
    let mut all = latencies();
    for number in 0..SEARCHES {
        let query = data.queries.row(number % data.queries.count());
        let begun = Instant::now();
        client.search(search(query, 10)).await.expect("a search");
        all.saturating_record(micros(begun));
    }
    all
}

fn print(how: &str, starts: &[Start]) {
    let of = |value: &dyn Fn(&Start) -> f64| median(starts.iter().map(value).collect());
    println!(
        "restart after {how} with {TAIL} records to read, medians of {ROUNDS}: stopped in {:.2} s, \
         ready in {:.2} s, then {:.0} documents not linked; first {SEARCHES} searches p50 {:.3} ms, \
         p99 {:.3} ms, later ones p50 {:.3} ms, p99 {:.3} ms, ratio p50 {:.2}, p99 {:.2}; all \
         linked {:.1} s after the first",
        of(&|start| start.stop_s),
        of(&|start| start.ready_s),
        of(&|start| start.hot),
        of(&|start| at_ms(&start.first, 0.5)),
        of(&|start| at_ms(&start.first, 0.99)),
        of(&|start| at_ms(&start.later, 0.5)),
        of(&|start| at_ms(&start.later, 0.99)),
        of(&|start| at_ms(&start.first, 0.5) / at_ms(&start.later, 0.5)),
        of(&|start| at_ms(&start.first, 0.99) / at_ms(&start.later, 0.99)),
        of(&|start| start.linked_s),
    );
}

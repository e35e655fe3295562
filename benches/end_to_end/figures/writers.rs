//! Searches at a fixed rate beside writers at several rates: throughput and latency of both.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;
use kyrodb::proto::{InsertRequest, SearchRequest};
use kyrodb::types::mix;
use tokio::task::JoinSet;
use tonic::Code;

use super::beside::pace;
use super::stages::Stages;
use super::{at_ms, document, flush, latencies, micros};
use crate::Arguments;
use crate::common::{Client, Process, get, metric_sum, search};
use crate::data::Data;

/// Beam width of the searches.
const EF: u32 = 40;

/// Results per search.
const K: usize = 10;

/// Results of requests of one kind.
struct Outcomes {
    times: Mutex<Histogram<u64>>,
    done: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    /// True nearest documents among those found.
    hits: AtomicU64,
}

impl Outcomes {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            times: Mutex::new(latencies()),
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        })
    }

    fn note(&self, micros: u64, result: Result<u64, Code>) {
        let counter = match result {
            Ok(hits) => {
                self.times.lock().expect("no panic").saturating_record(micros);
                self.hits.fetch_add(hits, Ordering::Relaxed);
                &self.done
            }
            Err(Code::ResourceExhausted) => &self.refused,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, of: impl Fn(&Self) -> &AtomicU64) -> u64 {
        of(self).load(Ordering::Relaxed)
    }

    fn at(&self, quantile: f64) -> f64 {
        at_ms(&self.times.lock().expect("no panic"), quantile)
    }
}

/// Bytes of documents written to snapshots, bytes of changed documents, and number of snapshots.
fn snapshots(process: &Process) -> [f64; 3] {
    let text = get(process.http, "/metrics").expect("metrics").1;
    [
        "kyrodb_snapshot_written_bytes_total",
        "kyrodb_snapshot_changed_bytes_total",
        "kyrodb_snapshots_total",
    ]
    .map(|name| metric_sum(&text, name))
}

/// A table with a row for each rate of searches and each rate of upserts of random documents.
pub(super) async fn writers(process: &Process, data: &Data, arguments: &Arguments) {
    let documents: Arc<Vec<InsertRequest>> =
        Arc::new((0..data.base.count()).map(|row| document(data, row)).collect());
    let busy = arguments.busy.then(Busy::start);
    let seconds = arguments.seconds;
    println!(
        "writers: ef {EF}, {seconds} s each{}",
        if busy.is_some() { ", beside a busy process" } else { "" }
    );
    println!(
        "| searches/s | upserts/s offered | search p50 ms | p99 ms | failed | recall | hot at the end \
         | bound | accepted/s | ack p50 ms | p99 ms | refused | failed | snapshots | bytes written for \
         each changed |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut means = Vec::new();
    for &searches in &arguments.searches {
        for &offered in &arguments.upserts {
            flush(process).await;
            let stages = Stages::of_search(process);
            row(process, data, &documents, [searches, offered], seconds).await;
            means.push(format!("{searches} and {offered}: {}", stages.since(process)));
        }
    }
    println!("means of the searches beside them:\n  {}", means.join("\n  "));
}

async fn row(
    process: &Process,
    data: &Data,
    documents: &Arc<Vec<InsertRequest>>,
    [searches, offered]: [u32; 2],
    seconds: u64,
) {
    let length = Duration::from_secs(seconds);
    let before = snapshots(process);
    let acks = Outcomes::new();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = (offered > 0).then(|| {
        let (documents, acks, stop) = (documents.clone(), acks.clone(), stop.clone());
        let client = process.client();
        let seed = u64::from(searches) << 32 | u64::from(offered);
        (client, move |client| upserts(client, documents, offered, seed, acks, stop))
    });
    let writing = match writing {
        Some((client, run)) => Some(tokio::spawn(run(client.await))),
        None => None,
    };
    let found = search_all(process.client().await, data, searches, length).await;
    let text = get(process.http, "/metrics").expect("metrics").1;
    stop.store(true, Ordering::Relaxed);
    let done = acks.count(|acks| &acks.done);
    if let Some(writing) = writing {
        writing.await.expect("no panic");
    }
    let after = snapshots(process);
    let [written, changed, taken] = [0, 1, 2].map(|index| after[index] - before[index]);
    let searched = found.count(|found| &found.done);
    println!(
        "| {searches} | {offered} | {:.2} | {:.1} | {} | {:.4} | {} | {} | {:.0} | {:.1} | {:.0} | {} | {} \
         | {taken} | {:.1} |",
        found.at(0.5),
        found.at(0.99),
        found.count(|found| &found.failed) + found.count(|found| &found.refused),
        found.count(|found| &found.hits) as f64 / (K as u64 * searched.max(1)) as f64,
        metric_sum(&text, "kyrodb_shard_hot_documents"),
        metric_sum(&text, "kyrodb_shard_hot_documents_bound"),
        done as f64 / seconds as f64,
        acks.at(0.5),
        acks.at(0.99),
        acks.count(|acks| &acks.refused),
        acks.count(|acks| &acks.failed),
        written / changed.max(1.0),
    );
}

/// Searches at a fixed rate, each timed from when it was due.
async fn search_all(client: Client, data: &Data, rate: u32, length: Duration) -> Arc<Outcomes> {
    let outcomes = Outcomes::new();
    let (mut moments, mut running) = (pace(rate, length), JoinSet::new());
    let mut number = 0;
    while let Some(due) = moments.recv().await {
        let index = number % data.queries.count();
        number += 1;
        let request = SearchRequest { ef_search: EF, ..search(data.queries.row(index), K as u32) };
        let wanted = data.truth.as_ref().map(|truth| truth.row(index)[..K].to_vec());
        let (mut client, outcomes) = (client.clone(), outcomes.clone());
        running.spawn(async move {
            let result = client.search(request).await;
            let result = result.map(|answer| {
                let found = answer.into_inner().results;
                let is_wanted = |id: u64| {
                    wanted.as_ref().is_some_and(|wanted| wanted.contains(&(id as i32 - 1)))
                };
                found.iter().filter(|hit| is_wanted(hit.doc_id)).count() as u64
            });
            outcomes.note(micros(due), result.map_err(|status| status.code()));
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    outcomes
}

/// Writes random documents at a fixed rate until stopped, and waits for the answers.
async fn upserts(
    client: Client,
    documents: Arc<Vec<InsertRequest>>,
    rate: u32,
    seed: u64,
    outcomes: Arc<Outcomes>,
    stop: Arc<AtomicBool>,
) {
    let (mut moments, mut running) = (pace(rate, Duration::from_secs(3_600)), JoinSet::new());
    let mut number = seed;
    while !stop.load(Ordering::Relaxed)
        && let Some(due) = moments.recv().await
    {
        number += 1;
        let request = documents[(mix(number) % documents.len() as u64) as usize].clone();
        let (mut client, outcomes) = (client.clone(), outcomes.clone());
        running.spawn(async move {
            let result = client.insert(request).await;
            outcomes.note(micros(due), result.map(|_| 0).map_err(|status| status.code()));
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
}

/// A process that always uses a CPU.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Self(command.spawn().expect("there is a shell"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        debug_assert!(ended.is_ok());
    }
}

//! Vectors on disk beside vectors in memory: two servers with equal documents, queried in turns. The one that reads
//! from disk caches a sixteenth of the vectors in memory, and as many, or 16 MiB, may wait for a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kyrodb::proto::{InsertRequest, SearchRequest, SnapshotRequest};
use tokio::runtime::Runtime;

use super::beside::{pace, paced_searches};
use super::search::{many_clients, recall_of};
use super::{at_ms, document, flush, latencies, median, micros, resident};
use crate::common::{Client, Process, Settings, directory, get, metric, metric_sum, search};
use crate::data::Data;

const ROUNDS: usize = 5;

/// Length of a round of searches at half load, and of one of inserts.
const PHASE: Duration = Duration::from_secs(4);

/// Clients that search as fast as they can.
const CLIENTS: usize = 4;

/// Durable inserts per second.
const INSERTS: u32 = 100;

/// Divisor of the bytes of all vectors that gives the part that may be in memory.
const CACHED_PARTS: u64 = 8;

/// A server, and the resources it took to load the data.
struct Side {
    process: Process,
    name: &'static str,
    bytes_a_document: f64,
}

pub(super) fn nvme(runtime: &Runtime, data: &Data, settings: Settings<'_>, ef_search: u32) {
    let row_bytes = (data.base.width * size_of::<f32>()).next_multiple_of(64) as u64;
    let cached = data.base.count() as u64 * row_bytes / CACHED_PARTS;
    // Vectors that wait for a snapshot count too: there is room for an eighth of all vectors.
    let (cache, unsaved) = (cached / 2, (cached / 2).max(16 << 20));
    let (cache, unsaved) = (cache.to_string(), unsaved.to_string());
    let directory = directory();
    let start = |name: &'static str| {
        let own = [
            ("storage.vectors", name),
            ("cache.document_bytes", cache.as_str()),
            ("storage.unsaved_bytes", unsaved.as_str()),
        ];
        let process = Process::start(&directory.path().join(name), &[settings, &own].concat());
        let empty = resident(process.pid());
        let seconds = runtime.block_on(load(&process, data));
        let bytes = (resident(process.pid()) - empty) as f64 / data.base.count() as f64;
        println!(
            "vectors: {name}: loaded at {:.0} documents a second, {bytes:.0} bytes a document then",
            data.base.count() as f64 / seconds
        );
        Side { process, name, bytes_a_document: bytes }
    };
    let mut sides = ["memory", "nvme"].map(start);
    runtime.block_on(async {
        for side in &mut sides {
            side.settle(data, ef_search).await;
        }
        let [memory, nvme] = &sides;
        println!(
            "  cache of {cache} bytes; a document takes {:.3} of what it does in memory",
            nvme.bytes_a_document / memory.bytes_a_document
        );
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                let rate = many_clients(&sides[which].process, data, ef_search, CLIENTS).await.0;
                rates[which].push(rate);
            }
        }
        let [in_memory, on_disk] = rates.map(median);
        println!(
            "  {CLIENTS} clients: {in_memory:.0} searches a second from memory, {on_disk:.0} from disk"
        );
        let half = (on_disk / 2.0) as u32;
        at_half_load(&sides, data, half).await;
        for side in &sides {
            beside_commits(&side.process, data, side.name, ef_search).await;
        }
    });
    for side in sides {
        side.process.stop();
    }
}

/// Loads everything; returns the seconds it took.
async fn load(process: &Process, data: &Data) -> f64 {
    let mut client = process.client().await;
    let documents: Vec<InsertRequest> =
        (0..data.base.count()).map(|row| document(data, row)).collect();
    let begun = Instant::now();
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.expect("a load");
    assert!(loaded.into_inner().success);
    begun.elapsed().as_secs_f64()
}

impl Side {
    /// Waits until all is linked and saved, and the memory for it is freed; returns the figures.
    async fn settle(&mut self, data: &Data, ef_search: u32) {
        let loaded = self.bytes_a_document * data.base.count() as f64;
        let before = resident(self.process.pid()) as f64 - loaded;
        flush(&self.process).await;
        let mut client = self.process.client().await;
        client.create_snapshot(SnapshotRequest::default()).await.expect("a snapshot");
        // Buffers of searches, and the vector cache, are filled by then.
        for _ in 0..2 {
            many_clients(&self.process, data, ef_search, CLIENTS).await;
        }
        let now = resident(self.process.pid()) as f64;
        self.bytes_a_document = (now - before) / data.base.count() as f64;
        let recall = recall_of(&self.process, data, ef_search).await;
        println!(
            "  {}: {:.0} bytes a document once all is saved; recall@10 {recall:.4}",
            self.name, self.bytes_a_document
        );
    }
}

/// Searches both at one rate, in turns: half of the slower one's maximum.
async fn at_half_load(sides: &[Side; 2], data: &Data, rate: u32) {
    let (mut all, mut reads) = ([Vec::new(), Vec::new()], Reads::default());
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let before = Reads::now(&sides[which].process);
            all[which].push(paced_searches(&sides[which].process, data, rate, PHASE).await);
            reads.add(&Reads::now(&sides[which].process), &before);
        }
    }
    let ratios = |quantile| {
        let pairs = all[1].iter().zip(&all[0]);
        median(
            pairs.map(|(nvme, memory)| at_ms(nvme, quantile) / at_ms(memory, quantile)).collect(),
        )
    };
    for (side, all) in sides.iter().zip(&all) {
        let of = |quantile| median(all.iter().map(|of| at_ms(of, quantile)).collect());
        println!(
            "  {rate} searches a second, {}: p50 {:.3} ms, p99 {:.3} ms, medians of {ROUNDS}",
            side.name,
            of(0.5),
            of(0.99)
        );
    }
    println!("  ratios: p50 {:.2}, p99 {:.2}", ratios(0.5), ratios(0.99));
    let count: u64 = all[1].iter().map(Histogram::len).sum();
    let each = |value: f64| value / count as f64;
    println!(
        "  a search: {:.1} vectors from the cache, {:.1} from {:.1} reads of {:.0} bytes together; a read \
         {:.0} µs",
        each(reads.hits),
        each(reads.misses),
        each(reads.reads),
        each(reads.bytes),
        reads.seconds / reads.reads * 1e6
    );
}

/// Durable inserts at an even rate, alone and beside searches at full speed, in turns.
async fn beside_commits(process: &Process, data: &Data, name: &str, ef_search: u32) {
    let (mut alone, mut beside, mut searches) = (Vec::new(), Vec::new(), 0);
    let mut inside = [Inserts::default(), Inserts::default()];
    let requests: Arc<Vec<SearchRequest>> = Arc::new(
        data.queries.iter().map(|query| SearchRequest { ef_search, ..search(query, 10) }).collect(),
    );
    let client = process.client().await;
    for round in 0..ROUNDS {
        let first_id = 3_000_000_000 + 10_000 * round as u64;
        let before = Inserts::now(process);
        alone.push(inserts(&client, data, first_id).await);
        inside[0].add(&Inserts::now(process), &before);
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for number in 0..CLIENTS {
            let (requests, stop) = (requests.clone(), stop.clone());
            let mut client = process.client().await;
            tasks.push(tokio::spawn(async move {
                let mut count = 0;
                for request in requests.iter().cycle().skip(number * requests.len() / CLIENTS) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    client.search(request.clone()).await.expect("a search");
                    count += 1;
                }
                count
            }));
        }
        let before = Inserts::now(process);
        beside.push(inserts(&client, data, first_id + 5_000).await);
        inside[1].add(&Inserts::now(process), &before);
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            searches += task.await.expect("no panic");
        }
    }
    let of = |all: &[Histogram<u64>], q| median(all.iter().map(|of| at_ms(of, q)).collect());
    let ratio = |q| {
        let pairs = beside.iter().zip(&alone);
        median(pairs.map(|(beside, alone)| at_ms(beside, q) / at_ms(alone, q)).collect())
    };
    println!(
        "  {INSERTS} durable inserts a second, {name}: alone p50 {:.3} ms, p99 {:.3} ms; beside {CLIENTS} \
         clients that searched {:.0} times a second p50 {:.3} ms, p99 {:.3} ms; ratio p50 {:.2}, p99 {:.2}",
        of(&alone, 0.5),
        of(&alone, 0.99),
        f64::from(searches) / (PHASE.as_secs_f64() * ROUNDS as f64),
        of(&beside, 0.5),
        of(&beside, 0.99),
        ratio(0.5),
        ratio(0.99),
    );
    let [alone, beside] = inside;
    println!("    in the server, all rounds: alone {alone}; beside {beside}");
}

/// Inserts and commits as the server has timed them, by the buckets of its histograms.
#[derive(Default)]
struct Inserts {
    /// Upper ends in seconds, with cumulative counts: whole requests, and commits.
    buckets: [Vec<(f64, f64)>; 2],
}

impl Inserts {
    fn now(process: &Process) -> Self {
        let text = get(process.http, "/metrics").expect("metrics").1;
        let of = |labels: &str| {
            let sample = |line: &str| {
                let (end, count) = line.strip_prefix(labels)?.split_once("\"} ")?;
                Some((end.parse().unwrap_or(f64::INFINITY), count.parse().ok()?))
            };
            text.lines().filter_map(sample).collect()
        };
        Self {
            buckets: [
                of("kyrodb_request_seconds_bucket{method=\"insert\",le=\""),
                of("kyrodb_stage_seconds_bucket{stage=\"commit\",le=\""),
            ],
        }
    }

    fn add(&mut self, now: &Self, before: &Self) {
        for ((all, now), before) in self.buckets.iter_mut().zip(&now.buckets).zip(&before.buckets) {
            all.resize(now.len(), (0.0, 0.0));
            for ((all, now), before) in all.iter_mut().zip(now).zip(before) {
                *all = (now.0, all.1 + now.1 - before.1);
            }
        }
    }
}

impl std::fmt::Display for Inserts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [requests, commits] = self.buckets.each_ref().map(|buckets| {
            [0.5, 0.99].map(|quantile| {
                let (mut from, wanted) =
                    ((0.0, 0.0), quantile * buckets.last().map_or(0.0, |b| b.1));
                for &(end, count) in buckets {
                    if count >= wanted {
                        let part = (wanted - from.1) / (count - from.1).max(1.0);
                        return 1e3 * (from.0 + part * (end - from.0));
                    }
                    from = (end, count);
                }
                f64::NAN
            })
        });
        write!(
            f,
            "p50 {:.2}, p99 {:.2} ms, of which commit {:.2} and {:.2}",
            requests[0], requests[1], commits[0], commits[1]
        )
    }
}

/// Latencies of inserts of new documents, each from the time it was due.
async fn inserts(client: &Client, data: &Data, first_id: u64) -> Histogram<u64> {
    let mut moments = pace(INSERTS, PHASE);
    let (mut all, mut tasks) = (latencies(), tokio::task::JoinSet::new());
    let mut number = 0;
    while let Some(due) = moments.recv().await {
        let row = document(data, number % data.base.count());
        let request = InsertRequest { doc_id: first_id + number as u64, ..row };
        number += 1;
        let mut client = client.clone();
        tasks.spawn(async move {
            client.insert(request).await.expect("an insert");
            micros(due)
        });
    }
    while let Some(latency) = tasks.join_next().await {
        all.saturating_record(latency.expect("no panic"));
    }
    all
}

/// Reads from disk, by the counters of the server.
#[derive(Default)]
struct Reads {
    hits: f64,
    misses: f64,
    reads: f64,
    bytes: f64,
    seconds: f64,
}

impl Reads {
    fn now(process: &Process) -> Self {
        let text = get(process.http, "/metrics").expect("metrics").1;
        Self {
            hits: metric_sum(&text, "kyrodb_vector_cache_hits_total"),
            misses: metric_sum(&text, "kyrodb_vector_cache_misses_total"),
            reads: metric_sum(&text, "kyrodb_vector_reads_total"),
            bytes: metric_sum(&text, "kyrodb_vector_read_bytes_total"),
            seconds: metric(&text, "kyrodb_vector_read_seconds_sum{of=\"vectors\"}")
                .unwrap_or_default(),
        }
    }

    fn add(&mut self, now: &Self, before: &Self) {
        self.hits += now.hits - before.hits;
        self.misses += now.misses - before.misses;
        self.reads += now.reads - before.reads;
        self.bytes += now.bytes - before.bytes;
        self.seconds += now.seconds - before.seconds;
    }
}

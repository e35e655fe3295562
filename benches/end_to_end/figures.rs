//! What is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kyrodb::proto::metadata_filter::FilterType;
use kyrodb::proto::range_match::Bound;
use kyrodb::proto::{
    ExactMatch, FlushRequest, InsertRequest, MetadataFilter, RangeMatch, SearchRequest,
};

use crate::Arguments;
use crate::common::{Client, Process, directory, get, insert, metric, runtime, search};
use crate::data::{Data, FilterCase};

/// Durable inserts a client makes.
const INSERTS: usize = 4_000;

/// How long the mixed load runs in each phase.
const PHASE: Duration = Duration::from_secs(5);

pub(crate) fn run(arguments: &Arguments, data: &Data) {
    let directory = directory();
    let (shards, cores) = (arguments.shards.to_string(), arguments.cores.to_string());
    let settings = [
        ("runtime.shards", shards.as_str()),
        ("runtime.cores", cores.as_str()),
        ("persistence.wal_segment_bytes", "33554432"),
    ];
    let data_dir = directory.path().join("data");
    let mut process = Process::start(&data_dir, &settings);
    let runtime = runtime();
    let wants = |figure: &str| arguments.only.iter().any(|only| only == figure);
    let rows = data.base.count();
    println!(
        "{}: {rows} rows of {} values, shards {shards}, cores {cores}",
        data.name, data.base.width
    );
    let empty = resident(process.pid());
    runtime.block_on(load(&process, data));
    let loaded = resident(process.pid());
    println!(
        "memory: {} MiB empty, {} MiB loaded: {:.0} bytes a document",
        empty >> 20,
        loaded >> 20,
        (loaded - empty) as f64 / rows as f64
    );
    if wants("search") {
        runtime.block_on(searches(&process, data, &arguments.ef));
    }
    if wants("filter") {
        runtime.block_on(filters(&process, data));
    }
    if wants("insert") {
        for clients in [1, 8] {
            runtime.block_on(inserts(&process, data, clients));
        }
    }
    if wants("mixed") {
        runtime.block_on(mixed(&process, data));
    }
    if wants("restart") {
        process.kill();
        let begun = Instant::now();
        process = Process::start(&data_dir, &settings);
        println!("restart after kill -9: ready in {:.2} s", begun.elapsed().as_secs_f64());
        runtime.block_on(first_searches(&process, data));
        let begun = Instant::now();
        runtime.block_on(async {
            let mut client = process.client().await;
            client.flush_hot_tier(FlushRequest { force: true }).await.expect("a flush");
        });
        println!("all linked after {:.1} s more", begun.elapsed().as_secs_f64());
        process.signal("TERM");
        let begun = Instant::now();
        assert_eq!(process.wait(), Some(0));
        println!("clean stop in {:.2} s", begun.elapsed().as_secs_f64());
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

fn document(data: &Data, row: usize) -> InsertRequest {
    insert(row as u64 + 1, data.base.row(row), &data.pairs(row))
}

async fn load(process: &Process, data: &Data) {
    let mut client = process.client().await;
    // Converted while it is sent, as a client would.
    let documents: Vec<InsertRequest> =
        (0..data.base.count()).map(|row| document(data, row)).collect();
    let begun = Instant::now();
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.expect("a load");
    let loaded = loaded.into_inner();
    assert!(loaded.success, "{}", loaded.error);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "bulk load: {} documents in {seconds:.1} s, {:.0} a second, peak memory {} MiB",
        loaded.total_loaded,
        loaded.total_loaded as f64 / seconds,
        loaded.peak_memory_bytes >> 20
    );
}

/// Latencies in microseconds.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds")
}

fn micros(begun: Instant) -> u64 {
    begun.elapsed().as_micros() as u64
}

fn shown(latencies: &Histogram<u64>) -> String {
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    format!("p50 {:.3} ms, p99 {:.3} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0))
}

async fn searches(process: &Process, data: &Data, widths: &[u32]) {
    for &ef_search in widths {
        let mut client = process.client().await;
        let (mut hits, mut considered) = (0, 0);
        let mut alone = latencies();
        let stages = Stages::now(process);
        for (index, query) in data.queries.iter().enumerate() {
            let request = SearchRequest { ef_search, ..search(query, 10) };
            let begun = Instant::now();
            let found = client.search(request).await.expect("a search").into_inner();
            alone.saturating_record(micros(begun));
            considered += found.documents_considered;
            if let Some(truth) = &data.truth {
                let wanted = &truth.row(index)[..10];
                hits += found
                    .results
                    .iter()
                    .filter(|r| wanted.contains(&(r.doc_id as i32 - 1)))
                    .count();
            }
        }
        let count = data.queries.count();
        let stages = stages.since(process);
        let (rate, together) = many_clients(process, data, ef_search, 4).await;
        println!(
            "search ef {ef_search}: recall@10 {:.4}, {} distances; 1 client {}; 4 clients {rate:.0} a second, {}",
            hits as f64 / (10 * count) as f64,
            considered / count as u64,
            shown(&alone),
            shown(&together)
        );
        println!("  in the server, 1 client: {stages}");
    }
}

async fn many_clients(
    process: &Process,
    data: &Data,
    ef_search: u32,
    clients: usize,
) -> (f64, Histogram<u64>) {
    let requests: Arc<Vec<SearchRequest>> = Arc::new(
        data.queries.iter().map(|query| SearchRequest { ef_search, ..search(query, 10) }).collect(),
    );
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (requests, next) = (requests.clone(), next.clone());
        let mut client = process.client().await;
        tasks.push(tokio::spawn(async move {
            let mut latencies = latencies();
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let begun = Instant::now();
                client.search(request.clone()).await.expect("a search");
                latencies.saturating_record(micros(begun));
            }
            latencies
        }));
    }
    let mut all = latencies();
    for task in tasks {
        all.add(task.await.expect("no panic")).expect("same bounds");
    }
    (requests.len() as f64 / begun.elapsed().as_secs_f64(), all)
}

async fn filters(process: &Process, data: &Data) {
    let mut client = process.client().await;
    for case in &data.filters {
        let (mut exact, mut hits, mut alone) = (0, 0, latencies());
        let count = case.truth.count();
        for (query, wanted) in data.queries.iter().zip(case.truth.iter()) {
            let request = SearchRequest { filter: Some(filter(case)), ..search(query, 10) };
            let begun = Instant::now();
            let found = client.search(request).await.expect("a search").into_inner();
            alone.saturating_record(micros(begun));
            let found: Vec<i32> = found.results.iter().map(|r| r.doc_id as i32 - 1).collect();
            let right = found.iter().filter(|row| wanted.contains(row)).count();
            hits += right;
            exact += usize::from(right == wanted.len() && found.len() == wanted.len());
        }
        println!(
            "filter {}{}{} ({} match): recall@10 {:.4}, {exact} of {count} sets exact; {}",
            case.key,
            if case.is_at_least { ">=" } else { "=" },
            case.value,
            case.matching,
            hits as f64 / (10 * count) as f64,
            shown(&alone)
        );
    }
}

fn filter(case: &FilterCase) -> MetadataFilter {
    let key = case.key.clone();
    let filter_type = if case.is_at_least {
        FilterType::Range(RangeMatch { key, bound: Some(Bound::Gte(case.value.clone())) })
    } else {
        FilterType::Exact(ExactMatch { key, value: case.value.clone() })
    };
    MetadataFilter { filter_type: Some(filter_type) }
}

/// Sum in seconds and count of a stage or method so far.
fn timed(process: &Process, family: &str, labels: &str) -> (f64, f64) {
    let text = get(process.http, "/metrics").expect("metrics").1;
    let value = |kind: &str| {
        metric(&text, &format!("kyrodb_{family}_seconds_{kind}{{{labels}}}")).unwrap_or(0.0)
    };
    (value("sum"), value("count"))
}

/// Where the server's time went since `before`: the mean of each stage.
struct Stages(Vec<(&'static str, &'static str, (f64, f64))>);

impl Stages {
    const ALL: [(&'static str, &'static str); 6] = [
        ("request", "method=\"search\""),
        ("stage", "stage=\"queue\""),
        ("stage", "stage=\"walk\""),
        ("stage", "stage=\"merge\""),
        ("request", "method=\"insert\""),
        ("stage", "stage=\"commit\""),
    ];

    fn now(process: &Process) -> Self {
        Self(
            Self::ALL
                .map(|(family, labels)| (family, labels, timed(process, family, labels)))
                .into(),
        )
    }

    fn since(&self, process: &Process) -> String {
        let mean = |&(family, labels, before): &(&str, &'static str, (f64, f64))| {
            let (sum, count) = timed(process, family, labels);
            let name = labels.split('"').nth(1)?;
            (count > before.1)
                .then(|| format!("{name} {:.0} µs", (sum - before.0) / (count - before.1) * 1e6))
        };
        self.0.iter().filter_map(mean).collect::<Vec<_>>().join(", ")
    }
}

/// Durable inserts of documents that are there already, under other ids.
async fn inserts(process: &Process, data: &Data, clients: usize) {
    let text = get(process.http, "/metrics").expect("metrics").1;
    let before = |name: &str| metric(&text, name).unwrap_or(0.0);
    let (syncs, writes) = (before("kyrodb_wal_syncs_total"), before("kyrodb_wal_writes_total"));
    let begun = Instant::now();
    let stages = Stages::now(process);
    let (rate, latencies) = insert_all(process, data, clients, INSERTS).await;
    let text = get(process.http, "/metrics").expect("metrics").1;
    let syncs = metric(&text, "kyrodb_wal_syncs_total").unwrap_or(0.0) - syncs;
    let writes = metric(&text, "kyrodb_wal_writes_total").unwrap_or(0.0) - writes;
    println!(
        "durable inserts, {clients} clients: {rate:.0} a second, ack {}; {:.2} records a sync ({:.1} s)",
        shown(&latencies),
        writes / syncs,
        begun.elapsed().as_secs_f64()
    );
    println!("  in the server: {}", stages.since(process));
    // The next figure begins with an empty hot tier.
    let mut client = process.client().await;
    client.flush_hot_tier(FlushRequest { force: true }).await.expect("a flush");
}

async fn insert_all(
    process: &Process,
    data: &Data,
    clients: usize,
    count: usize,
) -> (f64, Histogram<u64>) {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..clients {
        let mut client = process.client().await;
        let rows = (0..count).filter(|row| row % clients == number);
        let documents: Vec<InsertRequest> = rows
            .map(|row| {
                let mut request = document(data, row % data.base.count());
                request.doc_id = 1_000_000_000 + row as u64;
                request
            })
            .collect();
        tasks.push(tokio::spawn(async move {
            let mut latencies = latencies();
            for document in documents {
                let begun = Instant::now();
                loop {
                    match client.insert(document.clone()).await {
                        Ok(_) => break,
                        // The hot tier is full: a client that honours the answer tries again.
                        Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        Err(status) => panic!("{status}"),
                    }
                }
                latencies.saturating_record(micros(begun));
            }
            latencies
        }));
    }
    let mut all = latencies();
    for task in tasks {
        all.add(task.await.expect("no panic")).expect("same bounds");
    }
    (count as f64 / begun.elapsed().as_secs_f64(), all)
}

/// Searches at a fixed rate, without and with 500 durable inserts a second beside them, in
/// turns. Latency counts from when a search was due.
async fn mixed(process: &Process, data: &Data) {
    let mut quiet = latencies();
    let mut busy = latencies();
    for _ in 0..2 {
        quiet.add(paced_searches(process, data, 500, PHASE).await).expect("same bounds");
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(paced_inserts(
            process.client().await,
            paced_documents(data),
            stop.clone(),
        ));
        busy.add(paced_searches(process, data, 500, PHASE).await).expect("same bounds");
        stop.store(true, Ordering::Relaxed);
        let written = writer.await.expect("no panic");
        println!("  {written} inserts beside the searches");
    }
    let ratio = busy.value_at_quantile(0.99) as f64 / quiet.value_at_quantile(0.99) as f64;
    println!(
        "500 searches a second: alone {}; with 500 inserts a second {}; p99 ratio {ratio:.2}",
        shown(&quiet),
        shown(&busy)
    );
}

/// Moments at an even rate, each sent when it comes. Not tokio's timer, which knows whole
/// milliseconds only.
fn pace(rate: u32, length: Duration) -> tokio::sync::mpsc::UnboundedReceiver<Instant> {
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

async fn paced_searches(
    process: &Process,
    data: &Data,
    rate: u32,
    length: Duration,
) -> Histogram<u64> {
    let client = process.client().await;
    let mut all = latencies();
    let mut moments = pace(rate, length);
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0;
    while let Some(due) = moments.recv().await {
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

fn paced_documents(data: &Data) -> Vec<InsertRequest> {
    let document =
        |row| InsertRequest { doc_id: 2_000_000_000 + row as u64, ..document(data, row) };
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

async fn first_searches(process: &Process, data: &Data) {
    let mut client = process.client().await;
    let mut first = latencies();
    for query in data.queries.iter().take(500) {
        let begun = Instant::now();
        client.search(search(query, 10)).await.expect("a search");
        first.saturating_record(micros(begun));
    }
    println!("first 500 searches after the restart: {}", shown(&first));
}

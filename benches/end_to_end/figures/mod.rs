//! The figures that the bench measures.

mod beside;
mod disk;
mod filter;
mod insert;
mod load;
mod nvme;
mod overload;
mod recording;
mod repeats;
mod restart;
mod search;
mod stages;
mod writers;

use std::time::Instant;

use hdrhistogram::Histogram;
use kyrodb::proto::{FlushRequest, InsertRequest};

use crate::Arguments;
use crate::common::{Client, Inside, Process, directory, insert, runtime};
use crate::data::Data;

pub(crate) fn run(arguments: &Arguments, data: &Data) {
    let directory = directory();
    let (shards, cores) = (arguments.shards.to_string(), arguments.cores.to_string());
    let settings = [
        ("runtime.shards", shards.as_str()),
        ("runtime.cores", cores.as_str()),
        ("persistence.wal_segment_bytes", "33554432"),
        // Figures repeat queries, and have to measure searches.
        ("cache.query_cache_enabled", "false"),
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
    runtime.block_on(load::load(&process, data));
    let loaded = resident(process.pid());
    println!(
        "memory: {} MiB empty, {} MiB loaded: {:.0} bytes a document",
        empty >> 20,
        loaded >> 20,
        (loaded - empty) as f64 / rows as f64
    );
    if wants("search") {
        runtime.block_on(search::searches(&process, data, &arguments.ef));
    }
    if wants("filter") {
        runtime.block_on(filter::filters(&process, data));
    }
    if wants("insert") {
        for clients in [1, 8] {
            runtime.block_on(insert::inserts(&process, data, clients));
        }
    }
    if wants("mixed") {
        runtime.block_on(beside::mixed(&process, data));
    }
    if wants("writers") {
        runtime.block_on(writers::writers(&process, data, arguments));
    }
    if wants("overload") {
        runtime.block_on(overload::overload(&process, data));
    }
    if wants("snapshot") {
        runtime.block_on(beside::snapshots(&process, data));
    }
    if wants("backup") {
        runtime.block_on(beside::backups(&process, data, &data_dir));
    }
    if wants("restart") {
        process = restart::restarts(&runtime, process, data, &data_dir, &settings);
    }
    process.stop();
    if wants("recording") {
        for &ef_search in &arguments.ef {
            recording::recording(&runtime, data, &settings, ef_search);
        }
    }
    if wants("repeats") {
        repeats::repeats(&runtime, data, &settings);
    }
    if wants("nvme") {
        for &ef_search in &arguments.ef {
            nvme::nvme(&runtime, data, &settings, ef_search);
        }
    }
    if wants("disk") {
        disk::disk(&runtime, data, &settings);
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

/// Clients of a server in this process, once it has all documents.
async fn loaded(inside: &Inside, data: &Data, count: usize) -> Vec<Client> {
    let documents: Vec<InsertRequest> =
        (0..data.base.count()).map(|row| document(data, row)).collect();
    let mut client = inside.client().await;
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.expect("a load");
    assert!(loaded.into_inner().success);
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(inside.client().await);
    }
    clients
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

/// Waits until everything is linked.
async fn flush(process: &Process) {
    let mut client = process.client().await;
    client.flush_hot_tier(FlushRequest { force: true }).await.expect("a flush");
}

/// The median, or the lower of the two middle values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// A value of a histogram in milliseconds.
fn at_ms(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}

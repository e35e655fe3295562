//! Durable inserts, one by one.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kyrodb::proto::InsertRequest;

use super::stages::Stages;
use super::{document, flush, latencies, micros, shown};
use crate::common::{Process, get, metric};
use crate::data::Data;

/// Number of inserts that are measured.
const INSERTS: usize = 4_000;

/// Durable inserts of documents that are stored already, under other ids.
pub(super) async fn inserts(process: &Process, data: &Data, clients: usize) {
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
    flush(process).await;
}

pub(super) async fn insert_all(
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
                        // The hot tier is full: a client that follows the answer retries.
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

//! Searches: recall and latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use kyrodb::proto::{SearchRequest, SearchResponse};

use super::stages::Stages;
use super::{latencies, micros, shown};
use crate::common::{Process, search};
use crate::data::Data;

pub(super) async fn searches(process: &Process, data: &Data, widths: &[u32]) {
    for &ef_search in widths {
        let mut client = process.client().await;
        let mut considered = 0;
        let mut found = Vec::new();
        let mut alone = latencies();
        let stages = Stages::now(process);
        for query in data.queries.iter() {
            let request = SearchRequest { ef_search, ..search(query, 10) };
            let begun = Instant::now();
            let answer = client.search(request).await.expect("a search").into_inner();
            alone.saturating_record(micros(begun));
            considered += answer.documents_considered;
            found.push(answer);
        }
        let count = data.queries.count();
        let stages = stages.since(process);
        let (rate, together) = many_clients(process, data, ef_search, 4).await;
        println!(
            "search ef {ef_search}: recall@10 {:.4}, {} distances; 1 client {}; 4 clients {rate:.0} a second, {}",
            recall(data, &found),
            considered / count as u64,
            shown(&alone),
            shown(&together)
        );
        println!("  in the server, 1 client: {stages}");
    }
}

/// Recall@10 of the results; 0 if the exact answers are not known.
fn recall(data: &Data, found: &[SearchResponse]) -> f64 {
    let Some(truth) = &data.truth else { return 0.0 };
    let of = |(index, answer): (usize, &SearchResponse)| {
        let wanted = &truth.row(index)[..10];
        answer.results.iter().filter(|r| wanted.contains(&(r.doc_id as i32 - 1))).count()
    };
    let hits: usize = found.iter().enumerate().map(of).sum();
    hits as f64 / (10 * found.len()) as f64
}

/// Recall of all queries, one after the other.
pub(super) async fn recall_of(process: &Process, data: &Data, ef_search: u32) -> f64 {
    let mut client = process.client().await;
    let mut found = Vec::new();
    for query in data.queries.iter() {
        let request = SearchRequest { ef_search, ..search(query, 10) };
        found.push(client.search(request).await.expect("a search").into_inner());
    }
    recall(data, &found)
}

/// Searches per second of this number of clients, which send all queries together, and their latencies.
pub(super) async fn many_clients(
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

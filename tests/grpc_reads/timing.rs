//! Timing of a search: the stages that the server reports add up to the total.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kyrodb::observe::trace::Stage;
use kyrodb::proto::{MetadataFilter, RangeMatch, SearchRequest, metadata_filter, range_match};
use tonic::Request;

use crate::common::{Client, Inside, eventually, insert, runtime, search, vector};
use crate::{SETTINGS, store};

const KEY: &str = "kyrodb-timing";
const DIMENSION: usize = 32;
const DOCUMENTS: u64 = 8_000;
const SEARCHES: usize = 3_000;
const CLIENTS: usize = 4;

/// Printed stages are rounded to a tenth of a microsecond.
const ROUNDING_MS: f64 = 1e-4 * Stage::COUNT as f64;

/// Milliseconds by stage, from the text in the trailers.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let entries = text.split(", ").map(|entry| {
        let (name, ms) = entry.split_once(";dur=").unwrap();
        (name.to_owned(), ms.parse().unwrap())
    });
    entries.collect()
}

/// A search of some kind: short, of many slices, with a filter, from a document.
fn request(number: usize) -> SearchRequest {
    let query = vector(number as u64 * 7 + 1, DIMENSION);
    match number % 8 {
        0 => SearchRequest { ef_search: 2_000, ..search(&query, 100) },
        1 => {
            let range =
                RangeMatch { key: "n".into(), bound: Some(range_match::Bound::Gte("4000".into())) };
            let filter_type = Some(metadata_filter::FilterType::Range(range));
            let filter = Some(MetadataFilter { filter_type });
            SearchRequest { filter, ..search(&query, 10) }
        }
        2 => SearchRequest { query_doc_id: number as u64 + 1, ..search(&[], 10) },
        _ => search(&query, 10),
    }
}

/// One search that requests its stages.
async fn timed(client: &mut Client, number: usize) -> BTreeMap<String, f64> {
    let mut request = Request::new(request(number));
    request.metadata_mut().insert(KEY, "1".parse().unwrap());
    let response = client.search(request).await.unwrap();
    parse(response.metadata().get(KEY).unwrap().to_str().unwrap())
}

#[test]
fn the_stages_of_a_search_add_up_to_what_it_took() {
    let inside = Inside::start(SETTINGS);
    let records = runtime().block_on(async {
        let mut client = inside.client().await;
        let documents = (1..=DOCUMENTS)
            .map(|id| insert(id, &vector(id, DIMENSION), &[("n", &id.to_string())]))
            .collect();
        store(&mut client, documents).await;
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for _ in 0..CLIENTS {
            let (mut client, next) = (inside.client().await, next.clone());
            tasks.push(tokio::spawn(async move {
                let mut records = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SEARCHES {
                        return records;
                    }
                    records.push(timed(&mut client, number).await);
                }
            }));
        }
        let mut records = Vec::new();
        for task in tasks {
            records.extend(task.await.unwrap());
        }
        records
    });
    assert_eq!(records.len(), SEARCHES);
    let sum = |record: &BTreeMap<String, f64>| record.values().sum::<f64>() - record["total"];
    let mut shares = Vec::new();
    for record in &records {
        assert_eq!(record.len(), Stage::COUNT + 1, "{record:?}");
        assert!(sum(record) <= record["total"] + ROUNDING_MS, "{record:?}");
        shares.push((record["total"], (sum(record) + ROUNDING_MS) / record["total"]));
    }
    shares.sort_by(|a, b| a.0.total_cmp(&b.0));
    let tail = &shares[SEARCHES - SEARCHES / 100..];
    assert!(tail.iter().all(|(_, share)| *share >= 0.95), "the slowest: {tail:?}");
    shares.sort_by(|a, b| a.1.total_cmp(&b.1));
    assert!(shares[SEARCHES / 100].1 >= 0.95, "the worst: {:?}", &shares[..SEARCHES / 50]);
    // Every stage that this load has was seen.
    for stage in ["mailbox", "queue", "walk", "scan", "suspended", "collect", "reply", "merge"] {
        assert!(records.iter().any(|record| record[stage] > 0.0), "{stage}");
    }
    // The server has measured the total separately, except for the encoding.
    let observed = inside.server().observed();
    let whole = observed.methods.search.total().sum_ns as f64 / 1e6;
    let stages: f64 = records.iter().map(|record| sum(record) - record["encode"]).sum();
    let share = stages / whole;
    assert!((0.95..=1.001).contains(&share), "{share} of what the requests took");
}

#[test]
fn every_search_is_counted_in_each_stage_and_reported_on_request() {
    const COUNT: u64 = 40;
    let inside = Inside::start(SETTINGS);
    let counts = || {
        let stages = &inside.server().observed().stages.search;
        stages.iter().map(|stage| stage.total().count()).collect::<Vec<_>>()
    };
    runtime().block_on(async {
        let mut client = inside.client().await;
        store(&mut client, (1..=20).map(|id| insert(id, &vector(id, 8), &[])).collect()).await;
        for number in 0..COUNT {
            let response = client.search(search(&vector(number, 8), 3)).await.unwrap();
            assert!(!response.metadata().contains_key(KEY));
        }
        let expected = [COUNT; Stage::COUNT];
        // A record ends just after its answer has been sent.
        eventually("all are counted", async || counts() == expected).await;
        inside.server().observed().set_recording(false);
        client.search(search(&vector(1, 8), 3)).await.unwrap();
        inside.server().observed().set_recording(true);
        client.search(search(&vector(1, 8), 3)).await.unwrap();
        let expected = [COUNT + 1; Stage::COUNT];
        eventually("what is off is not", async || counts() == expected).await;
        let requests = (0..COUNT).map(|number| search(&vector(number, 8), 3));
        let stream = client.bulk_search(tokio_stream::iter(requests.collect::<Vec<_>>()));
        let mut answers = stream.await.unwrap().into_inner();
        while answers.message().await.unwrap().is_some() {}
        assert_eq!(counts(), [2 * COUNT + 1; Stage::COUNT], "those of streams as well");
    });
}

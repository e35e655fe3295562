//! Live recall: metrics compare the results of real searches with the exact ones.

use std::time::{Duration, Instant};

use kyrodb::proto::SearchRequest;
use kyrodb::types::mix;

use crate::common::{
    Client, PATIENCE, Process, directory, get, insert, metric, metric_sum, runtime, search,
};

const WIDTH: u64 = 24;
const COUNT: u64 = 8_000;
const SAMPLED: &str = "kyrodb_recall_sampled_searches_total";

/// No clusters: the worst case for a narrow beam.
fn place(id: u64) -> Vec<f32> {
    (0..WIDTH).map(|d| (mix(id << 8 | d) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn page(process: &Process) -> String {
    get(process.http, "/metrics").unwrap().1
}

fn start(directory: &std::path::Path, per_second: &str) -> Process {
    let settings = [("runtime.shards", "2"), ("hnsw.recall_sample_per_second", per_second)];
    Process::start(&directory.join("data"), &settings)
}

async fn store(client: &mut Client) {
    let documents: Vec<_> = (1..=COUNT).map(|id| insert(id, &place(id), &[])).collect();
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap();
    assert!(loaded.into_inner().success);
}

/// Searches until a number of further searches were compared; returns their recall.
async fn recall(process: &Process, client: &mut Client, ef_search: u32) -> f64 {
    let before = page(process);
    let begun = Instant::now();
    for number in 0.. {
        let request = SearchRequest { ef_search, ..search(&place(1 << 32 | number), 10) };
        client.search(request).await.unwrap();
        let after = page(process);
        let more = |name: &str| metric_sum(&after, name) - metric_sum(&before, name);
        if more(SAMPLED) >= 40.0 {
            let [hits, wanted] = ["kyrodb_recall_hits_total", "kyrodb_recall_wanted_total"];
            // Five of the ten from each shard; one may be about to count its comparison.
            assert!(more(wanted) >= 5.0 * more(SAMPLED), "{after}");
            return more(hits) / more(wanted);
        }
        assert!(begun.elapsed() < PATIENCE, "{after}");
    }
    unreachable!("the numbers do not end");
}

#[test]
fn the_recall_of_real_searches_is_a_metric() {
    let directory = directory();
    let process = start(directory.path(), "1000");
    runtime().block_on(async {
        let mut client = process.client().await;
        assert_eq!(metric(&page(&process), "kyrodb_recall_ratio{shard=\"0\"}"), None, "unknown");
        store(&mut client).await;
        let wide = recall(&process, &mut client, 400).await;
        assert!(wide > 0.9 && wide <= 1.0, "{wide}");
        let ratio = metric(&page(&process), "kyrodb_recall_ratio{shard=\"0\"}").unwrap();
        assert!(ratio > 0.9 && ratio <= 1.0, "{ratio}");
        let narrow = recall(&process, &mut client, 10).await;
        assert!(narrow < wide - 0.05, "{narrow} with a narrow beam, {wide} with a wide one");
        let ratio = metric(&page(&process), "kyrodb_recall_ratio{shard=\"0\"}").unwrap();
        assert!(ratio < wide, "{ratio}");
    });
    process.stop();
}

#[test]
fn exact_searches_are_not_repeated_nor_any_when_sampling_is_off() {
    let directory = directory();
    for (per_second, exact) in [("0", false), ("1000", true)] {
        let process = start(directory.path(), per_second);
        runtime().block_on(async {
            let mut client = process.client().await;
            if exact {
                // The metrics exist from the first round on.
                assert_eq!(metric(&page(&process), "kyrodb_hnsw_vector_count"), Some(COUNT as f64));
            } else {
                store(&mut client).await;
            }
            for number in 0..50 {
                let request = SearchRequest { exact, ..search(&place(1 << 32 | number), 10) };
                client.search(request).await.unwrap();
            }
        });
        // A comparison takes a millisecond.
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(metric_sum(&page(&process), SAMPLED), 0.0);
        process.stop();
    }
}

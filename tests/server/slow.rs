//! `/debug/slow`: the slowest searches, with their records and without their contents.

use kyrodb::observe::slow::SLOWEST;
use kyrodb::observe::trace::Stage;
use kyrodb::proto::{
    ExactMatch, FlushRequest, InsertRequest, MetadataFilter, SearchRequest, metadata_filter,
};
use serde_json::Value;

use crate::SETTINGS;
use crate::common::{PATIENCE, Process, directory, get, http, insert, runtime, search, vector};

const DIMENSION: usize = 24;
const SECRET: &str = "of-no-concern";

fn page(process: &Process) -> Value {
    let (code, body) = get(process.http, "/debug/slow").unwrap();
    assert_eq!(code, 200);
    // No time is negative, so a minus sign can only be the vector's.
    assert!(!body.contains(SECRET) && !body.contains("-0.123"), "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The page once it shows `count` searches; the record of one ends after its answer was sent.
fn page_of(process: &Process, count: usize) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let page = page(process);
        if page["slowest"].as_array().unwrap().len() >= count {
            return page;
        }
        assert!(begun.elapsed() < PATIENCE, "{page}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn filtered() -> SearchRequest {
    let exact = ExactMatch { key: "secret".into(), value: SECRET.into() };
    let filter_type = Some(metadata_filter::FilterType::Exact(exact));
    let query = vec![-0.123; DIMENSION];
    SearchRequest { filter: Some(MetadataFilter { filter_type }), ..search(&query, 40) }
}

#[test]
fn the_slowest_searches_are_told_slowest_first() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    assert_eq!(page(&process)["slowest"].as_array().unwrap().len(), 0);
    let runtime = runtime();
    runtime.block_on(async {
        let mut client = process.client().await;
        let documents: Vec<InsertRequest> = (1..=1_700)
            .map(|id| insert(id, &vector(id, DIMENSION), &[("secret", SECRET)]))
            .collect();
        assert!(
            client
                .bulk_load_hnsw(tokio_stream::iter(documents))
                .await
                .unwrap()
                .into_inner()
                .success
        );
        client.flush_hot_tier(FlushRequest { force: true }).await.unwrap();
        client.search(filtered()).await.unwrap();
    });
    let page = page_of(&process, 1);
    assert_eq!(page["window_seconds"], 300);
    let first = &page["slowest"][0];
    assert_eq!((&first["k"], &first["filter"]), (&40.into(), &true.into()));
    assert_eq!(first["ef"], 50);
    let work = &first["work"];
    // Few enough to be scanned: all that pass, in every shard.
    assert_eq!((&work["distances"], &work["hops"]), (&1_700.into(), &0.into()));
    assert_eq!((&work["shards_asked"], &work["shards_answered"]), (&2.into(), &2.into()));
    assert!(work["slices"].as_u64().unwrap() >= 2, "{work}");
    assert_eq!(first["core"]["snapshot_running"], false);
    assert_eq!(first["core"]["hot_documents"], 0);
    assert!(first["ended_unix_ms"].as_u64().unwrap() > 1_600_000_000_000);
    let stages = first["stages_ms"].as_object().unwrap();
    assert_eq!(stages.len(), Stage::COUNT);
    assert!(stages["scan"].as_f64().unwrap() > 0.0 && stages["walk"] == 0.0, "{first}");
    let sum: f64 = stages.values().map(|ms| ms.as_f64().unwrap()).sum();
    assert!(sum >= 0.95 * first["total_ms"].as_f64().unwrap(), "{first}");

    runtime.block_on(async {
        let mut client = process.client().await;
        for number in 0..200 {
            client.search(search(&vector(number, DIMENSION), 5)).await.unwrap();
        }
    });
    let page = page_of(&process, SLOWEST);
    let slowest = page["slowest"].as_array().unwrap();
    assert_eq!(slowest.len(), SLOWEST);
    let totals: Vec<f64> = slowest.iter().map(|slow| slow["total_ms"].as_f64().unwrap()).collect();
    assert!(totals.is_sorted_by(|a, b| a >= b), "{totals:?}");
    assert!(page["stalls"].as_array().unwrap().len() <= 16);
    assert_eq!(http(process.http, "POST", "/debug/slow").unwrap().code, 405);
    process.stop();
}

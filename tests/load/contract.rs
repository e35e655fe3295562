//! Stable interface of the load tester: options, the mix of operations, and the lines of JSON.

use kyrodb::proto::BulkQueryRequest;
use serde_json::Value;

use crate::common::runtime;
use crate::{Place, assert_says, number, text};

/// A short run on small random vectors.
const SHORT: [&str; 8] =
    ["--dataset", "64", "--dimension", "16", "--warm-up", "0.2", "--duration", "1.5"];

#[test]
fn documented_options_seed_search_and_report() {
    let place = Place::new();
    let more = ["--qps", "200", "--concurrency", "8", "--request-timeout-ms", "5000"];
    let ratio = ["--max-failure-ratio", "0.5"];
    let printed = place.run(&[&SHORT[..], &more, &ratio].concat());
    assert_says(&printed, &["REQUESTS", "P50 MS", "P95 MS", "P99 MS", "achieved QPS"]);
    assert_says(&printed, &["of 200.0 asked", "0 failed, failure ratio 0.0000"]);
    let summary = place.summary();
    // Arrivals of 1.5 s at 200 per second, within six standard deviations.
    let requests = number(&summary, "requests");
    assert!((200.0..400.0).contains(&requests), "{summary}");
    assert_eq!((&summary["k"], &summary["mode"]), (&10.into(), &"open".into()));
    // Exactly the ids from 1 on were inserted.
    let found = runtime().block_on(async {
        let mut client = place.server().client().await;
        let request = BulkQueryRequest { doc_ids: (1..=80).collect(), ..Default::default() };
        client.bulk_query(request).await.unwrap().into_inner().results
    });
    assert!(found.iter().all(|result| result.found == (result.doc_id <= 64)), "{found:?}");
}

#[test]
fn a_mix_sends_every_operation_by_its_weight() {
    let place = Place::new();
    let file = place.path("mix.toml");
    let mix = "rate = 400\nduration = 2\nk = 3\nfilter = { key = \"bucket\", equals = \"7\" }\n\
               [weights]\nsearch = 4\nfiltered = 1\ninsert = 2\ndelete = 1\nupdate = 2\n";
    std::fs::write(&file, mix).unwrap();
    let printed = place.run(&["--dataset", "200", "--dimension", "8", "--workload", text(&file)]);
    assert_says(&printed, &["OPERATION", "search", "filtered", "insert", "delete", "update"]);
    let summary = place.summary();
    assert_eq!((&summary["failed"], &summary["k"]), (&0.into(), &3.into()), "{summary}");
    let count = |kind: &str| number(&summary["operations"][kind], "requests");
    for (kind, weight) in
        [("search", 0.4), ("filtered", 0.1), ("insert", 0.2), ("delete", 0.1), ("update", 0.2)]
    {
        let share = count(kind) / number(&summary, "requests");
        assert!((weight * 0.5..weight * 1.5).contains(&share), "{kind}: {share}");
    }
}

#[test]
fn a_seed_decides_the_due_requests() {
    let place = Place::new();
    let requests = |seed: &str| {
        place.run(&[&SHORT[..], &["--qps", "300", "--seed", seed]].concat());
        number(&place.summary(), "requests")
    };
    assert_eq!(requests("5"), requests("5"));
}

fn keys(line: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Programs read these lines: removing a key would break them.
#[test]
fn lines_of_json_have_their_keys() {
    let place = Place::new();
    place.run(&[&SHORT[..], &["--closed"]].concat());
    let figures =
        ["failed", "max_ms", "p50_ms", "p95_ms", "p999_ms", "p99_ms", "qps", "recall", "requests"];
    let with = |more: &[&'static str]| {
        let mut keys = [&figures, more].concat();
        keys.sort_unstable();
        keys
    };
    let intervals = place.lines("interval");
    assert!(!intervals.is_empty());
    for interval in &intervals {
        assert_eq!(keys(interval), with(&["kind", "run", "second", "seconds"]));
    }
    let summary = place.summary();
    let of_a_run = [
        "kind",
        "run",
        "label",
        "mode",
        "target_qps",
        "k",
        "ef",
        "seconds",
        "failure_ratio",
        "operations",
        "incomplete",
        "errors",
        "crowded_ratio",
        "lag_p99_ms",
        "lag_max_ms",
        "cpu_ratio",
        "is_generator_limited",
        "is_rate_reached",
        "partial",
        "versions",
        "settings",
        "machine",
    ];
    assert_eq!(keys(&summary), with(&of_a_run));
    let counted: f64 = intervals.iter().map(|interval| number(interval, "requests")).sum();
    assert_eq!(counted, number(&summary, "requests"), "every request is in one interval");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(summary["versions"]["load_tester"], version);
    assert!(summary["versions"]["server"].as_str().unwrap().contains(version));
    assert!(number(&summary["machine"], "cores") >= 1.0);
    assert!(!summary["machine"]["kernel"].as_str().unwrap().is_empty());
    assert_eq!(summary["settings"]["dimension"], 16);
    assert_eq!((&summary["mode"], &summary["partial"]), (&"closed".into(), &Value::Null));
}

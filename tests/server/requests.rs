//! Identification of requests: ids and traces in answers, in the log and on pages; and log lines of slow searches.

use std::collections::BTreeMap;
use std::path::Path;

use kyrodb::proto::{
    ExactMatch, FlushRequest, MetadataFilter, QueryRequest, SearchRequest, metadata_filter,
};
use serde_json::Value;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request};

use crate::common::{
    Client, Launch, PATIENCE, Process, directory, eventually, get, http_with, insert, metric,
    runtime, search, vector,
};

const DIMENSION: usize = 512;
const DOCUMENTS: u64 = 2_000;
const SECRET: &str = "of-no-concern";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn parent() -> String {
    format!("00-{TRACE}-00f067aa0ba902b7-01")
}

fn named<T>(message: T, headers: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

fn id(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("x-request-id").map(|id| id.to_str().unwrap())
}

/// A server that logs in JSON, with settings in a file.
fn start(directory: &Path, logging: &str) -> Process {
    configure(directory, logging);
    let settings = [("runtime.shards", "1"), ("logging.format", "json")];
    let mut launch = Launch::new(&directory.join("data"), &settings);
    launch.command.arg("--config").arg(directory.join("kyrodb.toml"));
    let mut process = launch.spawn();
    process.wait_ready();
    process
}

fn configure(directory: &Path, logging: &str) {
    std::fs::write(directory.join("kyrodb.toml"), format!("[logging]\n{logging}\n")).unwrap();
}

/// The lines of a target, each with its fields.
fn lines(process: &Process, target: &str) -> Vec<BTreeMap<String, Value>> {
    let log = process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.filter(|line| line["target"] == target);
    lines.map(|line| serde_json::from_value(line["fields"].clone()).unwrap()).collect()
}

async fn load(client: &mut Client) {
    let documents = (1..=DOCUMENTS).map(|id| insert(id, &vector(id, DIMENSION), &[("k", SECRET)]));
    let documents = tokio_stream::iter(documents.collect::<Vec<_>>());
    let loaded = client.bulk_load_hnsw(documents).await.unwrap().into_inner();
    assert_eq!(loaded.total_loaded, DOCUMENTS);
    client.flush_hot_tier(FlushRequest { force: true }).await.unwrap();
}

/// A slow search: every document is compared, and most are in the answer.
fn slow() -> SearchRequest {
    SearchRequest {
        include_embeddings: true,
        exact: true,
        ..search(&vec![-0.123; DIMENSION], 1_000)
    }
}

fn filtered() -> SearchRequest {
    let exact = ExactMatch { key: "k".into(), value: SECRET.into() };
    let filter_type = Some(metadata_filter::FilterType::Exact(exact));
    let filter = Some(MetadataFilter { filter_type });
    SearchRequest { filter, namespace: "elsewhere".into(), ..slow() }
}

#[test]
fn an_answer_has_the_id_of_its_request() {
    let directory = directory();
    let process = start(directory.path(), "");
    runtime().block_on(async {
        let mut client = process.client().await;
        let query = QueryRequest { doc_id: 1, ..QueryRequest::default() };
        let answer = client.query(named(query.clone(), &[("x-request-id", "web-7/a")])).await;
        assert_eq!(id(answer.unwrap().metadata()), Some("web-7/a"));
        // The client did not send an id.
        assert_eq!(id(client.query(query.clone()).await.unwrap().metadata()), None);
        // An id that could not be logged is replaced, and the answer has the new one.
        let long = "x".repeat(129);
        for bad in ["two words", "quo\"te", long.as_str()] {
            let answer =
                client.query(named(query.clone(), &[("x-request-id", bad)])).await.unwrap();
            let fresh = id(answer.metadata()).unwrap();
            assert!(fresh.len() == 16 && fresh.bytes().all(|b| b.is_ascii_hexdigit()), "{fresh}");
        }
        // An error always has an id.
        let nothing = QueryRequest::default();
        let refused = client.query(nothing.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(id(refused.metadata()).unwrap().len(), 16);
        let refused = client.query(named(nothing, &[("x-request-id", "mine")])).await.unwrap_err();
        assert_eq!(id(refused.metadata()), Some("mine"));
        // A stream, whose answers come later than its headers.
        let requests = tokio_stream::iter(vec![search(&vector(1, DIMENSION), 1)]);
        let answers = client.bulk_search(named(requests, &[("x-request-id", "stream-1")])).await;
        assert_eq!(id(answers.unwrap().metadata()), Some("stream-1"));
    });
    process.stop();
}

#[test]
fn actions_of_operators_are_logged_with_the_id_and_the_trace() {
    let directory = directory();
    let process = start(directory.path(), "");
    let parent = parent();
    let headers = [("X-Request-Id", "ops-1"), ("Traceparent", parent.as_str())];
    let answer = http_with(process.http, "GET", "/admin/read-only", &headers).unwrap();
    assert_eq!(answer.headers["x-request-id"], "ops-1");
    let answer = http_with(process.http, "GET", "/admin/read-only", &[]).unwrap();
    let fresh = &answer.headers["x-request-id"];
    let lines = lines(&process, "kyrodb::audit");
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["request_id"], &lines[0]["trace_id"]), (&"ops-1".into(), &TRACE.into()));
    assert_eq!(lines[1]["request_id"], fresh.as_str());
    assert!(!lines[1].contains_key("trace_id"));
    process.stop();
}

#[test]
fn a_slow_search_has_a_line_that_says_where_the_time_went() {
    let directory = directory();
    let process = start(directory.path(), "slow_query_ms = 1\nslow_query_per_second = 1000");
    let parent = parent();
    let slow_lines = || lines(&process, "kyrodb::slow");
    runtime().block_on(async {
        let mut client = process.client().await;
        load(&mut client).await;
        let headers = [("x-request-id", "slow-1"), ("traceparent", parent.as_str())];
        // Searches take one to a thousand milliseconds or more: all of them are over the threshold.
        eventually("a slow search has a line", async || {
            client.clone().search(named(slow(), &headers)).await.unwrap();
            !slow_lines().is_empty()
        })
        .await;
        let line = slow_lines().remove(0);
        assert_eq!((&line["request_id"], &line["trace_id"]), (&"slow-1".into(), &TRACE.into()));
        assert_eq!((&line["k"], &line["ef"]), (&1_000.into(), &1_000.into()));
        let is = |name: &str| line[name].as_bool().unwrap();
        assert!(!is("namespace") && !is("filter") && is("exact") && !line.contains_key("tenant"));
        assert_eq!((&line["shards_asked"], &line["shards_answered"]), (&1.into(), &1.into()));
        let ms = |name: &str| line[name].as_f64().unwrap();
        let total = ms("total_ms");
        let stages = kyrodb::observe::trace::Stage::ALL;
        let sum: f64 = stages.iter().map(|stage| ms(&format!("{}_ms", stage.word()))).sum();
        assert!(total >= 1.0 && (sum - total).abs() < 0.02, "{line:?}");
        // The page of the slowest searches shows these ids.
        let page: Value =
            serde_json::from_str(&get(process.http, "/debug/slow").unwrap().1).unwrap();
        let slowest = page["slowest"].as_array().unwrap();
        let is_it =
            |search: &&Value| search["request_id"] == "slow-1" && search["trace_id"] == TRACE;
        assert!(slowest.iter().any(|search| is_it(&search)), "{page}");
        // Searches of a stream are slow as well, and have the id of their stream.
        let before = slow_lines().len();
        eventually("a slow search of a stream has a line", async || {
            let requests = tokio_stream::iter(vec![filtered(), slow()]);
            let requests = named(requests, &[("x-request-id", "stream-7")]);
            let mut answers = client.clone().bulk_search(requests).await.unwrap().into_inner();
            while answers.message().await.unwrap().is_some() {}
            slow_lines()[before..].iter().any(|line| line["request_id"] == "stream-7")
        })
        .await;
    });
    let log = process.log();
    // The query and its results are not logged; no time is negative, so a minus sign can only be the vector's.
    assert!(
        !log.contains(SECRET) && !log.contains("-0.123") && !log.contains("elsewhere"),
        "{log}"
    );
    process.stop();
}

#[test]
fn lines_of_slow_searches_are_bounded_and_can_be_switched_while_it_runs() {
    let directory = directory();
    let process = start(directory.path(), "slow_query_ms = 0");
    let runtime = runtime();
    let mut client = runtime.block_on(process.client());
    runtime.block_on(load(&mut client));
    let mut search_some = |count: usize| {
        runtime.block_on(async {
            for _ in 0..count {
                client.search(slow()).await.unwrap();
            }
        });
    };
    let reload = |logging: &str| {
        configure(directory.path(), logging);
        let before = process.log().matches("SIGHUP: ").count();
        process.signal("HUP");
        runtime.block_on(eventually("it has reloaded", async || {
            process.log().matches("SIGHUP: ").count() > before
        }));
    };
    search_some(20);
    assert!(lines(&process, "kyrodb::slow").is_empty(), "it is off");
    reload("slow_query_ms = 1\nslow_query_per_second = 1");
    assert!(process.log().contains("logging.slow_query_ms: 0 -> 1"), "{}", process.log());
    let count = |name: &str| metric(&get(process.http, "/metrics").unwrap().1, name).unwrap();
    let begun = std::time::Instant::now();
    loop {
        search_some(50);
        let lines = lines(&process, "kyrodb::slow");
        let left_out: u64 = lines.iter().map(|line| line["left_out"].as_u64().unwrap()).sum();
        if lines.len() >= 2 && left_out > 0 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{lines:?}");
    }
    let seconds = begun.elapsed().as_secs() + 2;
    assert!(lines(&process, "kyrodb::slow").len() as u64 <= seconds);
    let (slow, unlogged) =
        (count("kyrodb_slow_queries_total"), count("kyrodb_slow_queries_unlogged_total"));
    assert_eq!(slow - unlogged, lines(&process, "kyrodb::slow").len() as f64);
    reload("slow_query_ms = 0");
    search_some(20);
    assert_eq!(count("kyrodb_slow_queries_total"), slow);
    process.stop();
}

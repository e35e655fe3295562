//! Comparisons: KyroDB alone, beside engines that are absent, and beside a real one if one is named.

use std::process::Stdio;
use std::time::{Duration, Instant};

use kyrodb::proto::BulkQueryRequest;
use serde_json::Value;

use crate::common::{PATIENCE, free_port, runtime};
use crate::data::Set;
use crate::{Place, assert_says, number, said, tester, text};

/// Environment variable that names a peer, as `--peer` does, to be measured in a test.
const PEER: &str = "KYRODB_TEST_PEER";

/// Arguments of a short comparison over a data set written by the test.
fn short(place: &Place, more: &[&str]) -> Vec<String> {
    let npy = place.path("npy");
    Set::new().write_npy(&npy);
    let all = ["compare", "--data", text(&npy), "--load", "--duration", "1", "--warm-up", "0.1"];
    let rest = ["--recall", "0.9", "--rounds", "1", "--concurrency", "4"];
    [&all, &rest[..], more].concat().into_iter().map(str::to_owned).collect()
}

fn as_strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The JSON line of an engine.
fn engine(place: &Place, name: &str) -> Value {
    let mut lines = place.lines("engine");
    lines.retain(|line| line["engine"] == name);
    assert_eq!(lines.len(), 1, "one line of {name}");
    lines.remove(0)
}

/// The median of an engine's laps at a job.
fn median(engine: &Value, job: &str, in_flight: u32) -> Value {
    let laps = engine["laps"].as_array().unwrap();
    let is_it = |lap: &&Value| lap["job"] == job && lap["in_flight"] == in_flight;
    laps.iter().find(is_it).unwrap_or_else(|| panic!("no {job} x{in_flight} in {engine}"))["median"]
        .clone()
}

fn assert_measured(engine: &Value) {
    assert_eq!(engine["partial"], Value::Null, "{engine}");
    assert_eq!(engine["is_recall_reached"], true, "{engine}");
    assert!(number(engine, "load_docs_per_second") > 0.0, "{engine}");
    for in_flight in [1, 4] {
        let searches = median(engine, "search", in_flight);
        assert!(number(&searches, "recall") >= 0.88, "{engine}");
        assert!(number(&searches, "qps") > 0.0 && number(&searches, "p99_ms") > 0.0, "{engine}");
        let inserts = median(engine, "insert", in_flight);
        assert!(number(&inserts, "qps") > 0.0, "{engine}");
        assert_eq!((&inserts["failed"], &searches["failed"]), (&0.into(), &0.into()), "{engine}");
    }
}

#[test]
fn kyrodb_alone_is_measured_and_left_as_it_was() {
    let place = Place::new();
    let (page, pictures) = (place.path("report.html"), place.path("pictures"));
    let more = ["--report", text(&page), "--svg", text(&pictures)];
    let printed = place.run(&as_strs(&short(&place, &more)));
    assert_says(&printed, &["ENGINE", "DURABLE AT ACK", "fsync: Always", "RECALL@10"]);
    assert_says(&printed, &["P99 MS x1", "P99 MS x4", "INSERTS/S x4", "LOAD DOCS/S"]);
    let kyrodb = engine(&place, "kyrodb");
    assert_measured(&kyrodb);
    let facts = &kyrodb["facts"];
    assert_eq!((&facts["durable"], &kyrodb["load_documents"]), (&"yes".into(), &5_000.into()));
    assert!(facts["index"].as_str().unwrap().contains("m=16 ef_construction=200"), "{facts}");
    assert_eq!(kyrodb["settings"]["comparison"]["recall"], 0.9);
    assert_eq!(kyrodb["settings"]["weights"]["search"], 1.0);
    // The smallest width that reaches the recall, and a few more for the chart.
    let curve = kyrodb["curve"].as_array().unwrap();
    let good: Vec<&Value> = curve.iter().filter(|point| number(point, "recall") >= 0.9).collect();
    assert_eq!((&good[0]["width"], good.len()), (&kyrodb["width"], 3), "{curve:?}");
    let laps = place.lines("lap");
    assert_eq!(laps.len(), curve.len() + 4, "each width, and two laps of two jobs");
    let found = runtime().block_on(async {
        let mut client = place.server().client().await;
        let request = BulkQueryRequest { doc_ids: (1..=5_010).collect(), ..Default::default() };
        client.bulk_query(request).await.unwrap().into_inner().results
    });
    assert!(found.iter().all(|result| result.found == (result.doc_id <= 5_000)));
    let page = std::fs::read_to_string(page).unwrap();
    let svg = std::fs::read_to_string(pictures.join("engines_recall_qps.svg")).unwrap();
    assert!(page.contains(svg.trim_end()), "the picture is in the page");
    assert_says(&page, &["<h2>Engines</h2>", "fsync: Always", "INSERTS/S x4"]);
}

#[test]
fn a_peer_that_is_not_there_stands_in_the_table_with_the_reason() {
    let place = Place::new();
    let (chroma, milvus) = (free_port(), free_port());
    let peers = [
        format!("chroma=http://127.0.0.1:{chroma}"),
        format!("milvus=http://127.0.0.1:{milvus}"),
        format!("pgvector=postgresql://u@127.0.0.1:{}/d", free_port()),
    ];
    let mut more: Vec<&str> = peers.iter().flat_map(|peer| ["--peer", peer.as_str()]).collect();
    more.extend(["--absent", "qdrant=there is no package of it"]);
    let said = place.fails(1, &as_strs(&short(&place, &more)));
    assert_says(&said, &["  not measured: there is no package of it", "partial: "]);
    for (name, port) in [("chroma", chroma), ("milvus", milvus)] {
        let address = format!("http://127.0.0.1:{port}");
        assert_says(&said, &[&format!("is {name} running there?"), &address]);
    }
    assert_says(&said, &["is pgvector running there?"]);
    assert_measured(&engine(&place, "kyrodb"));
    for name in ["chroma", "milvus", "pgvector"] {
        let line = engine(&place, name);
        assert!(line["partial"].as_str().unwrap().starts_with("connecting: "), "{line}");
        assert_eq!(line["laps"], Value::Array(Vec::new()), "{line}");
    }
    assert_eq!(engine(&place, "qdrant")["absent"], "there is no package of it");
}

#[test]
fn invalid_comparisons_are_refused_with_the_remedy() {
    let place = Place::new();
    let (npy, mix) = (place.path("npy"), place.path("mix.toml"));
    Set::new().write_npy(&npy);
    std::fs::write(&mix, "[weights]\nsearch = 1\ninsert = 1\n").unwrap();
    let peer = "pgvector=postgresql://u@h/d";
    let cases: [(&[&str], &str); 9] = [
        (&["--peer", "chorma=http://127.0.0.1:1"], "did you mean `chroma`?"),
        (&["--peer", "zzz=http://127.0.0.1:1"], "there are pgvector, chroma, qdrant, milvus"),
        (&["--peer", "chroma"], "ENGINE=..."),
        (&["--peer", "qdrant=127.0.0.1:6333"], "like http://127.0.0.1:6333"),
        (&["--peer", peer, "--peer", peer], "pgvector is named twice"),
        (&["--absent", "weaviate=no"], "--absent: no engine is called `weaviate`"),
        (&["--recall", "1.5"], "--recall is 1.5"),
        (&["--rounds", "0"], "--rounds"),
        (&["--workload", text(&mix)], "a comparison is of searches alone"),
    ];
    for (arguments, part) in cases {
        let all = [&["compare", "--data", text(&npy)], arguments].concat();
        let output = tester(&all).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert_says(&said(&output), &[part]);
    }
    let output = tester(&["compare"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_says(&said(&output), &["a comparison needs ground truth", "gt_ids.npy"]);
}

#[test]
fn an_engine_that_goes_away_leaves_partial_results() {
    let mut place = Place::new();
    let mut arguments = short(&place, &[]);
    let rounds = arguments.iter().position(|word| word == "--rounds").unwrap();
    arguments[rounds + 1] = "99".into();
    let mut command = place.command(&as_strs(&arguments));
    let tester = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while place.lines("lap").iter().all(|lap| lap["round"] != "round 1") {
        assert!(begun.elapsed() < PATIENCE, "no lap was measured");
        std::thread::sleep(Duration::from_millis(5));
    }
    place.server.take().unwrap().kill();
    let output = tester.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_says(&said(&output), &["kyrodb: PARTIAL: searches", "the engine went away"]);
    let kyrodb = engine(&place, "kyrodb");
    assert!(kyrodb["partial"].as_str().unwrap().contains("went away"), "{kyrodb}");
    assert!(number(&median(&kyrodb, "search", 1), "qps") > 0.0, "{kyrodb}");
}

#[test]
fn a_real_peer_is_measured_where_one_is_named() {
    let Ok(peer) = std::env::var(PEER) else {
        println!("skipped: {PEER} names no peer, such as chroma=http://127.0.0.1:8000");
        return;
    };
    let place = Place::new();
    let name = peer.split_once('=').unwrap().0;
    place.run(&as_strs(&short(&place, &["--peer", &peer])));
    assert_measured(&engine(&place, "kyrodb"));
    assert_measured(&engine(&place, name));
    // A wider search finds more: the width reaches the engine. Chroma has to be started as by `perf/peers.sh`.
    let curve = engine(&place, name)["curve"].clone();
    let recalls: Vec<f64> =
        curve.as_array().unwrap().iter().map(|point| number(point, "recall")).collect();
    assert!(recalls.len() < 2 || recalls[0] < recalls[recalls.len() - 1], "{recalls:?}");
}

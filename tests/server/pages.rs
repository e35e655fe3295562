//! HTTP pages: answered from the first moment on, and correct at every moment.

use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Process, directory, get, http, insert, metric, runtime, vector};
use crate::{DIMENSION, SETTINGS, assert_says, store};

#[test]
fn pages_answer_as_documented() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    runtime().block_on(async { store(&mut process.client().await, 3).await });
    let answer = http(process.http, "GET", "/health").unwrap();
    assert_eq!((answer.code, answer.headers["content-type"].as_str()), (200, "application/json"));
    assert_says(&answer.body, &["\"status\":\"healthy\"", "\"ok\":true", "\"uptime_seconds\":"]);
    let (code, body) = get(process.http, "/ready").unwrap();
    assert_eq!(code, 200);
    assert_says(&body, &["\"ready\":true", "\"status\":\"ready\""]);
    let answer = http(process.http, "GET", "/metrics").unwrap();
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4");
    let text = &answer.body;
    assert_eq!(metric(text, "kyrodb_inserts_total"), Some(3.0));
    assert_eq!(metric(text, "kyrodb_wal_writes_total"), Some(3.0));
    assert_eq!(metric(text, "kyrodb_hnsw_vector_count"), Some(3.0));
    assert_eq!(metric(text, "kyrodb_ready"), Some(1.0));
    assert_eq!(metric(text, "kyrodb_wal_circuit_breaker_state"), Some(0.0));
    assert!(metric(text, "kyrodb_core_heartbeats_total{core=\"0\"}").is_some_and(|n| n > 0.0));
    // Figures of the process, and the sync policy of the log.
    assert!(metric(text, "process_open_fds").is_some_and(|count| count > 3.0));
    for name in ["process_max_fds", "process_cpu_seconds_total", "process_resident_memory_bytes"] {
        assert!(metric(text, name).is_some_and(|value| value > 0.0), "{name}");
    }
    let syncs = metric(text, "kyrodb_wal_fsync_seconds_count{of=\"log\"}");
    assert!(syncs.is_some_and(|syncs| (1.0..=3.0).contains(&syncs)), "{syncs:?}");
    assert_eq!(metric(text, "kyrodb_fsync_policy_info{policy=\"data_only\"}"), Some(1.0));
    let waits = metric(text, "kyrodb_stage_seconds_count{stage=\"log_wait\"}");
    assert_eq!(waits, Some(3.0), "one a write");
    for name in ["kyrodb_core_queue_messages{core=\"0\"}", "kyrodb_wal_unsynced_bytes{shard=\"0\"}"]
    {
        assert_eq!(metric(text, name), Some(0.0), "{name}");
    }
    // There is no training with vectors in memory, and the metrics say so.
    for name in ["kyrodb_training_state", "kyrodb_training_crashes_total"] {
        assert_eq!(metric(text, name), Some(0.0), "{name}");
    }
    // A stage has its histogram before there is a search.
    let count = "kyrodb_search_stage_seconds_count{stage=\"admission\"}";
    assert_eq!(metric(text, count), Some(0.0));
    assert_eq!(get(process.http, "/elsewhere").unwrap().0, 404);
    assert_eq!(http(process.http, "POST", "/health").unwrap().code, 405);
    process.stop();
}

/// A person with a browser types the address alone.
#[test]
fn the_root_is_a_page_of_links_that_are_answered() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let answer = http(process.http, "GET", "/").unwrap();
    let kind = answer.headers["content-type"].as_str();
    assert_eq!((answer.code, kind), (200, "text/html; charset=utf-8"));
    assert!(!answer.body.contains("<script"), "{}", answer.body);
    let links: Vec<&str> = answer.body.split("href=\"").skip(1).collect();
    assert!(links.len() > 5, "{}", answer.body);
    for link in links {
        let path = link.split('"').next().unwrap();
        let (code, body) = get(process.http, path).unwrap();
        // It is there, and says why there is nothing to see without keys.
        let wanted = if path == "/usage" { 404 } else { 200 };
        assert_eq!(code, wanted, "{path}: {body}");
        assert!(!body.contains("no such page"), "{path}");
    }
    let head = http(process.http, "HEAD", "/").unwrap();
    assert_eq!((head.code, head.body.as_str()), (200, ""));
    assert_eq!(http(process.http, "POST", "/").unwrap().code, 405);
    process.stop();
}

/// A log that takes a while to read: meanwhile HTTP answers 503 with the progress.
#[test]
fn a_start_tells_how_far_it_is() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let mut process = Process::start(&data_dir, SETTINGS);
    let mut count = 0;
    // Enough documents that a test can see the server starting, on any machine.
    for _ in 0..8 {
        let documents: Vec<_> = (count + 1..=count + 20_000)
            .map(|id| insert(id, &vector(id, DIMENSION), &[("n", "a few bytes of metadata")]))
            .collect();
        count += documents.len() as u64;
        runtime().block_on(async {
            let mut client = process.client().await;
            let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap();
            assert!(loaded.into_inner().success);
        });
        process.kill();
        process = Process::spawn(&data_dir, SETTINGS);
        let seen = watch(&process);
        process.wait_ready();
        let metrics = get(process.http, "/metrics").unwrap().1;
        assert_eq!(metric(&metrics, "kyrodb_hnsw_vector_count"), Some(count as f64));
        if let Some((ready, health)) = seen {
            assert_says(&ready, &["\"ready\":false", "\"status\":\"not_ready\"", "\"progress\":"]);
            assert_says(&health, &["\"status\":\"starting\"", "\"reason\":"]);
            process.stop();
            return;
        }
    }
    panic!("a start was never seen with {count} documents");
}

/// Answers of `/ready` and `/health` while the server is starting, if seen.
fn watch(process: &Process) -> Option<(String, String)> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match (get(process.http, "/ready"), get(process.http, "/health")) {
            (Ok((503, ready)), Ok((503, health))) => return Some((ready, health)),
            (Ok((200, _)), _) => return None,
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    None
}

/// Flame graphs and `top -H` tell threads apart by name: the name of a core is unique.
#[test]
fn threads_have_names_of_their_own() {
    let directory = directory();
    let settings = [("runtime.cores", "1"), ("runtime.shards", "1")];
    let process = Process::start(&directory.path().join("data"), &settings);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    let names: Vec<String> = tasks.filter_map(|task| name(task.ok()?)).collect();
    let cores: Vec<&str> =
        names.iter().map(|name| name.trim()).filter(|name| name.starts_with("kyro-core")).collect();
    assert_eq!(cores, ["kyro-core-0"], "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("kyro-block")), "{names:?}");
    process.stop();
}

/// Metrics used by the alerts and the dashboard exist under these names.
#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let directory = directory();
    let settings = [("storage.vectors", "nvme"), ("cache.strategy", "learned")];
    let process = Process::start(&directory.path().join("data"), &settings);
    let metrics = get(process.http, "/metrics").unwrap().1;
    let families: Vec<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let is_there = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|part| name.strip_suffix(part));
        parts.chain([name]).any(|name| families.contains(&name))
    };
    // A family without values is left out.
    let plain = Process::start(&directory.path().join("plain"), SETTINGS);
    let text = get(plain.http, "/metrics").unwrap().1;
    for unfed in ["kyrodb_vector_", "kyrodb_document_cache_", "kyrodb_hsc_"] {
        assert!(!text.contains(unfed), "{unfed}");
    }
    plain.stop();
    for file in ["contrib/prometheus/kyrodb.rules.yml", "contrib/grafana/kyrodb.json"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("kyrodb_"));
        // These are of files that another program writes; see `backup_metrics_of_alerts_and_dashboard_are_written`.
        let words = words.filter(|word| !word.starts_with("kyrodb_backup"));
        // This one is there with TLS; see `an_expired_certificate_is_replaced_while_the_server_runs`.
        let words = words.filter(|word| !word.starts_with("kyrodb_tls_certificate"));
        let names: std::collections::BTreeSet<&str> = words.collect();
        assert!(names.len() > 10, "{file}: {names:?}");
        let missing: Vec<&&str> = names.iter().filter(|name| !is_there(name)).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    process.stop();
}

/// The alerts fire when they should, and not otherwise, as computed by promtool. Without promtool (package prometheus)
/// the test checks nothing.
#[test]
fn alerts_fire_when_they_should() {
    let rules = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/prometheus");
    let tests = rules.join("tests/kyrodb.rules.test.yml");
    match std::process::Command::new("promtool").args(["test", "rules"]).arg(tests).output() {
        Err(error) => println!("skipped: promtool: {error}"),
        Ok(tested) => {
            let said = [tested.stdout, tested.stderr].concat();
            assert!(tested.status.success(), "{}", String::from_utf8_lossy(&said));
        }
    }
}

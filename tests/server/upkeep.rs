//! Maintenance of a running server by an operator: rotating the log, checking files, releasing memory; and the list of
//! threads.

use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::common::{PATIENCE, Process, directory, get, http, metric, runtime};
use crate::{COUNT, ONE_SHARD, assert_says, flip, name, segments, store};

fn post(process: &Process, path: &str) -> Value {
    let answer = http(process.http, "POST", path).unwrap();
    assert_eq!(answer.code, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

fn metrics(process: &Process) -> String {
    get(process.http, "/metrics").unwrap().1
}

#[test]
fn a_log_goes_on_in_a_fresh_segment_when_it_is_told_to() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    let first = post(&process, "/admin/wal/rotate");
    assert_eq!(first["shards"][0]["is_new"], true, "{first}");
    let segment = first["shards"][0]["segment"].as_u64().unwrap();
    assert!(segment > 1 && segments(&data_dir).len() >= 2, "{first}");
    // Later acknowledged writes are in the fresh segment, and all of them are there after a kill.
    runtime().block_on(async { store(&mut process.client().await, COUNT + 5).await });
    process.kill();
    let process = Process::start(&data_dir, ONE_SHARD);
    assert_eq!(metric(&metrics(&process), "kyrodb_hnsw_vector_count"), Some(COUNT as f64 + 5.0));
    process.stop();
}

/// Starts a check, and waits until it is over.
fn checked(process: &Process) -> Value {
    post(process, "/admin/scrub?state=start&mib_per_second=1000");
    let begun = Instant::now();
    loop {
        let state: Value =
            serde_json::from_str(&get(process.http, "/admin/scrub").unwrap().1).unwrap();
        if state["state"] == "idle" {
            return state;
        }
        assert!(begun.elapsed() < PATIENCE, "{state}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn damage_is_found_while_the_server_runs() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime().block_on(async { store(&mut process.client().await, COUNT).await });
    let sealed = segments(&data_dir).remove(0);
    post(&process, "/admin/wal/rotate");
    // MANIFEST records a moment later that it is complete.
    let begun = Instant::now();
    while checked(&process)["files_checked"] != 1 {
        assert!(begun.elapsed() < PATIENCE, "{}", checked(&process));
    }
    let clean = checked(&process);
    assert_eq!((&clean["damages"], &clean["files_wanted"]), (&0.into(), &1.into()), "{clean}");
    assert!(clean["bytes_checked_total"].as_u64().unwrap() > 4_096, "{clean}");
    post(&process, "/admin/snapshot");
    let clean = checked(&process);
    assert!(clean["files_checked"].as_u64().unwrap() > 0 && clean["damages"] == 0, "{clean}");

    let damaged = match sealed.exists() {
        true => sealed,
        false => snapshot(&data_dir),
    };
    flip(&damaged, 5_000);
    let found = checked(&process);
    assert!(found["damages"].as_u64().unwrap() >= 1, "{found}");
    assert_says(&found["damaged"].to_string(), &[&name(&damaged)]);
    let (_, health) = get(process.http, "/health").unwrap();
    assert_says(&health, &["degraded", "the check of the files", &name(&damaged)]);
    let text = metrics(&process);
    assert!(metric(&text, "kyrodb_scrub_damages").is_some_and(|count| count >= 1.0));
    assert!(metric(&text, "kyrodb_scrub_files_total").is_some_and(|count| count >= 3.0));
    let completed = metric(&text, "kyrodb_scrub_last_completed_timestamp_seconds").unwrap();
    assert!(completed > 1.6e9, "{completed}");
    flip(&damaged, 5_000);
    assert_eq!(checked(&process)["damages"], 0);
    assert_says(&get(process.http, "/health").unwrap().1, &["\"ok\":true"]);
    assert_eq!(http(process.http, "POST", "/admin/scrub").unwrap().code, 400);
    process.stop();
}

/// A snapshot of a data directory.
fn snapshot(data_dir: &std::path::Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(data_dir).unwrap().map(|entry| entry.unwrap().path());
    let is_snapshot = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "snap");
    entries.into_iter().find(is_snapshot).unwrap()
}

#[test]
fn memory_is_given_back_and_threads_are_told() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), ONE_SHARD);
    let given = post(&process, "/admin/gc");
    let bytes = |key: &str| given[key].as_u64().unwrap();
    assert!(bytes("resident_bytes_before") > 1 << 20 && bytes("resident_bytes_after") > 1 << 20);
    assert!(given["allocator_trimmed"].is_boolean(), "{given}");
    let (code, text) = get(process.http, "/debug/pprof/threads?seconds=1").unwrap();
    match code {
        200 => {
            let stacks = text.matches(" samples:").count();
            let idle = text.matches("it did not run meanwhile").count();
            let threads = text.lines().filter(|line| line.contains(" (thread ")).count();
            assert!(threads > 4 && stacks + idle == threads, "{text}");
        }
        501 => assert_says(&text, &["kernel.perf_event_paranoid"]),
        _ => panic!("{code}: {text}"),
    }
    assert_eq!(get(process.http, "/debug/pprof/threads?seconds=61").unwrap().0, 400);
    for page in ["/debug/pprof/threads", "/debug/pprof/goroutine?debug=1"] {
        let (code, text) = get(process.http, page).unwrap();
        assert_eq!(code, 200, "{text}");
        assert_says(
            &text,
            &["threads: ", "kyro-core-0 (thread ", ", doing: ", "kyro-http", "kyro-pulse"],
        );
    }
    assert_says(&get(process.http, "/debug/pprof/").unwrap().1, &["profile?seconds=N", "heap"]);
    // In the form in which people write an address.
    let ctl = Command::new(env!("CARGO_BIN_EXE_kyrodb_ctl"))
        .args(["--url", &process.http.to_string(), "threads"])
        .output()
        .unwrap();
    assert!(ctl.status.success(), "{ctl:?}");
    assert_says(&String::from_utf8_lossy(&ctl.stdout), &["kyro-core-0 (thread "]);
    process.stop();
}

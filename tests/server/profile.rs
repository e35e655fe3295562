//! `/debug/pprof/…`: a profile of a busy server, which continues undisturbed.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use kyrodb::proto::SearchRequest;

use crate::SETTINGS;
use crate::common::{
    Client, PATIENCE, Process, directory, get, http, http_with, insert, metric, metric_sum,
    runtime, search, vector,
};

const DIMENSION: usize = 256;
const DOCUMENTS: u64 = 3_000;

/// True if the host forbids profiles and the answer names the remedy.
fn is_refused(body: &str) -> bool {
    let is_refused = body.contains("kernel.perf_event_paranoid");
    if is_refused {
        println!("not allowed on this host: {body}");
    }
    is_refused
}

async fn search_until(done: &AtomicBool, mut client: Client, first: u64) -> u64 {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let query = vector(first + count, DIMENSION);
        let request = SearchRequest { ef_search: 400, ..search(&query, 10) };
        let found = client.search(request).await.unwrap().into_inner();
        assert_eq!(found.results.len(), 10);
        count += 1;
    }
    count
}

async fn insert_until(done: &AtomicBool, mut client: Client, first: u64) -> u64 {
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let id = first + count;
        client.insert(insert(id, &vector(id, DIMENSION), &[])).await.unwrap();
        count += 1;
    }
    count
}

#[test]
fn a_server_at_work_is_profiled_without_disturbing_clients() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let runtime = runtime();
    runtime.block_on(async {
        let documents = (1..=DOCUMENTS).map(|id| insert(id, &vector(id, DIMENSION), &[]));
        let documents = tokio_stream::iter(documents.collect::<Vec<_>>());
        let loaded = process.client().await.bulk_load_hnsw(documents).await.unwrap().into_inner();
        assert_eq!(loaded.total_loaded, DOCUMENTS);
    });
    let done = Arc::new(AtomicBool::new(false));
    let searches = Arc::new(AtomicU64::new(0));
    let work: Vec<_> = (0..6_u64)
        .map(|number| {
            let client = runtime.block_on(process.client());
            let (done, searches) = (done.clone(), searches.clone());
            runtime.spawn(async move {
                let first = (number + 1) * 1_000_000;
                if number < 4 {
                    let count = search_until(&done, client, first).await;
                    searches.fetch_add(count, Ordering::Relaxed);
                    count
                } else {
                    insert_until(&done, client, first).await
                }
            })
        })
        .collect();
    let stacks = http(process.http, "GET", "/debug/pprof/profile?seconds=2&hz=999&format=folded");
    let stacks = stacks.unwrap();
    let picture = http(process.http, "GET", "/debug/pprof/profile?seconds=1").unwrap();
    done.store(true, Ordering::Relaxed);
    for work in work {
        // No request failed, and each client continued.
        assert!(runtime.block_on(work).unwrap() > 0);
    }
    if stacks.code == 501 {
        assert!(is_refused(&stacks.body), "{}", stacks.body);
        return;
    }
    assert_eq!(stacks.code, 200, "{}", stacks.body);
    let of = |parts: &[&str]| {
        let lines = stacks.body.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum::<u64>()
    };
    for parts in [
        &["kyro-core-0;", "kyrodb_engine::graph::search", "kyrodb_engine::kernels::"][..],
        &["kyro-core-0;", "kyrodb_cores::shard::serve"],
        &["kyro-core-0;", "kyrodb_engine::graph::insert"],
        &["kyro-gw-0;", "tokio::runtime"],
        &["kyro-gw-", "kyrodb_server::gateway"],
    ] {
        assert!(of(parts) > 0, "nothing of {parts:?} in:\n{}", stacks.body);
    }
    assert_eq!((picture.code, picture.headers["content-type"].as_str()), (200, "image/svg+xml"));
    let begins = picture.body.starts_with("<?xml");
    assert!(begins && picture.body.contains("kyro-core-0") && picture.body.contains("walk"));
    let metrics = get(process.http, "/metrics").unwrap().1;
    let queries = metric(&metrics, "kyrodb_queries_total").unwrap();
    assert!(queries as u64 >= searches.load(Ordering::Relaxed));
    assert_eq!(metric(&metrics, "kyrodb_queries_failed"), Some(0.0));
    assert_eq!(metric(&metrics, "kyrodb_inserts_failed"), Some(0.0));
    println!("stalls: {}", metric_sum(&metrics, "kyrodb_core_stalls_total"));
    assert!(!process.log().contains("panicked"), "{}", process.log());
    let audit = process.log();
    let line = audit.lines().find(|line| line.contains("kyrodb::audit")).unwrap();
    assert!(line.contains("/debug/pprof/profile?seconds=2") && line.contains("200"), "{line}");
    process.stop();
}

#[test]
fn one_profile_at_a_time_and_one_whose_client_goes_makes_way() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let mut first = TcpStream::connect(process.http).unwrap();
    write!(first, "GET /debug/pprof/profile?seconds=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let begun = Instant::now();
    let ask = || http(process.http, "GET", "/debug/pprof/profile?seconds=1&format=folded").unwrap();
    loop {
        let answer = ask();
        if answer.code == 501 {
            assert!(is_refused(&answer.body), "{}", answer.body);
            return;
        }
        if answer.code == 409 {
            assert!(answer.body.contains("one at a time"), "{}", answer.body);
            break;
        }
        // It was answered before the first.
        assert!(answer.code == 200 && begun.elapsed() < PATIENCE, "{}", answer.code);
    }
    drop(first);
    while ask().code != 200 {
        assert!(begun.elapsed() < PATIENCE, "the first profile goes on without its client");
    }
    // It does not keep a server from ending.
    let mut last = TcpStream::connect(process.http).unwrap();
    write!(last, "GET /debug/pprof/profile?seconds=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    while ask().code != 409 {
        assert!(begun.elapsed() < PATIENCE);
    }
    process.stop();
}

#[test]
fn profiles_are_for_operators_and_have_bounds() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let page = |path: &str| http(process.http, "GET", &format!("/debug/pprof/{path}")).unwrap();
    for query in ["seconds=0", "seconds=61", "hz=1000", "format=png", "second=1"] {
        let answer = page(&format!("profile?{query}"));
        let name = query.split('=').next().unwrap();
        assert!(answer.code == 400 && answer.body.contains(name), "{query}: {}", answer.body);
    }
    let from_page = [("Origin", "http://elsewhere")];
    let path = "/debug/pprof/profile?seconds=1";
    assert_eq!(http_with(process.http, "GET", path, &from_page).unwrap().code, 403);
    assert_eq!(http(process.http, "POST", path).unwrap().code, 405);
    let heap = page("heap");
    assert!(heap.code == 501 && heap.body.contains("kyrodb_memory_bytes"), "{}", heap.body);
    let metrics = get(process.http, "/metrics").unwrap().1;
    assert!(metrics.contains("kyrodb_memory_bytes{"), "what it names is there");
    process.stop();
}

/// The program writes a profile that pprof tools can read.
#[test]
fn the_operators_program_writes_a_profile_to_a_file() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let profile = |out: &Path| {
        let url = format!("http://{}", process.http);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_ctl"));
        command.args(["--url", &url, "profile", "--seconds", "1", "--out"]).arg(out);
        command.output().unwrap()
    };
    let (file, picture) = (directory.path().join("cpu.pb"), directory.path().join("cpu.svg"));
    let said = profile(&file);
    if said.status.code() == Some(1) {
        assert!(is_refused(&String::from_utf8_lossy(&said.stdout)));
        return;
    }
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let bytes = std::fs::read(&file).unwrap();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(has(b"nanoseconds") && has(b"samples") && !has(b"<svg"));
    assert!(profile(&picture).status.success());
    assert!(std::fs::read_to_string(&picture).unwrap().contains("<svg"));
    let nowhere = profile(&directory.path().join("no/such/place.svg"));
    assert_eq!(nowhere.status.code(), Some(2));
    process.stop();
}

//! Drills of load, modes, settings and restarts.

use kyrodb::proto::QueryRequest;
use tonic::Code;

use crate::common::{Launch, Process, directory, runtime, search, vector};
use crate::{DIMENSION, Runbook, code, put, store, stored};

const SETTINGS: &[(&str, &str)] = &[("runtime.shards", "1")];

#[test]
fn where_to_look_first() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    runtime().block_on(async { store(&mut process.client().await, 3).await });
    let mut runbook = Runbook::open("Where to look first", directory.path());
    runbook.ask(&process);
    runbook
        .next()
        .has(0, &["health       healthy", "ready        yes", "documents    3", "shard 0"]);
    runbook.next().has(0, &["status: healthy"]);
    runbook.next().has(0, &["ready: true"]);
    runbook.next().has(0, &["p99 latency", "10.00 ms", "not judged: 0 of 100 searches"]);
    runbook.next().has(0, &["runtime.shards = 1  # KYRODB__RUNTIME__SHARDS", "--data-dir"]);
    process.stop();
    runbook.again().has(2, &["does not answer", "the gRPC port"]);
    runbook.done();
}

#[test]
fn searches_are_slow() {
    let directory = directory();
    let settings = [("runtime.shards", "1"), ("slo.p99_latency_ms", "0.001")];
    let process = Process::start(&directory.path().join("data"), &settings);
    runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, 20).await;
        for id in 0..120 {
            client.search(search(&vector(id, DIMENSION), 3)).await.unwrap();
        }
    });
    let health = crate::common::get(process.http, "/health").unwrap().1;
    assert!(health.contains("SLO breach over the last minute: slo.p99_latency_ms"), "{health}");
    let mut runbook = Runbook::open("Searches are slow", directory.path());
    runbook.ask(&process);
    runbook.next().has(0, &["p99 latency", "0.00 ms", "MISSED"]);
    let slow = runbook.next().has(0, &["slowest searches of the last 300 s", "LONGEST STAGE"]);
    let lines = slow.text.lines().skip(1);
    assert!(lines.clone().count() <= 40, "{}", slow.text);
    assert!(lines.clone().all(|line| line.chars().count() <= 100), "{}", slow.text);
    runbook.next().has(0, &["stage=\"walk\"", "stage=\"suspended\""]);
    runbook.next().has(0, &["kyrodb_shard_hot_documents{shard=\"0\"} 0"]);
    let profiled = runbook.next();
    // A host may forbid profiles; then the remedy is named.
    if profiled.code == 0 {
        let picture = std::fs::read_to_string(directory.path().join("cpu.svg")).unwrap();
        assert!(picture.contains("kyro-core-0"), "{picture}");
    } else {
        profiled.has(1, &["kernel.perf_event_paranoid"]);
    }
    runbook.done();
    process.stop();
}

#[test]
fn too_much_is_asked_for() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let mut runbook = Runbook::open("Too much is asked for", directory.path());
    runbook.ask(&process);
    runbook.next().has(0, &["ops_per_sec: 500"]);
    let query = || QueryRequest { doc_id: 1, ..QueryRequest::default() };
    let runtime = runtime();
    runtime.block_on(async {
        let client = process.client().await;
        let refused = async {
            for _ in 0..1_000 {
                let all = (0..64).map(|_| {
                    let mut client = client.clone();
                    async move { client.query(query()).await }
                });
                let all = futures_util::future::join_all(all).await;
                if let Some(status) = all.into_iter().find_map(Result::err) {
                    return status;
                }
            }
            panic!("64,000 requests, and none was one too many");
        };
        let refused = refused.await;
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(!crate::common::retry_delay(&refused).is_zero());
    });
    runbook.next().has(0, &["ops_per_sec: 0"]);
    runtime.block_on(async {
        let mut client = process.client().await;
        for _ in 0..1_200 {
            client.query(query()).await.unwrap();
        }
    });
    runbook.done();
    process.stop();
}

#[test]
fn something_else_is_to_write_or_nobody_is() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let mut runbook = Runbook::open("Something else is to write, or nobody is", directory.path());
    runbook.ask(&process);
    let runtime = runtime();
    let codes = || {
        runtime.block_on(async {
            let mut client = process.client().await;
            let read = client.query(QueryRequest { doc_id: 1, ..QueryRequest::default() }).await;
            (code(put(&mut client, 1).await), code(read))
        })
    };
    runbook.next().has(0, &["read_only: true"]);
    assert_eq!(codes(), (Code::Unavailable, Code::Ok));
    runbook.next().has(0, &["read_only: false"]);
    assert_eq!(codes(), (Code::Ok, Code::Ok));
    runbook.next().has(0, &["maintenance: true"]);
    assert_eq!(codes(), (Code::Unavailable, Code::Unavailable));
    runbook.next().has(0, &["maintenance: true"]);
    assert_eq!(crate::common::get(process.http, "/ready").unwrap().0, 503);
    runbook.next().has(0, &["maintenance: false"]);
    assert_eq!(codes(), (Code::Ok, Code::Ok));
    runbook.done();
    process.stop();
}

#[test]
fn a_setting_has_to_change() {
    let directory = directory();
    let path = directory.path().join("kyrodb.yaml");
    std::fs::write(&path, "timeouts:\n  cold_tier_ms: 900\n").unwrap();
    let mut launch = Launch::new(&directory.path().join("data"), SETTINGS);
    launch.command.arg("--config").arg(&path);
    let mut process = launch.spawn();
    process.wait_ready();
    let mut runbook = Runbook::open("A setting has to change", directory.path());
    runbook.ask(&process);
    std::fs::write(&path, "timeouts:\n  cold_tier_ms: 800\nhnsw:\n  m: 17\n").unwrap();
    runbook.next().has(0, &["timeouts.cold_tier_ms: 900 -> 800", "needs a restart: hnsw.m"]);
    std::fs::write(&path, "timeouts:\n  cold_tier_ms: 0\nhnsw:\n  mm: 17\n").unwrap();
    runbook.again().has(1, &["timeouts.cold_tier_ms: has to be above 0", "did you mean `hnsw.m`"]);
    std::fs::write(&path, "hnsw:\n  m: 17\n").unwrap();
    runbook.again().has(0, &["timeouts.cold_tier_ms: 800 -> 1000"]);
    runbook.done();
    process.stop();
}

/// Clients write all the while, and lose no acknowledged document.
#[test]
fn a_restart() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let mut runbook = Runbook::open("A restart", directory.path());
    let mut acknowledged = 0;
    let runtime = runtime();
    for _ in 0..2 {
        let process = Process::start(&data_dir, SETTINGS);
        runbook.ask(&process);
        let writing = runtime.spawn({
            let client = runtime.block_on(process.client());
            async move {
                let (mut client, mut id) = (client, acknowledged);
                while put(&mut client, id + 1).await.is_ok() {
                    id += 1;
                }
                id
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        runbook.next().has(0, &["shutting_down: true"]);
        let log = process.log_path();
        assert_eq!(process.wait(), Some(0), "{}", std::fs::read_to_string(log).unwrap());
        let last = runtime.block_on(writing).unwrap();
        assert!(last > acknowledged, "nothing was written meanwhile");
        acknowledged = last;
    }
    runbook.done();
    let process = Process::start(&data_dir, SETTINGS);
    let found = runtime.block_on(async { stored(&mut process.client().await, acknowledged).await });
    assert_eq!(found, acknowledged);
    process.stop();
}

/// Clients that wait as told, and retry, see only a pause during restarts.
#[test]
fn a_restart_under_load_fails_no_client_that_retries() {
    const CLIENTS: u64 = 4;
    let directory = directory();
    let data_dir = directory.path().join("data");
    let ports = (crate::common::free_port(), crate::common::free_port());
    let start = || {
        let mut process = Launch::at(&data_dir, SETTINGS, ports).spawn();
        process.wait_ready();
        process
    };
    let mut process = start();
    let runtime = runtime();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = runtime.block_on(process.client());
            runtime.spawn(work(client, number, stopped.clone()))
        })
        .collect();
    for signal in ["TERM", "KILL", "TERM"] {
        std::thread::sleep(std::time::Duration::from_millis(200));
        process.signal(signal);
        process.wait();
        process = start();
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    stop.send(true).unwrap();
    let (mut written, mut retries) = (Vec::new(), 0);
    for client in clients {
        let (of_one, tried_again) = runtime.block_on(client).unwrap();
        assert!(of_one.len() > 10, "{}", of_one.len());
        written.extend(of_one);
        retries += tried_again;
    }
    assert!(retries > 0, "nobody noticed three restarts");
    runtime.block_on(async {
        let mut client = process.client().await;
        for ids in written.chunks(5_000) {
            let doc_ids = ids.to_vec();
            let request = kyrodb::proto::BulkQueryRequest { doc_ids, ..Default::default() };
            let found = client.bulk_query(request).await.unwrap().into_inner();
            assert_eq!(found.total_found as usize, ids.len());
        }
    });
    process.stop();
}

/// Writes and searches until stopped; panics if a retryable failure does not go away. Returns the acknowledged ids, and
/// the number of retries.
async fn work(
    mut client: crate::common::Client,
    number: u64,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> (Vec<u64>, u64) {
    use tonic_types::StatusExt;
    let (mut written, mut retries) = (Vec::new(), 0);
    let mut id = number;
    while !*stopped.borrow() {
        id += 10;
        let mut tries = 0;
        loop {
            let stored = put(&mut client, id).await;
            let found = match stored {
                Ok(()) => client.search(search(&vector(id, DIMENSION), 1)).await.map(drop),
                Err(status) => Err(status),
            };
            let Err(status) = found else { break };
            // A broken connection leaves the outcome open: the request may or may not have been executed.
            let is_passing =
                matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
            assert!(is_passing, "{status:?}");
            tries += 1;
            assert!(tries < 500, "{status:?}");
            retries += 1;
            let said = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            tokio::time::sleep(said.unwrap_or(std::time::Duration::from_millis(20))).await;
        }
        written.push(id);
    }
    (written, retries)
}

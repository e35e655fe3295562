//! Modes that operators switch: read-only, maintenance, shutdown, reload.

use kyrodb::proto::{FlushRequest, HealthRequest, QueryRequest};
use serde_json::Value;
use tonic::Code;

use crate::common::{
    Answer, Client, Process, directory, get, http, insert, metric, retry_delay, runtime, search,
};
use crate::{DIMENSION, Place, ROOT, put};

fn vector(id: u64) -> Vec<f32> {
    crate::common::vector(id, DIMENSION)
}

fn post(process: &Process, path: &str) -> Answer {
    http(process.http, "POST", path).unwrap()
}

/// Results of a write and of a read.
async fn codes(client: &mut Client) -> [Code; 4] {
    fn code<T>(answer: Result<T, tonic::Status>) -> Code {
        let Err(status) = answer else { return Code::Ok };
        assert!(!retry_delay(&status).is_zero(), "{status:?}");
        status.code()
    }
    let documents = tokio_stream::iter([insert(2, &vector(2), &[])]);
    let query = QueryRequest { doc_id: 1, ..QueryRequest::default() };
    [
        code(client.insert(insert(1, &vector(1), &[])).await),
        code(client.bulk_load_hnsw(documents).await),
        code(client.query(query).await),
        code(client.search(search(&vector(1), 1)).await),
    ]
}

#[test]
fn read_only_outlives_a_restart_and_maintenance_does_not() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let settings = [("runtime.shards", "1")];
    let mut process = Process::start(&data_dir, &settings);
    let (all, refused) = ([Code::Ok; 4], Code::Unavailable);
    let only_reads = [refused, refused, Code::Ok, Code::Ok];
    let runtime = runtime();
    let ask =
        |process: &Process| runtime.block_on(async { codes(&mut process.client().await).await });
    let reason = |process: &Process| -> (u16, String) {
        let (code, body) = get(process.http, "/health").unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        (code, body["reason"].as_str().unwrap_or_default().to_owned())
    };
    let gauge = |process: &Process, name: &str| {
        metric(&get(process.http, "/metrics").unwrap().1, name).unwrap()
    };
    assert_eq!(ask(&process), all);
    assert_eq!(post(&process, "/admin/read-only").code, 400);
    assert_eq!(post(&process, "/admin/read-only?state=perhaps").code, 400);
    assert_eq!(ask(&process), all);
    let on = post(&process, "/admin/read-only?state=on");
    assert!(on.code == 200 && on.body.contains("\"read_only\":true"), "{on:?}");
    assert_eq!(ask(&process), only_reads);
    process.kill();
    process = Process::start(&data_dir, &settings);
    assert_eq!(ask(&process), only_reads);
    assert_eq!(gauge(&process, "kyrodb_read_only"), 1.0);
    let (code, why) = reason(&process);
    assert!(code == 200 && why.contains("read-only"), "{why}");
    assert_eq!(post(&process, "/admin/read-only?state=off").code, 200);
    assert_eq!(ask(&process), all);
    // In maintenance no client is answered, and load balancers look elsewhere; operators' requests work, and the
    // process should not be restarted.
    assert_eq!(post(&process, "/admin/maintenance?state=on").code, 200);
    assert_eq!(ask(&process), [refused; 4]);
    let (code, why) = reason(&process);
    assert!(code == 503 && why.contains("maintenance"), "{why}");
    assert_eq!(get(process.http, "/ready").unwrap().0, 503);
    assert_eq!(get(process.http, "/livez").unwrap().0, 200);
    assert_eq!(gauge(&process, "kyrodb_maintenance"), 1.0);
    assert_eq!(post(&process, "/admin/snapshot").code, 200);
    runtime.block_on(async {
        let mut client = process.client().await;
        client.flush_hot_tier(FlushRequest { force: true }).await.unwrap();
        let health = client.health(HealthRequest::default()).await.unwrap().into_inner();
        assert!(health.components["cold_tier"].contains("maintenance"), "{health:?}");
    });
    process.kill();
    process = Process::start(&data_dir, &settings);
    assert_eq!(ask(&process), all);
    assert_eq!(get(process.http, "/admin/read-only").unwrap().0, 200);
    process.stop();
}

#[test]
fn a_server_is_shut_down_over_http_and_what_was_acknowledged_is_there() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let settings = [("runtime.shards", "1")];
    for (round, mode) in (1..).zip(["", "?mode=graceful", "?mode=emergency"]) {
        let process = Process::start(&data_dir, &settings);
        runtime().block_on(async {
            let mut client = process.client().await;
            client.insert(insert(round, &vector(round), &[])).await.unwrap();
        });
        assert_eq!(post(&process, "/admin/shutdown?mode=soon").code, 400);
        assert_eq!(post(&process, &format!("/admin/shutdown{mode}")).code, 202);
        assert_eq!(process.wait(), Some(0), "{mode}");
    }
    let process = Process::start(&data_dir, &settings);
    let metrics = get(process.http, "/metrics").unwrap().1;
    assert_eq!(metric(&metrics, "kyrodb_hnsw_vector_count"), Some(3.0));
    process.stop();
}

#[test]
fn pages_show_settings_in_force_and_documents() {
    let place = Place::new(&[ROOT], &[("slo.p99_latency_ms", "25")]);
    let process = place.start();
    runtime().block_on(async { put(&mut process.client().await, &ROOT, 1).await.unwrap() });
    let page = |path: &str| -> Value {
        serde_json::from_str(&crate::get(&process, path, &ROOT.key()).body).unwrap()
    };
    let config = page("/config");
    assert_eq!(config["slo.p99_latency_ms"]["value"], 25.0);
    assert_eq!(config["slo.p99_latency_ms"]["origin"], "KYRODB__SLO__P99_LATENCY_MS");
    assert_eq!(config["persistence.data_dir"]["origin"], "--data-dir");
    assert_eq!(config["hnsw.m"]["origin"], "default");
    let stats = page("/stats");
    assert_eq!((&stats["documents"], stats["shards"].as_array().unwrap().len()), (&1.into(), 2));
    assert!(stats["cores"][0]["is_running"].as_bool().unwrap(), "{stats}");
    let slo = page("/slo");
    assert_eq!(slo["slo_thresholds"]["p99_latency_ns"], 25_000_000);
    assert_eq!(slo["slo_breaches"]["p99_latency"], false);
    // Operators' actions are logged: the requester, and the result.
    crate::get(&process, "/admin/read-only", &ROOT.key());
    let log = process.log();
    let line = log.lines().find(|line| line.contains("/admin/read-only")).unwrap_or_default();
    assert!(line.contains("root") && line.contains("200"), "{log}");
    process.stop();
}

#[test]
fn a_reload_changes_what_can_change_and_names_the_rest() {
    let directory = directory();
    let path = directory.path().join("kyrodb.toml");
    let configure = |text: &str| std::fs::write(&path, text).unwrap();
    configure("[runtime]\nshards = 1\n[slo]\np99_latency_ms = 10.0\n");
    let mut launch = crate::common::Launch::new(&directory.path().join("data"), &[]);
    launch.command.arg("--config").arg(&path);
    let mut process = launch.spawn();
    process.wait_ready();
    let threshold = || -> u64 {
        let page: Value = serde_json::from_str(&get(process.http, "/slo").unwrap().1).unwrap();
        page["slo_thresholds"]["p99_latency_ns"].as_u64().unwrap()
    };
    assert_eq!(threshold(), 10_000_000);
    configure(
        "[runtime]\nshards = 1\n[slo]\np99_latency_ms = 99.0\n[hnsw]\nm = 20\n\
         [logging]\nlevel = \"debug\"\n",
    );
    process.signal("HUP");
    runtime().block_on(crate::common::eventually("the objective changes", || async {
        threshold() == 99_000_000
    }));
    // The page shows values in force, and not those that need a restart.
    let page: Value = serde_json::from_str(&get(process.http, "/config").unwrap().1).unwrap();
    let file = path.to_string_lossy();
    assert_eq!(page["slo.p99_latency_ms"]["value"], 99.0);
    assert_eq!(page["logging.level"]["origin"], *file);
    assert_eq!(
        (&page["hnsw.m"]["value"], &page["hnsw.m"]["origin"]),
        (&16.into(), &"default".into())
    );
    runtime().block_on(crate::common::eventually("the log tells", || async {
        let log = process.log();
        ["slo.p99_latency_ms: 10.0 -> 99.0", "needs a restart: hnsw.m"]
            .iter()
            .all(|what| log.contains(what))
    }));
    configure("[slo]\np99_latency_ms = -1.0\n[hnsw]\nm = 1000\nef_serch = 7\n");
    let refused = post(&process, "/admin/reload");
    assert_eq!(refused.code, 400, "{refused:?}");
    for what in ["slo.p99_latency_ms", "hnsw.m", "did you mean `hnsw.ef_search`"] {
        assert!(refused.body.contains(what), "{what}: {refused:?}");
    }
    assert_eq!(threshold(), 99_000_000);
    configure("[runtime]\nshards = 1\n[slo]\np99_latency_ms = 10.0\n");
    assert_eq!(post(&process, "/admin/reload").code, 200);
    assert_eq!(threshold(), 10_000_000);
    process.stop();
}

/// Started as by systemd, which listens on a socket.
#[test]
fn systemd_is_told_how_the_server_is() {
    let directory = directory();
    let path = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    let mut launch =
        crate::common::Launch::new(&directory.path().join("data"), &[("runtime.shards", "1")]);
    launch.command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let process = launch.spawn();
    let mut told = String::new();
    let mut until = |what: &str| {
        let (mut message, begun) = ([0; 4_096], std::time::Instant::now());
        while !told.contains(what) {
            assert!(begun.elapsed() < crate::common::PATIENCE, "{what}: {told}");
            let bytes = socket.recv(&mut message).unwrap_or_else(|_| panic!("{what}: {told}"));
            told.push_str(std::str::from_utf8(&message[..bytes]).unwrap());
            told.push('\n');
        }
        std::mem::take(&mut told)
    };
    let start = until("READY=1");
    // STATUS comes before READY.
    assert!(start.contains("STATUS=healthy"), "{start}");
    until("WATCHDOG=1");
    assert_eq!(post(&process, "/admin/maintenance?state=on").code, 200);
    until("STATUS=unhealthy: in maintenance");
    until("WATCHDOG=1");
    process.signal("HUP");
    let reload = until("READY=1");
    assert!(reload.contains("RELOADING=1") && reload.contains("MONOTONIC_USEC="), "{reload}");
    process.signal("TERM");
    until("STOPPING=1");
    assert_eq!(process.wait(), Some(0));
}

/// A web page in a browser on this machine may send requests here; the browser's headers say so.
#[test]
fn a_page_in_a_browser_is_no_operator() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), &[("runtime.shards", "1")]);
    let path = "/admin/read-only?state=on";
    for header in [("Origin", "https://elsewhere.example"), ("Sec-Fetch-Site", "cross-site")] {
        let answer = crate::common::http_with(process.http, "POST", path, &[header]).unwrap();
        assert_eq!(answer.code, 403, "{header:?}: {answer:?}");
        // Reading pages is refused as well.
        for path in ["/config", "/metrics", "/health"] {
            let answer = crate::common::http_with(process.http, "GET", path, &[header]).unwrap();
            assert_eq!(answer.code, 403, "{path} {header:?}: {answer:?}");
        }
    }
    assert!(get(process.http, "/admin/read-only").unwrap().1.contains("\"read_only\":false"));
    process.stop();
}

/// One request with this `Host`, and these other headers.
fn ask(process: &Process, path: &str, host: &str, more: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(process.http).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    (code, answer)
}

/// A web page may map its own name to this server's address: requests with a foreign host name are refused.
#[test]
fn pages_are_answered_by_the_names_of_the_server_alone() {
    let directory = directory();
    let settings =
        [("runtime.shards", "1"), ("server.http_allowed_hosts", "kyrodb.internal, db.example")];
    let process = Process::start(&directory.path().join("data"), &settings);
    let port = process.http.port();
    for path in ["/", "/config", "/stats", "/debug/slow", "/admin/read-only", "/health", "/metrics"]
    {
        for good in [
            "localhost",
            &format!("127.0.0.1:{port}"),
            &format!("LOCALHOST:{port}"),
            "[::1]:1",
            "10.1.2.3:9",
            "db.example",
            &format!("kyrodb.internal:{port}"),
        ] {
            assert_eq!(ask(&process, path, good, "").0, 200, "{path} by {good}");
        }
        for bad in ["attacker.example", "localhost.attacker.example", "db.example.attacker.example"]
        {
            let (code, answer) = ask(&process, path, bad, "");
            assert_eq!(code, 403, "{path} by {bad}");
            assert!(answer.contains("server.http_allowed_hosts"), "{answer}");
        }
    }
    // Behind a proxy all clients seem to be local.
    for (path, code) in [("/admin/read-only", 403), ("/config", 403), ("/metrics", 200)] {
        let more = "X-Forwarded-For: 192.0.2.1\r\n";
        assert_eq!(ask(&process, path, "localhost", more).0, code, "{path}");
    }
    process.stop();
}

/// In a network, monitors use names that the server can't know; the other pages are as guarded as on loopback.
#[test]
fn monitors_come_by_any_name_where_pages_are_open_to_a_network() {
    let directory = directory();
    // On other addresses, pages that a network can reach have to require a key.
    let settings = [
        ("runtime.shards", "1"),
        ("server.http_host", "0.0.0.0"),
        ("environment.type", "benchmark"),
    ];
    let process = Process::start(&directory.path().join("data"), &settings);
    for (path, code) in [("/metrics", 200), ("/health", 200), ("/config", 403), ("/stats", 403)] {
        assert_eq!(ask(&process, path, "kyrodb.monitoring.svc:51051", "").0, code, "{path}");
    }
    process.stop();
}

#[test]
fn log_files_have_a_size_and_a_number() {
    let directory = directory();
    let path = directory.path().join("kyrodb.log").to_string_lossy().into_owned();
    let settings = [
        ("runtime.shards", "1"),
        ("logging.file", path.as_str()),
        ("logging.max_file_size_bytes", "4000"),
        ("logging.max_files", "3"),
    ];
    let data_dir = directory.path().join("data");
    for _ in 0..2 {
        let process = Process::start(&data_dir, &settings);
        for _ in 0..150 {
            get(process.http, "/admin/read-only").unwrap();
        }
        process.stop();
    }
    let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap());
    let mut logs: Vec<(String, u64)> = names
        .map(|entry| {
            let bytes = entry.metadata().unwrap().len();
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .filter(|(name, _)| name.starts_with("kyrodb.log"))
        .collect();
    logs.sort();
    let found: Vec<&str> = logs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(found, ["kyrodb.log", "kyrodb.log.1", "kyrodb.log.2"]);
    // The line that fills a file is whole.
    assert!(logs.iter().all(|(_, bytes)| *bytes < 5_000), "{logs:?}");
    let last = std::fs::read_to_string(&path).unwrap();
    assert!(last.contains("good-bye"), "{last}");
}

/// Refusals during read-only or maintenance were requested by operators: they do not count against an objective.
#[test]
fn refusals_for_planned_work_are_no_errors_of_the_server() {
    let directory = directory();
    let settings = [("runtime.shards", "1"), ("slo.min_samples", "1")];
    let process = Process::start(&directory.path().join("data"), &settings);
    for (mode, asked) in [("read-only", 20.0), ("maintenance", 40.0)] {
        assert_eq!(post(&process, &format!("/admin/{mode}?state=on")).code, 200);
        runtime().block_on(async {
            let mut client = process.client().await;
            for id in 1..=20 {
                let status = client.insert(insert(id, &vector(id), &[])).await.unwrap_err();
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            }
        });
        assert_eq!(post(&process, &format!("/admin/{mode}?state=off")).code, 200);
        let slo = get(process.http, "/slo").unwrap().1;
        assert!(slo.contains("\"error_rate\":0.0"), "{mode}: {slo}");
        let health = get(process.http, "/health").unwrap().1;
        assert!(health.contains("\"healthy\""), "{mode}: {health}");
        let metrics = get(process.http, "/metrics").unwrap().1;
        let errors = |category: &str| {
            metric(&metrics, &format!("kyrodb_errors_total{{category=\"{category}\"}}"))
        };
        let counted = (errors("planned"), errors("internal"));
        assert_eq!(counted, (Some(asked), Some(0.0)), "{mode}: {metrics}");
    }
    process.stop();
}

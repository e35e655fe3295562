//! Lines of operators' guides about the log of the server, and about pages and figures that are looked up by name.

use crate::common::{directory, runtime, search, vector};
use crate::guides::{Line, Shell, started};
use crate::{DIMENSION, store};

/// Shell function that waits for a text in the log of the server, like a patient `tail -f`.
const UNTIL_LOG: &str = "until_log() { for i in $(seq 600); do grep -q \"$1\" server.log && break; \
                         sleep 0.1; done; grep \"$1\" server.log; }";

/// True if curl is installed, which guides use.
fn has_curl() -> bool {
    let has_curl = std::process::Command::new("curl").arg("--version").output().is_ok();
    if !has_curl {
        println!("skipped: there is no curl");
    }
    has_curl
}

#[test]
fn words_that_guides_look_for_are_in_the_log() {
    if !has_curl() {
        return;
    }
    let directory = directory();
    let yaml =
        "logging: {file: ./server.log}\nslo: {p99_latency_ms: 0.001}\nruntime: {shards: 1}\n";
    let process = started(directory.path(), yaml);
    runtime().block_on(async {
        let mut client = process.client().await;
        store(&mut client, 20).await;
        for id in 0..150 {
            client.search(search(&vector(id, DIMENSION), 3)).await.unwrap();
        }
    });
    Shell::in_directory(directory.path()).knows(&process).with("UNTIL_LOG", UNTIL_LOG).types(&[
        Line {
            what: "objectives that are missed",
            typed: "eval \"$UNTIL_LOG\"; until_log 'SLO breach'",
            code: 0,
            says: &["SLO breach", "slo.p99_latency_ms"],
        },
        Line {
            what: "the breaker",
            typed: "eval \"$UNTIL_LOG\"; curl -s -X POST http://$HTTP/admin/circuit-breaker/trip && \
                    until_log 'circuit breaker open' && \
                    curl -s -X POST http://$HTTP/admin/circuit-breaker/reset",
            code: 0,
            says: &["circuit breaker open"],
        },
        Line {
            what: "a reload, and what becomes of training",
            typed: "eval \"$UNTIL_LOG\"; kill -HUP $PID; until_log reload && grep -i training server.log",
            code: 0,
            says: &["SIGHUP: reload", "no training task runs"],
        },
    ]);
    process.stop();
}

#[test]
fn pages_and_figures_have_the_names_that_guides_look_for() {
    if !has_curl() {
        return;
    }
    let directory = directory();
    let process = started(directory.path(), "logging: {file: ./server.log}\n");
    runtime().block_on(async { store(&mut process.client().await, 20).await });
    Shell::in_directory(directory.path()).knows(&process).types(&[
        Line {
            what: "health, by a word",
            typed: "curl -s http://$HTTP/health | grep -q \"ok\" && echo passed",
            code: 0,
            says: &["passed"],
        },
        Line {
            what: "a rolling restart waits for it",
            typed: "until curl -s http://$HTTP/health | grep -q \"ok\"; do sleep 1; done; echo ended",
            code: 0,
            says: &["ended"],
        },
        Line {
            what: "memory is given back",
            typed: "curl -s -X POST http://$HTTP/admin/gc",
            code: 0,
            says: &["resident_bytes_after"],
        },
        Line {
            what: "what each thread is at",
            typed: "curl -s \"http://$HTTP/debug/pprof/goroutine?debug=1\"",
            code: 0,
            says: &["threads: ", "kyro-core-0"],
        },
        Line {
            what: "syncs",
            typed: "curl -s http://$HTTP/metrics | grep fsync",
            code: 0,
            says: &["kyrodb_wal_fsync_seconds"],
        },
        Line {
            what: "descriptors and CPU",
            typed: "curl -s http://$HTTP/metrics | grep ^process_",
            code: 0,
            says: &["process_open_fds", "process_cpu_seconds_total"],
        },
        Line {
            what: "training",
            typed: "curl -s http://$HTTP/metrics | grep training_crashes",
            code: 0,
            says: &["kyrodb_training_crashes_total 0"],
        },
    ]);
    process.stop();
}

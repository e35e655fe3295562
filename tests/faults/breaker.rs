//! Operators' commands to the breaker of the log.

use std::time::Duration;

use tonic::Code;

use crate::common::{Process, directory, get, http, ids, metric, runtime, search, vector};
use crate::{DIMENSION, assert_degraded, assert_healthy, metrics, put, refused};

const PATH: &str = "/admin/circuit-breaker";
const SETTINGS: &[(&str, &str)] = &[("runtime.shards", "3")];

fn ask(process: &Process, method: &str, what: &str) -> (u16, String) {
    let answer = http(process.http, method, &format!("{PATH}/{what}")).unwrap();
    (answer.code, answer.body)
}

#[test]
fn an_operator_trips_and_resets_all_breakers() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    let runtime = runtime();
    runtime.block_on(async { crate::store(&mut process.client().await, 20).await });
    let (code, body) = ask(&process, "GET", "status");
    assert_eq!(code, 200);
    assert!(body.contains("\"state\":\"closed\"") && !body.contains("open"), "{body}");

    let (code, body) = ask(&process, "POST", "trip");
    assert_eq!(code, 200);
    assert_eq!(body.matches("\"state\":\"open\"").count(), 1 + 3, "all and each: {body}");
    assert!(body.contains("tripped by an operator") && body.contains("retry_after_ms"), "{body}");
    assert_eq!(metric(&metrics(&process), "kyrodb_wal_circuit_breaker_state"), Some(1.0));
    assert_degraded(&process, "circuit breaker open");
    runtime.block_on(async {
        let mut client = process.client().await;
        for id in 21..30 {
            let left = refused(put(&mut client, id).await, Code::Unavailable);
            assert!(left > Duration::from_secs(30) && left <= Duration::from_secs(60), "{left:?}");
        }
        let found = client.search(search(&vector(3, DIMENSION), 1)).await.unwrap().into_inner();
        assert_eq!(ids(&found), [3]);
    });

    assert_eq!(ask(&process, "POST", "reset").0, 200);
    assert_eq!(metric(&metrics(&process), "kyrodb_wal_circuit_breaker_state"), Some(0.0));
    assert_healthy(&process);
    runtime.block_on(async { put(&mut process.client().await, 21).await.unwrap() });
    process.stop();
}

#[test]
fn other_methods_and_paths_are_refused() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), SETTINGS);
    for (method, what) in [("GET", "trip"), ("GET", "reset"), ("POST", "status"), ("PUT", "trip")] {
        assert_eq!(ask(&process, method, what).0, 405, "{method} {what}");
    }
    assert_eq!(get(process.http, PATH).unwrap().0, 404);
    let (_, body) = ask(&process, "GET", "status");
    assert!(body.contains("\"state\":\"closed\""), "nothing was done: {body}");
    process.stop();
}

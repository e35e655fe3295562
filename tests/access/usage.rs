//! Usage of tenants, over HTTP and in files.

use kyrodb::proto::{BulkQueryRequest, DeleteRequest, QueryRequest};
use serde_json::Value;

use crate::common::{http, insert, runtime, search};
use crate::{ACME, BETA, DIMENSION, Place, ROOT, by, get, put, vector};

fn usage(process: &crate::common::Process, key: &str, path: &str) -> Value {
    let answer = get(process, path, key);
    assert_eq!(answer.code, 200, "{answer:?}");
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn usage_is_counted_over_restarts_and_shown_to_whom_it_concerns() {
    let place = Place::new(&[ACME, BETA, ROOT], &[]);
    let process = place.start();
    let (acme, root) = (ACME.key(), ROOT.key());
    assert_eq!(usage(&process, &acme, "/usage")["tenants"], Value::Array(Vec::new()));
    runtime().block_on(async {
        let mut client = process.client().await;
        for id in 1..=4 {
            put(&mut client, &ACME, id).await.unwrap();
        }
        // A new version is not a new document.
        put(&mut client, &ACME, 4).await.unwrap();
        let stream = tokio_stream::iter([insert(5, &vector(&ACME, 5), &[])]);
        client.bulk_load_hnsw(by(&ACME, stream)).await.unwrap();
        let delete = DeleteRequest { doc_id: 1, namespace: String::new() };
        client.delete(by(&ACME, delete.clone())).await.unwrap();
        client.delete(by(&ACME, delete)).await.unwrap();
        let query = QueryRequest { doc_id: 2, ..QueryRequest::default() };
        client.query(by(&ACME, query)).await.unwrap();
        let bulk = BulkQueryRequest { doc_ids: vec![1, 2, 3], ..BulkQueryRequest::default() };
        client.bulk_query(by(&ACME, bulk)).await.unwrap();
        client.search(by(&ACME, search(&vector(&ACME, 2), 1))).await.unwrap();
        let refused = client.search(by(&ACME, search(&vector(&ACME, 2), 0))).await;
        assert!(refused.is_err(), "what is refused is not billed");
        put(&mut client, &BETA, 1).await.unwrap();
    });
    let check = |process: &crate::common::Process| {
        let own = usage(process, &acme, "/usage?scope=self");
        let [only] = own["tenants"].as_array().unwrap().as_slice() else { panic!("{own}") };
        assert_eq!(only["tenant_id"], "acme");
        assert_eq!(
            ["query_count", "insert_count", "delete_count", "vector_count", "billable_events"]
                .map(|name| only[name].as_u64().unwrap()),
            [5, 5, 1, 4, 11]
        );
        let bytes = 4 * DIMENSION as u64;
        assert_eq!(only["storage_bytes"], 4 * bytes);
        let all = usage(process, &root, "/usage?scope=ALL");
        let tenants = all["tenants"].as_array().unwrap();
        let ids: Vec<&str> = tenants.iter().map(|t| t["tenant_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["acme", "beta_2"]);
        assert_eq!(all["totals"]["vector_count"], 5);
        assert_eq!(all["totals"]["storage_bytes"], 5 * bytes);
        assert!(all["generated_at"].as_str().unwrap().ends_with('Z'));
    };
    check(&process);
    // Callers without permission, and invalid requests; the key is checked first.
    assert_eq!(get(&process, "/usage?scope=all", &acme).code, 403);
    assert_eq!(get(&process, "/usage?scope=all", &acme).body, "forbidden");
    assert_eq!(get(&process, "/usage?scope=some", &acme).code, 400);
    let refused = http(process.http, "GET", "/usage?scope=some").unwrap();
    assert_eq!((refused.code, refused.body.as_str()), (401, "unauthorized"));
    assert!(!refused.headers.contains_key("content-type"), "{refused:?}");
    process.stop();
    let folder = place.data_dir().join("usage");
    let table = std::fs::read_to_string(folder.join("tenant_usage_latest.csv")).unwrap();
    assert!(table.lines().nth(1).unwrap().starts_with("acme,5,5,1,4,128,0.00,11,"), "{table}");
    let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.starts_with("tenant_usage_shutdown_")), "{names:?}");
    let process = place.start();
    check(&process);
    process.stop();
}

#[test]
fn pages_ask_for_a_key_as_configured() {
    let place = |auth| Place::new(&[ACME, ROOT], &[("server.observability_auth", auth)]);
    let open = ["/", "/health", "/ready", "/livez", "/healthz", "/readyz"];
    for (auth, keyed) in [
        ("disabled", &[][..]),
        ("metrics_and_slo", &["/metrics", "/slo"][..]),
        (
            "all",
            &["/", "/metrics", "/slo", "/health", "/ready", "/livez", "/healthz", "/readyz"][..],
        ),
    ] {
        let place = place(auth);
        // With `all`, readiness also requires a key.
        let mut process = crate::common::Process::spawn(&place.data_dir(), &place.settings());
        let begun = std::time::Instant::now();
        let key = ACME.key();
        let headers = [("x-api-key", key.as_str())];
        let is_ready = || {
            let answer = crate::common::http_with(process.http, "GET", "/ready", &headers);
            answer.is_ok_and(|answer| answer.code == 200)
        };
        while !is_ready() {
            assert!(begun.elapsed() < crate::common::PATIENCE, "{}", process.log());
        }
        if auth != "all" {
            process.wait_ready();
        }
        for path in open.iter().chain(&["/metrics", "/slo"]) {
            let answer = http(process.http, "GET", path).unwrap();
            let wanted = if keyed.contains(path) { 401 } else { 200 };
            assert_eq!(answer.code, wanted, "{path} with {auth}: {answer:?}");
            assert_eq!(get(&process, path, &ACME.key()).code, 200, "{path} with {auth}");
            assert_eq!(get(&process, path, "nonsense").code, wanted, "{path} with {auth}");
        }
        for path in ["/stats", "/config", "/debug/slow", "/admin/circuit-breaker/status"] {
            assert_eq!(http(process.http, "GET", path).unwrap().code, 401, "{path}");
            assert_eq!(get(&process, path, &ACME.key()).code, 403, "{path}");
            let answer = get(&process, path, &ROOT.key());
            assert_eq!(answer.code, 200, "{path}");
            assert!(!answer.body.contains(&"a".repeat(32)), "no secret is shown");
        }
        process.stop();
    }
}

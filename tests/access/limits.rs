//! Quotas and rate limits.

use kyrodb::proto::{DeleteRequest, HealthRequest, InsertRequest, QueryRequest, SearchRequest};
use tonic::{Code, Status};

use crate::common::{insert, retry_delay, runtime, search};
use crate::{ACME, BETA, Entry, Place, ROOT, by, put, vector};

const QUOTA: u64 = 3;
const SMALL: Entry<'static> = Entry { tenant: "small", mark: 's', more: "max_vectors: 3" };

fn documents(ids: impl Iterator<Item = u64>) -> impl Iterator<Item = InsertRequest> {
    ids.map(|id| insert(id, &vector(&SMALL, id), &[]))
}

fn is_exhausted(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(!retry_delay(status).is_zero());
}

#[test]
fn a_quota_counts_documents_and_no_new_version_of_one() {
    let place = Place::new(&[SMALL, BETA, ROOT], &[]);
    let mut process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        for id in 1..=QUOTA {
            put(&mut client, &SMALL, id).await.unwrap();
        }
        put(&mut client, &SMALL, QUOTA).await.unwrap();
        let refused = put(&mut client, &SMALL, QUOTA + 1).await.unwrap_err();
        is_exhausted(&refused);
        assert!(refused.message().contains("max_vectors"), "{refused:?}");
        put(&mut client, &BETA, 1).await.unwrap();
    });
    // Counted again from the documents.
    process.kill();
    process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        is_exhausted(&put(&mut client, &SMALL, QUOTA + 1).await.unwrap_err());
        // In a stream, only the excess document fails.
        let stream = tokio_stream::iter(documents(3..=5));
        let done = client.bulk_insert(by(&SMALL, stream)).await.unwrap().into_inner();
        assert_eq!((done.total_inserted, done.total_failed), (1, 2));
        assert!(done.error.contains("max_vectors"), "{}", done.error);
        // A bulk load is refused as a whole, though earlier documents are kept.
        let stream = tokio_stream::iter(documents(1..=200));
        is_exhausted(&client.bulk_load_hnsw(by(&SMALL, stream)).await.unwrap_err());
        // A deleted document frees one place, once.
        let delete = DeleteRequest { doc_id: 1, namespace: String::new() };
        for existed in [true, false] {
            let done = client.delete(by(&SMALL, delete.clone())).await.unwrap().into_inner();
            assert_eq!(done.existed, existed);
        }
        put(&mut client, &SMALL, 9).await.unwrap();
        is_exhausted(&put(&mut client, &SMALL, 10).await.unwrap_err());
        // Concurrent clients get no more places than there are.
        let delete = DeleteRequest { doc_id: 9, namespace: String::new() };
        client.delete(by(&SMALL, delete)).await.unwrap();
        let inserts = (100..140).map(|id| {
            let mut client = client.clone();
            async move { put(&mut client, &SMALL, id).await.is_ok() }
        });
        let done = futures_util::future::join_all(inserts).await;
        assert_eq!(done.iter().filter(|is_in| **is_in).count(), 1);
    });
    process.stop();
}

/// A bucket of ten tokens that fills in a second is emptied by a burst; how many more requests pass depends on the time
/// that it takes.
#[test]
fn a_tenant_has_its_rate_and_one_that_floods_costs_others_nothing() {
    let slow = Entry { tenant: "slow", mark: 's', more: "max_qps: 10" };
    let slow_again = Entry { tenant: "slow", mark: 't', more: "max_qps: 5000" };
    let place = Place::new(&[slow, slow_again, ACME, ROOT], &[]);
    let slow = [
        Entry { tenant: "slow", mark: 's', more: "" },
        Entry { tenant: "slow", mark: 't', more: "" },
    ];
    let process = place.start();
    runtime().block_on(async {
        let client = process.client().await;
        let request = QueryRequest { doc_id: 1, ..QueryRequest::default() };
        let begun = std::time::Instant::now();
        let flood = (0..400).map(|number: usize| {
            let (mut client, request) = (client.clone(), by(&slow[number % 2], request.clone()));
            async move { client.query(request).await }
        });
        let flood = flood.collect::<Vec<_>>();
        let answers = futures_util::future::join_all(flood).await;
        let allowed = answers.iter().filter(|answer| answer.is_ok()).count() as f64;
        let most = 10.0 + 10.0 * begun.elapsed().as_secs_f64();
        assert!((10.0..=most).contains(&allowed), "{allowed} of at most {most}");
        answers.iter().filter_map(|answer| answer.as_ref().err()).for_each(is_exhausted);
        let mut client = client;
        // The other tenants are not affected, and free methods stay free.
        for _ in 0..100 {
            put(&mut client, &ACME, 1).await.unwrap();
            client.health(by(&slow[0], HealthRequest::default())).await.unwrap();
        }
        // Each message of a stream costs a token, and the stream ends when none is left.
        let one = || search(&vector(&ACME, 1), 1);
        let stream = tokio_stream::iter((0..100).map(|_| one()).collect::<Vec<SearchRequest>>());
        let mut found = client.bulk_search(by(&slow[0], stream)).await.unwrap().into_inner();
        let ended = loop {
            match found.message().await {
                Ok(answer) => assert!(answer.is_some(), "nothing limited it"),
                Err(status) => break status,
            }
        };
        is_exhausted(&ended);
        let stream = tokio_stream::iter(documents(1..=100).collect::<Vec<_>>());
        is_exhausted(&client.bulk_insert(by(&slow[0], stream)).await.unwrap_err());
    });
    process.stop();
}

#[test]
fn all_tenants_together_have_a_rate_that_operators_can_change() {
    let settings = [
        ("rate_limit.enabled", "true"),
        ("rate_limit.max_qps_per_connection", "100000"),
        ("rate_limit.max_qps_global", "5"),
        ("rate_limit.burst_capacity", "20"),
    ];
    let place = Place::new(&[ACME, BETA, ROOT], &settings);
    let process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        let request = QueryRequest { doc_id: 1, ..QueryRequest::default() };
        let refused = loop {
            let entry = if rand_bit() { &ACME } else { &BETA };
            if let Err(status) = client.query(by(entry, request.clone())).await {
                break status;
            }
        };
        is_exhausted(&refused);
        assert!(refused.message().contains("the server's rate limit"), "{refused:?}");
        let root = ROOT.key();
        let headers = [("x-api-key", root.as_str())];
        let path = "/admin/rate-limit?ops_per_sec=0";
        let done = crate::common::http_with(process.http, "POST", path, &headers).unwrap();
        assert_eq!(done.code, 200, "{done:?}");
        for _ in 0..200 {
            client.query(by(&ACME, request.clone())).await.unwrap();
        }
    });
    process.stop();
}

/// Refusals for a rate are not the server's fault: they do not count against an objective.
#[test]
fn refusals_for_a_rate_are_no_errors_of_the_server() {
    let slow = [Entry { tenant: "slow", mark: 'l', more: "max_qps: 1" }];
    let place = Place::new(&[slow[0], ROOT], &[("slo.min_samples", "1")]);
    let process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        for _ in 0..50 {
            let request = QueryRequest { doc_id: 1, ..QueryRequest::default() };
            if let Err(status) = client.query(by(&slow[0], request)).await {
                is_exhausted(&status);
            }
        }
    });
    let slo = crate::common::get(process.http, "/slo").unwrap().1;
    assert!(slo.contains("\"error_rate\":0.0"), "{slo}");
    let health = crate::common::get(process.http, "/health").unwrap().1;
    assert!(health.contains("\"healthy\""), "{health}");
    let metrics = crate::common::get(process.http, "/metrics").unwrap().1;
    let errors = |category: &str| {
        crate::common::metric(&metrics, &format!("kyrodb_errors_total{{category=\"{category}\"}}"))
    };
    assert!(errors("limited").unwrap() >= 40.0, "{metrics}");
    assert_eq!(errors("resource_exhausted"), Some(0.0));
    process.stop();
}

/// A request refused for its rate is refused by its headers: no byte of its message has to arrive.
#[test]
fn a_rate_is_charged_before_a_request_is_read() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let slow = [Entry { tenant: "slow", mark: 'l', more: "max_qps: 1" }];
    let place = Place::new(&[slow[0], ROOT], &[]);
    let process = place.start();
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(process.grpc).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..20 {
            // A body that never comes.
            let body = tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>();
            let request = http::Request::post(format!(
                "http://{}/kyrodb.v1.KyroDBService/Insert",
                process.grpc
            ));
            let request = request.header("content-type", "application/grpc");
            let request = request.header("x-api-key", slow[0].key());
            let request = request.body(axum::body::Body::from_stream(body)).unwrap();
            answers.push(Box::pin(sender.send_request(request)));
        }
        let (first, _) = futures_util::future::select_ok(answers).await.unwrap();
        let status = Status::from_header_map(first.headers()).unwrap();
        is_exhausted(&status);
    });
    process.stop();
}

/// True and false in turn.
fn rand_bit() -> bool {
    use std::sync::atomic::{AtomicBool, Ordering};
    static LAST: AtomicBool = AtomicBool::new(false);
    LAST.fetch_xor(true, Ordering::Relaxed)
}

/// One tenant uses its whole share of the searches in flight, while another one, a search at a time, gets a place at
/// once.
#[test]
fn a_flood_of_searches_leaves_others_their_places() {
    const DOCUMENTS: u64 = 3_000;
    let quota = Entry { tenant: "acme", mark: 'a', more: "max_vectors: 10000" };
    // A repeated search would be answered from the cache, without taking a place.
    let settings =
        [("timeouts.max_concurrent_queries", "8"), ("cache.query_cache_enabled", "false")];
    let place = Place::new(&[quota, BETA, ROOT], &settings);
    let process = place.start();
    runtime().block_on(async {
        let mut client = process.client().await;
        let documents = (1..=DOCUMENTS).map(|id| insert(id, &vector(&ACME, id), &[]));
        let documents = tokio_stream::iter(documents.collect::<Vec<_>>());
        client.bulk_load_hnsw(by(&ACME, documents)).await.unwrap();
        put(&mut client, &BETA, 1).await.unwrap();
        let exact = |entry: &Entry<'_>, k| {
            let request = SearchRequest { exact: true, ..search(&vector(entry, 1), k) };
            by(entry, request)
        };
        let flood = (0..32).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let (mut done, mut refused) = (0, 0);
                for _ in 0..60 {
                    match client.search(exact(&ACME, 1_000)).await {
                        Ok(_) => done += 1,
                        Err(status) => {
                            is_exhausted(&status);
                            assert!(status.message().contains("its share of 8"), "{status:?}");
                            refused += 1;
                        }
                    }
                }
                (done, refused)
            })
        });
        let flood: Vec<_> = flood.collect();
        let mut calm = 0;
        while !flood.iter().all(tokio::task::JoinHandle::is_finished) {
            let found = client.search(exact(&BETA, 1)).await.unwrap().into_inner();
            assert_eq!(found.results.len(), 1);
            calm += 1;
        }
        let ended = futures_util::future::join_all(flood).await;
        let (done, refused) =
            ended.into_iter().map(Result::unwrap).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert!(done > 0 && refused > 0 && calm > 0, "{done} {refused} {calm}");
    });
    process.stop();
}

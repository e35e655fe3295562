//! The cache on pages and in metrics for operators.

use kyrodb::proto::{HealthRequest, MetricsRequest};
use serde_json::Value;
use tonic::Request;

use crate::common::{Inside, get, insert, metric, runtime, search, vector};
use crate::{DIMENSION, find_twice, start};

fn page(inside: &Inside, path: &str) -> String {
    get(inside.server().http_address(), path).unwrap().1
}

fn slo(inside: &Inside) -> Value {
    serde_json::from_str(&page(inside, "/slo")).unwrap()
}

#[test]
fn hits_and_misses_are_shown_as_what_they_are() {
    let inside = start(&[]);
    assert_eq!(slo(&inside)["current_metrics"]["cache_hit_rate"], Value::Null);
    let client = runtime();
    client.block_on(async {
        let mut client = inside.client().await;
        client.insert(insert(1, &vector(1, DIMENSION), &[])).await.unwrap();
        for number in 0..3 {
            find_twice(&mut client, &search(&vector(number, DIMENSION), 1)).await;
        }
        find_twice(&mut client, &search(&vector(9, DIMENSION), 1)).await;
        let metrics = client.metrics(MetricsRequest::default()).await.unwrap().into_inner();
        assert_eq!((metrics.cache_hits, metrics.cache_misses), (4, 4));
        assert_eq!((metrics.cache_hit_rate, metrics.cache_size), (50.0, 4));
        assert_eq!(metrics.total_queries, 8);
        // Half of the results came from the cache, and the others from the hot tier or the graph.
        assert!(metrics.overall_hit_rate >= 50.0, "{}", metrics.overall_hit_rate);
        let health = client.health(HealthRequest { component: "cache".into() }).await.unwrap();
        assert_eq!(health.into_inner().components["cache"], "healthy: 4 of 100 answers");
        // Stages of a hit: none on a core.
        let mut request = Request::new(search(&vector(9, DIMENSION), 1));
        request.metadata_mut().insert("kyrodb-timing", "1".parse().unwrap());
        let response = client.search(request).await.unwrap();
        let timing = response.metadata().get("kyrodb-timing").unwrap().to_str().unwrap();
        assert!(timing.contains("walk;dur=0.0000") && timing.contains("mailbox;dur=0.0000"));
        assert!(timing.contains(", cache;dur=0.") && !timing.contains(", cache;dur=0.0000"));
    });
    let text = page(&inside, "/metrics");
    let value = |name: &str| metric(&text, name).unwrap_or_else(|| panic!("{name} in {text}"));
    assert_eq!(value("kyrodb_cache_hits_total"), 5.0);
    assert_eq!(value("kyrodb_cache_misses_total"), 4.0);
    assert_eq!(value("kyrodb_cache_missed_repeats_total"), 0.0);
    assert_eq!(value("kyrodb_cache_evictions_total"), 0.0);
    assert_eq!(value("kyrodb_cache_size"), 4.0);
    assert_eq!(value("kyrodb_cache_enabled"), 1.0);
    assert!((value("kyrodb_cache_hit_rate") - 5.0 / 9.0).abs() < 1e-6);
    assert!(value("kyrodb_cache_bytes") > 4.0 * 32.0);
    assert!(value("kyrodb_cache_latency_p99") > 0.0);
    // The record of the last one may end a moment later.
    assert!(value("kyrodb_search_stage_seconds_count{stage=\"cache\"}") >= 8.0);
    let slo = slo(&inside);
    let rate = slo["current_metrics"]["cache_hit_rate"].as_f64().unwrap();
    assert!((rate - 5.0 / 9.0).abs() < 1e-6);
    assert_eq!(slo["current_metrics"]["cache_repeat_hit_rate"], 1.0);
    assert_eq!(slo["slo_breaches"]["cache_hit_rate"], false);
    assert!(page(&inside, "/health").contains("\"status\":\"healthy\""));
}

#[test]
fn without_a_cache_nothing_is_said_of_it() {
    let inside = start(&[("cache.query_cache_enabled", "false")]);
    runtime().block_on(async {
        let mut client = inside.client().await;
        for _ in 0..3 {
            let found = client.search(search(&vector(1, DIMENSION), 1)).await.unwrap();
            assert!(!crate::is_hit(found.get_ref()));
        }
        let health = client.health(HealthRequest { component: "cache".into() }).await.unwrap();
        assert_eq!(health.into_inner().components["cache"], "healthy: switched off");
    });
    assert!(!page(&inside, "/metrics").contains("kyrodb_cache_"));
    assert_eq!(slo(&inside)["current_metrics"]["cache_hit_rate"], Value::Null);
}

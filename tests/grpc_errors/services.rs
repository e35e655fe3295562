//! The server's description of itself over gRPC: Health, GetConfig, `grpc.health.v1`, reflection; and unimplemented
//! services.

use futures_util::StreamExt;
use kyrodb::proto::health_response::Status as Verdict;
use kyrodb::proto::{ConfigRequest, HealthRequest, MetricsRequest, SnapshotRequest};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::common::{Inside, bad_field, channel, insert, runtime};

const SERVICE: &str = "kyrodb.v1.KyroDBService";

#[test]
fn health_tells_about_the_server_and_its_parts() {
    let server = Inside::start(&[]);
    runtime().block_on(async {
        let mut client = server.client().await;
        let parts = ["cache", "hot_tier", "cold_tier", "wal"];
        for component in ["", "cache", "hot_tier", "cold_tier", "wal"] {
            let request = HealthRequest { component: component.into() };
            let answer = client.health(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), Verdict::Healthy);
            assert_eq!(answer.version, env!("CARGO_PKG_VERSION"));
            assert!(!answer.git_commit.is_empty() && answer.uptime_seconds < 3_600, "{answer:?}");
            let mut named: Vec<_> = answer.components.keys().map(String::as_str).collect();
            named.sort_unstable();
            let mut expected = if component.is_empty() { parts.to_vec() } else { vec![component] };
            expected.sort_unstable();
            assert_eq!(named, expected);
            assert!(answer.components.values().all(|text| text.starts_with("healthy")));
        }
        for unknown in ["disk", "WAL", "wal ", "hot-tier"] {
            let request = HealthRequest { component: unknown.into() };
            let status = client.health(request).await.unwrap_err();
            assert_eq!(bad_field(&status), "component");
        }
    });
}

#[test]
fn get_config_returns_the_settings_in_force() {
    let cases = [
        ("cosine", "data_only", "Cosine", "Always"),
        ("euclidean", "periodic", "Euclidean", "Periodic(70)"),
        ("innerproduct", "none", "InnerProduct", "Never"),
        ("cosine", "full", "Cosine", "Always"),
    ];
    for (distance, policy, distance_text, policy_text) in cases {
        let server = Inside::start(&[
            ("environment.type", "benchmark"),
            ("hnsw.distance", distance),
            ("hnsw.m", "12"),
            ("hnsw.ef_construction", "111"),
            ("hnsw.ef_search", "33"),
            ("hnsw.max_elements", "1000"),
            ("hnsw.disable_normalization_check", "true"),
            ("cache.capacity", "777"),
            ("cache.hot_tier_max_age_secs", "55"),
            ("persistence.fsync_policy", policy),
            ("persistence.wal_flush_interval_ms", "70"),
            ("persistence.snapshot_interval_mutations", "4321"),
        ]);
        runtime().block_on(async {
            let mut client = server.client().await;
            let config = client.get_config(ConfigRequest {}).await.unwrap().into_inner();
            assert_eq!(
                (&*config.hnsw_distance, &*config.fsync_policy),
                (distance_text, policy_text)
            );
            assert_eq!((config.hnsw_m, config.hnsw_ef_construction), (12, 111));
            assert_eq!((config.hnsw_ef_search, config.hnsw_max_elements), (33, 1_000));
            assert_eq!((config.hot_tier_max_size, config.hot_tier_max_age_seconds), (777, 55));
            assert_eq!(config.snapshot_interval, 4_321);
            assert!(config.hnsw_disable_normalization_check);
            assert_eq!(config.version, env!("CARGO_PKG_VERSION"));
            assert_eq!(config.data_dir, server.directory.path().display().to_string());
            assert_eq!(config.embedding_dimension, 0);
            client.insert(insert(1, &[1.0; 6], &[])).await.unwrap();
            let config = client.get_config(ConfigRequest {}).await.unwrap().into_inner();
            assert_eq!(config.embedding_dimension, 6, "as the first vector has decided");
        });
    }
}

#[test]
fn metrics_count_the_requests_sent() {
    let server = Inside::start(&[]);
    runtime().block_on(async {
        let mut client = server.client().await;
        for id in 1..=3 {
            client.insert(insert(id, &[1.0, id as f32], &[])).await.unwrap();
        }
        for _ in 0..2 {
            client.search(super::common::search(&[1.0, 2.0], 3)).await.unwrap();
        }
        let metrics = client.metrics(MetricsRequest::default()).await.unwrap().into_inner();
        assert_eq!((metrics.total_inserts, metrics.total_queries), (3, 2));
        // The second answer came from the cache.
        assert_eq!((metrics.cache_hits, metrics.cache_misses), (1, 1));
        assert_eq!(metrics.hot_tier_hits + metrics.hot_tier_misses, 3);
        assert!((0.0..=100.0).contains(&metrics.hot_tier_hit_rate), "{metrics:?}");
        assert!(metrics.queries_per_second > 0.0 && metrics.inserts_per_second > 0.0);
        assert!(0.0 < metrics.p50_latency_ms && metrics.p50_latency_ms <= metrics.p99_latency_ms);
        assert!(metrics.memory_usage_bytes > 1 << 20 && metrics.disk_usage_bytes > 0);
        let cpus = std::thread::available_parallelism().unwrap().get() as f64;
        assert!((0.0..=100.0 * cpus + 1.0).contains(&metrics.cpu_usage_percent), "{metrics:?}");
        assert!(metrics.collected_at > 1_700_000_000);
    });
}

#[test]
fn a_snapshot_has_its_place_and_no_other() {
    let server = Inside::start(&[]);
    runtime().block_on(async {
        let mut client = server.client().await;
        let elsewhere = SnapshotRequest { path: "/elsewhere".into() };
        let status = client.create_snapshot(elsewhere).await.unwrap_err();
        assert_eq!(super::common::bad_field(&status), "path");
    });
}

#[test]
fn the_health_service_of_grpc_knows_the_server_and_its_service() {
    let server = Inside::start(&[]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        let mut client = HealthClient::new(channel(address).await);
        for service in ["", SERVICE] {
            let request = HealthCheckRequest { service: service.into() };
            // The server is ready a moment before this service reports it.
            super::common::eventually("it is serving", || {
                let (mut client, request) = (client.clone(), request.clone());
                async move {
                    let answer = client.check(request).await.unwrap().into_inner();
                    answer.status() == ServingStatus::Serving
                }
            })
            .await;
            let mut watch = client.watch(request).await.unwrap().into_inner();
            let first = watch.message().await.unwrap().expect("a state comes at once");
            assert_eq!(first.status(), ServingStatus::Serving);
        }
        let request = HealthCheckRequest { service: "kyrodb.v2.Other".into() };
        assert_eq!(client.check(request).await.unwrap_err().code(), Code::NotFound);
    });
}

/// The two versions of reflection have equal messages under different names.
macro_rules! assert_reflects {
    ($version:ident, $address:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
        let mut client = ServerReflectionClient::new(channel($address).await);
        let requests = [
            MessageRequest::ListServices(String::new()),
            MessageRequest::FileContainingSymbol(SERVICE.into()),
            MessageRequest::FileContainingSymbol("google.rpc.RetryInfo".into()),
            MessageRequest::FileByFilename("google/protobuf/duration.proto".into()),
        ]
        .map(|request| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        });
        let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap();
        let answers: Vec<_> =
            answers.into_inner().map(|a| a.unwrap().message_response.unwrap()).collect().await;
        let MessageResponse::ListServicesResponse(list) = &answers[0] else {
            panic!("{:?}", answers[0])
        };
        let names: Vec<&str> = list.service.iter().map(|service| &*service.name).collect();
        assert!(names.contains(&SERVICE) && names.contains(&"grpc.health.v1.Health"), "{names:?}");
        let holds = |answer: usize, name: &[u8]| {
            let MessageResponse::FileDescriptorResponse(files) = &answers[answer] else {
                panic!("{:?}", answers[answer])
            };
            files.file_descriptor_proto.iter().any(|f| f.windows(name.len()).any(|w| w == name))
        };
        for name in ["KyroDBService", "BulkLoadHnsw", "SearchRequest"] {
            assert!(holds(1, name.as_bytes()), "{name}");
        }
        // The types of status details, and the types that these use.
        assert!(holds(2, b"BadRequest") && holds(2, b"ErrorInfo") && holds(3, b"Duration"));
    }};
}

#[test]
fn reflection_describes_the_service_in_both_versions() {
    let server = Inside::start(&[]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        assert_reflects!(v1, address);
        assert_reflects!(v1alpha, address);
    });
}

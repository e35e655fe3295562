//! Spans of searches, as a collector receives them. Only with the feature `otel`.

#![cfg(feature = "otel")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::net::SocketAddr;

use common::{Inside, eventually, insert, metric, runtime, search, vector};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

struct Collector(mpsc::UnboundedSender<Vec<Span>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = Vec::new();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            assert!(attributes.iter().any(|attribute| attribute.key == "service.name"));
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        self.0.send(spans).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn a_collector_receives_searches_that_clients_record() {
    let runtime = runtime();
    let (sender, mut received) = mpsc::unbounded_channel();
    let port = common::free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    runtime.spawn(async move {
        let collector = TraceServiceServer::new(Collector(sender));
        tonic::transport::Server::builder().add_service(collector).serve(address).await.unwrap();
    });
    let endpoint = format!("http://{address}");
    let settings = [("runtime.shards", "2"), ("telemetry.otlp_endpoint", endpoint.as_str())];
    let inside = Inside::start(&settings);
    runtime.block_on(async {
        let mut client = inside.client().await;
        for id in 1..=50 {
            client.insert(insert(id, &vector(id, 8), &[])).await.unwrap();
        }
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        // Different queries: a repeated one would be answered from the cache.
        for (flags, query) in [("00", 3), ("01", 4)] {
            let mut request = Request::new(search(&vector(query, 8), 7));
            let parent = format!("00-{trace}-00f067aa0ba902b7-{flags}");
            request.metadata_mut().insert("traceparent", parent.parse().unwrap());
            request.metadata_mut().insert("x-request-id", "r-1".parse().unwrap());
            client.search(request).await.unwrap();
        }
        client.search(search(&vector(2, 8), 3)).await.unwrap();
        let mut spans = received.recv().await.unwrap();
        let whole = spans.remove(0);
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        assert_eq!(
            (hex(&whole.trace_id), hex(&whole.parent_span_id)),
            (trace.into(), "00f067aa0ba902b7".into())
        );
        let has = |key: &str| whole.attributes.iter().any(|attribute| attribute.key == key);
        assert!(has("kyrodb.k") && has("kyrodb.request_id") && !has("kyrodb.tenant"));
        let text = format!("{whole:?}");
        assert!(text.contains("r-1") && text.contains("IntValue(7)"), "{text}");
        let mut at = whole.start_time_unix_nano;
        let mut names = Vec::new();
        // Spans of its stages came with it, one after the other up to its end.
        for stage in spans {
            assert_eq!((&stage.parent_span_id, &stage.trace_id), (&whole.span_id, &whole.trace_id));
            assert_eq!(stage.start_time_unix_nano, at);
            at = stage.end_time_unix_nano;
            names.push(stage.name);
        }
        assert!(names.contains(&"merge".to_owned()) && names.contains(&"mailbox".to_owned()));
        assert!(at <= whole.end_time_unix_nano && at > whole.start_time_unix_nano);
        let exported = async || {
            let text = common::get(inside.server().http_address(), "/metrics").unwrap().1;
            metric(&text, "kyrodb_spans_exported_total") == Some(1.0)
        };
        eventually("one search was recorded, and no other", exported).await;
        assert!(received.try_recv().is_err());
    });
}

/// Searches continue without a collector, and dropped spans are counted.
#[test]
fn no_search_waits_for_a_missing_collector() {
    let endpoint = format!("http://127.0.0.1:{}", common::free_port());
    let settings = [
        ("runtime.shards", "1"),
        ("telemetry.otlp_endpoint", endpoint.as_str()),
        ("telemetry.sample_ratio", "1.0"),
    ];
    let inside = Inside::start(&settings);
    runtime().block_on(async {
        let mut client = inside.client().await;
        client.insert(insert(1, &vector(1, 8), &[])).await.unwrap();
        for id in 0..20 {
            client.search(search(&vector(id, 8), 1)).await.unwrap();
        }
        eventually("all are counted as dropped", async || {
            let text = common::get(inside.server().http_address(), "/metrics").unwrap().1;
            metric(&text, "kyrodb_spans_dropped_total") == Some(20.0)
        })
        .await;
    });
}

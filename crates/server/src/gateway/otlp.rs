//! Spans for OpenTelemetry: one per search, with a child for each of its stages, sent over gRPC to a collector (OTLP).
//! Only compiled with the feature `otel`.
//!
//! A search is recorded if its client records it, as `traceparent` says; of searches without that header, a configured
//! share is recorded. No request waits for the collector: spans go into a bounded queue, and dropped ones are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::config::TelemetrySection;
use crate::observe::Observed;
use crate::observe::origin::{Origin, TraceParent};
use crate::observe::trace::{Stage, Trace};
use crate::types::mix;

/// Most searches waiting to be sent; more are dropped.
const QUEUE_MAX: usize = 4_096;

/// Most searches sent at once, and longest wait to collect them.
const BATCH_MAX: usize = 256;
const BATCH_PERIOD: Duration = Duration::from_secs(1);

/// Longest wait for the collector.
const EXPORT_PATIENCE: Duration = Duration::from_secs(10);

/// Least time between two log lines about a collector that does not take spans.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

/// Instrumentation scope of the spans.
const SCOPE: &str = "kyrodb";

/// Flag of a span whose trace is recorded.
const SAMPLED: u32 = 1;

/// Generates ids of traces and spans, and samples searches.
struct Ids {
    first: u64,
    count: AtomicU64,
    /// Number of the 2^64 ids that select a search for recording.
    sampled: u64,
}

impl Ids {
    fn new(ratio: f64, first: u64) -> Self {
        // The cast saturates at both ends.
        Self { first, count: AtomicU64::new(0), sampled: (ratio * 2f64.powi(64)) as u64 }
    }

    /// Never 0, which is not a valid id.
    fn next(&self) -> u64 {
        mix(self.first.wrapping_add(self.count.fetch_add(1, Ordering::Relaxed))).max(1)
    }

    /// Ids of the trace and of the parent span of a search, if it is recorded.
    fn parent(&self, origin: &Origin) -> Option<(Vec<u8>, Vec<u8>)> {
        match origin.parent {
            Some(TraceParent { trace_id, parent_id, is_sampled }) => {
                is_sampled.then(|| (trace_id.to_vec(), parent_id.to_vec()))
            }
            None if self.sampled > 0 && self.next() <= self.sampled => {
                let trace_id = [self.next().to_be_bytes(), self.next().to_be_bytes()].concat();
                Some((trace_id, Vec::new()))
            }
            None => None,
        }
    }
}

/// Starts sending spans of searches, if a collector is configured.
///
/// # Errors
/// If its address is invalid.
pub(crate) fn start(
    telemetry: &TelemetrySection,
    observed: &Arc<Observed>,
    runtime: &Handle,
) -> Result<(), String> {
    let Some(address) = &telemetry.otlp_endpoint else { return Ok(()) };
    let bad = |error: tonic::transport::Error| {
        format!(
            "telemetry.otlp_endpoint: {address}: {error}; it has to be like http://127.0.0.1:4317"
        )
    };
    let mut endpoint = Endpoint::from_shared(address.clone()).map_err(bad)?;
    if address.starts_with("https://") {
        let tls = ClientTlsConfig::new().with_native_roots();
        endpoint = endpoint.tls_config(tls).map_err(bad)?;
    }
    let (queue, searches) = mpsc::channel(QUEUE_MAX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ids = Ids::new(
        telemetry.sample_ratio,
        mix(now.as_nanos() as u64 ^ u64::from(std::process::id())),
    );
    let weak = Arc::downgrade(observed);
    let sink = move |trace: &Trace, origin: &Origin, tenant: Option<&str>| {
        let Some((trace_id, parent_id)) = ids.parent(origin) else { return };
        let spans = spans(&ids, trace, trace_id, parent_id, about(trace, origin, tenant));
        if queue.try_send(spans).is_err()
            && let Some(observed) = weak.upgrade()
        {
            observed.gateway.spans_dropped.add(1);
        }
    };
    // Called once per server, so it is not set yet.
    observed.spans.set(Box::new(sink)).ok();
    let _entered = runtime.enter();
    runtime.spawn(export(endpoint.connect_lazy(), searches, observed.clone()));
    Ok(())
}

/// Sends queued spans in batches until the server ends.
async fn export(
    channel: Channel,
    mut searches: mpsc::Receiver<Vec<Span>>,
    observed: Arc<Observed>,
) {
    let mut client = TraceServiceClient::new(channel);
    let mut complained: Option<std::time::Instant> = None;
    while let Some(first) = searches.recv().await {
        let (mut spans, mut count) = (first, 1);
        let is_over = tokio::time::sleep(BATCH_PERIOD);
        tokio::pin!(is_over);
        while count < BATCH_MAX {
            tokio::select! {
                () = &mut is_over => break,
                more = searches.recv() => {
                    let Some(more) = more else { break };
                    spans.extend(more);
                    count += 1;
                }
            }
        }
        let sent = tokio::time::timeout(EXPORT_PATIENCE, client.export(request(spans))).await;
        let why = match sent {
            Ok(Ok(_)) => {
                observed.gateway.spans_exported.add(count as u64);
                continue;
            }
            Ok(Err(status)) => status.to_string(),
            Err(_) => format!("no answer within {EXPORT_PATIENCE:?}"),
        };
        observed.gateway.spans_dropped.add(count as u64);
        if complained.is_none_or(|since| since.elapsed() > COMPLAINT_PERIOD) {
            complained = Some(std::time::Instant::now());
            tracing::warn!("the collector of telemetry.otlp_endpoint takes no spans: {why}");
        }
    }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let attributes = vec![
        text("service.name", SCOPE),
        text("service.version", env!("CARGO_PKG_VERSION")),
        number("process.pid", u64::from(std::process::id())),
    ];
    let resource = Resource { attributes, ..Resource::default() };
    let scope = InstrumentationScope { name: SCOPE.into(), ..InstrumentationScope::default() };
    let scope_spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let resource_spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// The span of a search, and those of its stages, one after the other as they add up.
fn spans(
    ids: &Ids,
    trace: &Trace,
    trace_id: Vec<u8>,
    parent_span_id: Vec<u8>,
    attributes: Vec<KeyValue>,
) -> Vec<Span> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The search may have ended some moments ago: the time since is not a part of it.
    let end = nanos(now.saturating_sub(trace.ended().elapsed()));
    let start = end.saturating_sub(nanos(trace.total()));
    let span_id = ids.next().to_be_bytes().to_vec();
    let whole = Span {
        trace_id: trace_id.clone(),
        span_id: span_id.clone(),
        parent_span_id,
        flags: SAMPLED,
        name: "kyrodb.v1.KyroDBService/Search".into(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        attributes,
        ..Span::default()
    };
    let mut spans = vec![whole];
    let mut at = start;
    for stage in Stage::ALL {
        let spent = nanos(trace.spent(stage));
        if spent == 0 {
            continue;
        }
        spans.push(Span {
            trace_id: trace_id.clone(),
            span_id: ids.next().to_be_bytes().to_vec(),
            parent_span_id: span_id.clone(),
            flags: SAMPLED,
            name: stage.word().into(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: at,
            end_time_unix_nano: at + spent,
            ..Span::default()
        });
        at += spent;
    }
    spans
}

/// Attributes of a search: its parameters, and nothing of the query's contents or results.
fn about(trace: &Trace, origin: &Origin, tenant: Option<&str>) -> Vec<KeyValue> {
    let (asked, counts) = (&trace.asked, &trace.counts);
    let mut about = vec![
        text("rpc.system", "grpc"),
        text("rpc.service", "kyrodb.v1.KyroDBService"),
        text("rpc.method", "Search"),
        number("kyrodb.k", asked.k as u64),
        number("kyrodb.ef", asked.ef as u64),
        flag("kyrodb.filter", asked.is_filtered),
        flag("kyrodb.exact", asked.is_exact),
        number("kyrodb.shards_asked", counts.shards_asked.into()),
        number("kyrodb.shards_answered", counts.shards_answered.into()),
        number("kyrodb.distances", counts.distances),
    ];
    about.extend(origin.request_id.as_ref().map(|id| text("kyrodb.request_id", id.as_str())));
    about.extend(tenant.map(|tenant| text("kyrodb.tenant", tenant)));
    about
}

fn pair(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: u64) -> KeyValue {
    pair(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn flag(key: &str, value: bool) -> KeyValue {
    pair(key, Value::BoolValue(value))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_are_recorded_if_their_clients_do_and_a_share_of_the_others() {
        let parent = |is_sampled| {
            let parent = TraceParent { trace_id: [7; 16], parent_id: [9; 8], is_sampled };
            Origin { parent: Some(parent), ..Origin::default() }
        };
        let count = |ratio: f64| {
            let ids = Ids::new(ratio, 5);
            assert_eq!(ids.parent(&parent(true)), Some((vec![7; 16], vec![9; 8])));
            assert_eq!(ids.parent(&parent(false)), None);
            (0..10_000).filter(|_| ids.parent(&Origin::default()).is_some()).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 10_000));
        assert!((900..1_100).contains(&count(0.1)), "{}", count(0.1));
        let ids = Ids::new(1.0, 5);
        let all: std::collections::BTreeSet<_> =
            (0..1_000).filter_map(|_| ids.parent(&Origin::default())).collect();
        assert_eq!(all.len(), 1_000);
        assert!(all.iter().all(|(trace, parent)| trace.len() == 16 && parent.is_empty()));
    }
}

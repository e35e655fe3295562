//! Handling of the record of a completed search: its stages are counted, it is kept if it was among the slowest, and it
//! is logged if it was slow.
//!
//! The log line has the parameters of the query and the times of the stages, and nothing of the query's contents or
//! results: no vector, no key, no value of metadata.

use std::sync::Arc;
use std::time::Duration;

use crate::observe::Observed;
use crate::observe::origin::Origin;
use crate::observe::trace::{Stage, Trace};
use crate::types::realm::TenantMark;

/// Context of a search that is not in its record.
#[derive(Clone, Default)]
pub(super) struct About {
    /// Identification by its client.
    pub(super) origin: Origin,
    /// The tenant whose documents are searched.
    pub(super) tenant: Option<Arc<TenantMark>>,
    /// The search is restricted to a namespace.
    pub(super) has_namespace: bool,
}

/// Ends the record of a search.
pub(super) fn end(observed: &Observed, trace: &Trace, about: &About) {
    observed.end(trace, &about.origin);
    #[cfg(feature = "otel")]
    if trace.is_on()
        && let Some(sink) = observed.spans.get()
    {
        let tenant = about.tenant.as_ref().map(|tenant| tenant.id.as_str());
        sink(trace, &about.origin, tenant);
    }
    if trace.is_on()
        && let Some(left_out) = observed.slow_log.admit(trace.total(), trace.ended())
    {
        write(trace, about, left_out);
    }
}

fn write(trace: &Trace, about: &About, left_out: u64) {
    let spent = |stage| ms(trace.spent(stage));
    let (asked, counts) = (&trace.asked, &trace.counts);
    tracing::info!(
        target: "kyrodb::slow",
        request_id = about.origin.request_id(),
        trace_id = about.origin.trace_id(),
        tenant = about.tenant.as_ref().map(|tenant| tenant.id.as_str()),
        total_ms = ms(trace.total()),
        k = asked.k as u64,
        ef = asked.ef as u64,
        namespace = about.has_namespace,
        filter = asked.is_filtered,
        exact = asked.is_exact,
        shards_asked = counts.shards_asked,
        shards_answered = counts.shards_answered,
        distances = counts.distances,
        slices = counts.slices,
        admission_ms = spent(Stage::Admission),
        cache_ms = spent(Stage::Cache),
        mailbox_ms = spent(Stage::Mailbox),
        queue_ms = spent(Stage::Queue),
        hot_ms = spent(Stage::Hot),
        walk_ms = spent(Stage::Walk),
        scan_ms = spent(Stage::Scan),
        suspended_ms = spent(Stage::Suspended),
        collect_ms = spent(Stage::Collect),
        reply_ms = spent(Stage::Reply),
        merge_ms = spent(Stage::Merge),
        encode_ms = spent(Stage::Encode),
        left_out,
        "a slow search",
    );
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

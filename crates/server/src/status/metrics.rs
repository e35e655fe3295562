//! `/metrics`: the contract's names, and beside them the same facts in Prometheus style. What
//! nothing feeds yet is left out.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::health::{Health, Phase, Verdict};
use super::{document_cache, in_flight, process_metrics, shard_metrics};
use crate::observe::Observed;
use crate::observe::counters::{BreakerState, CacheCounters, ErrorCategory, ShardCounters};
use crate::observe::latency::Latency;
use crate::observe::log_queue;
use crate::observe::trace::Stage;
use crate::shard::doing::Doing;

/// Upper bounds of histogram buckets, in microseconds.
const BUCKETS_US: [u64; 16] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000,
];

/// Writes families one after the other.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let written = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let written = writeln!(self.0, "{name}{braces} {value}");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, "", value);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        latencies: &[(&str, &Latency)],
    ) {
        self.family(name, "histogram", help);
        for (value, latency) in latencies {
            let total = latency.total();
            let label = format!("{label}=\"{value}\"");
            for micros in BUCKETS_US {
                let count = total.count_up_to(Duration::from_micros(micros));
                let labels = format!("{label},le=\"{}\"", micros as f64 / 1e6);
                self.sample(&format!("{name}_bucket"), &labels, count);
            }
            self.sample(&format!("{name}_bucket"), &format!("{label},le=\"+Inf\""), total.count());
            self.sample(&format!("{name}_sum"), &label, total.sum_ns as f64 / 1e9);
            self.sample(&format!("{name}_count"), &label, total.count());
        }
    }

    pub(super) fn by_shard(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        shards: &[Arc<ShardCounters>],
        value: impl Fn(&ShardCounters) -> u64,
    ) {
        self.family(name, kind, help);
        for (index, shard) in shards.iter().enumerate() {
            self.sample(name, &format!("shard=\"{index}\""), value(shard));
        }
    }
}

/// What there is to tell.
pub(super) struct Facts<'a> {
    pub(super) observed: &'a Observed,
    pub(super) health: &'a Health,
    /// `persistence.fsync_policy`.
    pub(super) fsync_policy: &'a str,
    /// Messages that wait for each core.
    pub(super) queues: Vec<usize>,
}

/// The text of `/metrics`.
#[must_use]
pub(super) fn render(facts: &Facts<'_>) -> String {
    let (observed, health) = (facts.observed, facts.health);
    let mut text = Text::default();
    requests(&mut text, observed);
    cache(&mut text, observed);
    match observed.has_vectors_on_disk.load(Ordering::Relaxed) {
        true => document_cache::render(&mut text, observed),
        false => document_cache::no_training(&mut text),
    }
    log(&mut text, observed);
    process_metrics::syncs(&mut text, facts);
    process_metrics::scrub(&mut text, facts);
    server(&mut text, observed, health);
    process_metrics::queues(&mut text, facts);
    shard_metrics::render(&mut text, observed);
    latencies(&mut text, observed);
    process_metrics::render(&mut text, facts);
    text.0
}

fn requests(text: &mut Text, observed: &Observed) {
    let gateway = &observed.gateway;
    text.counter("kyrodb_queries_total", "Searches and documents read.", gateway.queries.get());
    text.counter("kyrodb_queries_failed", "Reads that failed.", gateway.queries_failed.get());
    text.counter("kyrodb_inserts_total", "Documents written.", gateway.inserts.get());
    text.counter("kyrodb_inserts_failed", "Documents refused.", gateway.inserts_failed.get());
    text.counter("kyrodb_deletes_total", "Documents deleted.", gateway.deletes.get());
    text.counter("kyrodb_hot_tier_flushes_total", "Flushes.", gateway.flushes.get());
    text.counter(
        "kyrodb_partial_searches_total",
        "Searches answered without some shard.",
        gateway.partial_searches.get(),
    );
    let (slow, unlogged) = (&observed.slow_log.slow, &observed.slow_log.unlogged);
    let help = "Searches that took logging.slow_query_ms or longer.";
    text.counter("kyrodb_slow_queries_total", help, slow.get());
    let help = "Of these, those that have no line in the log for their number.";
    text.counter("kyrodb_slow_queries_unlogged_total", help, unlogged.get());
    text.family("kyrodb_tier_hits_total", "counter", "Results by the tier they came from.");
    text.sample("kyrodb_tier_hits_total", "tier=\"hot\"", gateway.hot_hits.get());
    text.sample("kyrodb_tier_hits_total", "tier=\"cold\"", gateway.cold_hits.get());
    text.family("kyrodb_errors_total", "counter", "Requests that failed, by why.");
    for (category, label) in [
        (ErrorCategory::Validation, "validation"),
        (ErrorCategory::Timeout, "timeout"),
        (ErrorCategory::Internal, "internal"),
        (ErrorCategory::ResourceExhausted, "resource_exhausted"),
        (ErrorCategory::Limited, "limited"),
        (ErrorCategory::Planned, "planned"),
    ] {
        let labels = format!("category=\"{label}\"");
        text.sample("kyrodb_errors_total", &labels, gateway.errors(category).get());
    }
    if let Some(search) = observed.methods.search.lately() {
        let name = "kyrodb_query_latency_ns";
        text.family(name, "gauge", "Search latency over the last minute that had searches.");
        for (quantile, label) in [(0.5, "50"), (0.95, "95"), (0.99, "99")] {
            text.sample(name, &format!("percentile=\"{label}\""), search.quantile_ns(quantile));
        }
        let p99_ms = search.quantile_ns(0.99) as f64 / 1e6;
        text.gauge("kyrodb_query_latency_p99", "The same, 99th, in milliseconds.", p99_ms);
    }
    if let Some(walk) = observed.stages.walk.lately() {
        let help =
            "Median time that a shard works on a search, over the last minute that had some.";
        text.gauge("kyrodb_hnsw_latency_ns", help, walk.quantile_ns(0.5));
    }
    let stages = [
        (
            Stage::Hot,
            "kyrodb_hot_tier_latency_p99",
            "99th percentile of steps on the hot tier, in ms.",
        ),
        (Stage::Walk, "kyrodb_hnsw_latency_p99", "99th percentile of steps of the walk, in ms."),
    ];
    for (stage, name, help) in stages {
        if let Some(steps) = observed.stages.search[stage as usize].lately() {
            text.gauge(name, help, steps.quantile_ns(0.99) as f64 / 1e6);
        }
    }
    let (counts, _) = observed.recent_five();
    let rate = (counts.failed as f64 / counts.requests.max(1) as f64).min(1.0);
    let help =
        "Requests that failed of all, from 0 to 1, over the last five minutes; 0 without any.";
    text.gauge("kyrodb_error_rate_5m", help, rate);
    if let Some(insert) = observed.methods.insert.lately() {
        let p99_ms = insert.quantile_ns(0.99) as f64 / 1e6;
        text.gauge("kyrodb_insert_latency_p99", "99th percentile of inserts, in ms.", p99_ms);
    }
}

/// The cache of queries, where there is one.
fn cache(text: &mut Text, observed: &Observed) {
    let cache = &observed.gateway.cache;
    if cache.capacity.get() == 0 {
        return;
    }
    text.counter("kyrodb_cache_hits_total", "Searches that a cache answered.", cache.hits.get());
    let help = "Searches that a cache was asked about, and had no answer for.";
    text.counter("kyrodb_cache_misses_total", help, cache.misses.get());
    let help = "Those of them that were asked lately, with nothing written since: more room helps.";
    text.counter("kyrodb_cache_missed_repeats_total", help, cache.missed_repeats.get());
    let help = "Answers that went for others.";
    text.counter("kyrodb_cache_evictions_total", help, cache.evictions.get());
    text.gauge("kyrodb_cache_size", "Answers kept.", cache.entries.get());
    text.gauge("kyrodb_cache_bytes", "Memory of them, about.", cache.bytes.get());
    let help = "0 if the cache has turned itself off, since its hits are not what searches find.";
    text.gauge("kyrodb_cache_enabled", help, u8::from(cache.is_on()));
    if let Some(rate) = observed.hit_rate_lately() {
        let help = "Hits of all, from 0 to 1, over the last minute that had searches.";
        text.gauge("kyrodb_cache_hit_rate", help, rate);
    }
    if let Some(hits) = observed.cached.lately() {
        let p99_ms = hits.quantile_ns(0.99) as f64 / 1e6;
        text.gauge("kyrodb_cache_latency_p99", "99th percentile of hits, in ms.", p99_ms);
    }
    let help = "Hits compared with a fresh search (cache.query_cache_checks_per_second).";
    text.counter("kyrodb_cache_checked_hits_total", help, cache.checked.get());
    let help = "Hits to be compared that were given up: busy, or something was written.";
    text.counter("kyrodb_cache_dropped_checks_total", help, cache.checks_dropped.get());
    if cache.has_near.load(Ordering::Relaxed) {
        near(text, cache);
    }
    if cache.overlap_millionths.get() > 0 {
        let ratio = cache.overlap_millionths.get() as f64 / 1e6;
        let help = "What fresh searches found that the last 100 hits compared had, from 0 to 1.";
        text.gauge("kyrodb_cache_overlap_ratio", help, ratio);
    }
}

/// Questions that are near those of before, where such are answered.
fn near(text: &mut Text, cache: &CacheCounters) {
    let help =
        "Questions answered from what was found for one that is near; they are among the hits.";
    text.counter("kyrodb_cache_near_hits_total", help, cache.near_hits.get());
    let help = "Questions that were near one, whose answer could not be proved from it: their walks began at \
                the documents found for it.";
    text.counter("kyrodb_cache_near_misses_total", help, cache.near_misses.get());
    let is_on = cache.is_on() && !cache.is_near_off.load(Ordering::Relaxed);
    let help = "0 if that has turned itself off, since it is not what searches find.";
    text.gauge("kyrodb_cache_near_enabled", help, u8::from(is_on));
    if cache.near_overlap_millionths.get() > 0 {
        let ratio = cache.near_overlap_millionths.get() as f64 / 1e6;
        let help = "As kyrodb_cache_overlap_ratio, of answers to near questions, proved or from walks that began \
                    near.";
        text.gauge("kyrodb_cache_near_overlap_ratio", help, ratio);
    }
}

fn log(text: &mut Text, observed: &Observed) {
    let shards = observed.shards();
    let sum =
        |value: fn(&ShardCounters) -> u64| shards.iter().map(|shard| value(shard)).sum::<u64>();
    text.counter("kyrodb_wal_writes_total", "Records logged.", sum(|s| s.wal_records.get()));
    text.counter("kyrodb_wal_writes_failed", "Failed log writes.", sum(|s| s.wal_failures.get()));
    text.counter("kyrodb_wal_groups_total", "Groups logged.", sum(|s| s.wal_groups.get()));
    text.counter("kyrodb_wal_syncs_total", "Syncs of the log.", sum(|s| s.wal_syncs.get()));
    text.counter("kyrodb_wal_bytes_total", "Bytes logged.", sum(|s| s.wal_bytes.get()));
    text.counter(
        "kyrodb_wal_torn_writes_total",
        "Torn writes cut off at start.",
        sum(|s| s.torn_writes.get()),
    );
    text.counter(
        "kyrodb_wal_retries_total",
        "Fresh segments after a failed write or sync.",
        sum(|s| s.wal_retries.get()),
    );
    text.counter(
        "kyrodb_wal_disk_full_errors",
        "Log writes that found no room on the disk.",
        sum(|s| s.disk_full.get()),
    );
    text.counter(
        "kyrodb_hnsw_corruption_detected_total",
        "Snapshots found damaged at start.",
        sum(|s| s.damaged_snapshots.get()),
    );
    text.counter(
        "kyrodb_hnsw_fallback_recovery_success",
        "Shards brought back from an older snapshot and the log since, in place of a damaged one.",
        sum(|s| s.fallback_recoveries.get()),
    );
    let worst = shards.iter().map(|s| s.breaker()).fold(BreakerState::Closed, BreakerState::worse);
    let help = "The worst of the logs. 0: closed, it is written. 1: open. 2: half-open.";
    text.gauge("kyrodb_wal_circuit_breaker_state", help, worst as u8);
}

fn server(text: &mut Text, observed: &Observed, health: &Health) {
    let host = &observed.host;
    text.gauge("kyrodb_memory_used_bytes", "Resident memory.", host.resident_bytes.get());
    text.gauge("kyrodb_memory_peak_bytes", "The most there has been.", host.peak_bytes.get());
    if observed.memory.max() < u64::MAX {
        let help = "Inserts are refused where more than this is used.";
        text.gauge("kyrodb_memory_max_bytes", help, observed.memory.max());
    }
    let help = "Files in the data directory and in that of the log.";
    text.gauge("kyrodb_disk_used_bytes", help, host.disk_used_bytes.get());
    let space = &observed.space;
    // Before the data directory is open, there is no measurement.
    if space.reserve() > 0 {
        let help = "Room left on the file system, or on that of the log where it has less.";
        text.gauge("kyrodb_disk_available_bytes", help, space.available());
        let help = "Inserts are refused where less than this is left.";
        text.gauge("kyrodb_disk_reserve_bytes", help, space.reserve());
    }
    let end = observed.certificate_end.get().map(|end| end.load(Ordering::Relaxed));
    if let Some(end) = end.filter(|&end| end != i64::MAX) {
        let help = "When the first certificate of the chain in force ends, in Unix seconds.";
        text.gauge("kyrodb_tls_certificate_expiry_timestamp_seconds", help, end);
    }
    let connections = observed.gateway.connections.load(Ordering::Relaxed);
    text.gauge("kyrodb_active_connections", "Open gRPC connections.", connections);
    #[cfg(feature = "otel")]
    if observed.spans.get().is_some() {
        let help = "Searches whose spans the collector has taken.";
        text.counter("kyrodb_spans_exported_total", help, observed.gateway.spans_exported.get());
        let help = "Searches whose spans it has not taken.";
        text.counter("kyrodb_spans_dropped_total", help, observed.gateway.spans_dropped.get());
    }
    let shed = observed.gateway.searches_shed.get();
    let help = "Searches refused because their answer would have come too late.";
    text.counter("kyrodb_searches_shed_total", help, shed);
    let refused = observed.gateway.connections_refused.get();
    text.counter("kyrodb_connections_refused_total", "Connections beyond the limit.", refused);
    in_flight::render(text, observed);
    let pages = observed.gateway.http_connections.load(Ordering::Relaxed);
    text.gauge("kyrodb_http_connections", "Open connections of HTTP.", pages);
    let refused = observed.gateway.http_connections_refused.get();
    let help = "Connections of HTTP beyond the limit.";
    text.counter("kyrodb_http_connections_refused_total", help, refused);
    let help = "Lines of the log that were dropped: it was not taken, or could not be written.";
    text.counter("kyrodb_log_lines_dropped_total", help, log_queue::dropped());
    let uptime = health.uptime().as_secs();
    text.counter("kyrodb_uptime_seconds", "Time since the start.", uptime);
    text.gauge("kyrodb_ready", "1 if requests should be sent here.", u8::from(health.is_ready()));
    let is_degraded = matches!(health.verdict(), Verdict::Degraded(_));
    text.gauge("kyrodb_degraded", "1 if something needs attention.", u8::from(is_degraded));
    let modes = &health.modes;
    let help = "1 while writes are refused because an operator has asked for that.";
    text.gauge("kyrodb_read_only", help, u8::from(modes.is_read_only()));
    let help = "1 while reads and writes are refused because an operator has asked for that.";
    text.gauge("kyrodb_maintenance", help, u8::from(modes.is_maintenance()));
    let is_draining = health.phase() == Phase::Draining;
    text.gauge("kyrodb_draining", "1 while shutting down.", u8::from(is_draining));
    let panics: u64 = observed.shards().iter().map(|shard| shard.panics.get()).sum();
    let panics = panics + observed.gateway.panics.get();
    text.counter("kyrodb_panics_total", "Requests and tasks that panicked.", panics);
    let traffic = &observed.traffic;
    let name = "kyrodb_core_messages_total";
    text.counter(name, "Messages to cores.", traffic.messages.get());
    let name = "kyrodb_core_wakes_total";
    text.counter(name, "Messages that had to wake a core.", traffic.wakes.get());
    let name = "kyrodb_search_answers_total";
    text.counter(name, "Answers of shards to searches.", traffic.search_answers.get());
    let (beats, stalls) = ("kyrodb_core_heartbeats_total", "kyrodb_core_stalls_total");
    text.family(beats, "counter", "Heartbeats of each core.");
    for (core, heart) in health.hearts().iter().enumerate() {
        text.sample(beats, &format!("core=\"{core}\""), heart.beats());
    }
    text.family(stalls, "counter", "Times that a core stood still for over 50 ms.");
    for (core, heart) in health.hearts().iter().enumerate() {
        text.sample(stalls, &format!("core=\"{core}\""), heart.stalls());
    }
    let longest = "kyrodb_core_longest_piece_seconds";
    let help = "The longest piece of work without a pause since the start, by kind, with what the system \
                ran meanwhile.";
    text.family(longest, "gauge", help);
    for (core, heart) in health.hearts().iter().enumerate() {
        for doing in Doing::ALL {
            let labels = format!("core=\"{core}\",kind=\"{}\"", doing.word());
            text.sample(longest, &labels, heart.doing.longest(doing).as_secs_f64());
        }
    }
}

fn latencies(text: &mut Text, observed: &Observed) {
    if observed.has_vectors_on_disk.load(Ordering::Relaxed) {
        let reads = [("vectors", &observed.vector_reads)];
        let help = "How long reads of vectors from disk take.";
        text.histograms("kyrodb_vector_read_seconds", help, "of", &reads);
    }
    let methods = &observed.methods;
    text.histograms(
        "kyrodb_request_seconds",
        "Latency of requests.",
        "method",
        &[
            ("insert", &methods.insert),
            ("change", &methods.change),
            ("query", &methods.query),
            ("search", &methods.search),
        ],
    );
    let stages = &observed.stages;
    text.histograms(
        "kyrodb_stage_seconds",
        "Where the time goes.",
        "stage",
        &[
            ("queue", &stages.queue),
            ("walk", &stages.walk),
            ("merge", &stages.merge),
            ("log_wait", &stages.log_wait),
            ("commit", &stages.commit),
            ("fsync", &stages.fsync),
        ],
    );
    let search = Stage::ALL.map(|stage| (stage.word(), &stages.search[stage as usize]));
    let help = "Where the time of whole searches goes; the stages add up.";
    text.histograms("kyrodb_search_stage_seconds", help, "stage", &search);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_sample_follows_its_family_and_no_family_comes_twice() {
        let observed = Arc::new(Observed::default());
        observed.set_shards(2);
        observed.methods.search.record(Duration::from_micros(70));
        let health = Health::new(observed.clone());
        let text = render(&process_metrics::facts(&observed, &health));
        let mut families = HashSet::new();
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap();
                assert!(families.insert(family), "{family} comes twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(family), "{line} follows {family}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains("kyrodb_query_latency_ns{percentile=\"99\"} 7"), "{text}");
        assert!(text.contains("kyrodb_core_queue_messages{core=\"0\"} 3"), "{text}");
        assert!(text.contains("kyrodb_fsync_policy_info{policy=\"data_only\"} 1"), "{text}");
        assert!(text.contains("kyrodb_training_crashes_total 0"), "{text}");
        assert!(text.contains("kyrodb_request_seconds_bucket{method=\"search\",le=\"0.0001\"} 1"));
        assert!(text.contains("kyrodb_request_seconds_bucket{method=\"search\",le=\"0.00005\"} 0"));
    }
}

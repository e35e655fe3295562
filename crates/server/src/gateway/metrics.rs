//! The `Metrics` RPC: figures for programs that do not scrape.

use super::Gateway;
use super::service::unix_secs;
use crate::proto::MetricsResponse;

impl Gateway {
    /// Hit rates are percentages; rates are those of the last minute. The cache is the query cache: its rate is the
    /// share of lookups that hit, and the overall rate is the share of results that came from it or from the hot tier.
    pub(super) fn metrics_response(&self) -> MetricsResponse {
        let observed = &self.observed;
        let (counters, shards) = (&observed.gateway, observed.shards());
        let (counts, window) = observed.recent();
        let per_second = |count: u64| count as f64 / window.as_secs_f64().max(1e-3);
        let search = observed.methods.search.recent();
        let latency_ms = |quantile| search.quantile_ns(quantile) as f64 / 1e6;
        let sum = |of: fn(&crate::observe::counters::ShardCounters) -> u64| {
            shards.iter().map(|shard| of(shard)).sum::<u64>()
        };
        let (hot_hits, cold_hits) = (counters.hot_hits.get(), counters.cold_hits.get());
        let share = |part: u64, all: u64| 100.0 * part as f64 / all.max(1) as f64;
        let (cache, cached) = (&counters.cache, counters.cached_results.get());
        let (cache_hits, cache_misses) = (cache.hits.get(), cache.misses.get());
        MetricsResponse {
            cache_hits,
            cache_misses,
            cache_hit_rate: share(cache_hits, cache_hits + cache_misses),
            cache_size: cache.entries.get(),
            hot_tier_hits: hot_hits,
            hot_tier_misses: cold_hits,
            hot_tier_hit_rate: share(hot_hits, hot_hits + cold_hits),
            hot_tier_size: sum(|shard| shard.hot_documents.get()),
            hot_tier_flushes: counters.flushes.get(),
            cold_tier_searches: sum(|shard| shard.searches.get()),
            cold_tier_size: sum(|shard| shard.linked_nodes.get()),
            p50_latency_ms: latency_ms(0.5),
            p95_latency_ms: latency_ms(0.95),
            p99_latency_ms: latency_ms(0.99),
            total_queries: counters.queries.get(),
            total_inserts: counters.inserts.get(),
            queries_per_second: per_second(counts.queries),
            inserts_per_second: per_second(counts.inserts),
            memory_usage_bytes: observed.host.resident_bytes.get(),
            disk_usage_bytes: observed.host.disk_used_bytes.get(),
            cpu_usage_percent: 100.0 * counts.cpu.as_secs_f64() / window.as_secs_f64().max(1e-3),
            overall_hit_rate: share(cached + hot_hits, cached + hot_hits + cold_hits),
            collected_at: unix_secs(),
        }
    }
}

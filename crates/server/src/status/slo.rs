//! The objectives of the service, and how it does by them over the last minute.

use serde_json::{Value, json};

use crate::config::SloSection;
use crate::observe::Observed;

/// How the service does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Service {
    /// 99th percentile of searches, in nanoseconds; `None` without searches.
    pub p99_ns: Option<u64>,
    /// Share of requests that failed without being wrong in themselves.
    pub error_rate: f64,
    /// Share of requests that the server could serve.
    pub availability: f64,
    /// Share of searches that the cache has answered, of those that it was asked about; `None` without
    /// any.
    pub cache_hit_rate: Option<f64>,
    /// Share of searches that the cache has answered, of those that repeat a recent search with nothing
    /// written since; `None` without any.
    pub cache_repeat_hit_rate: Option<f64>,
    /// How many of those there were.
    pub cache_repeats: u64,
    /// Searches, and requests, that this was seen on.
    pub searches: u64,
    /// See `searches`.
    pub requests: u64,
}

/// Which objectives are missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the objectives")]
pub struct Breaches {
    pub p99_latency: bool,
    pub cache_hit_rate: bool,
    pub error_rate: bool,
    pub availability: bool,
}

impl Service {
    /// How it does now.
    #[must_use]
    pub fn of(observed: &Observed) -> Self {
        let search = observed.methods.search.recent();
        let (counts, _) = observed.recent();
        let share = |part: u64| part as f64 / counts.requests.max(1) as f64;
        let hits_of = |all: u64| (all > 0).then(|| counts.cache_hits as f64 / all as f64);
        let cache_repeats = counts.cache_hits + counts.cache_missed_repeats;
        Self {
            cache_hit_rate: hits_of(counts.cache_hits + counts.cache_misses),
            cache_repeat_hit_rate: hits_of(cache_repeats),
            cache_repeats,
            p99_ns: (search.count() > 0).then(|| search.quantile_ns(0.99)),
            error_rate: share(counts.failed).min(1.0),
            availability: 1.0 - share(counts.unserved).min(1.0),
            searches: search.count(),
            requests: counts.requests,
        }
    }

    /// Which objectives it misses; none is judged by fewer than `min_samples` requests.
    #[must_use]
    pub fn breaches(&self, slo: &SloSection) -> Breaches {
        let (searches, requests) = (self.searches, self.requests);
        let is_judged = |samples: u64| samples >= slo.min_samples;
        // What was never asked before no cache can answer.
        let is_missed = self.cache_repeat_hit_rate.is_some_and(|rate| rate < slo.cache_hit_rate);
        let is_slow = self.p99_ns.is_some_and(|ns| ns as f64 > slo.p99_latency_ms * 1e6);
        Breaches {
            p99_latency: is_judged(searches) && is_slow,
            cache_hit_rate: is_judged(self.cache_repeats) && is_missed,
            error_rate: is_judged(requests) && self.error_rate > slo.error_rate,
            availability: is_judged(requests) && self.availability < slo.availability,
        }
    }
}

impl Breaches {
    /// The objectives that are missed, in words; `None` if none is. Hits are a means to latency: that
    /// there are few of them is a reason where answers are slow, and no trouble where they are not.
    #[must_use]
    pub fn words(self) -> Option<String> {
        let all = [
            (self.p99_latency, "slo.p99_latency_ms"),
            (
                self.p99_latency && self.cache_hit_rate,
                "slo.cache_hit_rate (cache.query_cache_capacity)",
            ),
            (self.error_rate, "slo.error_rate"),
            (self.availability, "slo.availability"),
        ];
        let missed: Vec<_> = all.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        (!missed.is_empty())
            .then(|| format!("SLO breach over the last minute: {}", missed.join(", ")))
    }
}

/// The body of `/slo`. Rates of the cache are no numbers where it was not asked.
#[must_use]
pub(super) fn page(service: &Service, slo: &SloSection) -> Value {
    let breaches = service.breaches(slo);
    json!({
        "current_metrics": {
            "p99_latency_ns": service.p99_ns.unwrap_or(0),
            "cache_hit_rate": service.cache_hit_rate,
            "cache_repeat_hit_rate": service.cache_repeat_hit_rate,
            "error_rate": service.error_rate,
            "availability": service.availability,
            "searches": service.searches,
            "requests": service.requests,
        },
        "slo_breaches": {
            "p99_latency": breaches.p99_latency,
            "cache_hit_rate": breaches.cache_hit_rate,
            "error_rate": breaches.error_rate,
            "availability": breaches.availability,
        },
        "slo_thresholds": {
            "p99_latency_ns": (slo.p99_latency_ms * 1e6) as u64,
            "min_cache_hit_rate": slo.cache_hit_rate,
            "max_error_rate": slo.error_rate,
            "min_availability": slo.availability,
            "min_samples": slo.min_samples,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::counters::ErrorCategory;
    use std::time::Duration;

    #[test]
    fn objectives_are_judged_by_enough_requests_only() {
        let (observed, slo) = (Observed::default(), SloSection::default());
        let ask = |count: u64| {
            for _ in 0..count {
                observed.methods.search.record(Duration::from_millis(20));
            }
            observed.gateway.queries.add(count);
            observed.gateway.errors(ErrorCategory::Internal).add(count / 10);
        };
        assert_eq!(Service::of(&observed).breaches(&slo), Breaches::default());
        ask(slo.min_samples - 1);
        let service = Service::of(&observed);
        assert!(service.p99_ns.unwrap() >= 20_000_000 && service.error_rate > 0.05);
        assert_eq!(service.breaches(&slo), Breaches::default());
        ask(1);
        let breaches = Service::of(&observed).breaches(&slo);
        let all_but_cache = Breaches {
            p99_latency: true,
            cache_hit_rate: false,
            error_rate: true,
            availability: true,
        };
        assert_eq!(breaches, all_but_cache);
        let words = breaches.words().unwrap();
        assert!(words.contains("slo.p99_latency_ms") && !words.contains("cache"), "{words}");
        let page = page(&Service::of(&observed), &slo);
        assert_eq!(page["slo_breaches"]["p99_latency"], true);
        assert_eq!(page["slo_thresholds"]["p99_latency_ns"], 10_000_000);
        let easy = SloSection {
            p99_latency_ms: 50.0,
            error_rate: 0.5,
            availability: 0.5,
            ..SloSection::default()
        };
        assert_eq!(Service::of(&observed).breaches(&easy), Breaches::default());
    }

    /// What a cache can't answer is no fault of it: what was never asked before, or was written to
    /// since.
    #[test]
    fn hits_are_judged_by_what_comes_again() {
        let (observed, slo) = (Observed::default(), SloSection::default());
        let cache = &observed.gateway.cache;
        let now = || (Service::of(&observed), Service::of(&observed).breaches(&slo));
        assert_eq!(now().0.cache_hit_rate, None);
        cache.misses.add(100_000);
        let (service, breaches) = now();
        assert_eq!((service.cache_hit_rate, service.cache_repeat_hit_rate), (Some(0.0), None));
        assert!(!breaches.cache_hit_rate, "a workload without repeats");
        cache.misses.add(60);
        cache.missed_repeats.add(60);
        cache.hits.add(slo.min_samples - 61);
        assert!(!now().1.cache_hit_rate, "too few to judge");
        cache.hits.add(1);
        let (service, breaches) = now();
        assert_eq!(service.cache_repeat_hit_rate, Some(0.4));
        assert!(breaches.cache_hit_rate);
        assert_eq!(breaches.words(), None, "nobody waits for it");
        let slow = Breaches { p99_latency: true, ..breaches };
        assert!(slow.words().unwrap().contains("slo.cache_hit_rate"));
        assert_eq!(page(&service, &slo)["slo_breaches"]["cache_hit_rate"], true);
        assert_eq!(page(&service, &slo)["current_metrics"]["cache_repeat_hit_rate"], 0.4);
        cache.hits.add(100);
        assert!(!now().1.cache_hit_rate);
    }
}

//! `/slo` as a table: the last minute against each objective, and how much of its allowance that burns.

use serde_json::Value;

use super::number;
use crate::table::{Column, table};

/// An objective with its values.
struct Objective {
    name: &'static str,
    now: Option<f64>,
    /// The bound, in the unit of `now`.
    bound: f64,
    /// The measured value divided by the value that is allowed. Above 1 the objective is missed.
    burn: Option<f64>,
    is_missed: bool,
    /// Requests that it is judged by; none where the page does not count them.
    samples: Option<(u64, &'static str)>,
    shown: fn(f64) -> String,
}

/// The page as people read it.
#[must_use]
pub fn slo(page: &Value) -> String {
    let current = &page["current_metrics"];
    let (searches, requests) = (number(&current["searches"]), number(&current["requests"]));
    let least = number(&page["slo_thresholds"]["min_samples"]);
    let columns = [
        Column::Left("OBJECTIVE"),
        Column::Right("NOW"),
        Column::Right("BOUND"),
        Column::Right("BURN"),
        Column::Left("STATE"),
    ];
    let rows = objectives(page).into_iter().map(|objective| {
        let or_none = |shown: Option<String>| shown.unwrap_or_else(|| "-".to_owned());
        [
            objective.name.to_owned(),
            or_none(objective.now.map(objective.shown)),
            (objective.shown)(objective.bound),
            or_none(objective.burn.map(|burn| format!("{burn:.2}"))),
            objective.state(least),
        ]
    });
    let table = table(columns, rows, true);
    format!(
        "{table}\nThe last minute: {searches} searches, {requests} requests. BURN: measured value by \
         allowed value.\n"
    )
}

fn objectives(page: &Value) -> [Objective; 4] {
    let (current, bounds) = (&page["current_metrics"], &page["slo_thresholds"]);
    let missed = |name: &str| page["slo_breaches"][name] == true;
    let bound = |name: &str| bounds[name].as_f64().unwrap_or(0.0);
    let (searches, requests) = (number(&current["searches"]), number(&current["requests"]));
    let p99 = current["p99_latency_ns"].as_f64().filter(|_| searches > 0);
    let p99_bound = bound("p99_latency_ns");
    let of_requests = |name: &str| current[name].as_f64().filter(|_| requests > 0);
    let errors = of_requests("error_rate");
    let availability = of_requests("availability");
    // Hits are judged by searches that came again with nothing written since.
    let hits = current["cache_repeat_hit_rate"].as_f64();
    [
        Objective {
            name: "p99 latency",
            now: p99,
            bound: p99_bound,
            burn: p99.map(|ns| burn(ns, p99_bound)),
            is_missed: missed("p99_latency"),
            samples: Some((searches, "searches")),
            shown: |ns| format!("{:.2} ms", ns / 1e6),
        },
        Objective {
            name: "error rate",
            now: errors,
            bound: bound("max_error_rate"),
            burn: errors.map(|rate| burn(rate, bound("max_error_rate"))),
            is_missed: missed("error_rate"),
            samples: Some((requests, "requests")),
            shown: percent,
        },
        Objective {
            name: "availability",
            now: availability,
            bound: bound("min_availability"),
            burn: availability.map(|share| burn(1.0 - share, 1.0 - bound("min_availability"))),
            is_missed: missed("availability"),
            samples: Some((requests, "requests")),
            shown: percent,
        },
        Objective {
            name: "cache hit rate",
            now: hits,
            bound: bound("min_cache_hit_rate"),
            burn: hits.map(|rate| burn(1.0 - rate, 1.0 - bound("min_cache_hit_rate"))),
            is_missed: missed("cache_hit_rate"),
            samples: None,
            shown: percent,
        },
    ]
}

impl Objective {
    /// `least`: requests that it takes to judge.
    fn state(&self, least: u64) -> String {
        match (self.is_missed, self.samples, self.now, self.burn) {
            (true, ..) => "MISSED".into(),
            (_, Some((samples, what)), ..) if samples < least => {
                format!("not judged: {samples} of {least} {what}")
            }
            (_, None, None, _) => "not judged: no search came again".into(),
            // The page says that it is not missed, so there were too few to judge.
            (_, None, _, Some(burn)) if burn > 1.0 => {
                format!("not judged: fewer than {least} repeated searches")
            }
            _ => "ok".into(),
        }
    }
}

fn burn(measured: f64, allowed: f64) -> f64 {
    // Shares come from subtractions, so they may be a rounding error off zero.
    if measured <= f64::EPSILON { 0.0 } else { measured / allowed.max(0.0) }
}

fn percent(share: f64) -> String {
    format!("{:.3} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(searches: u64, p99_ns: u64) -> Value {
        json!({
            "current_metrics": {
                "p99_latency_ns": p99_ns, "cache_hit_rate": null, "cache_repeat_hit_rate": null,
                "error_rate": 0.0005, "availability": 1.0, "searches": searches,
                "requests": searches + 10,
            },
            "slo_breaches": {
                "p99_latency": p99_ns > 10_000_000, "cache_hit_rate": false, "error_rate": false,
                "availability": false,
            },
            "slo_thresholds": {
                "p99_latency_ns": 10_000_000, "min_cache_hit_rate": 0.7, "max_error_rate": 0.001,
                "min_availability": 0.999, "min_samples": 100,
            },
        })
    }

    #[test]
    fn milliseconds_stand_beside_their_bound_with_the_burn() {
        let text = slo(&page(120, 6_356_991));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "OBJECTIVE             NOW     BOUND  BURN  STATE", "{text}");
        assert_eq!(lines[1], "p99 latency       6.36 ms  10.00 ms  0.64  ok", "{text}");
        assert_eq!(lines[2], "error rate        0.050 %   0.100 %  0.50  ok", "{text}");
        assert_eq!(lines[3], "availability    100.000 %  99.900 %  0.00  ok", "{text}");
        let hits = "cache hit rate          -  70.000 %     -  not judged: no search came again";
        assert_eq!(lines[4], hits, "{text}");
        assert!(lines[6].starts_with("The last minute: 120 searches, 130 requests."), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 100), "{text}");
        assert!(slo(&page(120, 25_000_000)).contains("25.00 ms  10.00 ms  2.50  MISSED"));
    }

    #[test]
    fn too_few_requests_are_not_judged() {
        let text = slo(&page(27, 9_000_000));
        assert!(text.contains("0.90  not judged: 27 of 100 searches"), "{text}");
        let text = slo(&page(0, 0));
        assert!(text.contains("not judged: 0 of 100 searches"), "{text}");
        assert!(text.contains("not judged: 10 of 100 requests"), "{text}");
        let mut few = page(120, 1);
        few["current_metrics"]["cache_repeat_hit_rate"] = 0.4.into();
        let text = slo(&few);
        assert!(text.contains("40.000 %"), "{text}");
        assert!(text.contains("2.00  not judged: fewer than 100 repeated searches"), "{text}");
        few["slo_breaches"]["cache_hit_rate"] = true.into();
        assert!(slo(&few).contains("2.00  MISSED"));
    }

    #[test]
    fn an_objective_that_allows_nothing_burns_without_end() {
        assert_eq!(burn(0.0, 0.0), 0.0);
        assert_eq!(burn(0.1, 0.0), f64::INFINITY);
    }
}

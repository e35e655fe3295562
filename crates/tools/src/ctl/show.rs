//! Answers of a server as people read them.

use std::fmt::Write;

use serde_json::Value;

use super::number;
use crate::types::human::show_bytes;

/// The pages that a status is made of.
pub struct Pages {
    /// `/health`.
    pub health: Value,
    /// `/ready`.
    pub ready: Value,
    /// `/stats`.
    pub stats: Value,
    /// `/slo`.
    pub slo: Value,
}

/// How a server is, on one screen.
#[must_use]
pub fn status(pages: &Pages) -> String {
    let Pages { health, ready, stats, slo } = pages;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let written = writeln!(text, "{name:<12} {value}");
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    };
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let reason = health["reason"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
    line("health", format!("{}{reason}", word(&health["status"])));
    line("ready", if ready["ready"] == true { "yes".into() } else { "no".into() });
    line("version", format!("{} ({})", word(&stats["version"]), word(&stats["git_commit"])));
    line("up for", duration(number(&stats["uptime_seconds"])));
    let hot = number(&stats["hot_documents"]);
    line("documents", format!("{}, {hot} of them to be linked", number(&stats["documents"])));
    line(
        "load",
        format!(
            "{} queries/s, {} inserts/s, {} searches in flight, {} % CPU",
            stats["queries_per_second"],
            stats["inserts_per_second"],
            number(&stats["searches_in_flight"]),
            stats["cpu_percent"],
        ),
    );
    let memory = &stats["memory"];
    let (used, peak) = (number(&memory["resident_bytes"]), number(&memory["peak_bytes"]));
    line("memory", format!("{}, at most {}", show_bytes(used), show_bytes(peak)));
    let disk = &stats["disk"];
    line(
        "disk",
        format!(
            "{} used, {} left, {} of it kept free",
            show_bytes(number(&disk["used_bytes"])),
            show_bytes(number(&disk["available_bytes"])),
            show_bytes(number(&disk["reserve_bytes"])),
        ),
    );
    let current = &slo["current_metrics"];
    let p99_ms = current["p99_latency_ns"].as_f64().unwrap_or(0.0) / 1e6;
    let share = |value: &Value| format!("{:.3} %", value.as_f64().unwrap_or(0.0) * 100.0);
    let missed: Vec<&str> = slo["slo_breaches"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, missed)| **missed == true)
        .map(|(name, _)| name.as_str())
        .collect();
    let (requests, least) =
        (current["requests"].as_u64(), slo["slo_thresholds"]["min_samples"].as_u64());
    let missed = match missed.as_slice() {
        [] if requests < least => format!(
            "not judged: {} requests in the last minute, and slo.min_samples is {}",
            requests.unwrap_or(0),
            least.unwrap_or(0)
        ),
        [] => "all objectives met".to_owned(),
        names => format!("MISSED: {}", names.join(", ")),
    };
    line(
        "service",
        format!("p99 {p99_ms:.2} ms, errors {}, {missed}", share(&current["error_rate"])),
    );
    for shard in stats["shards"].as_array().into_iter().flatten() {
        let state = match (shard["is_fenced"] == true, shard["is_read_only"] == true) {
            (true, _) => "FENCED",
            (_, true) => "LOG LOST, read-only",
            _ => "serves",
        };
        let log = &shard["log"];
        line(
            &format!("shard {}", shard["shard"]),
            format!(
                "{state}; {} documents, {} to be linked, {} dead nodes; breaker of the log {}, {} failures",
                shard["documents"],
                shard["hot_documents"],
                shard["dead_nodes"],
                word(&log["breaker"]),
                log["failures"],
            ),
        );
    }
    for core in stats["cores"].as_array().into_iter().flatten() {
        let stalled = number(&core["stalled_ms"]);
        let state = match (core["is_running"] == true, stalled) {
            (false, _) => "HAS ENDED".to_owned(),
            (true, 0) => "runs".to_owned(),
            (true, ms) => format!("STANDS STILL for {ms} ms"),
        };
        line(
            &format!("core {}", core["core"]),
            format!("{state}; {} requests wait", number(&core["queue"])),
        );
    }
    text
}

/// Values of the configuration, `key = value` with where it comes from; only those that are set where
/// `only_set`.
#[must_use]
pub fn config(page: &Value, only_set: bool) -> String {
    let mut text = String::new();
    for (key, entry) in page.as_object().into_iter().flatten() {
        let origin = entry["origin"].as_str().unwrap_or("?");
        if !only_set || origin != "default" {
            let written = writeln!(text, "{key} = {}  # {origin}", entry["value"]);
            debug_assert!(written.is_ok(), "writing to a string can't fail");
        }
    }
    text
}

/// Any answer: its values, one a line.
#[must_use]
pub fn plain(value: &Value) -> String {
    let mut text = String::new();
    lines(value, "", &mut text);
    text
}

fn lines(value: &Value, path: &str, text: &mut String) {
    let joined = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| lines(value, &joined(key), text)),
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                lines(value, &joined(&index.to_string()), text);
            }
        }
        Value::String(said) => line(path, said, text),
        other => line(path, &other.to_string(), text),
    }
}

fn line(path: &str, value: &str, text: &mut String) {
    let written = match path {
        "" => writeln!(text, "{}", value.trim_end()),
        path => writeln!(text, "{path}: {value}"),
    };
    debug_assert!(written.is_ok(), "writing to a string can't fail");
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn trouble_is_seen_at_once() {
        let shard = |fenced: bool| {
            json!({
                "shard": 0, "documents": 3, "hot_documents": 1, "dead_nodes": 0,
                "is_fenced": fenced, "is_read_only": false,
                "log": { "breaker": "open", "failures": 2 },
            })
        };
        let pages = |fenced: bool| Pages {
            health: json!({ "status": "degraded", "reason": "a shard is fenced" }),
            ready: json!({ "ready": true }),
            stats: json!({
                "version": "1", "git_commit": "abc", "uptime_seconds": 90_061,
                "documents": 3, "hot_documents": 1, "shards": [shard(fenced)],
                "cores": [{ "core": 0, "queue": 4, "is_running": true, "stalled_ms": 70 }],
                "memory": { "resident_bytes": 3 << 20, "peak_bytes": 4 << 20 },
            }),
            slo: json!({
                "current_metrics": { "p99_latency_ns": 12_000_000, "error_rate": 0.02 },
                "slo_breaches": { "p99_latency": true, "error_rate": false },
            }),
        };
        let text = status(&pages(true));
        for part in [
            "degraded: a shard is fenced",
            "1 d 1 h",
            "3.0 MiB, at most 4.0 MiB",
            "p99 12.00 ms, errors 2.000 %, MISSED: p99_latency",
            "FENCED; 3 documents",
            "breaker of the log open, 2 failures",
            "STANDS STILL for 70 ms; 4 requests wait",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(status(&pages(false)).contains("serves; 3 documents"));
        let quiet = |requests: u64| {
            let slo = json!({
                "current_metrics": { "error_rate": 0.185, "requests": requests },
                "slo_breaches": { "error_rate": false },
                "slo_thresholds": { "min_samples": 100 },
            });
            status(&Pages { slo, ..pages(false) })
        };
        assert!(quiet(27).contains("errors 18.500 %, not judged: 27 requests"), "{}", quiet(27));
        assert!(quiet(100).contains("all objectives met"));
    }

    #[test]
    fn values_are_shown_with_their_origin() {
        let page = json!({
            "hnsw.m": { "value": 16, "origin": "default" },
            "server.port": { "value": 7, "origin": "--port" },
        });
        assert_eq!(config(&page, true), "server.port = 7  # --port\n");
        assert_eq!(config(&page, false).lines().count(), 2);
        assert_eq!(plain(&json!({ "a": { "b": [1, "x"] } })), "a.b.0: 1\na.b.1: x\n");
    }
}

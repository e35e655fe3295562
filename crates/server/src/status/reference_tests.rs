//! `docs/metrics.md` has every family of `/metrics` with its type and its help text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::health::Health;
use super::metrics::render;
use super::process_metrics::facts;
use crate::observe::Observed;
use crate::reference::{hold, row};

/// Families that only a program with the feature `otel` has.
const OF_OTEL: [(&str, &str, &str); 2] = [
    (
        "kyrodb_spans_exported_total",
        "counter",
        "Searches whose spans the collector has taken. With the feature `otel`.",
    ),
    (
        "kyrodb_spans_dropped_total",
        "counter",
        "Searches whose spans it has not taken. With the feature `otel`.",
    ),
];

/// A server in which everything has happened that a family tells of.
fn everything() -> Arc<Observed> {
    let observed = Arc::new(Observed::default());
    observed.set_shards(1);
    let some = Duration::from_micros(70);
    observed.methods.search.record(some);
    observed.methods.insert.record(some);
    observed.cached.record(some);
    observed.stages.walk.record(some);
    observed.stages.fsync.record(some);
    observed.stages.search.iter().for_each(|stage| stage.record(some));
    let cache = &observed.gateway.cache;
    cache.capacity.set(1);
    cache.hits.add(1);
    cache.has_near.store(true, Ordering::Relaxed);
    cache.overlap_millionths.set(1);
    cache.near_overlap_millionths.set(1);
    observed.memory.set_max(1);
    observed.space.set_reserve(1);
    let end = observed.certificate_end.set(Arc::new(AtomicI64::new(1)));
    assert!(end.is_ok());
    observed.has_vectors_on_disk.store(true, Ordering::Relaxed);
    observed.add_document_cache().learns.set(1);
    observed.shards()[0].snapshot_changed_bytes.add(1);
    observed
}

/// Names of families in the source of this module, with the files that have them.
fn named_in_the_source() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/status");
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() || file.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for prefix in ["kyrodb_", "process_"] {
            for part in code.split(&format!("\"{prefix}")).skip(1) {
                let name = part.split('"').next().unwrap_or_default();
                let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
                if is_name && !name.is_empty() {
                    names.insert(format!("{prefix}{name}"), file.clone());
                }
            }
        }
    }
    names
}

#[test]
fn the_reference_of_metrics_has_every_family_with_type_and_help() {
    let observed = everything();
    let health = Health::new(observed.clone());
    let text = render(&facts(&observed, &health));
    let mut families: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.insert(name, ("", help));
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            let family = families.get_mut(name).unwrap_or_else(|| panic!("{name} has no help"));
            family.0 = kind;
        }
    }
    for (name, kind, help) in OF_OTEL {
        families.insert(name, (kind, help));
    }
    for (name, file) in named_in_the_source() {
        let is_there = families.contains_key(name.as_str());
        assert!(is_there, "{name} of {file} is not rendered: feed it in `everything`");
    }
    let mut table = row(["Family", "Type", "Help"]);
    table.push_str("|---|---|---|\n");
    for (name, (kind, help)) in &families {
        assert!(!kind.is_empty() && !help.is_empty(), "{name}");
        table.push_str(&row([&format!("`{name}`"), *kind, *help]));
    }
    hold("docs/metrics.md", &table);
}

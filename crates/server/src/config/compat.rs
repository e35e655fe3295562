//! Keys of earlier servers: each is accepted with a warning that names the key of today, or says that it has no
//! effect any more. One table for files and environment variables.

use serde_json::{Map, Value};

/// What has become of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    /// Another name of a key, as good as its own.
    AlsoCalled(&'static str),
    /// The key has another name.
    Called(&'static str),
    /// The key has no effect, and why.
    Gone(&'static str),
}

use Now::{AlsoCalled, Called, Gone};

/// All of them, by their full names.
const FORMER: [(&str, Now); 18] = [
    (
        "persistence.snapshot_interval_inserts",
        AlsoCalled("persistence.snapshot_interval_mutations"),
    ),
    ("timeouts.cache_ms", Gone("a look into the cache of queries takes microseconds")),
    ("cache.auto_tune_threshold", Called("cache.adaptive_admission.enabled")),
    ("cache.target_utilization", Called("cache.adaptive_admission.target_utilization")),
    ("access_logger.window_size", Called("cache.logger_window_size")),
    ("cache.access_logger.window_size", Called("cache.logger_window_size")),
    ("training.enabled", Called("cache.enable_training_task")),
    ("training.interval_secs", Called("cache.training_interval_secs")),
    ("training.max_samples", Called("cache.logger_window_size")),
    ("training.min_samples", Called("cache.min_training_samples")),
    ("training.recency_halflife_secs", Called("cache.recency_halflife_secs")),
    ("training.window_duration_secs", Called("cache.training_window_secs")),
    ("cache.training.enabled", Called("cache.enable_training_task")),
    ("cache.training.interval_secs", Called("cache.training_interval_secs")),
    ("cache.training.max_samples", Called("cache.logger_window_size")),
    ("cache.training.min_samples", Called("cache.min_training_samples")),
    ("cache.training.recency_halflife_secs", Called("cache.recency_halflife_secs")),
    ("cache.training.window_duration_secs", Called("cache.training_window_secs")),
];

/// Puts the values of former keys of a layer, as a file is one, where they belong today. Where the layer has the
/// key of today too, that one counts.
pub(super) fn translate(layer: &mut Value, origin: &str, warnings: &mut Vec<String>) {
    for (former, now) in FORMER {
        let Some(value) = take(layer, former) else { continue };
        if let Some(key) = renamed(former, now, origin, warnings)
            && layer.pointer(&pointer(key)).is_none()
        {
            put(layer, key, value);
        }
    }
}

/// The key of today for one that a variable names: itself, another, or none.
pub(super) fn key_of(path: String, origin: &str, warnings: &mut Vec<String>) -> Option<String> {
    match FORMER.iter().find(|(former, _)| *former == path) {
        Some((former, now)) => renamed(former, *now, origin, warnings).map(str::to_owned),
        None => Some(path),
    }
}

/// The key of today for a former one, with a warning.
fn renamed(
    former: &str,
    now: Now,
    origin: &str,
    warnings: &mut Vec<String>,
) -> Option<&'static str> {
    match now {
        AlsoCalled(key) => Some(key),
        Called(key) => {
            warnings.push(format!("{origin}: {former} is called {key} now, and is taken as that"));
            Some(key)
        }
        Gone(why) => {
            warnings.push(format!("{origin}: {former} has no effect: {why}"));
            None
        }
    }
}

fn pointer(key: &str) -> String {
    format!("/{}", key.replace('.', "/"))
}

/// Takes a value out, and sections that are empty without it.
fn take(tree: &mut Value, key: &str) -> Option<Value> {
    let section = tree.as_object_mut()?;
    let Some((first, rest)) = key.split_once('.') else { return section.remove(key) };
    let below = section.get_mut(first)?;
    let taken = take(below, rest)?;
    if below.as_object().is_some_and(Map::is_empty) {
        section.remove(first);
    }
    Some(taken)
}

/// Puts a value in, with the sections above it. What is no section stays: it is refused later.
fn put(tree: &mut Value, key: &str, value: Value) {
    let Some(section) = tree.as_object_mut() else { return };
    match key.split_once('.') {
        None => {
            section.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let below = section.entry(first).or_insert(Value::Null);
            if below.is_null() {
                *below = Value::Object(Map::new());
            }
            put(below, rest, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_former_key_leads_to_one_of_today_and_is_none_itself() {
        let leaves: Vec<String> =
            Config::default().leaves().into_iter().map(|(name, _)| name).collect();
        for (former, now) in FORMER {
            assert!(!leaves.iter().any(|leaf| leaf == former), "{former}");
            if let AlsoCalled(key) | Called(key) = now {
                assert!(leaves.iter().any(|leaf| leaf == key), "{former} leads to {key}");
            }
        }
    }
}

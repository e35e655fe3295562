//! Keys of earlier servers, accepted with a warning: one table of keys that have another name today
//! ([`FORMER`]), and one of keys without effect ([`INERT`]). Both hold for files and environment variables.

use serde_json::{Map, Value};

use super::Config;

/// What has become of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    /// Another name of a key, as good as its own.
    AlsoCalled(&'static str),
    /// The key has another name.
    Called(&'static str),
}

use Now::{AlsoCalled, Called};

/// A key without effect.
///
/// | The key | Its value |
/// |---|---|
/// | is a field of [`Config`] | is checked as ever, and shown; a warning names the key unless it is the default |
/// | is none | is not looked at; a warning names the key and where it is set |
pub(super) struct Inert {
    /// Its full name.
    pub(super) key: &'static str,
    /// The first version in which it has no effect.
    pub(super) since: &'static str,
    /// What to use instead, or why nothing is needed.
    pub(super) instead: &'static str,
}

impl Inert {
    /// The key by this name, if it has no effect.
    pub(super) fn named(key: &str) -> Option<&'static Self> {
        INERT.iter().find(|inert| inert.key == key)
    }

    fn warning(&self) -> String {
        let Self { key, since, instead } = self;
        format!("{key} has no effect since version {since}: {instead}")
    }
}

const fn inert(key: &'static str, instead: &'static str) -> Inert {
    Inert { key, since: "0.1.0", instead }
}

const BY_TRIAL: &str = "cache.strategy learned finds out by trial what does best";
const WINDOW: &str = "use cache.logger_window_size, which counts accesses";
const EXACT: &str = "use cache.query_cache_similarity_threshold, which answers near queries where it proves the answer";

/// All keys without effect.
pub(super) const INERT: [Inert; 17] = [
    inert("cache.predictor_capacity_multiplier", BY_TRIAL),
    inert("cache.search_access_log_top_n", "accesses are reads of vectors from files, all of them"),
    inert("cache.hot_tier_max_age_secs", "documents are linked as soon as the cores have time"),
    inert("cache.training_window_secs", WINDOW),
    inert("cache.recency_halflife_secs", WINDOW),
    inert("cache.admission_threshold", BY_TRIAL),
    inert("cache.adaptive_admission.enabled", BY_TRIAL),
    inert("cache.adaptive_admission.target_utilization", BY_TRIAL),
    inert("cache.adaptive_admission.control_interval_secs", BY_TRIAL),
    inert("cache.adaptive_admission.max_bias", BY_TRIAL),
    inert("cache.semantic.high_confidence_threshold", EXACT),
    inert("cache.semantic.low_confidence_threshold", EXACT),
    inert("cache.semantic.semantic_similarity_threshold", EXACT),
    inert("cache.semantic.max_cached_embeddings", "use cache.query_cache_capacity"),
    inert("cache.semantic.similarity_scan_limit", EXACT),
    inert("hnsw.disable_normalization_check", "leave it out; GetConfig returns the value"),
    inert("timeouts.cache_ms", "a lookup in the query cache takes microseconds"),
];

/// Keys that have another name, by their former names.
const FORMER: [(&str, Now); 17] = [
    (
        "persistence.snapshot_interval_inserts",
        AlsoCalled("persistence.snapshot_interval_mutations"),
    ),
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
    for inert in without_field() {
        if take(layer, inert.key).is_some() {
            warnings.push(format!("{origin}: {}", inert.warning()));
        }
    }
    for (former, now) in FORMER {
        let Some(value) = take(layer, former) else { continue };
        let key = renamed(former, now, origin, warnings);
        if layer.pointer(&pointer(key)).is_none() {
            put(layer, key, value);
        }
    }
}

/// Keys without effect that are no fields of the configuration.
fn without_field() -> impl Iterator<Item = &'static Inert> {
    let leaves = Config::default().leaves();
    INERT.iter().filter(move |inert| !leaves.iter().any(|(name, _)| name == inert.key))
}

/// A warning for each key without effect that has a field, and there another value than the default.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let leaves = config.leaves().into_iter().zip(Config::default().leaves());
    let changed = leaves.filter(|(set, default)| set != default).map(|((name, _), _)| name);
    changed.filter_map(|name| Inert::named(&name)).map(Inert::warning).collect()
}

/// The key of today for one that a variable names: itself, another, or none.
pub(super) fn key_of(path: String, origin: &str, warnings: &mut Vec<String>) -> Option<String> {
    if let Some(inert) = without_field().find(|inert| inert.key == path) {
        warnings.push(format!("{origin}: {}", inert.warning()));
        return None;
    }
    Some(match FORMER.iter().find(|(former, _)| *former == path) {
        Some((former, now)) => renamed(former, *now, origin, warnings).to_owned(),
        None => path,
    })
}

/// The key of today for a former one, with a warning.
fn renamed(former: &str, now: Now, origin: &str, warnings: &mut Vec<String>) -> &'static str {
    match now {
        AlsoCalled(key) => key,
        Called(key) => {
            warnings.push(format!("{origin}: {former} is called {key} now, and is taken as that"));
            key
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
    use serde_json::json;

    use super::*;
    use crate::config::{Overrides, load};

    #[test]
    fn every_former_key_leads_to_one_of_today_and_is_none_itself() {
        let leaves: Vec<String> =
            Config::default().leaves().into_iter().map(|(name, _)| name).collect();
        for (former, now) in FORMER {
            assert!(!leaves.iter().any(|leaf| leaf == former), "{former}");
            let (AlsoCalled(key) | Called(key)) = now;
            assert!(leaves.iter().any(|leaf| leaf == key), "{former} leads to {key}");
        }
    }

    /// A value that is accepted and is not the default.
    fn other_value(key: &str) -> Value {
        let leaves = Config::default().leaves();
        let default = leaves.into_iter().find(|(name, _)| name == key).map(|(_, value)| value);
        match default {
            Some(Value::Bool(is_on)) => (!is_on).into(),
            Some(Value::Number(number)) if number.is_f64() => 0.5.into(),
            Some(Value::Number(number)) => (number.as_u64().unwrap() - 1).into(),
            Some(Value::Null) | None => 7.into(),
            Some(other) => panic!("{key} is {other}"),
        }
    }

    #[test]
    fn keys_without_effect_are_accepted_in_files_and_variables_with_one_warning_each() {
        for inert in &INERT {
            let (key, value) = (inert.key, other_value(inert.key));
            let mut layer = json!({});
            put(&mut layer, key, value.clone());
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("c.yaml");
            std::fs::write(&path, serde_norway::to_string(&layer).unwrap()).unwrap();
            let overrides = Overrides { file: Some(path), ..Overrides::default() };
            let nothing: [(&str, &str); 0] = [];
            let from_file = load(&overrides, nothing).unwrap_or_else(|why| panic!("{why:?}")).0;
            let name = format!("KYRODB__{}", key.replace('.', "__").to_ascii_uppercase());
            let variable = [(name, value.to_string())];
            let from_variable = load(&Overrides::default(), variable);
            let from_variable = from_variable.unwrap_or_else(|why| panic!("{why:?}")).0;
            for config in [from_file, from_variable] {
                let said = config.warnings();
                let expected = format!("{key} has no effect since version {}: ", inert.since);
                assert_eq!(said.len(), 1, "{key}: {said:?}");
                assert!(said[0].contains(&expected), "{said:?}");
            }
        }
    }

    #[test]
    fn keys_without_effect_are_listed_once_and_have_no_other_name() {
        for (index, inert) in INERT.iter().enumerate() {
            assert!(INERT[..index].iter().all(|other| other.key != inert.key), "{}", inert.key);
            assert!(FORMER.iter().all(|(former, _)| *former != inert.key), "{}", inert.key);
        }
        assert_eq!(Config::default().warnings(), [""; 0], "defaults give no warning");
    }
}

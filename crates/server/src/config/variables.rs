//! Environment variables whose names begin with `KYRODB_`: a variable that no program reads is a slip, such as
//! `KYRODB_HNSW_EF_SEARCH` with one `_` for two, and is named at the start.

use super::load::SIMILARITY_MIN;

/// Variables with this prefix are settings: `KYRODB__SECTION__KEY`.
pub(super) const KEY_PREFIX: &str = "KYRODB__";

/// Prefix of every variable of the project.
pub(super) const PREFIX: &str = "KYRODB_";

/// Variables of the programs, beside those of keys.
const OF_PROGRAMS: [&str; 9] = [
    "KYRODB_API_KEY",
    "KYRODB_CA_CERT",
    "KYRODB_CLIENT_CERT",
    "KYRODB_CLIENT_KEY",
    "KYRODB_CONFIG",
    "KYRODB_DATA_DIR",
    "KYRODB_GRPC_URL",
    "KYRODB_PORT",
    "KYRODB_URL",
];

/// Variables that a server inherits and does not read: `cargo run` and `cargo test` hand on what the build has
/// set, tests and measurements hand on their own settings.
const INHERITED: [&str; 3] = ["KYRODB_DATASETS", "KYRODB_GIT_COMMIT", "KYRODB_PERF_TARGET"];

/// Weight of a match with the last part of a key alone: that of the whole key is better.
const LEAF_WEIGHT: f64 = 0.95;

/// Whether a program of the project reads a variable with this name, which is not that of a key.
#[must_use]
pub fn is_of_a_program(name: &str) -> bool {
    OF_PROGRAMS.contains(&name)
}

/// The variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("{KEY_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The warning for a variable that begins with [`PREFIX`] and is none of a key; `None` if a program reads it.
/// `keys` are those that exist.
pub(super) fn warning(name: &str, keys: &[String]) -> Option<String> {
    if is_of_a_program(name) || INHERITED.contains(&name) {
        return None;
    }
    let way_out = match nearest(name, keys) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("keys of the configuration are set by {KEY_PREFIX}SECTION__KEY"),
    };
    Some(format!(
        "environment variable {name} has no effect: no program of KyroDB reads it; {way_out}"
    ))
}

/// The variable that `name` resembles most, if any does.
fn nearest(name: &str, keys: &[String]) -> Option<String> {
    let given = words(name.strip_prefix(PREFIX)?);
    let alike = |other: &str| strsim::normalized_damerau_levenshtein(&given, other);
    let of_keys = keys.iter().map(|key| {
        let leaf = key.rsplit('.').next().unwrap_or(key);
        (alike(&words(key)).max(LEAF_WEIGHT * alike(leaf)), variable(key))
    });
    let of_programs = OF_PROGRAMS.iter().map(|program| {
        (alike(&words(program.strip_prefix(PREFIX).unwrap_or(program))), (*program).to_owned())
    });
    let best = of_keys.chain(of_programs).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILARITY_MIN).then_some(best.1)
}

/// Words in lower case with one `_` between two, however a name separates them.
fn words(name: &str) -> String {
    let parts = name.split(['_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_variable_that_no_program_reads_is_named_with_the_nearest_that_one_does() {
        let keys: Vec<String> =
            Config::default().leaves().into_iter().map(|(key, _)| key).collect();
        for (name, meant) in [
            ("KYRODB_HNSW_EF_SEARCH", "KYRODB__HNSW__EF_SEARCH"),
            ("KYRODB_HNSW_EF_SERCH", "KYRODB__HNSW__EF_SEARCH"),
            ("KYRODB_HTTP_PORT", "KYRODB__SERVER__HTTP_PORT"),
            ("KYRODB_SERVER_TLS_ENABLED", "KYRODB__SERVER__TLS__ENABLED"),
            ("KYRODB_DATADIR", "KYRODB_DATA_DIR"),
            ("KYRODB_API_KEYS", "KYRODB_API_KEY"),
            ("KYRODB_DISTANCE", "KYRODB__HNSW__DISTANCE"),
        ] {
            let said = warning(name, &keys).unwrap();
            assert!(said.contains(name), "{said}");
            assert!(said.ends_with(&format!("did you mean {meant}?")), "{said}");
        }
        let said = warning("KYRODB_COMPLETELY_UNRELATED_THING", &keys).unwrap();
        assert!(said.ends_with("are set by KYRODB__SECTION__KEY"), "{said}");
        for name in OF_PROGRAMS.into_iter().chain(INHERITED) {
            assert_eq!(warning(name, &keys), None, "{name}");
        }
    }
}

//! The bounds of `perf/slo.toml`, and the comparison of a measured value with its bound.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Deserialize;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/perf/slo.toml");

/// The files in which values are measured.
const SOURCES: [&str; 7] = [
    include_str!("cache.rs"),
    include_str!("engine.rs"),
    include_str!("filters.rs"),
    include_str!("searches.rs"),
    include_str!("vectors.rs"),
    include_str!("writes.rs"),
    include_str!("beside.rs"),
];

/// Share of its bound below which a value shows that the bound is too wide.
const WIDE: f64 = 0.5;

/// Bound of a value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound {
    unit: String,
    at_most: Option<f64>,
    at_least: Option<f64>,
    reason: String,
    /// The value depends on the machine: the bound is wide on purpose.
    #[serde(default)]
    is_noisy: bool,
}

fn bounds() -> BTreeMap<String, Bound> {
    let text = std::fs::read_to_string(FILE).unwrap();
    toml::from_str(&text).unwrap_or_else(|error| panic!("perf/slo.toml: {error}"))
}

/// Compares values with their bounds, and fails after the last one.
pub(crate) struct Bounds {
    bounds: BTreeMap<String, Bound>,
    broken: Vec<String>,
}

impl Bounds {
    pub(crate) fn read() -> Self {
        Self { bounds: bounds(), broken: Vec::new() }
    }

    pub(crate) fn hold(&mut self, name: &str, value: f64) {
        let bound = self.bounds.get(name).unwrap_or_else(|| panic!("perf/slo.toml lacks {name}"));
        let Bound { unit, at_most, at_least, reason, is_noisy } = bound;
        let (is_held, limit) = match (at_most, at_least) {
            (Some(most), None) => (value <= *most, format!("at most {most}")),
            (None, Some(least)) => (value >= *least, format!("at least {least}")),
            _ => panic!("{name} needs one of at_most and at_least"),
        };
        let line = format!("{name}: {value:.4}, {limit} {unit}. {reason}");
        println!("{line}");
        if !is_held {
            self.broken.push(line);
        } else if at_most.is_some_and(|most| value < WIDE * most) && !is_noisy {
            // Not through the harness, which hides the output of passing tests.
            let told =
                writeln!(std::io::stderr(), "tighten the bound? {name}: {value:.4}, {limit}");
            told.unwrap();
        }
    }

    /// Upper bound of a value.
    pub(crate) fn most(&self, name: &str) -> f64 {
        self.bounds.get(name).and_then(|bound| bound.at_most).expect("it has an upper bound")
    }

    /// Fails if any value was beyond its bound.
    pub(crate) fn end(self) {
        assert!(self.broken.is_empty(), "beyond perf/slo.toml:\n{}", self.broken.join("\n"));
    }
}

/// A bound that no value is compared with is useless. (A missing bound panics above.)
#[test]
fn every_bound_is_of_something_that_is_measured() {
    for (name, bound) in bounds() {
        let quoted = format!("\"{name}\"");
        let uses = SOURCES.iter().map(|source| source.matches(&quoted).count()).sum::<usize>();
        assert_eq!(uses, 1, "{name} is measured at one place");
        assert!(bound.at_most.is_some() != bound.at_least.is_some(), "{name}");
        assert!(bound.reason.len() > 20 && !bound.unit.is_empty(), "{name} says why");
    }
}

#[test]
fn a_value_beyond_its_bound_fails_and_one_within_does_not() {
    let bound = |at_most, at_least| Bound {
        unit: "things".into(),
        at_most,
        at_least,
        reason: "because".into(),
        is_noisy: true,
    };
    let named = [("most", bound(Some(2.0), None)), ("least", bound(None, Some(2.0)))];
    let bounds = named.map(|(name, bound)| (name.to_owned(), bound)).into();
    let mut bounds = Bounds { bounds, broken: Vec::new() };
    bounds.hold("most", 2.0);
    bounds.hold("least", 2.0);
    assert!(bounds.broken.is_empty());
    bounds.hold("most", 2.01);
    bounds.hold("least", 1.99);
    assert_eq!(bounds.broken.len(), 2, "{:?}", bounds.broken);
    let failed = std::panic::catch_unwind(|| bounds.end());
    assert!(failed.is_err());
}

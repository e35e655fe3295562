//! The workload file: operations with their weights, and parameters of searches.
//!
//! ```toml
//! rate = 500            # requests a second
//! duration = 10         # seconds
//! k = 10
//! ef = 50
//! filter = { key = "bucket", equals = "7" }
//!
//! [weights]             # how often each operation comes, in relation to the others
//! search = 90
//! filtered = 4
//! insert = 3
//! delete = 1
//! update = 2
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::pacing::Random;
use crate::proto::metadata_filter::FilterType;
use crate::proto::range_match::Bound;
use crate::proto::{AndFilter, ExactMatch, InMatch, MetadataFilter, RangeMatch};

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Least similarity of a name that is proposed.
const SIMILARITY_MIN: f64 = 0.4;

/// Kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Search,
    Filtered,
    Insert,
    Delete,
    Update,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Search, Self::Filtered, Self::Insert, Self::Delete, Self::Update];

    /// Its key in the file and in results.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Filtered => "filtered",
            Self::Insert => "insert",
            Self::Delete => "delete",
            Self::Update => "update",
        }
    }
}

/// Weight of each kind, indexed as [`Kind::ALL`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weights([f64; 5]);

impl Weights {
    pub(super) fn is_search_alone(&self) -> bool {
        self.0[1..].iter().all(|&weight| weight == 0.0)
    }

    /// The weight of each kind, by its key.
    pub(super) fn by_word(&self) -> BTreeMap<&'static str, f64> {
        Kind::ALL.iter().map(|&kind| (kind.word(), self.0[kind as usize])).collect()
    }

    pub(super) fn has(&self, kind: Kind) -> bool {
        self.0[kind as usize] > 0.0
    }

    /// A random kind.
    pub(super) fn pick(&self, random: &mut Random) -> Kind {
        let mut left = random.unit() * self.0.iter().sum::<f64>();
        for kind in Kind::ALL {
            left -= self.0[kind as usize];
            if left < 0.0 {
                return kind;
            }
        }
        Kind::Search
    }
}

/// Contents of the file; missing settings are `None`.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) rate: Option<f64>,
    pub(super) duration: Option<f64>,
    pub(super) k: Option<u32>,
    pub(super) ef: Option<u32>,
    pub(super) filter: Option<MetadataFilter>,
    pub(super) weights: Weights,
}

impl Default for Workload {
    fn default() -> Self {
        let weights = Weights([1.0, 0.0, 0.0, 0.0, 0.0]);
        Self { rate: None, duration: None, k: None, ef: None, filter: None, weights }
    }
}

#[derive(Deserialize)]
struct FileForm {
    rate: Option<f64>,
    duration: Option<f64>,
    k: Option<u32>,
    ef: Option<u32>,
    filter: Option<FilterForm>,
    weights: Option<toml::Table>,
}

#[derive(Deserialize)]
struct FilterForm {
    key: String,
    equals: Option<String>,
    any: Option<Vec<String>>,
    at_least: Option<String>,
    at_most: Option<String>,
}

const KEYS: [&str; 6] = ["rate", "duration", "k", "ef", "filter", "weights"];
const FILTER_KEYS: [&str; 5] = ["key", "equals", "any", "at_least", "at_most"];

impl Workload {
    /// Reads a file.
    ///
    /// # Errors
    /// The fault, with the name of the file.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let size = std::fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.len();
        if size > FILE_BYTES_MAX {
            return Err(format!("{name}: {size} bytes are too many for a workload"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        Self::parse(&text).map_err(|why| format!("{name}: {why}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = text.parse().map_err(|error| format!("not TOML: {error}"))?;
        check_keys(&table, "", &KEYS)?;
        if let Some(toml::Value::Table(filter)) = table.get("filter") {
            check_keys(filter, "filter.", &FILTER_KEYS)?;
        }
        let form: FileForm = serde_path_to_error::deserialize(table)
            .map_err(|error| format!("`{}`: {}", error.path(), error.inner().message()))?;
        let weights = match &form.weights {
            Some(table) => weights(table)?,
            None => Self::default().weights,
        };
        let filter = form.filter.map(filter).transpose()?;
        if weights.has(Kind::Filtered) && filter.is_none() {
            let example = "filter = { key = \"bucket\", equals = \"7\" }";
            return Err(format!("`weights.filtered` needs a filter, such as {example}"));
        }
        let FileForm { rate, duration, k, ef, .. } = form;
        Ok(Self { rate, duration, k, ef, filter, weights })
    }
}

fn weights(table: &toml::Table) -> Result<Weights, String> {
    check_keys(table, "weights.", &Kind::ALL.map(Kind::word))?;
    let mut weights = Weights([0.0; 5]);
    for kind in Kind::ALL {
        let weight = match table.get(kind.word()) {
            None => 0.0,
            Some(toml::Value::Integer(weight)) => *weight as f64,
            Some(toml::Value::Float(weight)) => *weight,
            Some(_) => f64::NAN,
        };
        if !(0.0..=1e9).contains(&weight) {
            return Err(format!("`weights.{}` has to be a number from 0 on", kind.word()));
        }
        weights.0[kind as usize] = weight;
    }
    if weights.0.iter().sum::<f64>() == 0.0 {
        return Err("all weights are 0: nothing would be sent".into());
    }
    Ok(weights)
}

fn filter(form: FilterForm) -> Result<MetadataFilter, String> {
    let key = form.key;
    let range =
        |bound: Bound| FilterType::Range(RangeMatch { key: key.clone(), bound: Some(bound) });
    let conditions = [
        form.equals.map(|value| FilterType::Exact(ExactMatch { key: key.clone(), value })),
        form.any.map(|values| FilterType::InMatch(InMatch { key: key.clone(), values })),
        form.at_least.map(|value| range(Bound::Gte(value))),
        form.at_most.map(|value| range(Bound::Lte(value))),
    ];
    let filter = |filter_type| MetadataFilter { filter_type: Some(filter_type) };
    let filters: Vec<MetadataFilter> = conditions.into_iter().flatten().map(filter).collect();
    match <[MetadataFilter; 1]>::try_from(filters) {
        Ok([only]) => Ok(only),
        Err(none) if none.is_empty() => {
            Err("`filter` needs equals, any, at_least or at_most beside its key".into())
        }
        Err(filters) => Ok(filter(FilterType::AndFilter(AndFilter { filters }))),
    }
}

/// The name that may have been meant.
pub(super) fn nearest_name<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let known = known.iter().map(|name| (strsim::normalized_damerau_levenshtein(word, name), name));
    let nearest = known.max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.filter(|(similarity, _)| *similarity >= SIMILARITY_MIN).map(|(_, name)| *name)
}

/// Refuses an unknown key.
fn check_keys(table: &toml::Table, path: &str, known: &[&str]) -> Result<(), String> {
    let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) else {
        return Ok(());
    };
    Err(match nearest_name(key, known) {
        Some(name) => format!("unknown key `{path}{key}`; did you mean `{path}{name}`?"),
        None => format!("unknown key `{path}{key}`; known are {}", known.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_file_sets_weights_and_parameters() {
        let text = "rate = 5\nk = 3\nfilter = { key = \"b\", at_least = \"1\", at_most = \"2\" }\n\
                    [weights]\nsearch = 3\nfiltered = 1.0\n";
        let workload = Workload::parse(text).unwrap();
        assert_eq!((workload.rate, workload.k, workload.ef), (Some(5.0), Some(3), None));
        let mut random = Random::new(1, 0);
        let picked: Vec<Kind> = (0..4_000).map(|_| workload.weights.pick(&mut random)).collect();
        let filtered = picked.iter().filter(|&&kind| kind == Kind::Filtered).count();
        assert!((900..1_100).contains(&filtered), "{filtered} of 4000 at a quarter");
        let others = picked.iter().filter(|kind| !matches!(kind, Kind::Search | Kind::Filtered));
        assert_eq!(others.count(), 0);
        let filter = workload.filter.unwrap().filter_type.unwrap();
        assert!(matches!(filter, FilterType::AndFilter(and) if and.filters.len() == 2));
    }

    #[test]
    fn mistakes_are_named_with_the_remedy() {
        let cases = [
            ("raet = 5", "did you mean `rate`?"),
            ("[weights]\nserach = 1", "did you mean `weights.search`?"),
            ("filter = { kye = \"a\" }", "did you mean `filter.key`?"),
            ("qqqqqqqqqqq = 1", "known are rate, duration"),
            ("k = -1", "`k`"),
            ("rate = \"fast\"", "`rate`"),
            ("[weights]\nsearch = -1", "from 0 on"),
            ("[weights]\nsearch = nan", "from 0 on"),
            ("[weights]\nsearch = 0", "all weights are 0"),
            ("[weights]\nfiltered = 1", "needs a filter"),
            ("filter = { key = \"a\" }", "needs equals"),
            ("k = ", "not TOML"),
        ];
        for (text, part) in cases {
            let why = Workload::parse(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}

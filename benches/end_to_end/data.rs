//! A data set with its exact answers.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use kyrodb::dataset::{Rows, read_ids, read_vectors};

pub(crate) struct Data {
    pub(crate) name: String,
    pub(crate) base: Rows<f32>,
    pub(crate) queries: Rows<f32>,
    /// Exact neighbours by row number; only if all rows are loaded.
    pub(crate) truth: Option<Rows<i32>>,
    /// Metadata of each row, if the set has texts.
    pub(crate) texts: Vec<Vec<(String, String)>>,
    pub(crate) filters: Vec<FilterCase>,
}

/// A filter, and the exact neighbours that pass it.
pub(crate) struct FilterCase {
    pub(crate) key: String,
    pub(crate) is_at_least: bool,
    pub(crate) value: String,
    pub(crate) matching: u64,
    pub(crate) truth: Rows<i32>,
}

impl Data {
    pub(crate) fn read(directory: &Path, rows: usize) -> Self {
        let read = |name: &str| read_vectors(&directory.join(name)).expect("the data set is whole");
        let mut base = read("base.npy");
        let is_whole = rows >= base.count();
        base.values.truncate(rows.saturating_mul(base.width));
        let truth = is_whole.then(|| read_ids(&directory.join("gt_ids.npy")).expect("truth"));
        let texts = read_texts(&directory.join("texts.jsonl.gz"), base.count());
        let filters = if is_whole { read_filters(directory) } else { Vec::new() };
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, base, queries: read("queries.npy"), truth, texts, filters }
    }

    /// Metadata of a row.
    pub(crate) fn pairs(&self, row: usize) -> Vec<(&str, &str)> {
        let pairs = self.texts.get(row).map_or(&[][..], Vec::as_slice);
        pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

fn read_texts(path: &Path, count: usize) -> Vec<Vec<(String, String)>> {
    if !path.is_file() {
        return Vec::new();
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(path).stdout(Stdio::piped()).spawn();
    let mut unpacked = unpacked.expect("there is a gzip program");
    let lines = BufReader::new(unpacked.stdout.take().expect("it was piped")).lines();
    let parse = |line: std::io::Result<String>| -> Vec<(String, String)> {
        let value: serde_json::Value =
            serde_json::from_str(&line.expect("text")).expect("a line of JSON");
        ["pos", "lex", "tag_count"]
            .into_iter()
            .map(|key| match &value[key] {
                serde_json::Value::String(text) => (key.to_owned(), text.clone()),
                other => (key.to_owned(), other.to_string()),
            })
            .collect()
    };
    let texts = lines.take(count).map(parse).collect();
    let ended = unpacked.kill().and_then(|()| unpacked.wait());
    assert!(ended.is_ok());
    texts
}

fn read_filters(directory: &Path) -> Vec<FilterCase> {
    let Ok(text) = std::fs::read_to_string(directory.join("filters.json")) else {
        return Vec::new();
    };
    let value: serde_json::Value = serde_json::from_str(&text).expect("filters.json is JSON");
    let cases = value.as_object().expect("filters.json is an object");
    cases
        .iter()
        .map(|(file, case)| {
            let condition = case["filter"].as_str().expect("a condition");
            let is_at_least = condition.contains(">=");
            let (key, value) =
                condition.split_once(if is_at_least { ">=" } else { "=" }).expect("key and value");
            FilterCase {
                key: key.into(),
                is_at_least,
                value: value.into(),
                matching: case["matching"].as_u64().expect("a count"),
                truth: read_ids(&directory.join(file)).expect("the exact answers"),
            }
        })
        .collect()
}

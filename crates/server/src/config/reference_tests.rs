//! `docs/configuration.md` has every key with its type, its default and its description, as the fields have
//! them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;
use super::compat::Inert;
use crate::reference::{hold, row};

/// A field as the source declares it.
struct Field {
    name: String,
    kind: String,
    doc: String,
}

/// The fields of each struct of a source file. Fields that serde skips are left out.
fn structs(source: &str) -> BTreeMap<String, Vec<Field>> {
    let mut all: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    let (mut current, mut doc, mut is_skipped) = (None::<String>, Vec::new(), false);
    for line in source.lines() {
        let line_of = line.trim();
        if let Some(name) = line.strip_prefix("pub struct ").and_then(|l| l.strip_suffix(" {")) {
            current = Some(name.to_owned());
            doc.clear();
        } else if line == "}" {
            current = None;
        } else if let Some(text) = line_of.strip_prefix("/// ") {
            doc.push(text);
        } else if line_of == "#[serde(skip)]" {
            is_skipped = true;
        } else if let Some(structure) = &current
            && let Some((name, kind)) =
                line_of.strip_prefix("pub ").and_then(|l| l.split_once(": "))
        {
            let name = name.strip_prefix("r#").unwrap_or(name).to_owned();
            let kind = kind.trim_end_matches(',').to_owned();
            let doc = std::mem::take(&mut doc).join(" ");
            if !std::mem::take(&mut is_skipped) {
                all.entry(structure.clone()).or_default().push(Field { name, kind, doc });
            }
        }
    }
    all
}

/// The words of each enum of `words.rs`, in their order.
fn words(source: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None::<String>;
    for line in source.lines().skip_while(|line| *line != "words! {") {
        let line = line.trim();
        if let Some(name) = line.strip_suffix(" {").filter(|name| !name.contains([' ', '!'])) {
            current = Some(name.to_owned());
        } else if let Some(name) = &current
            && let Some((_, word)) = line.split_once(" = \"")
        {
            let word = word.split('"').next().unwrap_or_default().to_owned();
            all.entry(name.clone()).or_default().push(word);
        }
    }
    all
}

/// A type as an operator knows it.
fn shown_kind(kind: &str, words: &BTreeMap<String, Vec<String>>) -> String {
    let inner = kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>'));
    let shown = match inner.unwrap_or(kind) {
        "bool" => "bool".to_owned(),
        "f32" | "f64" => "number".to_owned(),
        "u16" | "u32" | "u64" | "usize" => "integer".to_owned(),
        "String" => "text".to_owned(),
        "PathBuf" => "path".to_owned(),
        other => {
            let words = words.get(other).unwrap_or_else(|| panic!("the type {other} has no words"));
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
    };
    if inner.is_some() { format!("{shown}, optional") } else { shown }
}

fn shown_default(kind: &str, value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        // As JSON it has the digits of the double that is nearest.
        Value::Number(number) if kind == "f32" => {
            (number.as_f64().unwrap_or_default() as f32).to_string()
        }
        other => other.to_string(),
    }
}

/// The rows of a section and of those below it.
fn rows(section: &str, structure: &str, source: &Source, defaults: &mut Leaves) -> String {
    let fields = source.structs.get(structure);
    let fields = fields.unwrap_or_else(|| panic!("{structure} is not in the source"));
    let mut text = String::new();
    for Field { name, kind, doc } in fields {
        let key = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        if source.structs.contains_key(kind) {
            text.push_str(&rows(&key, kind, source, defaults));
            continue;
        }
        assert!(!doc.is_empty(), "{key} has no description: write one at its field");
        let default = defaults.remove(&key).unwrap_or_else(|| panic!("{key} is no key"));
        let doc = match Inert::named(&key) {
            None => doc.clone(),
            Some(Inert { since, instead, .. }) => {
                format!("{doc} No effect since version {since}: {instead}.")
            }
        };
        let kind_shown = shown_kind(kind, &source.words);
        let key = format!("`{key}`");
        text.push_str(&row([&key, &kind_shown, &shown_default(kind, &default), &doc]));
    }
    text
}

struct Source {
    structs: BTreeMap<String, Vec<Field>>,
    words: BTreeMap<String, Vec<String>>,
}

type Leaves = BTreeMap<String, Value>;

#[test]
fn the_reference_of_the_configuration_has_every_key_with_type_default_and_description() {
    let source =
        Source { structs: structs(include_str!("mod.rs")), words: words(include_str!("words.rs")) };
    let mut defaults: Leaves = Config::default().leaves().into_iter().collect();
    let mut text = row(["Key", "Type", "Default", "Description"]);
    text.push_str("|---|---|---|---|\n");
    text.push_str(&rows("", "Config", &source, &mut defaults));
    assert!(defaults.is_empty(), "keys that no field was found for: {defaults:?}");
    hold("docs/configuration.md", &text);
}

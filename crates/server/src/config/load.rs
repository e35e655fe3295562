//! Lays file, environment and command line over the defaults.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Config, compat, variables};
use crate::watched::{read_at_most, read_regular};

/// Optional numbers: their default, nothing, does not tell their type.
const OPTIONAL_NUMBERS: [&str; 2] = ["server.http_port", "cache.hot_tier_max_age_secs"];

/// systemd names the state directories of a unit by this variable, separated by colons. The first is
/// the default of `persistence.data_dir`.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

const DATA_DIR: &str = "persistence.data_dir";

/// Keys this far from a valid one are taken for a slip of the pen.
pub(super) const SIMILARITY_MIN: f64 = 0.6;

/// What the command line sets.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--port`.
    pub port: Option<u16>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// The server runs, and must not wait for a file: it has to be a regular one. At a start it may be a
    /// pipe.
    pub is_again: bool,
}

/// Most bytes of a config file: thirty times what all keys take. Time to parse YAML can grow with
/// the square of its length.
const FILE_BYTES_MAX: usize = 64 << 10;

/// Where the values come from that are not defaults, by key: a file, a variable, an option.
pub type Origins = BTreeMap<String, String>;

/// What is in force, and where it comes from.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// The values.
    pub config: Config,
    /// Of those that are not defaults.
    pub origins: Origins,
}

/// Loads the configuration, and tells where its values come from. `environment` are the variables
/// of the process.
///
/// # Errors
/// All faults found, one a line: a file that can't be read, unknown keys with the nearest valid
/// one, values of a wrong type or out of range, settings that are not safe in this environment.
pub fn load(
    overrides: &Overrides,
    environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Result<(Config, Origins), Vec<String>> {
    let defaults = tree(&Config::default());
    let mut merged = defaults.clone();
    let (mut faults, mut origins, mut notes) = (Vec::new(), Origins::new(), Vec::new());
    if let Some(path) = &overrides.file {
        match read_file(path, overrides.is_again) {
            Ok(layer) => {
                let origin = path.display().to_string();
                let (faults, origins, notes) = (&mut faults, &mut origins, &mut notes);
                let mut below = Layer { origin: &origin, faults, origins, notes };
                lay_over(&mut merged, layer, &mut below);
            }
            Err(fault) => faults.push(fault),
        }
    }
    let mut state_directory = None;
    for (name, text) in environment {
        if name.as_ref() == STATE_DIRECTORY {
            state_directory = first_directory(text.as_ref());
        }
        // What is not ours may be anything.
        let name = name.as_ref().to_str().filter(|name| name.starts_with(variables::PREFIX));
        let Some(name) = name else { continue };
        if !name.starts_with(variables::KEY_PREFIX) {
            notes.extend(variables::warning(name, &keys(&defaults, "")));
            continue;
        }
        let Some(text) = text.as_ref().to_str() else {
            faults.push(format!("environment variable {name}: the value is not UTF-8"));
            continue;
        };
        let (faults, origins, notes) = (&mut faults, &mut origins, &mut notes);
        let mut layer = Layer { origin: name, faults, origins, notes };
        lay_variable(&mut merged, &defaults, text, &mut layer);
    }
    if let Some(port) = overrides.port {
        merged["server"]["port"] = port.into();
        origins.insert("server.port".into(), "--port".into());
    }
    if let Some(directory) = &overrides.data_dir {
        let given: Value = directory.to_string_lossy().into();
        let place = &mut merged["persistence"]["data_dir"];
        if let Some(origin) = origins.get(DATA_DIR).filter(|_| *place != given) {
            notes.push(format!(
                "{origin}: {DATA_DIR} is {place}, but --data-dir or KYRODB_DATA_DIR says {given}, \
                 which is taken"
            ));
        }
        *place = given;
        origins.insert(DATA_DIR.into(), "--data-dir".into());
    } else if let Some(directory) = state_directory.filter(|_| !origins.contains_key(DATA_DIR)) {
        merged["persistence"]["data_dir"] = directory.into();
        origins.insert(DATA_DIR.into(), STATE_DIRECTORY.into());
    }
    Ok((Config { notes, ..finish(merged, faults)? }, origins))
}

/// The first of the directories that systemd names.
fn first_directory(text: &OsStr) -> Option<String> {
    let first = text.to_str()?.split(':').next()?;
    Path::new(first).is_absolute().then(|| first.to_owned())
}

/// Reads the content of a config file, `toml` or `yaml`, as [`load`] does that of `--config`.
///
/// # Errors
/// All faults found, one a line.
pub fn from_bytes(bytes: &[u8], format: &str) -> Result<Config, Vec<String>> {
    let mut merged = tree(&Config::default());
    let layer = parse_file(bytes, format).map_err(|fault| vec![fault])?;
    let (mut faults, mut origins, mut notes) = (Vec::new(), Origins::new(), Vec::new());
    let (all, from, said) = (&mut faults, &mut origins, &mut notes);
    let mut layer_of = Layer { origin: "the file", faults: all, origins: from, notes: said };
    lay_over(&mut merged, layer, &mut layer_of);
    Ok(Config { notes, ..finish(merged, faults)? })
}

fn finish(merged: Value, mut faults: Vec<String>) -> Result<Config, Vec<String>> {
    match serde_path_to_error::deserialize::<_, Config>(merged) {
        Ok(config) => {
            faults.extend(config.validate());
            if faults.is_empty() { Ok(config) } else { Err(faults) }
        }
        Err(error) => {
            faults.push(format!("{}: {}", error.path(), error.inner()));
            Err(faults)
        }
    }
}

/// The defaults as a file in this format, `toml` or `yaml`.
///
/// # Errors
/// If the format is another one.
pub fn generate(format: &str) -> Result<String, String> {
    let config = Config::default();
    match format {
        "toml" => toml::to_string(&config).map_err(|error| error.to_string()),
        "yaml" => serde_norway::to_string(&config).map_err(|error| error.to_string()),
        other => Err(format!("`{other}` is not a format; use toml or yaml")),
    }
}

impl Config {
    /// All keys with their full names and values.
    #[must_use]
    pub fn leaves(&self) -> Vec<(String, Value)> {
        let mut leaves = Vec::new();
        flatten(tree(self), String::new(), &mut leaves);
        leaves
    }
}

fn flatten(value: Value, path: String, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(section) => {
            for (key, value) in section {
                let full = if path.is_empty() { key } else { format!("{path}.{key}") };
                flatten(value, full, leaves);
            }
        }
        leaf => leaves.push((path, leaf)),
    }
}

fn tree(config: &Config) -> Value {
    serde_json::to_value(config).expect("plain data serializes")
}

fn read_file(path: &Path, is_again: bool) -> Result<Value, String> {
    let shown = path.display();
    let read = match is_again {
        true => read_regular(path, FILE_BYTES_MAX as u64),
        false => File::open(path).and_then(|file| read_at_most(file, FILE_BYTES_MAX as u64)),
    };
    let bytes = read.map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => format!("{shown}: {}", too_long()),
        _ => format!("the config file {shown} can't be read: {error}"),
    })?;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    parse_file(&bytes, &extension.to_ascii_lowercase()).map_err(|why| format!("{shown}: {why}"))
}

fn too_long() -> String {
    format!("more than the {FILE_BYTES_MAX} bytes that a config file may have")
}

fn parse_file(bytes: &[u8], extension: &str) -> Result<Value, String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(too_long());
    }
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let parsed = match extension {
        "toml" => toml::from_str(text).map_err(|error| error.to_string()),
        "yaml" | "yml" => serde_norway::from_str(text).map_err(|error| error.to_string()),
        other => return Err(format!("the extension `{other}` is neither toml nor yaml")),
    };
    match parsed.map_err(|error| error.trim_end().to_owned())? {
        // An empty YAML file.
        Value::Null => Ok(Value::Object(Map::new())),
        value => Ok(value),
    }
}

/// Where a layer comes from, and what is wrong with it.
struct Layer<'a> {
    origin: &'a str,
    faults: &'a mut Vec<String>,
    origins: &'a mut Origins,
    /// What is accepted and yet to be said.
    notes: &'a mut Vec<String>,
}

fn lay_over(target: &mut Value, mut source: Value, layer: &mut Layer<'_>) {
    compat::translate(&mut source, layer.origin, layer.notes);
    let known = keys(target, "");
    lay_section(target, source, "", &known, layer);
}

fn lay_section(
    target: &mut Value,
    source: Value,
    path: &str,
    known: &[String],
    layer: &mut Layer<'_>,
) {
    // A YAML section whose keys are all commented out.
    if source.is_null() {
        return;
    }
    let Value::Object(source) = source else {
        let what = if path.is_empty() { "the file" } else { path };
        layer.faults.push(format!("{}: {what} has to be a section of keys", layer.origin));
        return;
    };
    for (key, value) in source {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match target.get_mut(&key) {
            None => {
                let fault = unknown(&full, known, |name| format!("`{name}`"));
                layer.faults.push(format!("{}: {fault}", layer.origin));
            }
            Some(section @ Value::Object(_)) => lay_section(section, value, &full, known, layer),
            Some(leaf) => {
                *leaf = value;
                layer.origins.insert(full, layer.origin.to_owned());
            }
        }
    }
}

fn lay_variable(target: &mut Value, defaults: &Value, text: &str, layer: &mut Layer<'_>) {
    let name = layer.origin;
    let path = name[variables::KEY_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
    let Some(path) = compat::key_of(path, name, layer.notes) else { return };
    let pointer = format!("/{}", path.replace('.', "/"));
    match (defaults.pointer(&pointer), target.pointer_mut(&pointer)) {
        (Some(default), Some(leaf)) if !default.is_object() => {
            *leaf = parse(text, default, &path);
            layer.origins.insert(path, name.to_owned());
        }
        _ => {
            let fault = unknown(&path, &keys(defaults, ""), variables::variable);
            layer.faults.push(format!("environment variable {name}: {fault}"));
        }
    }
}

/// The value that a variable stands for: text where text is wanted, else what it parses as.
fn parse(text: &str, default: &Value, path: &str) -> Value {
    let is_text = default.is_string() || default.is_null() && !OPTIONAL_NUMBERS.contains(&path);
    if is_text {
        return text.into();
    }
    let text = text.trim();
    match text.to_ascii_lowercase().as_str() {
        "true" => return true.into(),
        "false" => return false.into(),
        _ => {}
    }
    let integer =
        text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from));
    integer
        .ok()
        .or_else(|| text.parse::<f64>().ok().map(Value::from))
        .unwrap_or_else(|| text.into())
}

/// All keys below a section, with their full names.
fn keys(value: &Value, path: &str) -> Vec<String> {
    match value {
        Value::Object(section) => section
            .iter()
            .flat_map(|(key, value)| {
                let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys(value, &full)
            })
            .collect(),
        _ => vec![path.into()],
    }
}

fn unknown(path: &str, known: &[String], shown: impl Fn(&str) -> String) -> String {
    // `cache.cache_capacity` means `cache.capacity`, whatever else looks like it.
    let repeated = path.split_once('.').and_then(|(section, leaf)| {
        let leaf = leaf.strip_prefix(section)?.strip_prefix('_')?;
        let meant = format!("{section}.{leaf}");
        known.iter().find(|name| **name == meant).map(|name| (1.0, name))
    });
    let nearest = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(path, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let nearest = repeated.or(nearest).filter(|(similarity, _)| *similarity >= SIMILARITY_MIN);
    match nearest {
        Some((_, name)) => {
            format!("unknown key {}; did you mean {}?", shown(path), shown(name))
        }
        None => format!(
            "unknown key {}; `kyrodb_server --generate-config toml` prints all keys",
            shown(path)
        ),
    }
}

//! Access control seen from outside: TLS, keys, tenants, quotas, rate limits, usage, modes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod isolation;
mod keys;
mod limits;
mod modes;
mod tls;
mod usage;

use std::path::{Path, PathBuf};

use common::{Answer, Client, Settings, insert};
use kyrodb::proto::InsertResponse;
use tonic::{Request, Response, Status};

const DIMENSION: usize = 8;

/// A key of a tenant; `mark` distinguishes its keys.
fn key(tenant: &str, mark: char) -> String {
    format!("kyro_{tenant}_{}", String::from(mark).repeat(32))
}

/// An entry of the key file.
#[derive(Clone, Copy)]
struct Entry<'a> {
    tenant: &'a str,
    mark: char,
    more: &'a str,
}

const ACME: Entry<'static> = Entry { tenant: "acme", mark: 'a', more: "" };
const BETA: Entry<'static> = Entry { tenant: "beta_2", mark: 'b', more: "" };
const ROOT: Entry<'static> = Entry { tenant: "root", mark: 'r', more: "is_admin: true" };

impl Entry<'_> {
    fn key(&self) -> String {
        key(self.tenant, self.mark)
    }
}

fn key_file(entries: &[Entry<'_>]) -> String {
    let mut text = String::from("api_keys:\n");
    for entry in entries {
        let Entry { tenant, more, .. } = entry;
        let enabled = if more.contains("enabled") { "" } else { "\n    enabled: true" };
        let quota = if more.contains("max_vectors") { "" } else { "\n    max_vectors: 1000" };
        let more = more.split(", ").filter(|line| !line.is_empty());
        let more: String = more.map(|line| format!("\n    {line}")).collect();
        text += &format!(
            "  - key: {}\n    tenant_id: {tenant}\n    tenant_name: The {tenant}{enabled}{quota}{more}\n",
            entry.key()
        );
    }
    text
}

/// Replaces the file as a whole, as operators should.
fn write_keys(path: &Path, entries: &[Entry<'_>]) {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, key_file(entries)).unwrap();
    std::fs::rename(temporary, path).unwrap();
}

/// A directory with a key file, and the settings that name it.
struct Place {
    directory: tempfile::TempDir,
    keys: PathBuf,
    settings: Vec<(String, String)>,
}

impl Place {
    fn new(entries: &[Entry<'_>], settings: Settings<'_>) -> Self {
        let directory = common::directory();
        let keys = directory.path().join("keys.yaml");
        write_keys(&keys, entries);
        let path = keys.to_string_lossy().into_owned();
        let own = [("auth.enabled", "true"), ("auth.api_keys_file", path.as_str())];
        let default = [("runtime.shards", "2")];
        let all = default.iter().chain(&own).chain(settings);
        let settings = all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { directory, keys, settings }
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    fn start(&self) -> common::Process {
        common::Process::start(&self.data_dir(), &self.settings())
    }
}

/// A message with a key.
fn by<T>(entry: &Entry<'_>, message: T) -> Request<T> {
    with_key(&entry.key(), message)
}

fn with_key<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    request
}

async fn put(
    client: &mut Client,
    entry: &Entry<'_>,
    id: u64,
) -> Result<Response<InsertResponse>, Status> {
    let pairs = [("owner", entry.tenant), ("__tenant_idx__", "0"), ("__tenant_id__", "acme")];
    client.insert(by(entry, insert(id, &vector(entry, id), &pairs))).await
}

/// The vector of a tenant's document; it differs between tenants.
fn vector(entry: &Entry<'_>, id: u64) -> Vec<f32> {
    common::vector(id * 1_000 + u64::from(u32::from(entry.mark)), DIMENSION)
}

fn get(process: &common::Process, path: &str, key: &str) -> Answer {
    common::http_with(process.http, "GET", path, &[("x-api-key", key)]).unwrap()
}

//! Directories that an earlier version has made: opened by this one, they hold what they held.
//!
//! `tests/fixtures/v1` has directories of format 1 of log and MANIFEST, with snapshots of format 1 and 2. In each there
//! were updates, deletes, two snapshots and two starts; `documents*.jsonl` is the output of `kyrodb_ctl dump` at that
//! time. Files that are mostly zeros are stored as runs: number of zeros and number of bytes that follow, each a
//! little-endian u32, and those bytes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Process, Settings, directory};
use crate::name;

fn expand(runs: &[u8]) -> Vec<u8> {
    let (mut content, mut rest) = (Vec::new(), runs);
    while let Some((lengths, after)) = rest.split_at_checked(8) {
        let length = |at: usize| u32::from_le_bytes(lengths[at..at + 4].try_into().unwrap());
        let (literal, after) = after.split_at(length(4) as usize);
        content.resize(content.len() + length(0) as usize, 0);
        content.extend_from_slice(literal);
        rest = after;
    }
    content
}

fn fixture(which: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1").join(which)
}

/// Copies a directory, unchanged.
fn copy(which: &str, data_dir: &Path) {
    std::fs::create_dir(data_dir).unwrap();
    for entry in std::fs::read_dir(fixture(which)).unwrap() {
        let path = entry.unwrap().path();
        let (name, content) = (name(&path), std::fs::read(&path).unwrap());
        match name.strip_suffix(".runs") {
            Some(name) => std::fs::write(data_dir.join(name), expand(&content)).unwrap(),
            None if name.ends_with(".jsonl") || name == "keys.yaml" => {}
            None => std::fs::write(data_dir.join(name), content).unwrap(),
        }
    }
}

/// All documents that a key sees.
fn dump(process: &Process, key: Option<&str>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_ctl"));
    command.args(["dump", "--grpc", &format!("http://{}", process.grpc)]);
    command.args(["--url", &format!("http://{}", process.http)]);
    command.envs(key.map(|key| ("KYRODB_API_KEY", key)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Opens a copy, twice, and compares the documents that each key sees with those of then.
fn opens(which: &str, settings: Settings<'_>, seen: &[(&str, Option<&str>)]) {
    let directory = directory();
    let data_dir = directory.path().join("data");
    copy(which, &data_dir);
    for _ in 0..2 {
        let process = Process::start(&data_dir, settings);
        for (documents, key) in seen {
            let expected = std::fs::read_to_string(fixture(which).join(documents)).unwrap();
            assert!(expected.lines().count() > 20);
            assert_eq!(dump(&process, *key), expected, "{which}/{documents}");
        }
        process.stop();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    let output = command.arg("--data-dir").arg(&data_dir).arg("--verify").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_directory_of_one_shard_that_was_killed() {
    opens("one_shard", &[], &[("documents.jsonl", None)]);
}

#[test]
fn a_directory_of_two_shards_with_one_graph_and_two_tenants() {
    const KEYS: [&str; 2] = [
        "kyro_acme_0123456789abcdefghijABCDEFGHIJ01",
        "kyro_globex_0123456789abcdefghijABCDEFGHIJ02",
    ];
    let keys = fixture("two_shards_two_tenants").join("keys.yaml");
    let keys = keys.to_str().unwrap();
    let settings = [("auth.enabled", "true"), ("auth.api_keys_file", keys)];
    let seen = [("documents_acme.jsonl", Some(KEYS[0])), ("documents_globex.jsonl", Some(KEYS[1]))];
    opens("two_shards_two_tenants", &settings, &seen);
}

#[test]
fn a_directory_with_vectors_on_disk() {
    opens("vectors_on_disk", &[("storage.vectors", "nvme")], &[("documents.jsonl", None)]);
}

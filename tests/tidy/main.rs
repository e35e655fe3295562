//! The shape of the code: allowed dependencies, lengths of files, files with `unsafe`; and links of documents.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod layers;
mod prose;

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files below a folder, by their paths from the root.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut open = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name: PathBuf = path.strip_prefix(root()).unwrap().into();
            files.push((
                name.to_string_lossy().into_owned(),
                std::fs::read_to_string(path).unwrap(),
            ));
        }
    }
    files.sort();
    assert!(!files.is_empty(), "{folder} has code");
    files
}

/// True for a file that only has tests.
fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("_tests/") || name.ends_with("/testing.rs")
}

/// The code of a file, without comments and without its tests at the end.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    code.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

#[test]
fn files_are_short_and_begin_with_their_purpose() {
    let folders = [
        "src",
        "crates",
        "tests",
        "benches",
        "fuzz/fuzz_targets",
        "models/src",
        "models/tests",
        "perf/cache_traces/src",
    ];
    for folder in folders {
        for (name, text) in files(folder) {
            let lines = text.lines().count();
            assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines: split it");
            assert!(text.starts_with("//! "), "{name} does not begin with its purpose");
            let is_long =
                |line: &str| line.chars().count() > 120 && !line.trim_start().starts_with("//");
            let long = text.lines().position(is_long);
            assert_eq!(long, None, "{name} has a long line");
        }
    }
}

#[test]
fn the_engine_names_no_executor_clock_thread_or_file() {
    let banned = [
        "tokio",
        "tonic",
        "glommio",
        "std::fs",
        "std::thread",
        "std::net",
        "Instant::now",
        "SystemTime",
        "std::env",
        "RandomState",
        "std::collections::HashMap",
        "crate::clock",
    ];
    for folder in ["crates/engine/src", "crates/storage/src/wal"] {
        for (name, text) in files(folder).into_iter().filter(|(name, _)| !is_test(name)) {
            let code = code(&text);
            for word in banned {
                // The key of the tables of ids is random, and changes no visible result.
                let is_secret =
                    word == "RandomState" && name == "crates/engine/src/store/secret.rs";
                assert!(is_secret || !code.contains(word), "{name} names {word}");
            }
        }
    }
}

#[test]
fn each_part_keeps_its_library_to_itself() {
    let only = [
        ("glommio::", &["crates/cores/"][..]),
        (
            "tonic::",
            &[
                "crates/proto/",
                "crates/server/src/gateway/",
                "crates/tools/src/load/",
                "crates/tools/src/ctl/transfer.rs",
                "crates/tools/src/credentials.rs",
                "crates/tools/src/demo.rs",
            ],
        ),
        ("axum::", &["crates/server/src/status/"]),
        ("simsimd::", &["crates/engine/src/kernels/simd.rs", "crates/tools/src/dataset.rs"]),
        ("memmap2::", &["crates/engine/src/store/arena.rs", "crates/engine/src/store/slabs.rs"]),
        ("plotters::", &["crates/tools/src/load/chart.rs"]),
        ("object_store::", &["crates/backup/src/backup/storage/"]),
        (
            "Instant::now",
            &[
                "crates/backup/",
                "crates/cores/",
                "crates/server/src/access/bucket.rs",
                "crates/server/src/gateway/",
                "crates/server/src/router/",
                "crates/server/src/server/",
                "crates/server/src/status/",
                "crates/server/src/doctor/probes.rs",
                "crates/tools/src/load/",
                "crates/tools/src/demo.rs",
            ],
        ),
        (
            "crate::proto",
            &[
                "crates/proto/",
                "crates/server/src/gateway/",
                "crates/tools/src/load/",
                "crates/tools/src/ctl/transfer.rs",
                "crates/tools/src/demo.rs",
            ],
        ),
    ];
    for (name, text) in files("crates").into_iter().filter(|(name, _)| !is_test(name)) {
        let code = code(&text);
        for (word, allowed) in only {
            let is_allowed = allowed.iter().any(|allowed| name.starts_with(allowed));
            assert!(is_allowed || !code.contains(word), "{name} names {word}");
        }
    }
}

#[test]
fn unsafe_is_where_it_is_expected() {
    let with_unsafe: Vec<String> = ["src", "crates", "tests", "benches", "models/src"]
        .into_iter()
        .flat_map(files)
        .filter(|(name, text)| {
            let words = ["unsafe {", "unsafe extern"];
            name != "tests/tidy/main.rs" && words.iter().any(|word| code(text).contains(word))
        })
        .map(|(name, _)| name)
        .collect();
    // Rows that several threads read are written in one place, through vectors and codes; `store/mod.rs` describes
    // which threads access them. Metadata is behind a pointer in `store/shared.rs`, and so are vectors that wait for a
    // snapshot, in `store/places.rs`, with memory of `store/slabs.rs`. A function of the C library, which is safe to
    // call, is declared in `status/allocator.rs`.
    let expected = [
        "engine/src/graph/owners_tests",
        "engine/src/graph/tests",
        "engine/src/kernels/simd",
        "engine/src/store/arena",
        "engine/src/store/codes",
        "engine/src/store/mod",
        "engine/src/store/places",
        "engine/src/store/rows",
        "engine/src/store/shared",
        "engine/src/store/slabs",
        "engine/src/store/vectors",
        "server/src/status/allocator",
    ];
    let mut expected = expected.map(|name| format!("crates/{name}.rs")).to_vec();
    // A counting allocator needs it.
    expected.push("tests/slo/allocations.rs".into());
    // Memory that threads of a model share without an atomic.
    expected.push("models/src/plain.rs".into());
    assert_eq!(with_unsafe, expected);
}

#[test]
fn nothing_is_left_unfinished() {
    let words = ["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "#[ignore"];
    for folder in ["src", "crates", "tests", "benches", "models/src", "perf/cache_traces/src"] {
        for (name, text) in
            files(folder).into_iter().filter(|(name, _)| name != "tests/tidy/main.rs")
        {
            for word in words {
                assert!(!text.contains(word), "{name} has {word}");
            }
        }
    }
}

/// The README's command for the tests is the one that CI runs.
#[test]
fn ci_runs_the_command_of_the_readme() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    for name in ["README.md", ".ci/run"] {
        assert!(read(name).lines().any(|line| line.trim() == "cargo test"), "{name}");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifests =
        ["Cargo.toml", "fuzz/Cargo.toml", "models/Cargo.toml", "perf/cache_traces/Cargo.toml"];
    let manifests = manifests.map(str::to_owned).into_iter();
    for name in manifests.chain(layers::crates().map(|name| format!("crates/{name}/Cargo.toml"))) {
        let manifest = std::fs::read_to_string(root().join(&name)).unwrap();
        let mut is_dependency = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                is_dependency = line.contains("dependencies");
            } else if is_dependency && line.contains(" = ") {
                // What the workspace has, has its reason there.
                let is_shared = line.contains("workspace = true");
                assert!(is_shared || line.contains(" # "), "{name}: no reason beside: {line}");
            }
        }
    }
}

/// A model does not see an atomic of the standard library, so its races would go unnoticed.
#[test]
fn modelled_files_take_all_atomics_from_one_place() {
    let mut modelled = 0;
    for (name, text) in files("models/src") {
        for path in text.lines().filter_map(|line| line.strip_prefix("#[path = \"../../")) {
            let path = path.strip_suffix("\"]").unwrap();
            let text = std::fs::read_to_string(root().join(path)).unwrap();
            for word in ["std::sync", "core::sync", "crossbeam"] {
                assert!(!code(&text).contains(word), "{path}, which {name} has, names {word}");
            }
            modelled += 1;
        }
    }
    assert!(modelled > 0, "the models have files of ours");
}

/// Markdown files of the repository, by their paths from the root. Build output, hidden files and downloaded data are
/// left out.
fn documents() -> Vec<(String, String)> {
    let mut open = vec![root().to_owned()];
    let mut documents = Vec::new();
    while let Some(path) = open.pop() {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let last = name.rsplit('/').next().unwrap_or("");
        if path.is_dir() {
            let is_fetched = name.starts_with("data/") && !name.starts_with("data/sample");
            if last.starts_with('.') || last.starts_with("target") || is_fetched {
                continue;
            }
            let entries = std::fs::read_dir(path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = std::fs::read_to_string(path).unwrap();
            documents.push((name, text));
        }
    }
    documents.sort();
    documents
}

/// The lines of a document outside of blocks of code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            lines.push((index + 1, line));
        }
    }
    lines
}

/// Targets of the links of a document that lead into the repository, with their line numbers.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text) {
        let line: String = line.split('`').step_by(2).collect();
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or("");
            if !target.contains("://") && !target.starts_with("mailto:") {
                links.push((number, target.to_owned()));
            }
        }
    }
    links
}

/// The anchors of the titles of a document, as code hosts and mdBook make them.
fn anchors(text: &str) -> Vec<String> {
    let mut titles: Vec<String> = Vec::new();
    let mut anchors = Vec::new();
    for (_, line) in prose(text) {
        let Some(title) = line.trim_start_matches('#').strip_prefix(' ') else { continue };
        if !line.starts_with('#') {
            continue;
        }
        let is_kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        let title: String = title.trim().to_lowercase().chars().filter(is_kept).collect();
        let title = title.replace(' ', "-");
        let before = titles.iter().filter(|other| **other == title).count();
        anchors.push(if before == 0 { title.clone() } else { format!("{title}-{before}") });
        titles.push(title);
    }
    anchors
}

#[test]
fn links_of_documents_lead_to_files_and_titles_that_exist() {
    let documents = documents();
    assert!(documents.len() > 20, "{} documents", documents.len());
    let (mut checked, mut broken) = (0, Vec::new());
    for (name, text) in &documents {
        let document = root().join(name);
        let folder = document.parent().unwrap();
        for (line, target) in links(text) {
            let target = target.as_str();
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { document.clone() } else { folder.join(path) };
            let has_anchor = |text: String| anchors(&text).iter().any(|found| found == anchor);
            let is_there = match anchor {
                "" => file.exists(),
                _ => std::fs::read_to_string(&file).is_ok_and(has_anchor),
            };
            if !is_there {
                broken.push(format!("{name}:{line}: {target}"));
            }
            checked += 1;
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
    assert!(checked > 100, "{checked} links");
}

//! Which module may name which: the table of layers, held against every `crate::` path of the code.

use crate::{code, files, is_test};

/// A layer, its modules, and the layers below that these may name.
type Layer = (&'static str, &'static [&'static str], &'static [&'static str]);

const LAYERS: [Layer; 11] = [
    ("types", &["types", "error", "clock", "sync", "secret", "sabotage", "reference"], &[]),
    ("engine", &["kernels", "with_distance", "graph", "store", "engine"], &["types"]),
    ("storage", &["disk", "wal", "snapshot", "manifest"], &["types"]),
    ("recovery", &["recovery", "verify", "repair", "directory"], &["types", "engine", "storage"]),
    ("cores", &["shard", "observe"], &["types", "engine", "storage", "recovery"]),
    ("proto", &["proto"], &[]),
    (
        "server",
        &[
            "config", "watched", "tls", "access", "cache", "router", "gateway", "status", "doctor",
            "sizing", "server",
        ],
        &["types", "engine", "storage", "recovery", "cores", "proto"],
    ),
    ("backup", &["backup"], &["types", "engine", "storage", "recovery"]),
    (
        "tools",
        &["credentials", "ctl", "demo", "dataset", "load", "packaging", "table"],
        &["types", "proto"],
    ),
    (
        "programs",
        &["programs"],
        &["types", "engine", "storage", "recovery", "cores", "proto", "server", "backup", "tools"],
    ),
    ("simulation", &["simulation"], &["types", "engine", "storage", "recovery", "cores", "backup"]),
];

/// Modules of the server, each with those of the same layer that it may name. The order is from the bottom
/// up, so that no two modules name each other.
const SERVER: [(&str, &[&str]); 11] = [
    ("watched", &[]),
    ("cache", &[]),
    ("config", &["watched"]),
    ("tls", &["config", "watched"]),
    ("access", &["config", "watched"]),
    ("router", &["access", "cache"]),
    ("status", &["access", "config", "router", "tls"]),
    ("gateway", &["access", "config", "router", "status", "tls"]),
    ("doctor", &["config", "status"]),
    ("sizing", &["config", "doctor"]),
    ("server", &["access", "config", "gateway", "router", "sizing", "status", "tls"]),
];

/// Tests that stand beside the code of a layer and need one above it.
const TESTS_ABOVE: [(&str, &[&str]); 7] = [
    ("src/engine/disk_tests/mod.rs", &["storage"]),
    ("src/engine/snapshot_tests.rs", &["storage", "recovery"]),
    ("src/shard/fault_tests.rs", &["server"]),
    ("src/shard/vector_fault_tests.rs", &["server"]),
    ("src/shard/vectors/training_tests.rs", &["server", "proto"]),
    ("src/wal/failure_tests.rs", &["recovery"]),
    ("src/wal/flips.rs", &["recovery"]),
];

fn layer_of(module: &str) -> Layer {
    let found = LAYERS.into_iter().find(|(_, modules, _)| modules.contains(&module));
    found.unwrap_or_else(|| panic!("the module {module} has no layer: give it one in {}", file!()))
}

/// The first segment of every path that begins with `crate::`, with its number in the text.
fn named(code: &str) -> impl Iterator<Item = &str> {
    let is_end = |letter: char| !letter.is_alphanumeric() && letter != '_';
    code.match_indices("crate::").filter_map(move |(at, prefix)| {
        // `$crate::` is a macro's own path, `kyrodb_crate::` another word.
        let before = code[..at].chars().next_back();
        let is_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        let rest = &code[at + prefix.len()..];
        let end = rest.find(is_end).unwrap_or(rest.len());
        (!is_word && end > 0).then(|| &rest[..end])
    })
}

/// What a file of `module` names that it may not.
fn forbidden<'a>(name: &str, module: &str, text: &'a str) -> Vec<&'a str> {
    let (layer, _, below) = layer_of(module);
    let above = TESTS_ABOVE.into_iter().find(|(file, _)| *file == name).map_or(&[][..], |(_, l)| l);
    let of_server = SERVER.into_iter().find(|(own, _)| *own == module);
    let is_allowed = |other: &&str| {
        let (target, ..) = layer_of(other);
        match of_server {
            Some((_, allowed)) if target == "server" => {
                *other == module || allowed.contains(other) || is_test(name)
            }
            _ => target == layer || below.contains(&target) || above.contains(&target),
        }
    };
    named(text).filter(|other| !is_allowed(other)).collect()
}

#[test]
fn modules_name_only_the_layers_below_them() {
    let mut used = Vec::new();
    for (name, text) in files("src") {
        let inner = name.strip_prefix("src/").unwrap();
        let module = inner.split(['/', '.']).next().unwrap();
        if ["lib", "bin"].contains(&module) {
            continue;
        }
        let text = if is_test(&name) { text } else { code(&text) };
        let text: Vec<&str> =
            text.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
        let text = text.join("\n");
        let forbidden = forbidden(&name, module, &text);
        assert!(forbidden.is_empty(), "{name} names {forbidden:?}, which its layer may not");
        used.extend(TESTS_ABOVE.iter().filter(|(file, _)| *file == name).map(|(file, _)| *file));
    }
    let listed: Vec<&str> = TESTS_ABOVE.iter().map(|(file, _)| *file).collect();
    used.sort_unstable();
    assert_eq!(used, listed, "tests that need a layer above are listed while they are there");
}

#[test]
fn layers_and_modules_of_the_server_are_listed_from_the_bottom_up() {
    for (index, (layer, _, below)) in LAYERS.iter().enumerate() {
        for other in *below {
            let is_before = LAYERS[..index].iter().any(|(earlier, ..)| earlier == other);
            assert!(is_before, "{layer} may name {other}, which is not below it");
        }
    }
    for (index, (module, allowed)) in SERVER.iter().enumerate() {
        for other in *allowed {
            let is_before = SERVER[..index].iter().any(|(earlier, _)| earlier == other);
            assert!(is_before, "{module} may name {other}, which is not below it");
        }
    }
}

#[test]
fn a_path_to_a_layer_above_is_found() {
    let name = "src/engine/mod.rs";
    assert_eq!(forbidden(name, "engine", "use crate::types::Slot;"), [""; 0]);
    assert_eq!(forbidden(name, "engine", "use crate::wal::Writer;"), ["wal"]);
    assert_eq!(forbidden(name, "engine", "fn f(_: &crate::disk::sim::SimDisk) {}"), ["disk"]);
    assert_eq!(forbidden("src/config/load.rs", "config", "crate::router::Router"), ["router"]);
    assert_eq!(forbidden("src/router/mod.rs", "router", "crate::cache::table::Table"), [""; 0]);
    assert_eq!(forbidden("src/disk/mod.rs", "disk", "crate::engine::Engine"), ["engine"]);
}

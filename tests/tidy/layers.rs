//! Which crate may depend on which, and which module of the server may name which: the table of layers, held
//! against every `Cargo.toml` and every `crate::` path.

use std::collections::BTreeSet;

use crate::{code, files, is_test, root};

/// Each crate, from the bottom up, with the crates of this repository that it may depend on.
const LAYERS: [(&str, &[&str]); 10] = [
    ("types", &[]),
    ("engine", &["types"]),
    ("storage", &["types"]),
    ("recovery", &["engine", "storage", "types"]),
    ("cores", &["engine", "recovery", "storage", "types"]),
    ("proto", &[]),
    ("server", &["cores", "engine", "proto", "recovery", "storage", "types"]),
    ("backup", &["engine", "recovery", "storage", "types"]),
    ("tools", &["proto", "types"]),
    ("sim", &["backup", "cores", "engine", "recovery", "storage", "types"]),
];

/// Modules of the server, each with those of the same crate that it may name. The order is from the bottom
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

/// The crates of this repository, by their folders.
pub(crate) fn crates() -> impl Iterator<Item = &'static str> {
    LAYERS.into_iter().map(|(name, _)| name)
}

/// Crates of this repository in one table of a manifest.
fn named_in(manifest: &str, table: &str) -> BTreeSet<String> {
    let lines = manifest.lines().skip_while(|line| line.trim() != format!("[{table}]")).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let name = |line: &str| {
        let name = line.strip_prefix("kyrodb-")?;
        let end = name.find(['.', ' ', '=']).unwrap_or(name.len());
        Some(name[..end].to_owned())
    };
    lines.filter_map(name).collect()
}

/// What a crate depends on that it may not.
fn forbidden_dependencies(name: &str, manifest: &str) -> Vec<String> {
    let (_, below) = LAYERS.into_iter().find(|(layer, _)| *layer == name).expect("a layer");
    let named = named_in(manifest, "dependencies").into_iter();
    named.filter(|other| !below.contains(&other.as_str())).collect()
}

#[test]
fn crates_depend_only_on_the_layers_below_them() {
    let folders = std::fs::read_dir(root().join("crates")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let listed: BTreeSet<String> = crates().map(str::to_owned).collect();
    assert_eq!(folders.collect::<BTreeSet<_>>(), listed, "each crate has a layer");
    for (name, _) in LAYERS {
        let path = root().join(format!("crates/{name}/Cargo.toml"));
        let manifest = std::fs::read_to_string(path).unwrap();
        let forbidden = forbidden_dependencies(name, &manifest);
        assert!(forbidden.is_empty(), "{name} may not depend on {forbidden:?}");
    }
}

#[test]
fn a_dependency_on_a_layer_above_is_found() {
    let manifest = "[dependencies]\nkyrodb-types.workspace = true\nkyrodb-storage = { workspace = true }\n\n\
                    [dev-dependencies]\nkyrodb-cores.workspace = true\n";
    assert_eq!(forbidden_dependencies("engine", manifest), ["storage"]);
    assert_eq!(forbidden_dependencies("recovery", manifest), [""; 0]);
}

/// The first segment of every path that begins with `crate::`.
fn named(code: &str) -> impl Iterator<Item = &str> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices("crate::").filter_map(move |(at, prefix)| {
        let is_whole = !code[..at].ends_with(is_word);
        let rest = &code[at + prefix.len()..];
        let end = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        (is_whole && end > 0).then(|| &rest[..end])
    })
}

/// Modules of the server that a file of `module` names and may not.
fn forbidden_modules<'a>(module: &str, text: &'a str) -> Vec<&'a str> {
    let found = SERVER.into_iter().find(|(own, _)| *own == module);
    let (_, allowed) =
        found.unwrap_or_else(|| panic!("{module} has no place: give it one in {}", file!()));
    let is_of_server = |other: &&str| SERVER.iter().any(|(own, _)| own == other);
    let named = named(text).filter(is_of_server);
    named.filter(|other| *other != module && !allowed.contains(other)).collect()
}

#[test]
fn modules_of_the_server_name_only_those_below_them() {
    let prefix = "crates/server/src/";
    for (name, text) in files(prefix).into_iter().filter(|(name, _)| !is_test(name)) {
        let module = name[prefix.len()..].split(['/', '.']).next().unwrap();
        // `reference` is compiled for tests alone.
        if module != "lib" && module != "reference" {
            let text = code(&text);
            let forbidden = forbidden_modules(module, &text);
            assert!(forbidden.is_empty(), "{name} names {forbidden:?}, which is not below it");
        }
    }
}

#[test]
fn a_path_to_a_module_above_is_found() {
    assert_eq!(forbidden_modules("config", "use crate::router::Router;"), ["router"]);
    assert_eq!(forbidden_modules("router", "use crate::{a}; crate::cache::table::Table"), [""; 0]);
}

#[test]
fn layers_and_modules_are_listed_from_the_bottom_up() {
    let is_sorted = |table: &[(&str, &[&str])]| {
        for (index, (name, allowed)) in table.iter().enumerate() {
            for other in *allowed {
                let is_before = table[..index].iter().any(|(earlier, _)| earlier == other);
                assert!(is_before, "{name} may name {other}, which is not below it");
            }
        }
    };
    is_sorted(&LAYERS);
    is_sorted(&SERVER);
}

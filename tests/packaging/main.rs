//! Contents of packages and containers: manual pages and completions, the configuration of the service, its unit's
//! scripts, and the system calls that a container has to allow.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod front;
mod service;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAMS: [(&str, &str); 5] = [
    ("kyrodb", env!("CARGO_BIN_EXE_kyrodb")),
    ("kyrodb_server", env!("CARGO_BIN_EXE_kyrodb_server")),
    ("kyrodb_backup", env!("CARGO_BIN_EXE_kyrodb_backup")),
    ("kyrodb_ctl", env!("CARGO_BIN_EXE_kyrodb_ctl")),
    ("kyrodb_load_tester", env!("CARGO_BIN_EXE_kyrodb_load_tester")),
];

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(contrib(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Makes all programs generate files in a directory; returns their names.
fn generate(option: &str, directory: &Path) -> BTreeSet<String> {
    for (name, program) in PROGRAMS {
        let output = Command::new(program).arg(option).arg(directory).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{name}: {}", said(&output));
    }
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn every_program_and_command_has_a_manual_page() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pages = generate("--generate-man", directory.path());
    let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    for (name, program) in PROGRAMS {
        let text = page(&format!("{name}.1"));
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH \"SEE ALSO\""] {
            assert!(text.contains(section), "{name} has no {section}");
        }
        // The page names all options of --help, with escaped dashes.
        let help = said(&Command::new(program).arg("--help").output().unwrap());
        let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        for option in words.filter(|word| word.starts_with("--") && word.len() > 2) {
            let escaped = option.replace('-', "\\-");
            assert!(text.contains(&escaped), "{name}.1 lacks {option}");
        }
    }
    for name in [
        "kyrodb_backup-create.1",
        "kyrodb_ctl-status.1",
        "kyrodb_load_tester-sweep-ef.1",
        "kyrodb-serve.1",
    ] {
        assert!(pages.contains(name), "{name} is not among {pages:?}");
    }
    let create = page("kyrodb_backup-create.1");
    assert!(create.contains("kyrodb_backup create") && create.contains("metrics\\-file"));
    // Each page that another one refers to exists.
    for name in &pages {
        let text = page(name).replace('\\', "");
        let words = text.split(|c: char| c.is_whitespace() || c == ',');
        for word in words.filter_map(|word| word.strip_suffix("(1)")) {
            let word = word.trim_start_matches("fB").trim_end_matches("fR");
            assert!(pages.contains(&format!("{word}.1")), "{name} refers to {word}(1)");
        }
    }
}

#[test]
fn every_program_completes_in_three_shells() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = generate("--generate-completions", directory.path());
    for (name, _) in PROGRAMS {
        for file in [name.to_owned(), format!("_{name}"), format!("{name}.fish")] {
            assert!(files.contains(&file), "{file} is not among {files:?}");
            let text = std::fs::read_to_string(directory.path().join(&file)).unwrap();
            assert!(text.contains(name) && text.contains("help"), "{file}");
        }
    }
    // A missing directory is named, and --help does not mention these options.
    for (name, program) in PROGRAMS {
        let output = Command::new(program).args(["--generate-man", "/nowhere"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(said(&output).contains("/nowhere"), "{name}: {}", said(&output));
        let help = said(&Command::new(program).arg("--help").output().unwrap());
        assert!(!help.contains("--generate-man"), "{name}");
    }
}

#[test]
fn the_configuration_of_the_package_is_good_and_shows_defaults() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let load = |text: &str| {
        let path = directory.path().join("kyrodb.toml");
        std::fs::write(&path, text).unwrap();
        let overrides = kyrodb::config::Overrides { file: Some(path), ..Default::default() };
        kyrodb::config::load(&overrides, [("", ""); 0]).map(|(config, _)| config)
    };
    let text = read("debian/kyrodb.toml");
    assert_eq!(load(&text), Ok(kyrodb::config::Config::default()), "it sets nothing");
    let is_key = |line: &str| {
        let bare = line.strip_prefix('#').unwrap_or_default();
        bare.starts_with(|c: char| c.is_ascii_lowercase()) && bare.contains(" = ")
    };
    let keys = text.lines().filter(|line| is_key(line)).count();
    assert!(keys > 20, "{keys}");
    let uncomment = |line: &str| if is_key(line) { line[1..].to_owned() } else { line.to_owned() };
    let all: Vec<String> = text.lines().map(uncomment).collect();
    let mut config = load(&all.join("\n")).unwrap();
    // Only the paths, which have no default, differ.
    config.server.tls.cert_path = None;
    config.server.tls.key_path = None;
    config.server.tls.ca_cert_path = None;
    config.auth.api_keys_file = None;
    config.logging.file = None;
    config.server.pid_file = None;
    assert_eq!(config.persistence.data_dir, Path::new("/var/lib/kyrodb"));
    config.persistence.data_dir = kyrodb::config::Config::default().persistence.data_dir;
    assert_eq!(config, kyrodb::config::Config::default());
}

#[test]
fn scripts_of_the_package_are_shell_and_have_room_for_those_of_debian() {
    for name in ["debian/postrm", "debian/build.sh"] {
        let checked = Command::new("sh").arg("-n").arg(contrib(name)).output().unwrap();
        assert!(checked.status.success(), "{name}: {}", said(&checked));
        let text = read(name);
        assert!(text.contains("set -e"), "{name} goes on after a failure");
        assert!(name.ends_with(".sh") || text.contains("\n#DEBHELPER#\n"), "{name}");
    }
}

/// Files that Cargo.toml names for the package exist; those below target are made by the script.
#[test]
fn files_of_the_package_exist() {
    let text = std::fs::read_to_string(contrib("../Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap();
    assert!(assets.len() > 10);
    for (name, _) in PROGRAMS {
        let is_it =
            |asset: &toml::Value| asset[0].as_str() == Some(&format!("target/release/{name}"));
        assert!(assets.iter().any(is_it), "{name}");
    }
    for source in assets.iter().map(|asset| asset[0].as_str().unwrap()) {
        let (directory, name) = source.rsplit_once('/').unwrap_or((".", source));
        let (before, behind) = name.split_once('*').unwrap_or((name, ""));
        if directory.starts_with("target/") {
            continue;
        }
        let entries = std::fs::read_dir(contrib("..").join(directory)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let is_it = |found: &String| found.starts_with(before) && found.ends_with(behind);
        assert!(names.into_iter().any(|found| is_it(&found)), "{source}");
    }
}

/// The rules of a profile, as container runtimes read them.
fn rules(profile: &Value) -> Vec<(&str, &Value)> {
    let rules = profile["syscalls"].as_array().unwrap().iter();
    let names = rules.flat_map(|rule| {
        assert_eq!(rule["action"], "SCMP_ACT_ALLOW", "{rule}");
        rule["names"].as_array().unwrap().iter().map(move |name| (name.as_str().unwrap(), rule))
    });
    names.collect()
}

#[test]
fn containers_allow_what_the_programs_call_and_not_much_else() {
    let profile: Value = serde_json::from_str(&read("container/seccomp.json")).unwrap();
    // Other calls return ENOSYS, so that the C library falls back to those of older kernels.
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(profile["defaultErrnoRet"], 38);
    let rules = rules(&profile);
    let names: BTreeSet<&str> = rules.iter().map(|(name, _)| *name).collect();
    let list = read("container/syscalls.txt");
    let called: BTreeSet<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(called.len() > 60, "{called:?}");
    assert!(called.contains("io_uring_enter") && called.contains("fdatasync"));
    let missing: Vec<&&str> = called.difference(&names).collect();
    assert!(missing.is_empty(), "seccomp.json forbids what is called: {missing:?}");
    let never = [
        "add_key",
        "bpf",
        "chroot",
        "clone3",
        "delete_module",
        "init_module",
        "kexec_load",
        "keyctl",
        "mount",
        "open_by_handle_at",
        "perf_event_open",
        "personality",
        "pivot_root",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "reboot",
        "setns",
        "swapon",
        "umount2",
        "unshare",
        "userfaultfd",
    ];
    for name in never {
        assert!(!names.contains(name), "{name} is allowed");
    }
    // Only these check arguments: no namespaces, and sockets of four families.
    let with_arguments: Vec<&str> =
        rules.iter().filter(|(_, rule)| rule["args"].is_array()).map(|(name, _)| *name).collect();
    assert_eq!(with_arguments, ["clone", "socket", "socket", "socket", "socket"]);
    let clone = rules.iter().find(|(name, _)| *name == "clone").unwrap().1;
    assert_eq!(clone["args"][0]["value"], 0x7E02_0000);
    let once = rules.iter().filter(|(_, rule)| !rule["args"].is_array());
    assert_eq!(once.count() + 2, names.len(), "a name is there twice");
}

//! The systemd unit: it allows the calls that the server makes, and systemd reacts to the server's exit codes as
//! intended.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use kyrodb::proto::SnapshotRequest;

use crate::common::{Launch, Process, directory, get, insert, runtime, search, vector};
use crate::{contrib, read, said};

const DIMENSION: usize = 16;

/// Call that a profile makes in addition to the list, which a container does not allow.
const OF_PROFILES: &str = "perf_event_open";

/// The values of a key of the unit, in order.
fn values(key: &str) -> Vec<String> {
    let unit = read("systemd/kyrodb.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

/// The names in systemd's set @system-service: of the installed systemd, or of version 252.
fn system_service() -> Vec<BTreeSet<String>> {
    let lines = |text: &str| -> BTreeSet<String> {
        let names = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '@']));
        names.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let mut sets = vec![lines(include_str!("system-service.txt"))];
    assert!(sets[0].len() > 300);
    let Ok(output) = Command::new("systemd-analyze").arg("syscall-filter").output() else {
        println!("skipped in part: there is no systemd-analyze");
        return sets;
    };
    // Sets refer to others, which are listed in blocks of their own.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let block = |name: &str| {
        let lines = text.lines().skip_while(|line| *line != name).skip(1);
        let lines = lines.take_while(|line| line.is_empty() || line.starts_with(' '));
        lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let (mut open, mut names) = (vec!["@system-service".to_owned()], BTreeSet::new());
    while let Some(set) = open.pop() {
        let (sets, calls): (Vec<_>, Vec<_>) =
            block(&set).into_iter().partition(|line| line.starts_with('@'));
        open.extend(sets);
        names.extend(calls.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#')));
    }
    if !names.is_empty() {
        sets.push(names);
    }
    sets
}

/// The calls that the unit allows, for each version of the set.
fn allowed() -> Vec<BTreeSet<String>> {
    let words: Vec<String> = values("SystemCallFilter")
        .iter()
        .flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(words.iter().any(|word| word == "@system-service"));
    assert!(words.iter().all(|word| !word.starts_with('~')), "it only adds: {words:?}");
    let more = || words.iter().filter(|word| !word.starts_with('@')).cloned();
    system_service().into_iter().map(|set| set.into_iter().chain(more()).collect()).collect()
}

/// Observed calls of the programs, from the list beside the container profile.
fn listed() -> BTreeSet<String> {
    let list = read("container/syscalls.txt");
    list.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_unit_allows_every_call_and_ends_no_server_for_another() {
    assert_eq!(values("SystemCallErrorNumber"), ["EPERM"], "else a call that is missing kills");
    let mut called = listed();
    called.insert(OF_PROFILES.into());
    for set in allowed() {
        let missing: Vec<_> = called.difference(&set).collect();
        assert!(missing.is_empty(), "SystemCallFilter forbids what is called: {missing:?}");
    }
}

/// The calls of a server that does everything it can do, by strace. `None` if strace is not available.
fn traced() -> Option<BTreeSet<String>> {
    let tried =
        Command::new("strace").args(["-f", "-qq", "-c", "-o", "/dev/null", "true"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no strace, or it may not trace");
        return None;
    }
    let directory = directory();
    let (counts, pid_file) = (directory.path().join("counts"), directory.path().join("pid"));
    let settings = [("server.pid_file", pid_file.to_str().unwrap()), ("runtime.shards", "1")];
    let mut launch = Launch::new(&directory.path().join("data"), &settings);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-c", "-o"]).arg(&counts);
    command.arg(launch.command.get_program()).args(launch.command.get_args());
    for (name, value) in launch.command.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    launch.command = command;
    let mut process = launch.spawn();
    process.wait_ready();
    work(&process);
    // strace ends when the server does.
    let signal = |name: &str| {
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let sent = Command::new("kill").args(["-s", name, pid.trim()]).status().unwrap();
        assert!(sent.success());
    };
    signal("HUP");
    get(process.http, "/metrics").unwrap();
    signal("TERM");
    let log = process.log_path();
    let code = process.wait();
    assert_eq!(code, Some(0), "{}", std::fs::read_to_string(log).unwrap());
    let text = std::fs::read_to_string(&counts).unwrap();
    let names = text.lines().skip(2).filter_map(|line| line.split_whitespace().last());
    Some(names.filter(|name| *name != "total" && !name.starts_with('-')).map(Into::into).collect())
}

fn work(process: &Process) {
    runtime().block_on(async {
        let mut client = process.client().await;
        for id in 1..=50 {
            client.insert(insert(id, &vector(id, DIMENSION), &[("n", "1")])).await.unwrap();
            client.search(search(&vector(id, DIMENSION), 5)).await.unwrap();
        }
        let taken = client.create_snapshot(SnapshotRequest::default()).await.unwrap();
        assert!(taken.into_inner().success);
    });
    for page in ["/metrics", "/health", "/stats", "/debug/pprof/profile?seconds=1"] {
        // A host may not allow profiles; the kernel is called in either case.
        let (code, body) = get(process.http, page).unwrap();
        assert!(code == 200 || body.contains("perf_event_paranoid"), "{page}: {code} {body}");
    }
}

#[test]
fn system_calls_of_a_server_are_listed_and_allowed() {
    let Some(called) = traced() else { return };
    assert!(called.contains("io_uring_enter") && called.len() > 40, "{called:?}");
    assert!(called.contains(OF_PROFILES), "the profile was not taken: {called:?}");
    for set in allowed() {
        let missing: Vec<_> = called.difference(&set).collect();
        assert!(missing.is_empty(), "SystemCallFilter forbids what is called: {missing:?}");
    }
    if cfg!(target_arch = "x86_64") {
        // Not all calls are made each time: the allocator's depend on circumstances.
        let profile: serde_json::Value =
            serde_json::from_str(&read("container/seccomp.json")).unwrap();
        let mut known: BTreeSet<String> =
            crate::rules(&profile).into_iter().map(|(name, _)| name.to_owned()).collect();
        // It returns ENOSYS in a container, and the C library uses clone.
        known.extend(["clone3", OF_PROFILES].map(str::to_owned));
        let unknown: Vec<_> = called.difference(&known).collect();
        assert!(unknown.is_empty(), "contrib/container/seccomp.json forbids {unknown:?}");
    }
}

#[test]
fn a_start_that_is_refused_is_not_tried_again_and_one_without_its_port_is() {
    assert_eq!(values("Restart"), ["on-failure"]);
    assert_eq!(values("RestartPreventExitStatus"), ["1"]);
    let directory = directory();
    let data_dir = directory.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    std::fs::write(data_dir.join("wal_0000_00000001.wal"), "").unwrap();
    let said = Process::refused(&data_dir, &[]);
    assert!(said.contains("there is no MANIFEST"), "{said}");
    let launch = Launch::new(&directory.path().join("other"), &[]);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", launch.grpc_port)).unwrap();
    let process = launch.spawn();
    let log = process.log_path();
    assert_eq!(process.wait(), Some(75));
    assert!(std::fs::read_to_string(log).unwrap().contains("the port is in use"));
}

/// The unit's program and its options, as systemd would run them, with the paths of a test.
fn command(line: &str, state: &Path, config: &Path) -> Command {
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("/usr/bin/kyrodb_server"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
    for word in words {
        match word {
            "/etc/kyrodb/kyrodb.toml" => command.arg(config),
            word => command.arg(word),
        };
    }
    command.env("STATE_DIRECTORY", state).env_remove("KYRODB_DATA_DIR");
    command
}

#[test]
fn the_configuration_says_where_the_data_are_and_a_bad_one_fails_the_reload() {
    let directory = directory();
    let (state, config) = (directory.path().join("state"), directory.path().join("kyrodb.toml"));
    let elsewhere = directory.path().join("elsewhere");
    let started = |text: &str| {
        std::fs::write(&config, text).unwrap();
        let mut launch = Launch::new(&directory.path().join("log"), &[]);
        let environment: Vec<_> = launch
            .command
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_owned()))
            .collect();
        launch.command = command(&values("ExecStart")[0], &state, &config);
        launch.command.envs(environment);
        launch.command.env("KYRODB__SERVER__PORT", launch.grpc_port.to_string());
        let mut process = launch.spawn();
        process.wait_ready();
        process.stop();
    };
    started("");
    assert!(state.join("MANIFEST").exists());
    started(&format!("[persistence]\ndata_dir = {elsewhere:?}\n"));
    assert!(elsewhere.join("MANIFEST").exists(), "persistence.data_dir was not taken");

    let reload = values("ExecReload");
    assert_eq!(reload.last().map(String::as_str), Some("/bin/kill -HUP $MAINPID"));
    let check = || command(&reload[0], &state, &config).output().unwrap();
    assert_eq!(check().status.code(), Some(0));
    std::fs::write(&config, "[hnsw]\nef_search = 0\n").unwrap();
    assert_eq!(
        check().status.code(),
        Some(1),
        "a configuration that is refused: {}",
        said(&check())
    );
    assert!(said(&check()).contains("hnsw.ef_search"));
}

#[test]
fn the_unit_gives_the_directories_that_the_configuration_names() {
    for (key, value) in [
        ("StateDirectory", "kyrodb"),
        ("LogsDirectory", "kyrodb"),
        ("RuntimeDirectory", "kyrodb"),
        ("StateDirectoryMode", "0750"),
        ("LogsDirectoryMode", "0750"),
        ("LimitMEMLOCK", "infinity"),
        ("UMask", "0027"),
    ] {
        assert_eq!(values(key), [value], "{key}");
    }
    let config = read("debian/kyrodb.toml");
    for path in ["/var/lib/kyrodb", "/var/log/kyrodb/", "/run/kyrodb/"] {
        assert!(config.contains(path), "{path}");
    }
    let reserved = read("debian/kyrodb.sysctl");
    let default = kyrodb::config::Config::default().server;
    let ports = format!("{},{}", default.port, default.http_port());
    assert!(reserved.contains(&format!("net.ipv4.ip_local_reserved_ports = {ports}")));
}

#[test]
fn systemd_has_nothing_against_the_unit() {
    let directory = directory();
    let unit = std::fs::read_to_string(contrib("systemd/kyrodb.service")).unwrap();
    let unit = unit.replace("/usr/bin/kyrodb_server", env!("CARGO_BIN_EXE_kyrodb_server"));
    let path = directory.path().join("kyrodb.service");
    std::fs::write(&path, unit).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output();
    let Ok(output) = verified else {
        return println!("skipped: there is no systemd-analyze");
    };
    let lines = said(&output);
    // The output also covers units of the host.
    let ours: Vec<&str> = lines.lines().filter(|line| line.contains("kyrodb")).collect();
    assert!(ours.is_empty(), "{lines}");
}

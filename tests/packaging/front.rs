//! `kyrodb`: each of its commands does what the program of that name does.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Process, directory};
use crate::said;

const FRONT: &str = env!("CARGO_BIN_EXE_kyrodb");
const SERVER: &str = env!("CARGO_BIN_EXE_kyrodb_server");
const CTL: &str = env!("CARGO_BIN_EXE_kyrodb_ctl");
const BACKUP: &str = env!("CARGO_BIN_EXE_kyrodb_backup");
const TESTER: &str = env!("CARGO_BIN_EXE_kyrodb_load_tester");

fn run(program: &str, arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env_remove("KYRODB_DATA_DIR");
    command.output().unwrap()
}

/// The words of a command of `kyrodb`, and of the program that it stands for.
type Pair<'a> = (&'a [&'a str], &'a str, &'a [&'a str]);

#[test]
fn commands_print_and_return_what_the_programs_do() {
    let directory = directory();
    let same: [Pair<'_>; 9] = [
        (&["serve", "--generate-config", "toml"], SERVER, &["--generate-config", "toml"]),
        (&["serve", "--check-config"], SERVER, &["--check-config"]),
        (
            &["plan", "--rows", "1000", "--dim", "8"],
            SERVER,
            &["--plan", "--rows", "1000", "--dim", "8"],
        ),
        (&["verify"], SERVER, &["--verify"]),
        (&["repair"], SERVER, &["--verify", "--repair"]),
        (&["ctl", "--url", "127.0.0.1:1", "health"], CTL, &["--url", "127.0.0.1:1", "health"]),
        (&["backup", "list"], BACKUP, &["list"]),
        (&["backup", "verify", "--", "-x"], BACKUP, &["verify", "--", "-x"]),
        (&["bench", "--load"], TESTER, &["--load"]),
    ];
    for (words, program, arguments) in same {
        let (ours, theirs) =
            (run(FRONT, words, directory.path()), run(program, arguments, directory.path()));
        assert_eq!(ours.status.code(), theirs.status.code(), "{words:?}: {}", said(&ours));
        assert_eq!(said(&ours), said(&theirs), "{words:?}");
    }
}

#[test]
fn help_of_a_command_is_that_of_its_program_and_of_the_front_names_all() {
    let directory = directory();
    let help = said(&run(FRONT, &["--help"], directory.path()));
    for command in ["serve", "demo", "doctor", "plan", "verify", "repair", "ctl", "backup", "bench"]
    {
        assert!(help.lines().any(|line| line.trim().starts_with(command)), "{command}: {help}");
        let by_option = run(FRONT, &[command, "--help"], directory.path());
        assert_eq!(by_option.status.code(), Some(0), "{command}");
        assert_eq!(said(&by_option), said(&run(FRONT, &["help", command], directory.path())));
    }
    let ctl = said(&run(FRONT, &["ctl", "--help"], directory.path()));
    assert!(ctl.contains("Usage: kyrodb ctl [OPTIONS] <COMMAND>"), "{ctl}");
    let plain = said(&run(CTL, &["--help"], directory.path()));
    assert_eq!(ctl.replace("kyrodb ctl", "kyrodb_ctl"), plain);
    for (words, code) in [(&["--version"][..], 0), (&[][..], 2), (&["srve"][..], 2)] {
        let output = run(FRONT, words, directory.path());
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", said(&output));
    }
    assert!(said(&run(FRONT, &["srve"], directory.path())).contains("serve"));
}

/// The program is alone in a directory, as where a package has put it.
#[test]
fn the_demo_runs_far_from_a_checkout() {
    let directory = directory();
    let ports = (crate::common::free_port(), crate::common::free_port());
    let mut command = Command::new(FRONT);
    command.args(["demo", "--once", "--port", &ports.0.to_string()]);
    command.env("KYRODB__SERVER__HTTP_PORT", ports.1.to_string());
    command.current_dir(directory.path()).env_remove("KYRODB_DATA_DIR");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = said(&output);
    for part in ["5000 documents loaded", "WordNet 3.0 Copyright 2006 by Princeton University"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(directory.path().join("data/demo/MANIFEST").is_file());
}

/// Lines for people are on terminals alone.
#[test]
fn a_server_on_a_terminal_prints_a_banner_and_others_do_not() {
    let directory = directory();
    let process = Process::start(&directory.path().join("data"), &[]);
    let log = process.log();
    assert!(log.contains("is ready") && !log.contains("Ctrl-C"), "{log}");
    process.stop();
    let on_terminal = |more: &str| {
        let ports = (crate::common::free_port(), crate::common::free_port());
        let typed = format!(
            "KYRODB__SERVER__HTTP_PORT={} {more} timeout --foreground -s TERM 60 {FRONT} serve \
             --port {} --data-dir data",
            ports.1, ports.0
        );
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-f", "-c", &typed, "typescript"]).current_dir(directory.path());
        script.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut child = script.spawn().ok()?;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], ports.1));
        let begun = std::time::Instant::now();
        while crate::common::get(address, "/ready").map_or(0, |(code, _)| code) != 200 {
            assert!(begun.elapsed() < crate::common::PATIENCE, "not ready");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let answer = crate::common::http(address, "POST", "/admin/shutdown?mode=graceful").unwrap();
        assert!(answer.code < 300, "{answer:?}");
        child.wait().unwrap();
        let shown = std::fs::read(directory.path().join("typescript")).unwrap();
        Some(String::from_utf8_lossy(&shown).into_owned())
    };
    let Some(shown) = on_terminal("") else {
        println!("skipped in part: there is no program script");
        return;
    };
    for part in ["Ctrl-C ends it", "gRPC  http://127.0.0.1:", "next  kyrodb_ctl --url http://"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for more in ["KYRODB__LOGGING__FORMAT=json", "NOTIFY_SOCKET=/nowhere/notify"] {
        let shown = on_terminal(more).unwrap();
        assert!(!shown.contains("Ctrl-C"), "{more}: {shown}");
    }
}

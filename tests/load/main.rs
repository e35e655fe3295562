//! The load tester as its user sees it: the real program against the real server.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod compare;
mod contract;
mod data;
mod recall;
mod refusals;
mod secured;
mod trouble;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{PATIENCE, Process, directory};
use serde_json::Value;
use tempfile::TempDir;

/// A server, and a directory for the files of a test.
struct Place {
    directory: TempDir,
    server: Option<Process>,
}

impl Place {
    fn new() -> Self {
        let directory = directory();
        let data_dir = directory.path().join("data");
        let server = Some(Process::start(&data_dir, &[("runtime.shards", "2")]));
        Self { directory, server }
    }

    fn server(&self) -> &Process {
        self.server.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program, against this server, writing to `out.json`.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tester(arguments);
        command.arg("--server").arg(format!("http://{}", self.server().grpc));
        command.arg("--json").arg(self.path("out.json"));
        command
    }

    /// Runs it, expecting success; returns its output.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it, expecting exit code `code`; returns its messages.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// Starts it, and waits until a second has been measured.
    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while self.lines("interval").is_empty() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended before a second was measured");
            assert!(begun.elapsed() < PATIENCE, "no second was measured");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    /// The lines of JSON of a kind.
    fn lines(&self, kind: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("out.json")).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.filter(|line: &Value| line["kind"] == kind).collect()
    }

    /// The only summary.
    fn summary(&self) -> Value {
        let mut summaries = self.lines("summary");
        assert_eq!(summaries.len(), 1);
        summaries.remove(0)
    }
}

fn tester(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_load_tester"));
    command.args(arguments).stdin(Stdio::null()).env_remove("KYRODB_API_KEY");
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "does not say {part:?}:\n{text}");
    }
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {line}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

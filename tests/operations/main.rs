//! `OPERATIONS.md` is right: each of its commands is run here, by a shell, against a server that has been broken in the
//! way that the section describes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod disk;
mod drills;
mod guides;
mod guides_files;
mod guides_log;
mod memory;
mod secured;
mod vectors;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Client, Process, insert, vector};
use tonic::{Code, Status};

const DIMENSION: usize = 8;

/// Titles of the sections, each of which has a drill.
const DRILLS: [&str; 21] = [
    "Where to look first",
    "Searches are slow",
    "Too much is asked for",
    "One tenant floods the server",
    "The key file is wrong",
    "The disk is full",
    "Snapshots fail",
    "Memory is full",
    "The log can not be written",
    "The disk fails",
    "A shard is fenced, or its log is lost",
    "The server does not start: damage",
    "A snapshot is damaged",
    "A backup fails",
    "A certificate expires",
    "Something else is to write, or nobody is",
    "The log has to move to another disk",
    "A setting has to change",
    "A restart",
    "Vectors are read from disk",
    "Documents have to move",
];

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("OPERATIONS.md");
    std::fs::read_to_string(path).unwrap()
}

/// The commands of each section, by title.
fn sections() -> Vec<(String, Vec<String>)> {
    let mut sections: Vec<(String, Vec<String>)> = vec![(String::new(), Vec::new())];
    let mut is_command = false;
    for line in text().lines() {
        match line {
            "```sh" => is_command = true,
            "```" => is_command = false,
            line if is_command => sections.last_mut().unwrap().1.push(line.to_owned()),
            line => {
                if let Some(title) = line.strip_prefix("## ") {
                    sections.push((title.to_owned(), Vec::new()));
                }
            }
        }
    }
    sections
}

#[test]
fn every_section_has_a_drill() {
    let mut titles: Vec<String> = sections().into_iter().skip(1).map(|(title, _)| title).collect();
    titles.sort();
    let mut drills = DRILLS.to_vec();
    drills.sort_unstable();
    assert_eq!(titles, drills);
}

/// A section whose commands are run one after the other. All of them have to be run.
struct Runbook {
    commands: std::vec::IntoIter<String>,
    last: String,
    directory: PathBuf,
    variables: Vec<(String, String)>,
}

/// Result of a command.
struct Said {
    code: i32,
    text: String,
}

impl Said {
    #[track_caller]
    fn has(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "`{part}` is missing in:\n{}", self.text);
        }
        self
    }
}

impl Runbook {
    /// Runs commands in `directory`, which has a data directory `data`.
    fn open(title: &str, directory: &Path) -> Self {
        let found = sections().into_iter().find(|(section, _)| section == title);
        let commands = found.unwrap_or_else(|| panic!("no section {title}")).1.into_iter();
        let data = directory.join("data").to_string_lossy().into_owned();
        let variables = vec![
            ("KYRODB_DATA_DIR".to_owned(), data),
            ("KYRODB__PERSISTENCE__WAL_SEGMENT_BYTES".to_owned(), "4194304".to_owned()),
        ];
        Self { commands, last: String::new(), directory: directory.to_owned(), variables }
    }

    fn set(&mut self, variable: &str, value: impl Into<String>) {
        self.variables.retain(|(name, _)| name != variable);
        self.variables.push((variable.to_owned(), value.into()));
    }

    /// Sends requests of the commands to this server from now on.
    fn ask(&mut self, process: &Process) {
        self.set("KYRODB_URL", format!("http://{}", process.http));
    }

    /// Runs the next command.
    fn next(&mut self) -> Said {
        self.last = self.commands.next().expect("there is another command in the section");
        self.again()
    }

    /// Runs the last command again.
    fn again(&self) -> Said {
        let programs = Path::new(env!("CARGO_BIN_EXE_kyrodb_ctl")).parent().unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-c", &self.last])
            .env("PATH", path)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let text = format!("$ {}\n{out}{err}", self.last);
        println!("{text}");
        Said { code: output.status.code().unwrap_or(-1), text }
    }

    fn done(self) {
        let left: Vec<String> = self.commands.collect();
        assert!(left.is_empty(), "not run: {left:?}");
    }
}

async fn put(client: &mut Client, id: u64) -> Result<(), Status> {
    client.insert(insert(id, &vector(id, DIMENSION), &[])).await.map(drop)
}

async fn store(client: &mut Client, count: u64) {
    for id in 1..=count {
        put(client, id).await.unwrap();
    }
}

/// Number of the documents 1 to `count` that are stored.
async fn stored(client: &mut Client, count: u64) -> u64 {
    let request =
        kyrodb::proto::BulkQueryRequest { doc_ids: (1..=count).collect(), ..Default::default() };
    client.bulk_query(request).await.unwrap().into_inner().total_found.into()
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

//! The demo, in one command.

use std::process::{Command, Output};
use std::time::Instant;

use crate::assert_says;
use crate::common::{Launch, directory};

fn demo(data_dir: &std::path::Path) -> Output {
    let launch = Launch::new(data_dir, &[]);
    let mut command: Command = launch.command;
    let begun = Instant::now();
    let output = command.args(["--demo", "--once"]).output().unwrap();
    println!("--demo --once took {:?}", begun.elapsed());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn the_demo_loads_once_searches_and_ends() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let first = demo(&data_dir);
    let said = String::from_utf8(first.stdout).unwrap();
    assert_says(&said, &["5000 documents loaded, durable and linked"]);
    let progress = String::from_utf8(first.stderr).unwrap();
    assert_says(&progress, &["loading 5000 documents", "sent 5000 documents"]);
    let searches = |said: &str| {
        let is_hit = |line: &&str| line.starts_with("  0.") && !line.contains("in the server");
        let lines = said.lines().filter(is_hit);
        let hits: Vec<String> = lines.map(str::to_owned).collect();
        assert_eq!(hits.len(), 6 * 5, "{said}");
        assert_eq!(said.matches("ms in the server").count(), 6, "{said}");
        hits
    };
    let hits = searches(&said);
    // Neighbours that a person finds sensible.
    let near = |word: &str, neighbour: &str| {
        let after = said.split_once(&format!("\n{word}")).unwrap().1;
        let shown = after.split("in the server").next().unwrap();
        assert!(shown.contains(neighbour), "{word}: {shown}");
    };
    near("music", "musical");
    near("river", "stream");
    near("anger", "angry");
    let again = String::from_utf8(demo(&data_dir).stdout).unwrap();
    assert_says(&again, &["5000 documents are on disk from an earlier start."]);
    assert!(!again.contains("documents loaded"), "{again}");
    assert_eq!(searches(&again), hits, "the same documents give the same answers");
}

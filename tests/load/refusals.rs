//! Refusals of the load tester, with their exit codes and remedies.

use crate::common::free_port;
use crate::data::Set;
use crate::{Place, assert_says, said, tester, text};

#[test]
fn wrong_usage_exits_with_2() {
    let cases: [(&[&str], &str); 20] = [
        (&["--concurency", "1"], "--concurrency"),
        (&["--qps", "0"], "--qps is 0"),
        (&["--qps", "1e9"], "run several load testers"),
        (&["--qps", "nan"], "--qps is NaN"),
        (&["--duration", "0"], "--duration is 0"),
        (&["--concurrency", "0"], "--concurrency is 0"),
        (&["--max-failure-ratio", "2"], "--max-failure-ratio is 2"),
        (&["--closed", "--qps", "5"], "cannot be used"),
        (&["--server", "localhost"], "http://127.0.0.1:50051"),
        (&["--server", "ftp://localhost:1"], "http://127.0.0.1:50051"),
        (&["--ca-cert", "Cargo.toml"], "an https:// address"),
        (&["--client-cert", "Cargo.toml"], "go together"),
        (&["--key-file", "/nowhere/key"], "/nowhere/key can't be read"),
        (&["--server", "https://localhost:1", "--ca-cert", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
        (&["--load"], "--load needs --data"),
        (&["--base", "b.npy"], "--base needs --queries"),
        (&["--base", "b.csv", "--queries", "q.npy"], ".npy, .fvecs or .bvecs"),
        (&["--data", "/nowhere"], "--data /nowhere: no such directory"),
        (&["--dataset", "10000000", "--dimension", "4096"], "--dataset times --dimension"),
        (&["sweep", "ef", "10,20"], "a sweep needs ground truth"),
    ];
    for (arguments, part) in cases {
        let output = tester(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert_says(&said(&output), &[part]);
    }
}

#[test]
fn a_workload_with_a_mistake_is_refused_by_name() {
    let directory = crate::directory();
    let file = directory.path().join("mix.toml");
    std::fs::write(&file, "[weights]\nserach = 1\n").unwrap();
    let output = tester(&["--workload", text(&file)]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_says(&said(&output), &["mix.toml", "did you mean `weights.search`?"]);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let server = format!("http://127.0.0.1:{}", free_port());
    // `host:port` is asked over http.
    for typed in [server.as_str(), server.trim_start_matches("http://")] {
        let output = tester(&["--server", typed]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert_says(&said(&output), &[&server, "is kyrodb_server running", "--server"]);
    }
}

#[test]
fn data_of_another_server_is_refused() {
    let place = Place::new();
    let short = ["--qps", "50", "--duration", "0.5", "--warm-up", "0"];
    place.run(&[&short[..], &["--dataset", "8", "--dimension", "384"]].concat());
    let other = place.fails(2, &[&short[..], &["--dimension", "16"]].concat());
    assert_says(&other, &["have 384 values", "have 16", "--dimension 384"]);
    // The right dimension, but other vectors under these ids.
    let npy = place.path("npy");
    Set::new().write_npy(&npy);
    let other = place.fails(2, &[&short[..], &["--load", "--data", text(&npy)]].concat());
    assert_says(&other, &["document 1 of the server is not row 0", "another set"]);
}

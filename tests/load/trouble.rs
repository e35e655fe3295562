//! A server that stalls can't hide it, and one that goes away leaves partial results.

use std::time::{Duration, Instant};

use crate::{Place, assert_says, number, said};

const SMALL: [&str; 6] = ["--dataset", "64", "--dimension", "16", "--warm-up", "0"];

/// Time for which a server is stopped.
const STALL: Duration = Duration::from_millis(1_500);

#[test]
fn an_open_loop_counts_a_stall_in_the_latency_of_all_due_requests() {
    let place = Place::new();
    let run = ["--qps", "200", "--duration", "4", "--concurrency", "4"];
    let tester = place.begin(&[&SMALL[..], &run].concat());
    place.server().signal("STOP");
    let stalled = Instant::now();
    std::thread::sleep(STALL);
    let stalled = stalled.elapsed();
    place.server().signal("CONT");
    let output = tester.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let summary = place.summary();
    // All due requests were sent, including those due while four workers waited for the server: of some 800 requests,
    // about 300 in the stall, not the 4 that a closed loop would have sent.
    assert!(number(&summary, "requests") > 600.0, "{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(number(&summary, "crowded_ratio") > 0.1, "{summary}");
    // The first of them waited for nearly all of it, and one in twenty for half of it.
    let stall_ms = stalled.as_secs_f64() * 1e3;
    assert!(number(&summary, "max_ms") > 0.7 * stall_ms, "{summary}");
    assert!(number(&summary, "p95_ms") > 0.4 * stall_ms, "{summary}");
}

#[test]
fn more_failures_than_allowed_exit_with_1() {
    let place = Place::new();
    let run = ["--qps", "200", "--duration", "3", "--request-timeout-ms", "200"];
    let ratio = ["--max-failure-ratio", "0.0001"];
    let tester = place.begin(&[&SMALL[..], &run, &ratio].concat());
    place.server().signal("STOP");
    std::thread::sleep(STALL);
    place.server().signal("CONT");
    let output = tester.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_says(&said(&output), &["more than --max-failure-ratio 0.0001", "DeadlineExceeded"]);
    let summary = place.summary();
    assert!(number(&summary, "failure_ratio") > 0.05, "{summary}");
    assert!(number(&summary["errors"]["DeadlineExceeded"], "count") > 30.0, "{summary}");
}

#[test]
fn a_server_that_goes_away_leaves_partial_results() {
    for mode in [&["--closed"][..], &["--qps", "200"]] {
        let mut place = Place::new();
        let page = place.path("report.html");
        let run = ["--duration", "600", "--report", crate::text(&page)];
        let tester = place.begin(&[&SMALL[..], &run, mode].concat());
        place.server.take().unwrap().kill();
        let output = tester.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert_says(&said(&output), &["PARTIAL: the server went away", "results are partial"]);
        let summary = place.summary();
        let partial = summary["partial"].as_str().unwrap();
        assert!(partial.contains("went away"), "{partial}");
        let answered = number(&summary, "requests") - number(&summary, "failed");
        assert!(answered > 50.0, "what was measured before is kept: {summary}");
        assert!(!place.lines("interval").is_empty());
        assert_says(&std::fs::read_to_string(page).unwrap(), &["PARTIAL", "latency_time"]);
    }
}

//! Recall against exact answers, sweeps, and the report made of them.

use serde_json::Value;

use crate::data::Set;
use crate::{Place, assert_says, number, text};

#[test]
fn recall_is_in_every_line_and_the_set_is_loaded_once() {
    let place = Place::new();
    let (npy, vecs) = (place.path("npy"), place.path("vecs"));
    let set = Set::new();
    set.write_npy(&npy);
    set.write_vecs(&vecs);
    let run = ["--closed", "--duration", "1.5", "--ef", "100", "--data", text(&npy)];
    // An empty server is not loaded without `--load`.
    assert_says(&place.fails(2, &run), &["lacks 5000 of the 5000 documents", "--load"]);
    let printed = place.run(&[&run[..], &["--load"]].concat());
    assert_says(&printed, &["RECALL@10"]);
    let recall = |line: &Value| number(line, "recall");
    assert!(recall(&place.summary()) > 0.9, "{}", place.summary());
    for interval in place.lines("interval") {
        assert!(recall(&interval) > 0.9, "{interval}");
    }
    // The data set in another format: its documents are there.
    let (base, queries) = (vecs.join("base.fvecs"), vecs.join("queries.fvecs"));
    let truth = vecs.join("truth.ivecs");
    let files = ["--base", text(&base), "--queries", text(&queries), "--truth", text(&truth)];
    place.run(&[&files[..], &["--duration", "1", "--qps", "200", "--k", "20"]].concat());
    let summary = place.summary();
    assert!(recall(&summary) > 0.8, "{summary}");
    assert_eq!((&summary["k"], &summary["mode"]), (&20.into(), &"open".into()));
    // Writes beside the searches do not change the exact answers.
    let mix = place.path("mix.toml");
    std::fs::write(&mix, "rate = 300\n[weights]\nsearch = 2\ninsert = 1\ndelete = 1\n").unwrap();
    let mixed = ["--workload", text(&mix), "--duration", "2", "--ef", "100", "--data", text(&npy)];
    place.run(&mixed);
    let summary = place.summary();
    assert!(recall(&summary) > 0.9, "{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
}

#[test]
fn a_sweep_over_beams_draws_its_curve() {
    let place = Place::new();
    let npy = place.path("npy");
    Set::new().write_npy(&npy);
    let (page, pictures) = (place.path("report.html"), place.path("pictures"));
    let printed = place.run(&[
        "sweep",
        "ef",
        "10,200",
        "--rounds",
        "2",
        "--data",
        text(&npy),
        "--load",
        "--duration",
        "1",
        "--report",
        text(&page),
        "--svg",
        text(&pictures),
    ]);
    assert_says(&printed, &["ef 10 ", "ef 200 ", "RECALL@10"]);
    let summaries = place.lines("summary");
    let recalls: Vec<f64> = summaries.iter().map(|line| number(line, "recall")).collect();
    assert_eq!(recalls.len(), 4, "two rounds, in turns");
    assert!(recalls[0] < recalls[1] && recalls[1] > 0.95, "{recalls:?}");
    assert_eq!(printed.matches("ef 10 ").count(), 1, "one line of both: {printed}");
    let page = std::fs::read_to_string(page).unwrap();
    assert_says(&page, &["<!doctype html>", "ef 200", "p99", "kernel", "</html>"]);
    assert_eq!(page.matches("<svg").count(), 2, "recall and latency over time");
    for outside in ["src=", "href=", "url("] {
        assert!(!page.contains(outside), "the page needs {outside}");
    }
    for name in ["recall_qps.svg", "latency_time.svg"] {
        let svg = std::fs::read_to_string(pictures.join(name)).unwrap();
        assert!(svg.starts_with("<svg"), "{name}");
        assert!(page.contains(svg.trim_end()), "{name} is in the page");
    }
}

#[test]
fn a_sweep_over_rates_finds_one_or_names_the_obstacle() {
    let place = Place::new();
    let npy = place.path("npy");
    Set::new().write_npy(&npy);
    let sweep = |slo: &str, recall: &str| {
        let mut all = vec!["sweep", "rate", "--slo-p99-ms", slo, "--recall", recall];
        all.extend(["--steps", "2", "--duration", "1", "--data", text(&npy), "--load"]);
        all.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let run = |code: i32, arguments: Vec<String>| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        place.fails(code, &arguments)
    };
    let found = run(0, sweep("60000", "0.8"));
    assert_says(&found, &["The highest rate that keeps the promise", "known to"]);
    let open = place.lines("summary").into_iter().filter(|line| line["mode"] == "open").count();
    assert_eq!(open, 2, "as many steps as were asked for");
    let refused = run(1, sweep("0.001", "0.5"));
    assert_says(&refused, &["no rate that was tried keeps the promise", "--slo-p99-ms"]);
    // One in ten of these answers can't be found.
    let mut spoilt = Set::new();
    spoilt.spoil();
    spoilt.write_npy(&npy);
    let too_much = run(1, sweep("60000", "0.95"));
    assert_says(&too_much, &["no beam up to ef 800 has recall 0.95", "the highest was", "hnsw.m"]);
}

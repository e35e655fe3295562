//! Time per stage, by the server's own counters.

use crate::common::{Process, get, metric};

/// Sum in seconds, and count, of a stage or method so far.
pub(super) fn timed(process: &Process, family: &str, labels: &str) -> (f64, f64) {
    let text = get(process.http, "/metrics").expect("metrics").1;
    let value = |kind: &str| {
        metric(&text, &format!("kyrodb_{family}_seconds_{kind}{{{labels}}}")).unwrap_or(0.0)
    };
    (value("sum"), value("count"))
}

/// The mean of each stage since `before`.
pub(super) struct Stages(Vec<(&'static str, &'static str, (f64, f64))>);

impl Stages {
    const ALL: [(&'static str, &'static str); 6] = [
        ("request", "method=\"search\""),
        ("stage", "stage=\"queue\""),
        ("stage", "stage=\"walk\""),
        ("stage", "stage=\"merge\""),
        ("request", "method=\"insert\""),
        ("stage", "stage=\"commit\""),
    ];

    /// The stages in the record of a search, which add up to its total.
    const OF_SEARCH: [(&'static str, &'static str); 8] = [
        ("search_stage", "stage=\"admission\""),
        ("search_stage", "stage=\"mailbox\""),
        ("search_stage", "stage=\"queue\""),
        ("search_stage", "stage=\"hot\""),
        ("search_stage", "stage=\"walk\""),
        ("search_stage", "stage=\"suspended\""),
        ("search_stage", "stage=\"collect\""),
        ("search_stage", "stage=\"reply\""),
    ];

    pub(super) fn now(process: &Process) -> Self {
        Self::of(process, &Self::ALL)
    }

    pub(super) fn of_search(process: &Process) -> Self {
        Self::of(process, &Self::OF_SEARCH)
    }

    fn of(process: &Process, stages: &[(&'static str, &'static str)]) -> Self {
        let timed = |&(family, labels): &(&'static str, &'static str)| {
            (family, labels, timed(process, family, labels))
        };
        Self(stages.iter().map(timed).collect())
    }

    pub(super) fn since(&self, process: &Process) -> String {
        let mean = |&(family, labels, before): &(&str, &'static str, (f64, f64))| {
            let (sum, count) = timed(process, family, labels);
            let name = labels.split('"').nth(1)?;
            (count > before.1)
                .then(|| format!("{name} {:.0} µs", (sum - before.0) / (count - before.1) * 1e6))
        };
        self.0.iter().filter_map(mean).collect::<Vec<_>>().join(", ")
    }
}

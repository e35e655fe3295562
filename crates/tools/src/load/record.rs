//! Results of requests: counts, latencies and recall, of a run and of each second in it.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tonic::{Code, Status};

use super::client::Answer;
use super::workload::Kind;

/// Longest latency that is told from longer ones, in microseconds.
const LATENCY_MAX_MICROS: u64 = 3_600_000_000;

/// Lag bound in milliseconds, without a latency promise: the generator is too slow for its rate when more than one in a
/// hundred requests is sent later than the bound after it was due, though a worker was free.
pub(super) const LAG_MAX_MS: f64 = 1.0;

/// The lag bound as a share of a promised 99th percentile: 1 ms of 5.
pub(super) const LAG_PART_OF_SLO: f64 = 0.2;

/// Share of all CPUs: the generator is also too slow if a rate is not reached and it uses more than this.
const CPU_RATIO_MAX: f64 = 0.8;

/// A rate is not reached if sending took longer than planned by more than this factor.
const OVERTIME_MAX: f64 = 1.05;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3).expect("the bounds are valid")
}

fn at_ms(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}

/// Figures of a set of requests. Latencies are those of answers, and of requests without an answer in time; refusals
/// only count as failed, since they would make a failing server look fast.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// Answers per second.
    pub(super) qps: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
    /// Share of the exact neighbours that were found; absent without ground truth.
    pub(super) recall: Option<f64>,
}

/// Counts of a set of requests.
struct Tally {
    latencies: Histogram<u64>,
    requests: u64,
    failed: u64,
    hits: u64,
    wanted: u64,
}

impl Tally {
    fn new() -> Self {
        Self { latencies: histogram(), requests: 0, failed: 0, hits: 0, wanted: 0 }
    }

    fn add(&mut self, outcome: &Outcome, k: u32) {
        self.requests += 1;
        let is_counted = match &outcome.result {
            Ok(answer) => {
                if let Some(hits) = answer.hits {
                    self.hits += u64::from(hits);
                    self.wanted += u64::from(k);
                }
                true
            }
            Err(status) => {
                self.failed += 1;
                status.code() == Code::DeadlineExceeded
            }
        };
        if is_counted {
            self.latencies.saturating_record(outcome.latency.as_micros().max(1) as u64);
        }
    }

    fn figures(&self, seconds: f64) -> Figures {
        Figures {
            requests: self.requests,
            failed: self.failed,
            qps: (self.requests - self.failed) as f64 / seconds,
            p50_ms: at_ms(&self.latencies, 0.5),
            p95_ms: at_ms(&self.latencies, 0.95),
            p99_ms: at_ms(&self.latencies, 0.99),
            p999_ms: at_ms(&self.latencies, 0.999),
            max_ms: self.latencies.max() as f64 / 1e3,
            recall: (self.wanted > 0).then(|| self.hits as f64 / self.wanted as f64),
        }
    }
}

/// Conditions of a run.
pub(super) struct Course {
    /// Requested rate per second; `None` in a closed loop.
    pub(super) target: Option<f64>,
    /// Planned length.
    pub(super) planned: Duration,
    /// Time until all answers were there, in seconds.
    pub(super) seconds: f64,
    /// Share of all CPUs that the load tester used.
    pub(super) cpu_ratio: f64,
    /// Lag above which the load tester was the bottleneck, in milliseconds.
    pub(super) lag_max_ms: f64,
}

/// A completed request.
pub(super) struct Outcome {
    pub(super) kind: Kind,
    /// Time since it was due.
    pub(super) latency: Duration,
    /// Time of sending, since the end of the warm-up.
    pub(super) sent_at: Duration,
    /// Delay of sending though a worker was free; `None` if it had to wait for a worker.
    pub(super) lag: Option<Duration>,
    pub(super) result: Result<Answer, Status>,
}

/// Failures of one kind.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failures {
    pub(super) count: u64,
    /// Text of the first one.
    pub(super) first: String,
}

/// All results of a run.
pub(super) struct Record {
    k: u32,
    window: Tally,
    total: Tally,
    kinds: BTreeMap<Kind, Tally>,
    lags: Histogram<u64>,
    /// Requests that were due before a worker was free.
    crowded: u64,
    last_sent_at: Duration,
    incomplete: u64,
    errors: BTreeMap<String, Failures>,
}

impl Record {
    pub(super) fn new(k: u32) -> Self {
        Self {
            k,
            window: Tally::new(),
            total: Tally::new(),
            kinds: BTreeMap::new(),
            lags: histogram(),
            crowded: 0,
            last_sent_at: Duration::ZERO,
            incomplete: 0,
            errors: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.window.add(outcome, self.k);
        self.total.add(outcome, self.k);
        self.kinds.entry(outcome.kind).or_insert_with(Tally::new).add(outcome, self.k);
        self.last_sent_at = self.last_sent_at.max(outcome.sent_at);
        match outcome.lag {
            Some(lag) => self.lags.saturating_record(lag.as_micros().max(1) as u64),
            None => self.crowded += 1,
        }
        match &outcome.result {
            Ok(answer) => self.incomplete += u64::from(answer.is_incomplete),
            Err(status) => {
                let first = || Failures { count: 0, first: status.message().to_owned() };
                let code = format!("{:?}", status.code());
                self.errors.entry(code).or_insert_with(first).count += 1;
            }
        }
    }

    /// Figures since the last call.
    pub(super) fn take_window(&mut self, seconds: f64) -> Figures {
        let figures = self.window.figures(seconds);
        self.window = Tally::new();
        figures
    }

    /// Figures of the whole run.
    pub(super) fn summary(&self, run: &Course) -> Summary {
        let &Course { target, planned, seconds, cpu_ratio, lag_max_ms } = run;
        let figures = self.total.figures(seconds);
        let requests = figures.requests.max(1) as f64;
        let kinds = self.kinds.iter().map(|(k, tally)| (k.word(), tally.figures(seconds)));
        let lag_p99_ms = target.map(|_| at_ms(&self.lags, 0.99));
        let is_rate_reached =
            target.is_none() || self.last_sent_at <= planned.mul_f64(OVERTIME_MAX);
        let is_late = lag_p99_ms.is_some_and(|lag| lag > lag_max_ms);
        Summary {
            kind: "summary",
            run: 0,
            label: String::new(),
            mode: if target.is_some() { "open" } else { "closed" },
            target_qps: target,
            k: self.k,
            ef: 0,
            seconds,
            failure_ratio: figures.failed as f64 / requests,
            operations: kinds.collect(),
            incomplete: self.incomplete,
            errors: self.errors.clone(),
            crowded_ratio: target.map(|_| self.crowded as f64 / requests),
            lag_p99_ms,
            lag_max_ms: target.map(|_| lag_max_ms),
            cpu_ratio,
            is_generator_limited: is_late || (!is_rate_reached && cpu_ratio > CPU_RATIO_MAX),
            is_rate_reached,
            partial: None,
            figures,
        }
    }
}

/// A second of a run, as a line of JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Interval {
    pub(super) kind: &'static str,
    pub(super) run: usize,
    /// Its end, in seconds since the end of the warm-up.
    pub(super) second: f64,
    /// Its length in seconds.
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) figures: Figures,
}

/// A run, as a line of JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) kind: &'static str,
    pub(super) run: usize,
    pub(super) label: String,
    pub(super) mode: &'static str,
    pub(super) target_qps: Option<f64>,
    pub(super) k: u32,
    pub(super) ef: u32,
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) figures: Figures,
    pub(super) failure_ratio: f64,
    pub(super) operations: BTreeMap<&'static str, Figures>,
    /// Answers that do not cover all shards.
    pub(super) incomplete: u64,
    pub(super) errors: BTreeMap<String, Failures>,
    /// Share of the requests that were due before a worker was free.
    pub(super) crowded_ratio: Option<f64>,
    /// 99th percentile of the delay of sending though a worker was free, in milliseconds.
    pub(super) lag_p99_ms: Option<f64>,
    /// Lag above which the load tester was the bottleneck, in milliseconds.
    pub(super) lag_max_ms: Option<f64>,
    /// Share of all CPUs that the load tester used.
    pub(super) cpu_ratio: f64,
    pub(super) is_generator_limited: bool,
    /// False: more requests were due than the workers could send.
    pub(super) is_rate_reached: bool,
    /// Reason why this is not the whole run.
    pub(super) partial: Option<String>,
}

impl Summary {
    pub(super) fn first_error(&self) -> Option<String> {
        let most = self.errors.iter().max_by_key(|(_, failures)| failures.count)?;
        Some(format!("{}: {}", most.0, most.1.first))
    }

    /// Caveats that a reader has to know before relying on the figures.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(why) = &self.partial {
            remarks.push(format!("PARTIAL: {why}"));
        }
        if self.is_generator_limited {
            remarks.push(format!(
                "the load tester was the bottleneck: it sent 1 in 100 requests {:.2} ms late or \
                 later (the bound is {:.2} ms), and used {:.0} % of all CPUs; lower --qps, or run \
                 it on other cores or another host",
                self.lag_p99_ms.unwrap_or(0.0),
                self.lag_max_ms.unwrap_or(0.0),
                self.cpu_ratio * 100.0
            ));
        }
        if let Some(crowded) = self.crowded_ratio.filter(|_| !self.is_rate_reached) {
            remarks.push(format!(
                "the rate was not reached: {:.0} % of the requests had to wait for one of the \
                 places; lower --qps, or raise --concurrency if the server can take more",
                crowded * 100.0
            ));
        }
        if self.incomplete > 0 {
            let count = self.incomplete;
            remarks.push(format!("{count} answers do not rest on all shards: out of time"));
        }
        for (code, failures) in &self.errors {
            remarks.push(format!("{} failed: {code}: {}", failures.count, failures.first));
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(target: Option<f64>, cpu_ratio: f64) -> Course {
        let planned = Duration::from_secs(1);
        Course { target, planned, seconds: 1.0, cpu_ratio, lag_max_ms: LAG_MAX_MS }
    }

    fn outcome(latency_ms: u64, result: Result<Answer, Status>) -> Outcome {
        let latency = Duration::from_millis(latency_ms);
        let lag = Some(Duration::ZERO);
        Outcome { kind: Kind::Search, latency, sent_at: Duration::from_secs(2), lag, result }
    }

    #[test]
    fn refusals_do_not_make_a_server_look_fast_and_timeouts_do_not_hide() {
        let mut record = Record::new(10);
        for _ in 0..90 {
            record.add(&outcome(10, Ok(Answer { hits: Some(9), is_incomplete: false })));
        }
        for _ in 0..5 {
            record.add(&outcome(0, Err(Status::unavailable("gone"))));
            record.add(&outcome(5_000, Err(Status::deadline_exceeded("late"))));
        }
        let summary = record.summary(&course(Some(100.0), 0.1));
        assert_eq!((summary.figures.requests, summary.figures.failed), (100, 10));
        assert_eq!(summary.figures.recall, Some(0.9));
        assert!((summary.failure_ratio - 0.1).abs() < 1e-9);
        assert!((9.9..10.1).contains(&summary.figures.p50_ms), "{summary:?}");
        assert!(summary.figures.p99_ms > 4_990.0, "{summary:?}");
        assert_eq!(summary.errors["Unavailable"].count, 5);
        assert!(!summary.is_rate_reached, "the last was sent a second too late");
    }

    /// All workers are busy when a server is slow, but also when the load tester has no CPU time for the answers.
    #[test]
    fn a_missed_rate_is_the_fault_of_the_generator_if_its_cpu_is_busy() {
        let mut record = Record::new(10);
        record.add(&Outcome { lag: None, ..outcome(10, Ok(Answer::default())) });
        let is_limited =
            |cpu_ratio| record.summary(&course(Some(1.0), cpu_ratio)).is_generator_limited;
        assert_eq!((is_limited(0.3), is_limited(0.95)), (false, true));
    }

    #[test]
    fn a_window_holds_results_since_the_last_one() {
        let mut record = Record::new(10);
        record.add(&outcome(1, Ok(Answer::default())));
        assert_eq!(record.take_window(1.0).requests, 1);
        assert_eq!(record.take_window(1.0).requests, 0);
        assert_eq!(record.summary(&course(None, 0.1)).figures.qps, 1.0);
    }

    #[test]
    fn a_late_generator_is_reported() {
        let mut record = Record::new(10);
        for ms in 0..100 {
            let lag = Some(Duration::from_millis(ms / 50 * 20));
            record.add(&Outcome { lag, ..outcome(30, Ok(Answer::default())) });
        }
        let summary = record.summary(&course(Some(100.0), 0.1));
        assert!(summary.is_generator_limited);
        assert!(summary.remarks().iter().any(|r| r.contains("the bound is 1.00 ms")));
        let lax = Course { lag_max_ms: 50.0, ..course(Some(100.0), 0.1) };
        assert!(!record.summary(&lax).is_generator_limited, "20 ms are little of a promise");
        assert!(
            !record.summary(&course(None, 0.1)).is_generator_limited,
            "a closed loop is never late"
        );
    }
}

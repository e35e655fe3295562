//! A run: workers that send due requests, and a look at the results every second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::Fault;
use super::client::{Client, Requests};
use super::contact::{Contact, PAUSE_AFTER_FAILURE};
use super::machine::cpu_seconds;
use super::output::Output;
use super::pacing::{Arrivals, Due, Pacer, Random};
use super::record::{Course, Interval, Outcome, Record, Summary};
use super::setup::Bench;
use super::workload::Weights;

/// Arrival of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mode {
    /// At random times, at this rate per second.
    Open(f64),
    /// Each worker sends the next request when the last is answered.
    Closed,
}

/// One run.
pub(super) struct Plan {
    /// Label for people.
    pub(super) label: String,
    pub(super) mode: Mode,
    pub(super) ef: u32,
    pub(super) duration: Duration,
}

/// Results of a run.
pub(super) struct RunResult {
    pub(super) summary: Summary,
    pub(super) intervals: Vec<Interval>,
}

/// State that the workers of a run share.
struct Run {
    pacer: Arc<Pacer>,
    requests: Arc<Requests>,
    weights: Weights,
    ef: u32,
    /// End of the warm-up; requests due before are not counted.
    counted_from: Instant,
    record: Mutex<Record>,
    contact: Contact,
    stopped: Mutex<Option<String>>,
}

impl Run {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the run early.
    fn stop(&self, why: &str) {
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.get_or_insert_with(|| why.to_owned());
        self.pacer.stop();
    }

    /// One worker, until no more requests are due.
    async fn work(&self, mut client: Client, mut random: Random) {
        while let Some(due) = self.pacer.next().await {
            let sent = Instant::now();
            let kind = self.weights.pick(&mut random);
            // The request has waited longer for a worker than a client would wait for its answer.
            let result = if sent - due.intended > self.requests.timeout {
                Err(Status::deadline_exceeded("not sent: no place was free in time"))
            } else {
                self.requests.send(&mut client, kind, self.ef, &mut random).await
            };
            let is_refused = result.as_ref().is_err_and(|s| s.code() != Code::DeadlineExceeded);
            let status = result.as_ref().err();
            if self.contact.is_lost(status) {
                let why = status.map_or("", Status::message);
                self.stop(&format!("the server went away ({why})"));
            }
            if due.intended >= self.counted_from {
                self.record().add(&Outcome {
                    kind,
                    latency: due.intended.elapsed(),
                    sent_at: sent.saturating_duration_since(self.counted_from),
                    lag: lag(&due, sent),
                    result,
                });
            }
            if is_refused {
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

/// Delay caused by this program; `None` for a request that had to wait for a worker.
fn lag(due: &Due, sent: Instant) -> Option<Duration> {
    due.is_awaited.then(|| sent.saturating_duration_since(due.intended))
}

/// Does one run. If the server goes away, the run ends early, and its summary says so.
///
/// # Errors
/// If the results can't be written.
pub(super) async fn run(
    bench: &mut Bench,
    plan: &Plan,
    output: &mut Output,
) -> Result<RunResult, Fault> {
    bench.runs += 1;
    let number = bench.runs;
    let arrivals = match plan.mode {
        Mode::Open(rate) => Some(Arrivals::new(bench.seed, rate)),
        Mode::Closed => None,
    };
    let cpu_before = cpu_seconds();
    let (pacer, clock) = Pacer::start(arrivals, bench.warm_up + plan.duration);
    let counted_from = pacer.began() + bench.warm_up;
    let contact = Contact::since(pacer.began());
    let run = Arc::new(Run {
        pacer,
        requests: bench.requests.clone(),
        weights: bench.weights.clone(),
        ef: plan.ef,
        counted_from,
        record: Mutex::new(Record::new(bench.requests.k)),
        contact,
        stopped: Mutex::new(None),
    });
    let mut places = JoinSet::new();
    for place in 0..bench.concurrency {
        let client = bench.clients[place % bench.clients.len()].clone();
        let random = Random::new(bench.seed, 1 + place as u64);
        let run = run.clone();
        places.spawn(async move { run.work(client, random).await });
    }
    let intervals = watch_over(&run, plan, number, places, output).await?;
    let seconds = counted_from.elapsed().as_secs_f64().max(1e-9);
    run.pacer.stop();
    clock.join().map_err(|_| Fault::Failed("the thread that keeps the pace has ended".into()))?;
    let target = match plan.mode {
        Mode::Open(rate) => Some(rate),
        Mode::Closed => None,
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let whole_seconds = run.pacer.began().elapsed().as_secs_f64().max(1e-9);
    let cpu_ratio = (cpu_seconds() - cpu_before) / whole_seconds / cpus;
    let (planned, lag_max_ms) = (plan.duration, bench.lag_max_ms);
    let course = Course { target, planned, seconds, cpu_ratio, lag_max_ms };
    let mut summary = run.record().summary(&course);
    (summary.run, summary.ef, summary.label) = (number, plan.ef, plan.label.clone());
    summary.partial = run.stopped.lock().unwrap_or_else(PoisonError::into_inner).take();
    let result = RunResult { summary, intervals };
    output.end_run(&result)?;
    Ok(result)
}

/// Reports the results every second, until all workers are done.
async fn watch_over(
    run: &Run,
    plan: &Plan,
    number: usize,
    mut places: JoinSet<()>,
    output: &mut Output,
) -> Result<Vec<Interval>, Fault> {
    const TICK: Duration = Duration::from_secs(1);
    let mut intervals = Vec::new();
    let mut last = run.counted_from;
    let mut ticks = tokio::time::interval_at((run.counted_from + TICK).into(), TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    output.begin_run(plan);
    loop {
        let is_over = tokio::select! {
            _ = ticks.tick() => false,
            ended = places.join_next() => match ended {
                None => true,
                Some(Ok(())) => continue,
                Some(Err(error)) => return Err(Fault::Failed(format!("a place ended: {error}"))),
            },
            pressed = tokio::signal::ctrl_c() => {
                run.stop(if pressed.is_ok() { "interrupted" } else { "no signals" });
                continue;
            }
        };
        let now = Instant::now();
        let seconds = now.saturating_duration_since(last).as_secs_f64().max(1e-9);
        let figures = run.record().take_window(seconds);
        // The rest after the last whole second counts only if it has requests.
        if !is_over || figures.requests > 0 {
            let second = now.saturating_duration_since(run.counted_from).as_secs_f64();
            let interval = Interval { kind: "interval", run: number, second, seconds, figures };
            output.interval(&interval)?;
            intervals.push(interval);
        }
        last = now;
        if is_over {
            return Ok(intervals);
        }
    }
}

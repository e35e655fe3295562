//! Sweeps: runs over beam widths, or over rates until the highest that keeps the promise is known.

use super::Fault;
use super::arguments::{Settings, Sweep};
use super::output::Output;
use super::record::{LAG_PART_OF_SLO, Summary};
use super::setup::Bench;
use super::work::{Mode, Plan, RunResult, run as run_once};

/// Beam widths that are tried for a recall, in ascending order.
const WIDTHS: [u32; 13] = [15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 400, 600, 800];

/// Largest share of failed requests at a rate that keeps the promise.
const FAILURE_RATIO_MAX: f64 = 0.001;

/// Does a sweep, and shows the result.
///
/// # Errors
/// If the server goes away, or nothing in the range is good enough.
pub(super) async fn run(
    what: &Sweep,
    settings: &Settings,
    bench: &mut Bench,
    output: &mut Output,
) -> Result<(), Fault> {
    match what {
        Sweep::Ef { widths, rounds } => {
            sweep_widths(widths, rounds.rounds, settings, bench, output).await
        }
        Sweep::Rate { slo_p99_ms, recall, steps } => {
            let promise = Promise { p99_ms: *slo_p99_ms, recall: *recall };
            sweep_rates(&promise, *steps, settings, bench, output).await
        }
    }
}

async fn sweep_widths(
    widths: &[u32],
    rounds: u32,
    settings: &Settings,
    bench: &mut Bench,
    output: &mut Output,
) -> Result<(), Fault> {
    let mut runs = Vec::new();
    let mut outcome = Ok(());
    // The widths take turns, so that other load on the machine does not affect one width alone.
    'rounds: for _ in 0..rounds {
        for &ef in widths {
            match one(bench, settings, Mode::Closed, ef, output).await {
                Ok(summary) => runs.push(summary),
                Err(fault) => {
                    outcome = Err(fault);
                    break 'rounds;
                }
            }
        }
    }
    let typical: Vec<Summary> = typical(runs.iter()).into_iter().cloned().collect();
    output.say_table(&typical);
    outcome
}

/// For each beam width the run with the median rate, in ascending order of width.
pub(super) fn typical<'a>(runs: impl Iterator<Item = &'a Summary>) -> Vec<&'a Summary> {
    let mut runs: Vec<&Summary> = runs.collect();
    runs.sort_by(|a, b| a.ef.cmp(&b.ef).then(a.figures.qps.total_cmp(&b.figures.qps)));
    runs.chunk_by(|a, b| a.ef == b.ef).map(|runs| runs[runs.len() / 2]).collect()
}

/// The promised latency and recall.
struct Promise {
    p99_ms: f64,
    recall: f64,
}

impl Promise {
    fn is_kept(&self, summary: &Summary) -> bool {
        summary.figures.p99_ms <= self.p99_ms
            && summary.figures.recall.is_some_and(|recall| recall >= self.recall)
            && summary.failure_ratio <= FAILURE_RATIO_MAX
            && summary.is_rate_reached
    }
}

async fn sweep_rates(
    promise: &Promise,
    steps: u32,
    settings: &Settings,
    bench: &mut Bench,
    output: &mut Output,
) -> Result<(), Fault> {
    bench.lag_max_ms = promise.p99_ms * LAG_PART_OF_SLO;
    let (ef, closed) = narrowest(promise.recall, settings, bench, output).await?;
    // A higher rate than in a closed loop can't be sustained.
    let mut bisection = Bisection::new(0.0, closed.figures.qps, steps);
    let mut tried = Vec::new();
    let mut best: Option<Summary> = None;
    while let Some(rate) = bisection.next() {
        let summary = one(bench, settings, Mode::Open(rate), ef, output).await?;
        let is_kept = promise.is_kept(&summary);
        output.say(&format!(
            "{rate:.0} a second: p99 {:.2} ms, {}",
            summary.figures.p99_ms,
            if is_kept { "good" } else { "not good" }
        ));
        bisection.tell(is_kept);
        tried.push(summary.clone());
        if is_kept {
            best = Some(summary);
        }
    }
    tried.sort_by(|a, b| a.target_qps.unwrap_or(0.0).total_cmp(&b.target_qps.unwrap_or(0.0)));
    output.say_table(&tried);
    let wanted = format!("p99 of at most {} ms, recall {}", promise.p99_ms, promise.recall);
    let limited = tried.iter().any(|summary| summary.is_generator_limited);
    let Some(best) = best else {
        let lowest = tried.first().map_or(0.0, |summary| summary.figures.p99_ms);
        let blame = if limited {
            "; or the load tester, which was late itself, on other cores or another host"
        } else {
            ""
        };
        return Err(Fault::Failed(format!(
            "no rate that was tried keeps the promise ({wanted}): at the lowest the p99 was \
             {lowest:.2} ms; it takes a longer --slo-p99-ms, a lower --recall, or more --steps for \
             lower rates{blame}"
        )));
    };
    output.say(&format!(
        "The highest rate that keeps the promise ({wanted}) is {:.0} a second at ef {ef}, known to \
         {:.0} a second: p99 {:.2} ms, recall {:.4}.",
        bisection.low,
        bisection.high - bisection.low,
        best.figures.p99_ms,
        best.figures.recall.unwrap_or(0.0)
    ));
    if limited {
        output.say(&format!(
            "At some rates the load tester was late itself, by more than {:.2} ms; the server may \
             be able to do more.",
            bench.lag_max_ms
        ));
    }
    Ok(())
}

/// Beam widths that are tried for `k` results, in ascending order.
pub(super) fn widths(k: u32) -> Vec<u32> {
    // No beam is narrower than the number of results.
    std::iter::once(k).chain(WIDTHS.into_iter().filter(|&ef| ef > k)).collect()
}

/// The smallest beam width that reaches the recall, and its run.
async fn narrowest(
    recall: f64,
    settings: &Settings,
    bench: &mut Bench,
    output: &mut Output,
) -> Result<(u32, Summary), Fault> {
    let widths = widths(settings.k);
    let (mut low, mut high) = (0, widths.len());
    let mut best = None;
    let mut highest = 0.0_f64;
    // A wider beam finds no fewer.
    while low < high {
        let middle = (low + high) / 2;
        let ef = widths[middle];
        let summary = one(bench, settings, Mode::Closed, ef, output).await?;
        let found = summary.figures.recall.unwrap_or(0.0);
        output.say(&format!("ef {ef}: recall {found:.4}"));
        highest = highest.max(found);
        if found >= recall {
            high = middle;
            best = Some((ef, summary));
        } else {
            low = middle + 1;
        }
    }
    best.ok_or_else(|| {
        Fault::Failed(format!(
            "no beam up to ef {} has recall {recall}; the highest was {highest:.4}: ask for less, \
             or build the graph with a higher hnsw.m and hnsw.ef_construction",
            widths.last().copied().unwrap_or(0)
        ))
    })
}

/// A run that has to be complete.
async fn one(
    bench: &mut Bench,
    settings: &Settings,
    mode: Mode,
    ef: u32,
    output: &mut Output,
) -> Result<Summary, Fault> {
    let label = match mode {
        Mode::Open(rate) => format!("{rate:.0}/s, ef {ef}"),
        Mode::Closed => format!("ef {ef}"),
    };
    let plan = Plan { label, mode, ef, duration: settings.duration };
    let RunResult { summary, .. } = run_once(bench, &plan, output).await?;
    if summary.partial.is_some() {
        output.say_table(std::slice::from_ref(&summary));
    }
    super::judge(&summary, settings.failure_ratio_max)?;
    Ok(summary)
}

/// Bisection of an interval whose lower end is good and whose upper end is not, with a number of steps.
struct Bisection {
    low: f64,
    high: f64,
    steps: u32,
}

impl Bisection {
    fn new(low: f64, high: f64, steps: u32) -> Self {
        Self { low, high, steps }
    }

    fn middle(&self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    /// The next value to try.
    fn next(&mut self) -> Option<f64> {
        self.steps = self.steps.checked_sub(1)?;
        Some(self.middle())
    }

    /// Notes whether that value was good.
    fn tell(&mut self, is_good: bool) {
        let middle = self.middle();
        if is_good {
            self.low = middle;
        } else {
            self.high = middle;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bisection_finds_the_limit_in_its_steps() {
        for limit in [0.5, 123.4, 640.0, 999.9] {
            let mut bisection = Bisection::new(0.0, 1_000.0, 12);
            let mut tried = 0;
            while let Some(rate) = bisection.next() {
                bisection.tell(rate <= limit);
                tried += 1;
            }
            assert_eq!(tried, 12);
            assert!(bisection.low <= limit && limit <= bisection.high);
            assert!(bisection.high - bisection.low <= 1_000.0 / 4_096.0 + 1e-9);
        }
    }
}

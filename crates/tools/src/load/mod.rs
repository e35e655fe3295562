//! `kyrodb_load_tester`: sends a server a known load, and measures rate, latency and recall of the answers.
//!
//! `arguments` and `workload` read the settings, `data` holds the vectors, `setup` stores them on the server, `pacing`
//! decides when a request is due, `work` sends it (`client`), `record` counts the results, `sweep` repeats this over
//! beam widths or rates, `compare` measures other engines (`peers`) beside KyroDB, and `output`, `report` and `chart`
//! show the results.
//!
//! In an open loop a request is due at a time that was decided before, whether or not earlier ones are answered, and
//! its latency counts from then: a server that stalls can't hide it.

mod arguments;
mod chart;
mod client;
mod compare;
mod contact;
mod data;
mod machine;
mod output;
mod pacing;
mod peers;
mod record;
mod report;
mod setup;
mod sweep;
mod work;
mod workload;

pub use arguments::Arguments;

use arguments::Command;
use output::Output;
use setup::Bench;
use work::{Mode, Plan};

/// Why there is no result, or an insufficient one.
#[derive(Debug)]
pub enum Fault {
    /// The arguments are invalid.
    Usage(String),
    /// The arguments are valid, and the run failed.
    Failed(String),
}

/// Executes the command line.
///
/// # Errors
/// If the arguments contradict each other or the data; if the server can't be reached, goes away, or fails more
/// requests than `--max-failure-ratio` allows. Results until then are printed and written.
pub fn run(arguments: &Arguments) -> Result<(), Fault> {
    let settings = arguments.settle()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::Failed(format!("no threads: {error}")))?;
    runtime.block_on(async {
        let mut bench = Bench::set_up(&settings).await?;
        let mut output = Output::open(&settings, &bench)?;
        let outcome = measure(arguments, &settings, &mut bench, &mut output).await;
        // Results are also shown after a run that failed in the middle.
        output.finish(arguments.report.as_deref(), arguments.svg.as_deref())?;
        outcome
    })
}

async fn measure(
    arguments: &Arguments,
    settings: &arguments::Settings,
    bench: &mut Bench,
    output: &mut Output,
) -> Result<(), Fault> {
    match &arguments.command {
        Some(Command::Sweep { what }) => sweep::run(what, settings, bench, output).await,
        Some(Command::Compare(_)) => compare::run(settings, bench, output).await,
        None => {
            let mode = if arguments.closed { Mode::Closed } else { Mode::Open(settings.rate) };
            let label = if arguments.closed { "closed".to_owned() } else { "open".to_owned() };
            let plan = Plan { label, mode, ef: settings.ef, duration: settings.duration };
            let result = work::run(bench, &plan, output).await?;
            output.say_table(std::slice::from_ref(&result.summary));
            output.say_operations(&result.summary);
            judge(&result.summary, settings.failure_ratio_max)
        }
    }
}

/// Fails unless a run counts as a success.
fn judge(summary: &record::Summary, failure_ratio_max: f64) -> Result<(), Fault> {
    if let Some(why) = &summary.partial {
        return Err(Fault::Failed(format!("the results are partial: {why}")));
    }
    if summary.failure_ratio > failure_ratio_max {
        return Err(Fault::Failed(format!(
            "{:.4} of the requests failed, more than --max-failure-ratio {failure_ratio_max} \
             allows{}",
            summary.failure_ratio,
            summary.first_error().map(|why| format!("; the first: {why}")).unwrap_or_default()
        )));
    }
    Ok(())
}

//! `kyrodb_load_tester`: sends a server a known load, and says how fast and how right it answers.
//!
//! `arguments` and `workload` say what is asked, `data` holds the vectors, `setup` puts them on
//! the server, `pacing` decides when a request is due, `work` sends it (`client`), `record`
//! counts what came of it, `sweep` repeats this over beam widths or rates, `compare` measures other
//! engines (`peers`) beside KyroDB, and `output`, `report` and `chart` tell.
//!
//! In an open loop a request is due at a time that was decided before, whatever became of those
//! before it, and its latency counts from then: a server that stalls can't hide it.

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

/// Why there is no result, or not the one that was wanted.
#[derive(Debug)]
pub enum Fault {
    /// What was asked makes no sense.
    Usage(String),
    /// It made sense, and did not work.
    Failed(String),
}

/// Does what the arguments ask.
///
/// # Errors
/// If the arguments contradict each other or the data; if the server can't be reached, goes away,
/// or fails more requests than `--max-failure-ratio` allows. What was measured until then is
/// printed and written.
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
        // Also of a run that failed in the middle, what is known is shown.
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

/// Whether a run counts as a success.
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

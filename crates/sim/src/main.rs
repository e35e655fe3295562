//! Runs seeds of the simulation, one after the other, and reports each that fails.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use kyrodb_sim::simulation::{Report, shrink, try_steps};

/// Simulates whole machines on a simulated disk: crashes, faults and damage as a seed decides.
///
/// Exit codes: 0 every seed passed; 1 at least one failed; 2 wrong usage.
#[derive(Parser)]
#[command(name = "kyrodb_sim", version)]
struct Arguments {
    /// First seed
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Number of seeds, from the first one on
    #[arg(long, default_value_t = 1)]
    seeds: u64,

    /// For each seed that fails, find the least number of steps within which it fails
    #[arg(long)]
    shrink: bool,

    /// Most steps of a seed, over all lives of its machine
    #[arg(long)]
    steps: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let steps_max = arguments.steps.unwrap_or(u64::MAX);
    let (mut failed, mut all) = (0_u64, Report::default());
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        if let Some(report) = try_steps(seed, steps_max) {
            all.add(&report);
            continue;
        }
        failed += 1;
        say(&format!("seed {seed} fails: kyrodb_sim --seed {seed}"));
        if arguments.shrink
            && let Some(steps) = shrink(seed)
        {
            say(&format!("within {steps} steps: kyrodb_sim --seed {seed} --steps {steps}"));
        }
    }
    say(&format!("{} seeds from {} on, {failed} failed: {all:?}", arguments.seeds, arguments.seed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    use std::io::Write;
    // A closed pipe is no failure of a seed.
    writeln!(std::io::stdout(), "{line}").ok();
}

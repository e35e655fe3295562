//! Prints a table of hit rates, and one of times: `cargo run -- [DATA] [SEEDS]`.

use std::path::Path;

use kyrodb_cache_traces::caches::Which;
use kyrodb_cache_traces::replay::Data;
use kyrodb_cache_traces::report::{Outcome, median, range, run};
use kyrodb_cache_traces::traces::{self, Trace};

/// Divisors of the number of all keys that give the places of the caches.
const PARTS: [usize; 3] = [32, 8, 2];

/// Makes a trace from a seed.
type Make<'a> = Box<dyn Fn(u64) -> Trace + 'a>;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next();
    let seeds: u64 = arguments.next().and_then(|seeds| seeds.parse().ok()).unwrap_or(5);
    let data = data.and_then(|data| match Data::read(Path::new(&data)) {
        Ok(data) => Some(data),
        Err(error) => {
            eprintln!("no replays: {data}: {error}");
            None
        }
    });
    let mut made: Vec<(&str, Make<'_>)> = vec![
        ("Zipf 0.6", Box::new(|seed| traces::zipf(0.6, seed))),
        ("Zipf 0.8", Box::new(|seed| traces::zipf(0.8, seed))),
        ("Zipf 1.0", Box::new(|seed| traces::zipf(1.0, seed))),
        ("Zipf 0.9 with scans", Box::new(traces::polluted)),
        ("A hot set that moves slowly", Box::new(|seed| traces::moving(1, seed))),
        ("A hot set that moves fast", Box::new(|seed| traces::moving(8, seed))),
    ];
    if let Some(data) = &data {
        made.push(("Replay, the same queries", Box::new(|seed| data.repeated(seed))));
        made.push(("Replay, topics", Box::new(|seed| data.topics(seed))));
    } else {
        eprintln!("without a directory of base.npy and queries.npy there are no replays");
    }
    let names: Vec<&str> = Which::ALL.map(Which::name).into();
    println!("| Trace | Places | {} | Less the best of others |", names.join(" | "));
    println!("|---|---|{}---|", "---|".repeat(names.len()));
    let mut times = vec![Vec::new(); names.len()];
    for (name, make) in made {
        let traces: Vec<Trace> = (1..=seeds).map(make).collect();
        for parts in PARTS {
            let of = |which: Which| -> Vec<Outcome> {
                traces.iter().map(|trace| run(which, trace, trace.keys / parts)).collect()
            };
            let outcomes = Which::ALL.map(of);
            let rates: Vec<f64> = outcomes
                .iter()
                .map(|of| median(of.iter().map(|outcome| outcome.hits_percent).collect()))
                .collect();
            for (times, of) in times.iter_mut().zip(&outcomes) {
                times.extend(of.iter().map(|outcome| (outcome.access_ns, outcome.idle_ns)));
            }
            // Compared per seed: a favourable seed is favourable for all caches.
            let less: Vec<f64> = (0..traces.len()).map(|seed| less_best(&outcomes, seed)).collect();
            let (low, high) = range(&less);
            let cells: Vec<String> = rates.iter().map(|rate| format!("{rate:.2}")).collect();
            let cells = cells.join(" | ");
            println!(
                "| {name} | 1/{parts} | {cells} | {:+.2} ({low:+.2} to {high:+.2}) |",
                median(less)
            );
        }
    }
    println!("\n| Cache | ns an access | ns beside it, for each access |\n|---|---|---|");
    for (name, times) in names.into_iter().zip(times) {
        let (access, idle): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        println!("| {name} | {:.0} | {:.0} |", median(access), median(idle));
    }
}

/// Hit rate of [`Which::Learned`] less the best of the caches before it, on the trace of a seed.
fn less_best(outcomes: &[Vec<Outcome>], seed: usize) -> f64 {
    let rate = |outcomes: &Vec<Outcome>| outcomes[seed].hits_percent;
    let learned = Which::ALL.iter().position(|&which| which == Which::Learned).unwrap_or(0);
    rate(&outcomes[learned]) - outcomes[..learned].iter().map(rate).fold(0.0, f64::max)
}

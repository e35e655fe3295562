//! Prints a table of hit rates, and one of times: `cargo run -- [DATA] [SEEDS]`.

use std::path::Path;

use kyrodb_cache_traces::caches::Which;
use kyrodb_cache_traces::replay::Data;
use kyrodb_cache_traces::report::{Outcome, median, run};
use kyrodb_cache_traces::traces::{self, Trace};

/// Parts of all keys that the caches have places for.
const PARTS: [usize; 3] = [32, 8, 2];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next();
    let seeds: u64 = arguments.next().and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    let data = data.and_then(|data| match Data::read(Path::new(&data)) {
        Ok(data) => Some(data),
        Err(error) => {
            eprintln!("no replays: {data}: {error}");
            None
        }
    });
    let mut made: Vec<(&str, Box<dyn Fn(u64) -> Trace + '_>)> = vec![
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
    println!("| Trace | Places | {} | Best of others |", names.join(" | "));
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
                times.extend(of.iter().map(|outcome| outcome.access_ns));
            }
            let best = rates[..4].iter().copied().fold(0.0, f64::max);
            let cells: Vec<String> = rates.iter().map(|rate| format!("{rate:.2}")).collect();
            println!("| {name} | 1/{parts} | {} | {:+.2} |", cells.join(" | "), rates[4] - best);
        }
    }
    println!("\n| Cache | ns an access |\n|---|---|");
    for (name, times) in names.into_iter().zip(times) {
        println!("| {name} | {:.0} |", median(times));
    }
}

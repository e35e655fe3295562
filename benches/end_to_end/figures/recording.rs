//! Cost of recording the stages of searches: searches with it and without, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kyrodb::proto::SearchRequest;

use super::{loaded, median};
use crate::common::{Client, Inside, Settings, search};
use crate::data::Data;

/// Pairs of phases, each with its own ratio.
const ROUNDS: usize = 150;

/// Length of a phase: short, so that other load on the machine affects both of a pair.
const PHASE: Duration = Duration::from_millis(150);

const CLIENTS: usize = 4;

/// A server in this process, whose recording can be switched off.
pub(super) fn recording(
    runtime: &tokio::runtime::Runtime,
    data: &Data,
    settings: Settings<'_>,
    ef_search: u32,
) {
    let inside = Inside::start(settings);
    runtime.block_on(async {
        let clients = loaded(&inside, data, CLIENTS).await;
        let requests: Arc<Vec<SearchRequest>> = Arc::new(
            data.queries
                .iter()
                .map(|query| SearchRequest { ef_search, ..search(query, 10) })
                .collect(),
        );
        let observed = inside.server().observed();
        let rate = async |is_on| {
            observed.set_recording(is_on);
            rate(&clients, &requests).await
        };
        rate(true).await;
        let mut pairs = Vec::new();
        for round in 0..ROUNDS {
            // The order alternates, so that drift affects both.
            pairs.push(if round % 2 == 0 {
                let on = rate(true).await;
                (on, rate(false).await)
            } else {
                let off = rate(false).await;
                (rate(true).await, off)
            });
        }
        let of = |value: &dyn Fn(&(Rate, Rate)) -> f64| -> Vec<f64> {
            let mut values: Vec<f64> = pairs.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let rates = of(&|(on, off)| on.searches_per_s / off.searches_per_s);
        let cpus = of(&|(on, off)| on.cpu_us / off.cpu_us);
        println!(
            "recording, ef {ef_search}, {CLIENTS} clients: {:.0} searches a second with it, {:.0} \
             without, medians of {ROUNDS} rounds; ratio {:.4}, quartiles {:.4} to {:.4}",
            median(of(&|(on, _)| on.searches_per_s)),
            median(of(&|(_, off)| off.searches_per_s)),
            median(rates.clone()),
            rates[ROUNDS / 4],
            rates[3 * ROUNDS / 4],
        );
        println!(
            "  processor time a search, clients included: {:.1} µs with it, {:.1} µs without; \
             ratio {:.4}, quartiles {:.4} to {:.4}",
            median(of(&|(on, _)| on.cpu_us)),
            median(of(&|(_, off)| off.cpu_us)),
            median(cpus.clone()),
            cpus[ROUNDS / 4],
            cpus[3 * ROUNDS / 4],
        );
    });
}

/// Result of a phase.
struct Rate {
    searches_per_s: f64,
    /// CPU time of this process per search: it hardly depends on other processes.
    cpu_us: f64,
}

/// Searches of all clients together.
async fn rate(clients: &[Client], requests: &Arc<Vec<SearchRequest>>) -> Rate {
    let (next, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (begun, cpu_ns) = (Instant::now(), run_ns());
    let mut tasks = Vec::new();
    for client in clients {
        let (mut client, requests) = (client.clone(), requests.clone());
        let (next, stop) = (next.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed) % requests.len();
                client.search(requests[number].clone()).await.expect("a search");
                count += 1;
            }
            count
        }));
    }
    tokio::time::sleep(PHASE).await;
    stop.store(true, Ordering::Relaxed);
    let mut count = 0;
    for task in tasks {
        count += task.await.expect("no panic");
    }
    let count = f64::from(count);
    let searches_per_s = count / begun.elapsed().as_secs_f64();
    Rate { searches_per_s, cpu_us: (run_ns() - cpu_ns) as f64 / 1e3 / count }
}

/// CPU time of the threads of this process, in nanoseconds.
pub(super) fn run_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this process has threads");
    let run_ns = |task: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    tasks.filter_map(run_ns).sum()
}

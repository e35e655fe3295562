//! Saving of the query cache for repeated queries, and its cost for new ones: in turns, with the cache switched off in
//! between. And its effect on a skewed distribution of queries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kyrodb::proto::SearchRequest;
use kyrodb::types::mix;

use super::recording::run_ns;
use super::{latencies, loaded, median, micros, shown};
use crate::common::{Client, Inside, Settings, search};
use crate::data::Data;

const ROUNDS: usize = 40;
const PHASE: Duration = Duration::from_millis(150);
const CLIENTS: usize = 4;

/// Number of repeated queries.
const REPEATED: usize = 50;

/// Number of distinct queries of the skewed distribution, and number sent.
const ASKED: usize = 40_000;

/// Distribution of the queries.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Queries that were sent before.
    Again,
    /// Queries that were never sent.
    New,
    /// Zipf: the n-th is 1/n as frequent as the first.
    Zipf,
}

/// The query with this number.
fn question(data: &Data, kind: Kind, number: usize) -> SearchRequest {
    let count = data.queries.count();
    let row = match kind {
        Kind::Again => number % REPEATED,
        Kind::New => number % count,
        Kind::Zipf => {
            let uniform = (mix(number as u64) >> 11) as f64 / (1_u64 << 53) as f64;
            // As many come from 1 to 2 as from 2 to 4.
            ((count as f64 + 1.0).powf(uniform) as usize - 1).min(count - 1)
        }
    };
    let mut vector = data.queries.row(row).to_vec();
    if kind == Kind::New {
        vector[0] += number as f32 * 1e-5;
    }
    search(&vector, 10)
}

/// A server in this process, whose cache can be switched off.
pub(super) fn repeats(runtime: &tokio::runtime::Runtime, data: &Data, settings: Settings<'_>) {
    let own = [
        ("cache.query_cache_enabled", "true"),
        ("cache.query_cache_capacity", "1000"),
        ("cache.query_cache_checks_per_second", "0"),
    ];
    let inside = Inside::start(&[settings, &own].concat());
    let cache = &inside.server().observed().gateway.cache;
    runtime.block_on(async {
        let clients = loaded(&inside, data, CLIENTS).await;
        let next = Arc::new(AtomicUsize::new(0));
        let phase = async |kind, is_on: bool| {
            cache.is_off.store(!is_on, Ordering::Relaxed);
            phase(&clients, data, kind, &next).await
        };
        // Fills the cache, and reusable buffers.
        phase(Kind::Again, true).await;
        phase(Kind::New, true).await;
        let mut all = [const { Vec::new() }; 3];
        for round in 0..ROUNDS {
            for turn in 0..3 {
                // The order alternates, so that drift affects all.
                let which = (round + turn) % 3;
                let (kind, is_on) = [(Kind::New, false), (Kind::New, true), (Kind::Again, true)][which];
                all[which].push(phase(kind, is_on).await);
            }
        }
        for (what, costs) in ["no cache", "not in the cache", "in the cache"].iter().zip(&all) {
            let of = |value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
            println!(
                "repeats, {CLIENTS} clients, {what}: {:.0} searches a second, {:.1} µs of processor time \
                 each, clients included; p50 {:.3} ms",
                of(|cost| cost.searches_per_s),
                of(|cost| cost.cpu_us),
                of(|cost| cost.p50_ms)
            );
        }
        let ratios = all[1].iter().zip(&all[0]).map(|(on, off)| on.cpu_us / off.cpu_us);
        println!("  not in the cache by no cache, medians of {ROUNDS}: {:.4}", median(ratios.collect()));
        for is_on in [false, true] {
            cache.is_off.store(!is_on, Ordering::Relaxed);
            let before = cache.hits.get();
            let latencies = zipf(&clients, data).await;
            let share = (cache.hits.get() - before) as f64 / ASKED as f64;
            println!(
                "  the n-th of {} questions as often as one in n, cache {}: {share:.3} hits; {}",
                data.queries.count(),
                if is_on { "of 1,000" } else { "off" },
                shown(&latencies)
            );
        }
    });
}

/// Result of a phase.
struct Cost {
    searches_per_s: f64,
    cpu_us: f64,
    p50_ms: f64,
}

async fn phase(clients: &[Client], data: &Data, kind: Kind, next: &Arc<AtomicUsize>) -> Cost {
    let stop = AtomicBool::new(false);
    let (begun, cpu_ns) = (Instant::now(), run_ns());
    let tasks = clients.iter().map(|client| {
        let (mut client, stop) = (client.clone(), &stop);
        async move {
            let mut latencies = latencies();
            while !stop.load(Ordering::Relaxed) {
                let request = question(data, kind, next.fetch_add(1, Ordering::Relaxed));
                let begun = Instant::now();
                client.search(request).await.expect("a search");
                latencies.saturating_record(micros(begun));
            }
            latencies
        }
    });
    let all = futures_util::future::join_all(tasks);
    let timer = async {
        tokio::time::sleep(PHASE).await;
        stop.store(true, Ordering::Relaxed);
    };
    let (found, ()) = tokio::join!(all, timer);
    let latencies = sum(found);
    let (count, seconds) = (latencies.len() as f64, begun.elapsed().as_secs_f64());
    Cost {
        searches_per_s: count / seconds,
        cpu_us: (run_ns() - cpu_ns) as f64 / 1e3 / count,
        p50_ms: latencies.value_at_quantile(0.5) as f64 / 1e3,
    }
}

async fn zipf(clients: &[Client], data: &Data) -> Histogram<u64> {
    let next = AtomicUsize::new(0);
    let tasks = clients.iter().map(|client| {
        let (mut client, next) = (client.clone(), &next);
        async move {
            let mut latencies = latencies();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= ASKED {
                    return latencies;
                }
                let begun = Instant::now();
                client.search(question(data, Kind::Zipf, number)).await.expect("a search");
                latencies.saturating_record(micros(begun));
            }
        }
    });
    sum(futures_util::future::join_all(tasks).await)
}

fn sum(parts: Vec<Histogram<u64>>) -> Histogram<u64> {
    let mut all = latencies();
    for part in parts {
        all.add(part).expect("same bounds");
    }
    all
}

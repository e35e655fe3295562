//! Runs caches on traces, and reports their hit rates.

use crate::caches::Which;
use crate::traces::Trace;

/// Divisor of a trace that gives its first part, in which caches fill and hits are not counted.
const WARM_PARTS: usize = 5;

/// Result of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Hits, in percent of the accesses.
    pub hits_percent: f64,
    /// Time of an access, in nanoseconds, with adding the key after a miss.
    pub access_ns: f64,
    /// Time of background work per access, in nanoseconds.
    pub idle_ns: f64,
}

/// Runs a trace on a cache of `keys_max` keys.
#[must_use]
pub fn run(which: Which, trace: &Trace, keys_max: usize) -> Outcome {
    let mut cache = which.of(keys_max);
    let (warm, counted) = trace.accesses.split_at(trace.accesses.len() / WARM_PARTS);
    for &access in warm {
        cache.access(access);
        if cache.is_idle_due() {
            cache.idle();
        }
    }
    let (mut hits, mut idle_ns) = (0_usize, 0);
    let begun = cpu_ns();
    for &access in counted {
        hits += usize::from(cache.access(access));
        if cache.is_idle_due() {
            let begun = cpu_ns();
            cache.idle();
            idle_ns += cpu_ns() - begun;
        }
    }
    let all_ns = cpu_ns() - begun;
    let part = |ns: u64| ns as f64 / counted.len() as f64;
    Outcome {
        hits_percent: 100.0 * hits as f64 / counted.len() as f64,
        access_ns: part(all_ns - idle_ns),
        idle_ns: part(idle_ns),
    }
}

/// CPU time of this thread so far, in nanoseconds.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The median.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The least and the largest value.
#[must_use]
pub fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| {
        (low.min(value), high.max(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::{moving, polluted, zipf};

    /// Most points by which the median of five seeds may be below the best of the others.
    const SLACK: f64 = 0.5;

    /// Uses other seeds than the table, and leaves out moka, which takes longer than all others together. Returns the
    /// advantage over LRU with places for each part of the keys.
    fn assert_best(name: &str, make: impl Fn(u64) -> Trace) -> [(usize, f64); 3] {
        let traces: Vec<Trace> = (11..16).map(make).collect();
        [32, 8, 2].map(|parts| {
            let rate = |which, trace: &Trace| run(which, trace, trace.keys / parts).hits_percent;
            let others = [Which::Lru, Which::S3Fifo, Which::QuickCache];
            let less = |trace: &Trace| {
                let [lru, s3, quick] = others.map(|which| rate(which, trace));
                let learned = rate(Which::Learned, trace);
                (learned - lru.max(s3).max(quick), learned - lru)
            };
            let (best, lru): (Vec<f64>, Vec<f64>) = traces.iter().map(less).unzip();
            let above = median(best.clone());
            assert!(above >= -SLACK, "{name} 1/{parts}: {above} of {best:?}");
            (parts, median(lru))
        })
    }

    #[test]
    fn learned_is_among_the_best_where_all_stays_as_it_is() {
        for exponent in [0.6, 1.0] {
            for (parts, above_lru) in assert_best("Zipf", |seed| zipf(exponent, seed)) {
                assert!(above_lru > 0.5, "{exponent}, 1/{parts}: {above_lru}");
            }
        }
    }

    #[test]
    fn learned_is_among_the_best_with_scans() {
        for (parts, above_lru) in assert_best("scans", polluted) {
            assert!(above_lru > 5.0, "1/{parts}: {above_lru}");
        }
    }

    #[test]
    fn learned_is_among_the_best_where_the_hot_set_moves_slowly() {
        for (parts, above_lru) in assert_best("slow", |seed| moving(1, seed)) {
            // With places for half of the keys no cache is better than LRU.
            assert!(above_lru > 1.0 || parts == 2, "1/{parts}: {above_lru}");
        }
    }

    #[test]
    fn learned_is_among_the_best_where_the_hot_set_moves_fast() {
        assert_best("fast", |seed| moving(8, seed));
    }
}

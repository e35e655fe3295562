//! Runs caches on traces, and says how often they had what was asked for.

use crate::caches::Which;
use crate::traces::Trace;

/// Not counted: the first of so many parts of a trace, while caches fill.
const WARM_PARTS: usize = 5;

/// What came out of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Of accesses, those that were hits.
    pub hits_percent: f64,
    /// An access, and where it was a miss what brings the key in.
    pub access_ns: f64,
    /// What is done for it in the background.
    pub idle_ns: f64,
}

/// Runs a trace on a cache of so many keys.
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

/// CPU time of this thread so far.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The middle one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::{moving, polluted, zipf};

    /// What may be missing to the best of the others, in points: in the middle of three seeds, and with
    /// places for half of all keys, where tactics are compared only a few times in a trace.
    const SLACK: f64 = 0.3;
    const SLACK_HALF: f64 = 1.0;

    /// Looks at seeds that are not those of the table.
    fn assert_best(name: &str, make: impl Fn(u64) -> Trace, above_lru: f64) {
        let traces = [4, 5, 6].map(make);
        for parts in [32, 8, 2] {
            let of = |which| {
                let rate = |trace: &Trace| run(which, trace, trace.keys / parts).hits_percent;
                median(traces.iter().map(rate).collect())
            };
            let [lru, s3, quick, moka] =
                [Which::Lru, Which::S3Fifo, Which::QuickCache, Which::Moka].map(of);
            let (learned, best) = (of(Which::Learned), lru.max(s3).max(quick).max(moka));
            let slack = if parts == 2 { SLACK_HALF } else { SLACK };
            assert!(learned >= best - slack, "{name} 1/{parts}: {learned}, and {best}");
            let is_above = learned >= lru + above_lru || parts == 2;
            assert!(is_above, "{name} 1/{parts}: {learned}, and {lru} of LRU");
        }
    }

    #[test]
    fn learned_is_among_the_best_where_all_stays_as_it_is() {
        for exponent in [0.6, 0.8, 1.0] {
            assert_best("Zipf", |seed| zipf(exponent, seed), 5.0);
        }
    }

    #[test]
    fn learned_is_among_the_best_with_scans() {
        assert_best("scans", polluted, 5.0);
    }

    #[test]
    fn learned_is_among_the_best_where_the_hot_set_moves() {
        assert_best("slow", |seed| moving(1, seed), 1.0);
        assert_best("fast", |seed| moving(8, seed), -SLACK);
    }
}

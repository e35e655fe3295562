//! Whether other threads want the CPU of a core: then upkeep rests between its steps.
//!
//! The scheduler gives each thread its share of a CPU. A core that links all the time has used up its share when a
//! search comes, and waits for other threads, usually some milliseconds. A core that rests has share left, and runs at
//! once. The kernel counts the time that a thread was ready to run but did not: `/proc/thread-self/schedstat`, which is
//! read every [`PERIOD`] of upkeep.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Period at which the waiting time of the core is read. A read takes some microseconds.
const PERIOD: Duration = Duration::from_millis(20);

/// The CPU counts as contended if the core waited for more than 1/50 of a period.
const WAITED_PARTS: u32 = 50;

/// Time after a contended period during which upkeep keeps resting.
const CONTENDED_FOR: Duration = Duration::from_secs(2);

/// Time that upkeep works between two rests, and length of a rest: half of the time stays free for searches and other
/// threads. Longer rests cost more writes and do not help searches.
const BURST: Duration = Duration::from_micros(500);
pub(super) const REST: Duration = Duration::from_micros(500);

/// Bound of one step of upkeep by itself; time beyond it is time in which the thread did not run.
const STEP_MAX: Duration = Duration::from_millis(2);

/// Whether other threads want the CPU of a core, and how long upkeep has worked. Used only by the thread of the core.
#[derive(Default)]
pub(super) struct Contention {
    waits: Waits,
    /// Time and value of the last read of the waiting time.
    looked: Cell<Option<(Instant, Duration)>>,
    /// End of the last period with more than the allowed waiting.
    contended: Cell<Option<Instant>>,
    worked: Cell<Duration>,
}

impl Contention {
    /// Notes a step of upkeep that took `took` and ended at `now`. Returns true if upkeep has to rest now because
    /// searches are running.
    pub(super) fn note(&self, now: Instant, took: Duration, is_searched: bool) -> bool {
        self.judge(now, took, is_searched, || self.waits.read())
    }

    fn judge(
        &self,
        now: Instant,
        took: Duration,
        is_searched: bool,
        waited: impl FnOnce() -> Option<Duration>,
    ) -> bool {
        if !is_searched {
            // After a pause between searches a new period begins.
            self.looked.set(None);
            self.worked.set(Duration::ZERO);
            return false;
        }
        self.look(now, waited);
        let contended = self.contended.get();
        if contended.is_none_or(|then| now.saturating_duration_since(then) > CONTENDED_FOR) {
            self.worked.set(Duration::ZERO);
            return false;
        }
        let worked = self.worked.get() + took.min(STEP_MAX);
        let rests = worked >= BURST;
        self.worked.set(if rests { Duration::ZERO } else { worked });
        rests
    }

    fn look(&self, now: Instant, waited: impl FnOnce() -> Option<Duration>) {
        let since = self.looked.get().map(|(then, _)| now.saturating_duration_since(then));
        if since.is_some_and(|since| since < PERIOD) {
            return;
        }
        let Some(waited) = waited() else { return };
        if let (Some((_, before)), Some(since)) = (self.looked.replace(Some((now, waited))), since)
            && waited.saturating_sub(before) * WAITED_PARTS > since
        {
            self.contended.set(Some(now));
        }
    }
}

/// `/proc/thread-self/schedstat` of a thread, opened at the first read.
#[derive(Default)]
struct Waits(OnceCell<Option<File>>);

impl Waits {
    /// Waiting time of this thread since it began; `None` if the kernel does not report it.
    fn read(&self) -> Option<Duration> {
        // The path refers to the thread that opens it.
        let file = self.0.get_or_init(|| File::open("/proc/thread-self/schedstat").ok());
        let mut text = [0; 96];
        let length = file.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_micros(50);

    #[test]
    fn upkeep_rests_where_other_threads_want_the_cpu_of_searches() {
        let contention = Contention::default();
        let (mut now, mut waited) = (Instant::now(), Duration::from_secs(7));
        let mut rests = |wait: Duration, is_searched: bool, count: u32| {
            let mut rests = 0;
            for _ in 0..count {
                now += STEP + wait;
                waited += wait;
                let took = STEP + wait;
                rests += u32::from(contention.judge(now, took, is_searched, || Some(waited)));
            }
            rests
        };
        assert_eq!(rests(Duration::ZERO, true, 1_000), 0, "not while it has the CPU to itself");
        assert_eq!(rests(STEP / 100, true, 1_000), 0, "a little is nothing");
        assert_eq!(rests(STEP, false, 1_000), 0, "not without searches");
        let count = rests(STEP, true, 1_000);
        assert!((155..=165).contains(&count), "five steps a rest, after 20 ms: {count}");
        let count = rests(Duration::ZERO, true, 60_000);
        assert!((3_990..=4_020).contains(&count), "not for longer than two seconds: {count}");
        assert_eq!(rests(Duration::ZERO, true, 1_000), 0);
    }

    #[test]
    fn a_kernel_that_does_not_tell_has_no_contention() {
        let contention = Contention::default();
        let begun = Instant::now();
        let rests = (0..1_000).any(|n| contention.judge(begun + STEP * n, STEP, true, || None));
        assert!(!rests);
    }

    /// Two threads that want one CPU wait for it; one that sleeps does not.
    #[test]
    fn the_kernel_tells_how_long_a_thread_has_waited() {
        let waits = Waits::default();
        let Some(before) = waits.read() else {
            println!("skipped: this kernel does not tell");
            return;
        };
        let cpu = core_affinity::get_core_ids().expect("CPUs")[0];
        let spin = move |waits: Waits| {
            core_affinity::set_for_current(cpu);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(300) {}
            waits.read().expect("the kernel told before")
        };
        let threads = [(); 2].map(|()| std::thread::spawn(move || spin(Waits::default())));
        let waited: Duration = threads.map(|thread| thread.join().unwrap()).iter().sum();
        assert!(waited > Duration::from_millis(100), "{waited:?} of 600 ms");
        assert!(waits.read().expect("as before") >= before);
    }
}

//! The guard against a wake-up that glommio 0.9 loses, and the heartbeat of each core.
//!
//! glommio parks an executor when a round of its scheduler ran nothing, also where it ran nothing because it was
//! preempted before the first task. A core that is woken by another thread at that moment sleeps with runnable tasks,
//! and if no other thread wakes it again, it sleeps until the process ends.
//!
//! So one plain thread wakes a small task on every core every [`BUSY_PERIOD`] while there are requests, and every
//! [`IDLE_PERIOD`] when there have been none for a second; the first request after that rouses it. A stranded request
//! waits two milliseconds at most. Until that task has run, the core's first one is woken in its place; and a core's
//! first round is made too long to be over before that one has run (`FIRST_ROUND` in [`super::core`]). The task's runs
//! are counted: a core whose count stands still is stalled, and that is seen from outside the core, in logs, metrics
//! and health.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::doing::{self, Doing};
use crate::clock::unix_ms;
use crate::observe::log_queue;

/// Period of wakes while there are requests.
pub const BUSY_PERIOD: Duration = Duration::from_millis(2);

/// Period of wakes after a second without requests.
pub const IDLE_PERIOD: Duration = Duration::from_millis(20);

/// Time without a beat after which a core counts as stalled, and is named in the log.
pub const STALL: Duration = Duration::from_millis(50);

/// Time without a beat after which a core will not come back: the process ends, and a supervisor starts it again from
/// the durable state.
const DEAD: Duration = Duration::from_secs(30);

/// Most unanswered wakes of a core; then it gets no more. Each holds a reference to the task, of which glommio counts
/// at most 32,767.
const UNANSWERED_MAX: u64 = 1_000;

/// Wakes without a request before the thread slows down: one second at [`BUSY_PERIOD`].
const IDLE_AFTER_WAKES: u32 = 500;

/// Least time between two log lines about one core.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Stalls kept per core.
pub const STALLS_KEPT: usize = 16;

/// A period in which a core did not beat.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    /// Time at which it was noticed, in Unix milliseconds.
    pub unix_ms: u64,
    /// Duration, to the precision of the pulse's period.
    pub lasted: Duration,
    /// Work of the core when the stall was noticed.
    pub doing: Doing,
}

/// Heartbeat of one core, shared by the core, the pulse thread and health.
#[derive(Debug, Default)]
pub struct Heart {
    /// Waker of the beating task. Wakers are cloned from it, not taken: a lost wake must not be the last one.
    waker: Mutex<Option<Waker>>,
    beats: AtomicU64,
    wakes: AtomicU64,
    /// Value of `wakes` at the last beat, which answers all of them at once.
    answered: AtomicU64,
    stalls: AtomicU64,
    stalled_ms: AtomicU64,
    /// [`Heart::beat`] runs, in place of the core's first task.
    is_beating: AtomicBool,
    stopped: AtomicBool,
    /// The current work of the core.
    pub doing: doing::Activity,
    /// The last stalls, oldest first. Only the pulse and pages lock it, never the core.
    last_stalls: Mutex<VecDeque<Stall>>,
}

impl Heart {
    /// Runs `life`, the whole work of the core. Until [`Heart::beat`] has begun, the pulse wakes `life` itself: a core
    /// can lose a wake before it has run any other task.
    pub async fn run<T>(&self, life: impl Future<Output = T>) -> T {
        let mut life = pin!(life);
        poll_fn(|context| {
            if !self.is_beating.load(Ordering::Relaxed) {
                self.answer(context.waker());
            }
            life.as_mut().poll(context)
        })
        .await
    }

    /// Runs on the core until the executor ends; at each wake it counts a beat and calls `on_beat`.
    pub async fn beat(&self, on_beat: impl Fn()) {
        poll_fn::<(), _>(|context| {
            self.is_beating.store(true, Ordering::Relaxed);
            self.answer(context.waker());
            on_beat();
            Poll::Pending
        })
        .await;
    }

    /// Counts a beat of the task behind `task`, and registers it for the next wake.
    fn answer(&self, task: &Waker) {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(task)) {
            *waker = Some(task.clone());
        }
        drop(waker);
        self.answered.store(self.wakes.load(Ordering::Relaxed), Ordering::Relaxed);
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Marks the core as ending: no more beats are expected.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// True if the core has ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Number of beats of the core.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Number of stalls longer than [`STALL`].
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// Duration of the present stall; zero without one.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        Duration::from_millis(self.stalled_ms.load(Ordering::Relaxed))
    }

    /// The last stalls, oldest first; at most [`STALLS_KEPT`].
    #[must_use]
    pub fn last_stalls(&self) -> Vec<Stall> {
        let stalls = self.last_stalls.lock().unwrap_or_else(PoisonError::into_inner);
        stalls.iter().copied().collect()
    }

    /// Records that a stall has lasted this long so far.
    fn note_stall(&self, lasted: Duration) {
        let lasted_ms = lasted.as_millis() as u64;
        let is_new = self.stalled_ms.swap(lasted_ms, Ordering::Relaxed) == 0;
        let mut stalls = self.last_stalls.lock().unwrap_or_else(PoisonError::into_inner);
        if is_new {
            if stalls.len() == STALLS_KEPT {
                stalls.pop_front();
            }
            stalls.push_back(Stall { unix_ms: unix_ms(), lasted, doing: self.doing.now() });
            self.stalls.fetch_add(1, Ordering::Relaxed);
        } else if let Some(stall) = stalls.back_mut() {
            stall.lasted = lasted;
        }
    }

    fn wake(&self) {
        let wakes = self.wakes.load(Ordering::Relaxed);
        if wakes.saturating_sub(self.answered.load(Ordering::Relaxed)) > UNANSWERED_MAX {
            return;
        }
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            self.wakes.store(wakes + 1, Ordering::Relaxed);
            waker.wake_by_ref();
        }
    }
}

/// Flag by which the gateway tells the pulse that there are requests.
#[derive(Default)]
pub struct Activity {
    seen: AtomicBool,
    is_idle: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Activity {
    /// Notes a request.
    #[inline]
    pub fn note(&self) {
        // Loads first: then the common case does not write to the shared cache line.
        if !self.seen.load(Ordering::Relaxed) {
            self.seen.store(true, Ordering::Relaxed);
        }
        if self.is_idle.load(Ordering::Relaxed) && self.is_idle.swap(false, Ordering::AcqRel) {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = &*thread {
                thread.unpark();
            }
        }
    }
}

/// The pulse thread, which stops when this is dropped.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Starts a thread that wakes the cores of these heartbeats.
    ///
    /// # Errors
    /// If the thread can't be made.
    pub fn start(hearts: Vec<Arc<Heart>>, activity: Arc<Activity>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::Builder::new()
            .name("kyro-pulse".into())
            .spawn(move || run(&hearts, &activity, &seen))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "the pulse does not panic");
        }
    }
}

/// State of one core in the pulse thread.
#[derive(Clone)]
struct Watch {
    beats: u64,
    since: Instant,
    /// Duration of the present stall; `None` without one.
    stalled: Option<Duration>,
    logged: Option<Instant>,
}

fn run(hearts: &[Arc<Heart>], activity: &Activity, stop: &AtomicBool) {
    *activity.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
    let mut ticked = Instant::now();
    let watch = Watch { beats: 0, since: ticked, stalled: None, logged: None };
    let mut watches = vec![watch; hearts.len()];
    let mut quiet_wakes = 0;
    while !stop.load(Ordering::Acquire) {
        quiet_wakes =
            if activity.seen.swap(false, Ordering::Relaxed) { 0 } else { quiet_wakes + 1 };
        let is_idle = quiet_wakes > IDLE_AFTER_WAKES;
        activity.is_idle.store(is_idle, Ordering::Release);
        std::thread::park_timeout(if is_idle { IDLE_PERIOD } else { BUSY_PERIOD });
        let now = Instant::now();
        // If this thread itself did not run, the whole process was held up, and the missing beats do not mean that
        // cores are stalled.
        let was_held_up = now.duration_since(ticked) > STALL;
        ticked = now;
        // First all cores are woken and dead ones are detected, then stalls are logged.
        hearts.iter().for_each(|heart| heart.wake());
        for (core, (heart, watch)) in hearts.iter().zip(&mut watches).enumerate() {
            if was_held_up {
                watch.since = now;
            }
            watch.look(core, heart, now);
        }
        for (core, (heart, watch)) in hearts.iter().zip(&mut watches).enumerate() {
            watch.tell(core, heart, now);
        }
    }
}

impl Watch {
    fn look(&mut self, core: usize, heart: &Heart, now: Instant) {
        self.stalled = None;
        let (beats, has_begun) = (heart.beats(), heart.wakes.load(Ordering::Relaxed) > 0);
        if beats != self.beats || heart.stopped.load(Ordering::Acquire) {
            self.beats = beats;
            self.since = now;
            heart.stalled_ms.store(0, Ordering::Relaxed);
            return;
        }
        let stalled = now.duration_since(self.since);
        // Starting a thread may take longer than a stall, but not longer than `DEAD`.
        if stalled < if has_begun { STALL } else { DEAD } {
            return;
        }
        heart.note_stall(stalled);
        self.stalled = Some(stalled);
        if stalled > DEAD {
            let doing = heart.doing.now().word();
            tracing::error!(core, doing, "a core has stood still for {DEAD:?}: aborting");
            log_queue::abort();
        }
    }

    fn tell(&mut self, core: usize, heart: &Heart, now: Instant) {
        let Some(stalled) = self.stalled else { return };
        if self.logged.is_none_or(|logged| now.duration_since(logged) > LOG_PERIOD) {
            self.logged = Some(now);
            let (stalled_ms, doing) = (stalled.as_millis() as u64, heart.doing.now().word());
            tracing::warn!(core, stalled_ms, doing, "a core stands still");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core that stays in a step of linking until the stall has been noticed.
    #[test]
    fn a_stall_is_kept_with_what_the_core_was_doing() {
        let heart = Arc::new(Heart::default());
        let pulse = Pulse::start(vec![heart.clone()], Arc::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let beating = heart.clone();
            tokio::spawn(async move { beating.beat(|| {}).await });
            for doing in [Doing::Link, Doing::Search] {
                // The machine may interrupt the core before this work begins: then the test tries once more.
                let is_kept = |stall: &Stall| stall.doing == doing;
                while !heart.last_stalls().iter().any(is_kept) {
                    tokio::task::yield_now().await;
                    let _piece = heart.doing.begin(doing);
                    while heart.beats() > 0 && heart.stalled().is_zero() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        });
        heart.stop();
        drop(pulse);
        let stalls = heart.last_stalls();
        let seen: Vec<Doing> = stalls.iter().map(|stall| stall.doing).collect();
        assert!(seen.contains(&Doing::Link) && seen.contains(&Doing::Search), "{seen:?}");
        assert!(stalls.iter().all(|stall| stall.lasted >= STALL && stall.unix_ms > 0));
    }

    #[test]
    fn the_last_stalls_are_kept_and_no_more() {
        let heart = Heart::default();
        for number in 1..=STALLS_KEPT as u64 + 3 {
            heart.note_stall(Duration::from_millis(100 * number));
            heart.note_stall(Duration::from_millis(100 * number + 50));
            heart.stalled_ms.store(0, Ordering::Relaxed);
        }
        let lasted: Vec<u128> = heart.last_stalls().iter().map(|s| s.lasted.as_millis()).collect();
        let expected: Vec<u128> = (4..=19).map(|number| 100 * number + 50).collect();
        assert_eq!(lasted, expected);
        assert_eq!(heart.stalls(), STALLS_KEPT as u64 + 3);
    }
}

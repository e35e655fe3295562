//! The circuit breaker of one shard's log. After repeated failures it refuses writes for a while: clients get the error
//! at once instead of late, and the failing disk gets a rest.
//!
//! ```text
//!          failures_max within `window`, a full disk, or trip
//! closed ─────────────────────────────────────────────────────► open ◄──┐
//!   ▲ ▲                   reset, or space after a full disk       │      │ a failure
//!   │ └───────────────────────────────────────────────────────────┤      │
//!   │ `successes_min` successes                     `open_for`    ▼      │
//!   └──────────────────────────────────────────────────────── half-open ─┘
//! ```
//!
//! A state machine without clock or I/O: the caller passes events and times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::observe::counters::BreakerState;

/// Rules of opening and closing a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Failures within `window` that open it.
    pub failures_max: usize,
    /// Longest time between the first and the last of `failures_max` failures.
    pub window: Duration,
    /// Time that it stays open before writes are tried again.
    pub open_for: Duration,
    /// Successes while half-open that close it.
    pub successes_min: u32,
}

impl Default for Params {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { failures_max: 3, window: minute, open_for: minute, successes_min: 2 }
    }
}

/// Why a breaker is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Writes or syncs failed.
    Failures,
    /// There was no room for the log.
    DiskFull,
    /// An operator tripped it.
    Tripped,
}

impl Cause {
    /// The cause as text for errors and logs.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Failures => "writes of the log have failed",
            Self::DiskFull => "the disk is full",
            Self::Tripped => "it was tripped by an operator",
        }
    }
}

/// Commands of operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Close it, and forget all failures.
    Reset,
    /// Open it until `open_for` has passed.
    Trip,
}

/// State of a breaker at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Closed, open or half-open.
    pub state: BreakerState,
    /// Why it is open or half-open; `None` while it is closed.
    pub cause: Option<Cause>,
    /// Failures that count against it.
    pub failures: usize,
    /// Time until it becomes half-open; zero unless it is open.
    pub open_for: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { since: Instant, cause: Cause },
    HalfOpen { successes: u32, cause: Cause },
}

/// Circuit breaker of one shard's log.
#[derive(Debug)]
pub struct Breaker {
    params: Params,
    phase: Phase,
    /// Times of the latest failures, at most `failures_max`.
    failures: VecDeque<Instant>,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(params: Params) -> Self {
        assert!(params.failures_max > 0 && params.successes_min > 0);
        Self { params, phase: Phase::Closed, failures: VecDeque::new() }
    }

    /// The state at `now`.
    pub fn report(&mut self, now: Instant) -> Report {
        self.pass(now);
        let (state, cause, open_for) = match self.phase {
            Phase::Closed => (BreakerState::Closed, None, Duration::ZERO),
            Phase::Open { since, cause } => {
                (BreakerState::Open, Some(cause), self.left(since, now))
            }
            Phase::HalfOpen { cause, .. } => (BreakerState::HalfOpen, Some(cause), Duration::ZERO),
        };
        Report { state, cause, failures: self.failures.len(), open_for }
    }

    /// True if writes may be tried.
    pub fn admits(&mut self, now: Instant) -> bool {
        self.pass(now);
        !matches!(self.phase, Phase::Open { .. })
    }

    /// True if it is closed. Time alone never opens a closed breaker.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Counts a group that was written, and synced if the policy wants that.
    pub fn succeeded(&mut self, now: Instant) {
        if self.is_closed() {
            return;
        }
        self.pass(now);
        if let Phase::HalfOpen { successes, .. } = &mut self.phase {
            *successes += 1;
            if *successes >= self.params.successes_min {
                self.close();
            }
        }
    }

    /// Counts a failed write or sync.
    pub fn failed(&mut self, now: Instant) {
        self.fail(now, self.params.failures_max, Cause::Failures);
    }

    /// Opens it: the log found no room on the disk.
    pub fn disk_full(&mut self, now: Instant) {
        self.fail(now, 1, Cause::DiskFull);
    }

    /// Closes a breaker that a full disk opened, or that is half-open after one: there is room again.
    pub fn space_returned(&mut self) {
        if let Phase::Open { cause: Cause::DiskFull, .. }
        | Phase::HalfOpen { cause: Cause::DiskFull, .. } = self.phase
        {
            self.close();
        }
    }

    /// Executes a command of an operator.
    pub fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Reset => self.close(),
            Command::Trip => self.phase = Phase::Open { since: now, cause: Cause::Tripped },
        }
    }

    fn fail(&mut self, now: Instant, failures_max: usize, cause: Cause) {
        self.pass(now);
        self.failures.push_back(now);
        if self.failures.len() > self.params.failures_max {
            self.failures.pop_front();
        }
        let opens = match self.phase {
            Phase::Closed => self.failures.len() >= failures_max,
            Phase::HalfOpen { .. } => true,
            // A failure of a write that was in flight when it opened changes nothing.
            Phase::Open { .. } => false,
        };
        if opens {
            self.phase = Phase::Open { since: now, cause };
        }
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.failures.clear();
    }

    /// Moves an open breaker on to half-open once `open_for` has passed.
    fn pass(&mut self, now: Instant) {
        let window = self.params.window;
        let is_old = |failure: &Instant| now.saturating_duration_since(*failure) > window;
        while self.failures.front().is_some_and(is_old) {
            self.failures.pop_front();
        }
        if let Phase::Open { since, cause } = self.phase
            && self.left(since, now).is_zero()
        {
            self.phase = Phase::HalfOpen { successes: 0, cause };
        }
    }

    fn left(&self, since: Instant, now: Instant) -> Duration {
        self.params.open_for.saturating_sub(now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    const PARAMS: Params = Params {
        failures_max: 3,
        window: Duration::from_secs(60),
        open_for: Duration::from_secs(60),
        successes_min: 2,
    };

    /// A breaker with a clock that only tests advance.
    struct Timed {
        breaker: Breaker,
        now: Instant,
    }

    impl Timed {
        fn new() -> Self {
            Self { breaker: Breaker::new(PARAMS), now: Instant::now() }
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn fail(&mut self, times: usize) {
            (0..times).for_each(|_| self.breaker.failed(self.now));
        }

        fn state(&mut self) -> BreakerState {
            let report = self.breaker.report(self.now);
            assert_eq!(report.state == BreakerState::Open, !self.breaker.admits(self.now));
            assert_eq!(report.state == BreakerState::Open, !report.open_for.is_zero());
            assert_eq!(report.state == BreakerState::Closed, report.cause.is_none());
            report.state
        }
    }

    #[test]
    fn breaker_opens_after_three_failures_within_a_minute_and_closes_after_two_successes() {
        let mut timed = Timed::new();
        timed.fail(2);
        timed.wait(61);
        timed.fail(2);
        assert_eq!(timed.state(), BreakerState::Closed, "the first two are too old");
        timed.fail(1);
        assert_eq!(timed.state(), BreakerState::Open);
        timed.wait(59);
        assert_eq!(timed.breaker.report(timed.now).open_for, Duration::from_secs(1));
        timed.wait(1);
        assert_eq!(timed.state(), BreakerState::HalfOpen);
        timed.breaker.succeeded(timed.now);
        assert_eq!(timed.state(), BreakerState::HalfOpen);
        timed.breaker.succeeded(timed.now);
        assert_eq!(timed.state(), BreakerState::Closed);
        timed.fail(2);
        assert_eq!(timed.state(), BreakerState::Closed, "former failures are forgotten");
    }

    #[test]
    fn half_open_breaker_reopens_for_the_whole_time_after_one_failure() {
        let mut timed = Timed::new();
        timed.fail(3);
        timed.wait(60);
        timed.breaker.succeeded(timed.now);
        timed.fail(1);
        assert_eq!(timed.breaker.report(timed.now).open_for, Duration::from_secs(60));
        timed.wait(60);
        timed.breaker.succeeded(timed.now);
        assert_eq!(timed.state(), BreakerState::HalfOpen, "the earlier success does not count");
    }

    #[test]
    fn breaker_opens_at_once_on_a_full_disk_and_closes_when_space_returns() {
        let mut timed = Timed::new();
        timed.breaker.disk_full(timed.now);
        assert_eq!(timed.state(), BreakerState::Open);
        assert_eq!(timed.breaker.report(timed.now).cause, Some(Cause::DiskFull));
        timed.breaker.space_returned();
        assert_eq!(timed.state(), BreakerState::Closed);
        timed.breaker.disk_full(timed.now);
        timed.wait(60);
        assert_eq!(timed.state(), BreakerState::HalfOpen);
        timed.breaker.space_returned();
        assert_eq!(timed.state(), BreakerState::Closed);
        timed.fail(3);
        timed.breaker.space_returned();
        assert_eq!(timed.state(), BreakerState::Open, "space mends no other failure");
    }

    #[test]
    fn breaker_follows_commands_of_an_operator() {
        let mut timed = Timed::new();
        timed.breaker.command(Command::Trip, timed.now);
        assert_eq!(timed.breaker.report(timed.now).cause, Some(Cause::Tripped));
        // Results of writes in flight when it opened neither close it nor change the cause.
        timed.breaker.succeeded(timed.now);
        timed.breaker.disk_full(timed.now);
        timed.breaker.space_returned();
        assert_eq!(timed.state(), BreakerState::Open);
        timed.breaker.command(Command::Reset, timed.now);
        assert_eq!(timed.state(), BreakerState::Closed);
        assert_eq!(timed.breaker.report(timed.now).failures, 0);
    }

    /// Model of these rules, computed from the history of events and not from a state.
    #[derive(Default)]
    struct Model {
        /// Failures since it was last closed.
        failures: Vec<Instant>,
        opened: Option<(Instant, Cause)>,
        successes: u32,
    }

    impl Model {
        fn state(&self, now: Instant) -> BreakerState {
            match self.opened {
                None => BreakerState::Closed,
                Some((since, _)) if now - since < PARAMS.open_for => BreakerState::Open,
                Some(_) => BreakerState::HalfOpen,
            }
        }

        fn close(&mut self) {
            *self = Self::default();
        }

        fn fail(&mut self, now: Instant, cause: Cause) {
            self.failures.push(now);
            let recent =
                self.failures.iter().filter(|failure| now - **failure <= PARAMS.window).count();
            let opens = match self.state(now) {
                BreakerState::Closed => cause == Cause::DiskFull || recent >= PARAMS.failures_max,
                BreakerState::Open => false,
                BreakerState::HalfOpen => true,
            };
            if opens {
                (self.opened, self.successes) = (Some((now, cause)), 0);
            }
        }

        fn apply(&mut self, event: u64, now: Instant) {
            match event {
                0..=3 => self.fail(now, Cause::Failures),
                4 => self.fail(now, Cause::DiskFull),
                5..=9 if self.state(now) == BreakerState::HalfOpen => {
                    self.successes += 1;
                    if self.successes == PARAMS.successes_min {
                        self.close();
                    }
                }
                10 if self.opened.is_some_and(|(_, cause)| cause == Cause::DiskFull) => {
                    self.close()
                }
                11 => self.close(),
                12 => (self.opened, self.successes) = (Some((now, Cause::Tripped)), 0),
                _ => {}
            }
        }
    }

    fn apply(breaker: &mut Breaker, event: u64, now: Instant) {
        match event {
            0..=3 => breaker.failed(now),
            4 => breaker.disk_full(now),
            5..=9 => breaker.succeeded(now),
            10 => breaker.space_returned(),
            11 => breaker.command(Command::Reset, now),
            12 => breaker.command(Command::Trip, now),
            _ => {}
        }
    }

    #[test]
    fn breaker_follows_the_rules_under_random_events() {
        let mut seen = [0; 3];
        for seed in 0..300_u64 {
            let (mut timed, mut model) = (Timed::new(), Model::default());
            for step in 0..200 {
                let random = mix(seed << 32 | step);
                // Mostly short waits, and some near 60 s, the period that the rules use.
                let wait = [0, 1, 7, 25, 59, 60, 61][(random >> 8) as usize % 7];
                timed.now += Duration::from_secs(if random & 1 == 0 { wait } else { 0 });
                // Resets and trips are rare, or hardly anything else would be seen.
                let event = match (random >> 16) % 60 {
                    rare @ 10..=12 => rare,
                    other => other % 10,
                };
                apply(&mut timed.breaker, event, timed.now);
                model.apply(event, timed.now);
                let (now, expected) = (timed.now, model.state(timed.now));
                assert_eq!(timed.state(), expected, "seed {seed}, step {step}, event {event}");
                let cause = model.opened.map(|(_, cause)| cause);
                assert_eq!(timed.breaker.report(now).cause, cause, "seed {seed}, step {step}");
                seen[expected as usize] += 1;
            }
        }
        assert!(seen.iter().all(|&count| count > 2_000), "{seen:?}");
    }
}

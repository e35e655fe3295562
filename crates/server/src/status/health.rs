//! How the server is, from the facts that cores and gateway leave behind.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::modes::Modes;
use super::slo::Service;
use crate::clock::unix_ms;
use crate::config::SloSection;
use crate::observe::Observed;
use crate::observe::counters::{BreakerState, Gauge, ShardCounters};
use crate::shard::pulse::Heart;

/// A core that stands still for so long makes the server unhealthy.
const STALL_UNHEALTHY: Duration = Duration::from_secs(10);

/// Syncs of the log of which one in ten takes longer make the server degraded: the disk is slow, and so
/// is each write.
const SYNC_SLOW: Duration = Duration::from_millis(50);

/// Least number of syncs in a minute that a disk is judged by.
const SYNCS_MIN: u64 = 100;

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Reading logs.
    Starting,
    /// Answering.
    Serving,
    /// Finishing what is in flight.
    Draining,
}

/// How the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ready yet; how far it is.
    Starting(String),
    /// All is well.
    Healthy,
    /// Serving, but something needs attention.
    Degraded(String),
    /// Not serving.
    Unhealthy(String),
}

/// The facts.
pub struct Health {
    phase: AtomicU8,
    /// Records that the logs hold, as far as MANIFEST knows.
    records_expected: AtomicU64,
    is_linking: AtomicBool,
    started: Instant,
    started_unix_ms: u64,
    hearts: OnceLock<Vec<Arc<Heart>>>,
    observed: Arc<Observed>,
    moved_on: Notify,
    slo: ArcSwapOption<SloSection>,
    /// What operators have switched on.
    pub modes: Modes,
}

impl Health {
    /// Of a server that begins now.
    #[must_use]
    pub fn new(observed: Arc<Observed>) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Starting as u8),
            records_expected: AtomicU64::new(0),
            is_linking: AtomicBool::new(false),
            started: Instant::now(),
            started_unix_ms: unix_ms(),
            hearts: OnceLock::new(),
            observed,
            moved_on: Notify::new(),
            slo: ArcSwapOption::empty(),
            modes: Modes::default(),
        }
    }

    /// The cores to watch. Once.
    pub fn watch(&self, hearts: Vec<Arc<Heart>>) {
        let first = self.hearts.set(hearts);
        debug_assert!(first.is_ok(), "cores are started once");
    }

    /// The objectives to hold the service to.
    pub fn judge_by(&self, slo: SloSection) {
        self.slo.store(Some(Arc::new(slo)));
    }

    /// These objectives.
    #[must_use]
    pub fn objectives(&self) -> SloSection {
        self.slo.load().as_deref().cloned().unwrap_or_default()
    }

    /// Switches maintenance.
    pub fn set_maintenance(&self, is_on: bool) {
        self.modes.set_maintenance(is_on);
        self.moved_on.notify_one();
    }

    /// Sets how many records there are to read.
    pub fn expect_records(&self, records: u64) {
        self.records_expected.store(records, Ordering::Relaxed);
    }

    /// The logs are read; what is left is to link enough of the documents.
    pub fn set_linking(&self) {
        self.is_linking.store(true, Ordering::Relaxed);
    }

    /// Moves on.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.moved_on.notify_one();
    }

    /// Waits until the server moves on. For one who waits.
    pub async fn moved_on(&self) {
        self.moved_on.notified().await;
    }

    /// Where the server is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Draining,
        }
    }

    /// Time since the start.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When it started, in Unix milliseconds.
    #[must_use]
    pub fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    /// The cores.
    #[must_use]
    pub fn hearts(&self) -> &[Arc<Heart>] {
        self.hearts.get().map_or(&[], Vec::as_slice)
    }

    /// How the server is.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.phase() {
            Phase::Starting => return Verdict::Starting(self.progress()),
            Phase::Draining => return Verdict::Unhealthy("the server is shutting down".into()),
            Phase::Serving => {}
        }
        if let Some(why) = self.deadlock() {
            return Verdict::Unhealthy(why);
        }
        if self.modes.is_maintenance() {
            return Verdict::Unhealthy("in maintenance, switched on by an operator".into());
        }
        let hearts = self.hearts();
        let (gone, stalled) = (self.cores_gone(), self.longest_stall());
        let shards = self.observed.shards();
        let count = |is: fn(&ShardCounters) -> &AtomicBool| {
            shards.iter().filter(|shard| is(shard).load(Ordering::Relaxed)).count()
        };
        let fenced = count(|shard| &shard.is_fenced);
        if fenced > 0 && fenced == shards.len() {
            return Verdict::Unhealthy("every shard is fenced after a fault".into());
        }
        let mut reasons = Vec::new();
        if gone > 0 {
            reasons.push(format!("{gone} of {} cores have ended after a fault", hearts.len()));
        }
        if fenced > 0 {
            reasons.push(format!("{fenced} of {} shards are fenced after a fault", shards.len()));
        }
        reasons.extend(self.log_trouble());
        let failing = count(|shard| &shard.is_snapshot_failing);
        if failing > 0 {
            reasons.push(format!(
                "snapshots of {failing} of {} shards fail, and the log of the server says why",
                shards.len()
            ));
        }
        reasons.extend(self.slow_disk());
        let (damages, told) = (self.observed.scrub.damages.get(), self.observed.scrub.told());
        if let Some(first) = told.first() {
            reasons.push(format!("the check of the files has found {damages} damages: {first}"));
        }
        let space = &self.observed.space;
        if space.is_low() {
            reasons.push(format!(
                "{} MiB are left on the disk, less than the reserve of {} MiB: inserts are refused",
                space.available() >> 20,
                space.reserve() >> 20
            ));
        }
        let memory = &self.observed.memory;
        if memory.is_low() {
            reasons.push(format!(
                "{} MiB of memory are used, all of the {} MiB of memory.max_bytes: inserts are refused",
                memory.used() >> 20,
                memory.max() >> 20
            ));
        }
        if !stalled.is_zero() {
            reasons.push(format!("a core has stood still for {} ms", stalled.as_millis()));
        }
        if self.modes.is_read_only() {
            reasons.push("read-only, switched on by an operator".into());
        }
        reasons.extend(cache_trouble(&self.observed));
        if let Some(slo) = &*self.slo.load() {
            reasons.extend(Service::of(&self.observed).breaches(slo).words());
        }
        match reasons.is_empty() {
            true => Verdict::Healthy,
            false => Verdict::Degraded(reasons.join("; ")),
        }
    }

    /// Why nothing but a new start would help; `None` if the cores run.
    #[must_use]
    pub fn deadlock(&self) -> Option<String> {
        let (gone, stalled) = (self.cores_gone(), self.longest_stall());
        if gone > 0 && gone == self.hearts().len() {
            return Some("every core has ended after a fault".into());
        }
        let stands = stalled >= STALL_UNHEALTHY;
        stands.then(|| format!("a core has stood still for {} ms", stalled.as_millis()))
    }

    /// Why the disk is too slow for the log; `None` if it is not.
    fn slow_disk(&self) -> Option<String> {
        let syncs = self.observed.stages.fsync.recent();
        let ninth = Duration::from_nanos(syncs.quantile_ns(0.9));
        (syncs.count() >= SYNCS_MIN && ninth > SYNC_SLOW).then(|| {
            format!(
                "the disk is slow: one in ten syncs (fsync) of the log took {} ms or longer over the last \
                 minute",
                ninth.as_millis()
            )
        })
    }

    fn cores_gone(&self) -> usize {
        self.hearts().iter().filter(|heart| heart.is_stopped()).count()
    }

    fn longest_stall(&self) -> Duration {
        self.hearts().iter().map(|heart| heart.stalled()).max().unwrap_or_default()
    }

    /// What is wrong with the logs; `None` if nothing is.
    #[must_use]
    pub fn log_trouble(&self) -> Option<String> {
        let shards = self.observed.shards();
        let count =
            |is: &dyn Fn(&ShardCounters) -> bool| shards.iter().filter(|shard| is(shard)).count();
        let in_state = |state| count(&|shard| shard.breaker() == state);
        let failed = count(&|shard| shard.breaker_failures.get() > 0);
        let troubles = [
            (count(&|shard| shard.is_read_only()), "are lost: read-only"),
            (in_state(BreakerState::Open), "are not written: circuit breaker open"),
            (in_state(BreakerState::HalfOpen), "are being tried again: circuit breaker half-open"),
            (failed, "have failed within the last minute"),
        ];
        let (count, what) = troubles.into_iter().find(|(count, _)| *count > 0)?;
        Some(format!("the logs of {count} of {} shards {what}", shards.len()))
    }

    /// Something to know that is no trouble; `None` if there is nothing.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let shards = self.observed.shards();
        let count = shards.iter().filter(|shard| shard.codes_passed_over.get() > 0).count();
        (count > 0).then(|| {
            format!(
                "the vectors of {count} of {} shards are too much alike for 8-bit codes: searches \
                 there go by vectors, or are wider where those are on disk",
                shards.len()
            )
        })
    }

    /// True if requests should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.verdict(), Verdict::Healthy | Verdict::Degraded(_))
    }

    fn progress(&self) -> String {
        let shards = self.observed.shards();
        let sum = |of: fn(&ShardCounters) -> u64| shards.iter().map(|shard| of(shard)).sum::<u64>();
        if self.is_linking.load(Ordering::Relaxed) {
            let hot = sum(|shard| shard.hot_documents.get());
            return format!("linking documents into the graph: {hot} to go");
        }
        let read = sum(|shard| shard.replayed_records.get());
        match self.records_expected.load(Ordering::Relaxed) {
            0 => format!("reading the log: {read} records"),
            expected => format!("reading the log: {read} of about {expected} records"),
        }
    }
}

/// What is wrong with the cache of queries; `None` if nothing is.
#[must_use]
pub fn cache_trouble(observed: &Observed) -> Option<String> {
    let cache = &observed.gateway.cache;
    let percent = |millionths: &Gauge| millionths.get() as f64 / 1e4;
    let (what, had) = if cache.is_off.load(Ordering::Relaxed) {
        ("the cache of queries has turned itself off", percent(&cache.overlap_millionths))
    } else if cache.is_near_off.load(Ordering::Relaxed) {
        let what = "the cache of queries has turned near questions off";
        (what, percent(&cache.near_overlap_millionths))
    } else {
        return None;
    };
    Some(format!("{what}: its hits had {had:.1} % of what searches find"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_facts() {
        let observed = Arc::new(Observed::default());
        observed.set_shards(2);
        let shards = observed.shards();
        let health = Health::new(observed);
        health.expect_records(100);
        shards[1].replayed_records.add(40);
        let Verdict::Starting(progress) = health.verdict() else { panic!("not starting") };
        assert!(progress.contains("40 of about 100"), "{progress}");
        assert!(!health.is_ready());
        health.set_phase(Phase::Serving);
        assert_eq!(health.verdict(), Verdict::Healthy);
        let degraded = |part: &str| {
            let verdict = health.verdict();
            assert!(
                matches!(&verdict, Verdict::Degraded(why) if why.contains(part)),
                "{verdict:?}"
            );
        };
        shards[1].breaker_failures.set(1);
        degraded("1 of 2 shards have failed");
        shards[1].set_breaker(BreakerState::HalfOpen);
        degraded("1 of 2 shards are being tried again");
        shards[0].set_breaker(BreakerState::Open);
        degraded("circuit breaker open");
        shards[0].is_read_only.store(true, Ordering::Relaxed);
        degraded("read-only");
        shards[1].is_snapshot_failing.store(true, Ordering::Relaxed);
        degraded("snapshots of 1 of 2 shards fail");
        let space = &health.observed.space;
        space.set_reserve(3 << 20);
        space.set_available(2 << 20);
        degraded("2 MiB are left on the disk, less than the reserve of 3 MiB");
        let memory = &health.observed.memory;
        memory.measure(9 << 20);
        memory.set_max(8 << 20);
        degraded("9 MiB of memory are used, all of the 8 MiB");
        memory.set_max(u64::MAX);
        shards[0].is_fenced.store(true, Ordering::Relaxed);
        assert!(matches!(health.verdict(), Verdict::Degraded(why) if why.contains("1 of 2")));
        assert!(health.is_ready());
        shards[1].is_fenced.store(true, Ordering::Relaxed);
        assert!(matches!(health.verdict(), Verdict::Unhealthy(_)));
        shards.iter().for_each(|shard| shard.is_fenced.store(false, Ordering::Relaxed));
        health.set_maintenance(true);
        let verdict = health.verdict();
        assert!(matches!(&verdict, Verdict::Unhealthy(why) if why.contains("maintenance")));
        assert_eq!(health.deadlock(), None, "a new start would not help");
        health.set_maintenance(false);
        let syncs = &health.observed.stages.fsync;
        (0..SYNCS_MIN).for_each(|_| syncs.record(Duration::from_millis(66)));
        degraded("one in ten syncs (fsync) of the log took 6");
        (0..10 * SYNCS_MIN).for_each(|_| syncs.record(Duration::from_millis(1)));
        let verdict = health.verdict();
        assert!(
            matches!(&verdict, Verdict::Degraded(why) if !why.contains("syncs")),
            "one in eleven is not one in ten: {verdict:?}"
        );
        health.observed.scrub.tell(&["wal_0_1.wal at byte 4096: bad".to_owned()]);
        degraded("found 1 damages: wal_0_1.wal at byte 4096");
        health.observed.scrub.tell(&[]);
        health.judge_by(SloSection::default());
        health.observed.gateway.queries.add(1_000);
        health.observed.gateway.errors(crate::observe::counters::ErrorCategory::Internal).add(10);
        degraded("SLO breach over the last minute: slo.error_rate, slo.availability");
        let cache = &health.observed.gateway.cache;
        cache.is_near_off.store(true, Ordering::Relaxed);
        degraded("near questions off: its hits had 0.0 %");
        cache.overlap_millionths.set(876_543);
        cache.is_off.store(true, Ordering::Relaxed);
        degraded("turned itself off: its hits had 87.7 %");
        health.set_phase(Phase::Draining);
        assert!(!health.is_ready());
    }
}

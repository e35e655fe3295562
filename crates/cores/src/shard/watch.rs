//! Periodic checks of a core: free space on the disk, presence of the log files, breakers of the logs, which advance
//! with time, and memory of its shards.

use std::rc::Rc;
use std::time::Instant;

use super::breaker::{Command, Report};
use super::core::Core;
use super::state::Shard;
use crate::disk::Kind;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::observe::counters::{BreakerState, MemoryPart};
use crate::wal::{Position, segment_name};

/// Space for files other than a segment, such as MANIFEST, in bytes.
const SMALL_FILES_BYTES: u64 = 1 << 20;

/// Runs until the core ends.
pub(super) async fn run(core: Rc<Core>) {
    loop {
        core.look().await;
        glommio::timer::sleep(core.settings.watch_period).await;
    }
}

impl Core {
    async fn look(&self) {
        self.vectors.close_unused().await;
        self.vectors.publish();
        let shards: Vec<Rc<Shard>> = self.shards.borrow().values().cloned().collect();
        let active: Vec<u64> = shards.iter().map(|shard| shard.segment.get()).collect();
        let name = |(shard, number): (&Rc<Shard>, &u64)| segment_name(shard.id, *number);
        let names = shards.iter().zip(&active).map(name).collect();
        // The system call may block, so it is not made on this thread.
        let (room, missing) = self.disk.look(names).await;
        if let Some(room) = room {
            self.observed.space.set_available(room.available);
        }
        for ((shard, number), is_missing) in shards.iter().zip(active).zip(missing) {
            // A segment that is not written any more may have been removed for good reason.
            if is_missing && number == shard.segment.get() {
                shard.is_segment_gone.set(true);
                shard.staged_event.raise();
            }
            if !self.is_disk_full() {
                shard.breaker.borrow_mut().space_returned();
            }
            shard.publish_breaker(Instant::now());
            shard.publish_memory();
            // Rows left because another owner was reading them when upkeep last had time.
            let has_rows_left = |engine: &Engine| engine.store().has_rows_left();
            if shard.engine.borrow().as_ref().is_some_and(has_rows_left) {
                self.upkeep.raise();
            }
        }
    }

    /// True if there is no room for another segment.
    pub(super) fn is_disk_full(&self) -> bool {
        self.observed.space.available() < self.settings.segment_bytes + SMALL_FILES_BYTES
    }
}

impl Shard {
    /// Publishes the memory of each part of the shards.
    fn publish_memory(&self) {
        let Ok(engine) = self.engine.try_borrow() else {
            return;
        };
        let Some(memory) = engine.as_ref().map(Engine::memory) else {
            return;
        };
        for part in MemoryPart::ALL {
            let bytes = match part {
                MemoryPart::Vectors => memory.vectors,
                MemoryPart::Codes => memory.codes,
                MemoryPart::Links => memory.links,
                MemoryPart::Ids => memory.ids,
                MemoryPart::Metadata => memory.metadata,
                MemoryPart::MetadataIndex => memory.metadata_index,
                MemoryPart::HotTier => memory.hot_tier,
            };
            self.counters.memory[part as usize].set(bytes as u64);
        }
    }

    /// Refuses if the breaker does not admit writes to the log.
    pub(super) fn check_log(&self) -> Result<()> {
        if self.counters.is_read_only() {
            let what = format!(
                "the log of shard {} is lost: its documents are in memory alone, and it takes no \
                 writes",
                self.id.0
            );
            return Err(Error::unavailable(what));
        }
        let mut breaker = self.breaker.borrow_mut();
        if breaker.is_closed() {
            return Ok(());
        }
        let report = breaker.report(Instant::now());
        match (report.state, report.cause) {
            (BreakerState::Open, Some(cause)) => Err(Error::Unavailable {
                what: format!("the log of shard {} is not written: {}", self.id.0, cause.words()),
                retry_after: report.open_for,
            }),
            _ => Ok(()),
        }
    }

    /// Waits until the log is durable up to `position`, given that it was written again `rewrites` times: groups that
    /// are written again after a failure get another chain, which makes their position another one.
    pub(super) async fn wait_durable(
        &self,
        position: Position,
        rewrites: u64,
    ) -> Result<(), &'static str> {
        let is_durable = || self.durable.get().next() >= position.next_lsn;
        let is_rewritten = || self.rewrites.get() != rewrites;
        let is_over = || self.is_closing.get() || self.check_readable().is_err();
        if !is_durable() {
            self.wants_sync.set(true);
            self.staged_event.raise();
            self.log_moved.until(|| is_durable() || is_rewritten() || is_over()).await;
        }
        match () {
            () if is_rewritten() => Err("the log was written again meanwhile"),
            () if is_durable() => Ok(()),
            () => Err("the shard is closing"),
        }
    }

    /// Counts a failed write of the log.
    pub(super) fn log_failed(&self, kind: Kind) {
        let now = Instant::now();
        self.counters.wal_failures.add(1);
        match kind {
            Kind::NoSpace => {
                self.counters.disk_full.add(1);
                self.breaker.borrow_mut().disk_full(now);
            }
            Kind::NotFound | Kind::Failed => self.breaker.borrow_mut().failed(now),
        }
        self.publish_breaker(now);
    }

    /// Counts a written group.
    pub(super) fn log_succeeded(&self) {
        if self.breaker.borrow().is_closed() {
            return;
        }
        let now = Instant::now();
        self.breaker.borrow_mut().succeeded(now);
        self.publish_breaker(now);
    }

    /// Executes a command of an operator, and returns the state of the breaker after it.
    pub(super) fn command_breaker(&self, command: Option<Command>) -> Report {
        let now = Instant::now();
        if let Some(command) = command {
            tracing::warn!(shard = self.id.0, ?command, "circuit breaker: an operator's command");
            self.breaker.borrow_mut().command(command, now);
        }
        self.publish_breaker(now)
    }

    fn publish_breaker(&self, now: Instant) -> Report {
        let report = self.breaker.borrow_mut().report(now);
        let before = self.counters.breaker();
        if report.state != before {
            let cause = report.cause.map_or("", super::breaker::Cause::words);
            let (from, to) = (before.word(), report.state.word());
            tracing::warn!(shard = self.id.0, from, cause, "the log's circuit breaker {to}");
        }
        self.counters.set_breaker(report.state);
        self.counters.breaker_failures.set(report.failures as u64);
        report
    }
}

//! Group commit: writes that are staged while one group is being written form the next group.
//!
//! One task per shard. No timer delays a write: an idle log is written at once, and under load the write and sync in
//! flight are the window in which the next group gathers. Memory is changed only after the log is durable, and a client
//! is answered only after both.
//!
//! Where a write or a sync fails, its batch and all staged writes are refused, and the breaker counts. The next write
//! begins in a fresh segment. Writes that were acknowledged before their sync are written again there, as soon as the
//! breaker lets it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::core::{Core, SyncPolicy};
use super::doing::Doing;
use super::due::QUIET;
use super::keeper::Change;
use super::pacing::Next;
use super::rotate::{KEEP_PATIENCE, Rotated, keep_end, record_end};
use super::serve::cut;
use super::spare;
use super::stage::{Ack, StagedWrite};
use super::state::Shard;
use super::task::spawn;
use crate::clock::unix_ms;
use crate::disk::{Disk, DiskError, Kind};
use crate::engine::Engine;
use crate::error::Error;
use crate::shard::direct::DirectDisk;
use crate::types::record::Record;
use crate::wal::{RestoreError, Writer, segment_name};

/// Idle time after which an empty group is written (a seal), so that recovery can tell a torn last group from an
/// acknowledged one.
const SEAL_AFTER: Duration = Duration::from_millis(50);

/// Share of a segment after which the next one is made in the background.
const SPARE_AT_FILL: f64 = 0.5;

/// Most bytes of records that are acknowledged but not synced; they are kept in memory until the sync, which this bound
/// brings about.
const UNSYNCED_BYTES_MAX: u64 = 32 << 20;

/// Period at which an idle, failed log asks whether the breaker admits writing unsynced groups again.
const MEND_RETRY: Duration = Duration::from_secs(1);

/// The commit task of a shard: runs until the shard closes.
pub(super) async fn run(core: Rc<Core>, shard: Rc<Shard>, writer: Writer<DirectDisk>) {
    let mut committer = Committer {
        sync: core.settings.sync,
        core,
        shard,
        writer,
        is_sealed: true,
        synced: Instant::now(),
    };
    committer.shard.segment.set(committer.writer.segment());
    committer.note_durable();
    loop {
        if committer.shard.is_segment_gone.take() {
            committer.restore().await;
        }
        if committer.shard.wants_sync.take()
            && let Err(error) = committer.sync_now().await
        {
            committer.fail(Vec::new(), &error).await;
        }
        if !committer.shard.rotations.borrow().is_empty() {
            committer.rotate_as_asked().await;
        }
        let mut next = committer.shard.next_write(&committer.core, true);
        if let Next::Gather(time) = next {
            glommio::timer::sleep(time).await;
            next = committer.shard.next_write(&committer.core, false);
        }
        if let Next::Write(puts_max) = next {
            let batch = committer.shard.take_batch(puts_max);
            committer.commit(batch).await;
        } else if committer.shard.is_closing.get() {
            break;
        } else {
            committer.idle().await;
        }
    }
    committer.close().await;
}

struct Committer {
    core: Rc<Core>,
    shard: Rc<Shard>,
    writer: Writer<DirectDisk>,
    sync: SyncPolicy,
    /// The last group is sealed: a later group or a seal confirms that it was complete.
    is_sealed: bool,
    /// Time of the last sync, or of finding that none was needed.
    synced: Instant,
}

impl Committer {
    /// Waits for staged writes; seals or syncs the log if none come in time.
    async fn idle(&mut self) {
        let wait = match self.sync {
            _ if self.writer.has_unsynced() && self.writer.is_broken() => MEND_RETRY,
            _ if self.is_sealed || self.writer.is_broken() => {
                return self.wait_while_sealed().await;
            }
            SyncPolicy::Periodic(period) if self.writer.has_unsynced() => {
                period.saturating_sub(self.synced.elapsed())
            }
            _ => SEAL_AFTER,
        };
        let event = async {
            self.shard.staged_event.wait().await;
            Ok(())
        };
        if glommio::timer::timeout(wait, event).await.is_ok() {
            return;
        }
        let rested = match self.sync {
            // The breaker refuses writes; the next round asks again.
            _ if self.writer.is_broken() && self.shard.check_log().is_err() => return,
            _ if self.writer.is_broken() => self.mend().await,
            SyncPolicy::Never => Ok(()),
            _ => self.writer.seal(unix_ms()).await,
        };
        match rested {
            Ok(()) => {
                self.is_sealed = true;
                self.note_durable();
                self.note_position();
                self.core.upkeep.raise();
            }
            Err(error) => self.fail(Vec::new(), &error).await,
        }
        self.synced = Instant::now();
        self.publish();
    }

    /// Seals the log after everything staged is written.
    async fn close(mut self) {
        let shard = self.shard.id.0;
        if self.writer.is_broken() && self.writer.has_unsynced() {
            match self.mend().await {
                Ok(()) => self.is_sealed = true,
                Err(error) => {
                    tracing::error!(
                        shard,
                        "what was acknowledged last, before a sync, is not on disk: {error}"
                    );
                }
            }
        }
        // With `SyncPolicy::Never` a sealed log may still be unsynced.
        if (!self.is_sealed || self.writer.has_unsynced())
            && !self.writer.is_broken()
            && let Err(error) = self.writer.seal(unix_ms()).await
        {
            tracing::error!(shard, "the log could not be sealed: {error}");
        }
        if let Some((number, sealed)) = self.writer.end() {
            record_end(&self.core, self.shard.id, number, sealed).await;
        }
    }

    /// Records the log position that memory now reflects, for snapshots. A snapshot at a position is published only
    /// once the log is durable up to it.
    fn note_position(&self) {
        self.shard.snapshots.note_position(self.writer.position());
    }

    /// Waits for staged writes; wakes upkeep after [`QUIET`] if a snapshot waits for a quiet shard.
    async fn wait_while_sealed(&self) {
        let shard = &self.shard;
        let waits = |engine: &Engine| shard.snapshots.waits_for_quiet(engine);
        if !shard.engine.borrow().as_ref().is_some_and(waits) {
            return shard.staged_event.wait().await;
        }
        let event = async {
            shard.staged_event.wait().await;
            Ok(())
        };
        if glommio::timer::timeout(QUIET, event).await.is_err() {
            self.core.upkeep.raise();
        }
    }

    /// Logs, applies and acknowledges a batch. On an error it refuses all staged writes and the writes of the batch
    /// that are not complete.
    async fn commit(&mut self, batch: Vec<StagedWrite>) {
        // For each write, the number of records of the batch up to its end.
        let mut acks = Vec::with_capacity(batch.len());
        let mut records = VecDeque::new();
        let now = Instant::now();
        for write in batch {
            self.core.observed.stages.log_wait.record(now.duration_since(write.at));
            records.extend(write.records);
            acks.push((records.len(), write.outcome, write.ack));
        }
        let mut acks = acks.into_iter().peekable();
        let mut done = 0;
        while !records.is_empty() {
            // Draining does not move the rest: a batch delete has thousands of groups.
            let group_len = Writer::<DirectDisk>::group_len(&*records.make_contiguous());
            let group: Vec<Record> = records.drain(..group_len).collect();
            let (count, before) = (group.len(), self.writer.stats().bytes);
            let changed = group.iter().map(Record::encoded_bytes).sum::<usize>();
            // The breaker may have opened since the group was staged.
            if let Err(error) = self.shard.check_log() {
                acks.for_each(|(_, _, ack)| ack.settle(Err(error.clone())));
                return self.shard.fail_writes(&error);
            }
            if let Err(error) = self.write(&group).await {
                return self.fail(acks.map(|(_, _, ack)| ack).collect(), &error).await;
            }
            self.shard.log_succeeded();
            self.note_durable();
            let bytes = self.writer.stats().bytes - before;
            self.apply(group).await;
            // Counts are published before acknowledgements, so a client that has its answer is routed by counts that
            // include its document (`router::budget`).
            self.publish();
            self.shard.snapshots.note_group(count, bytes, changed as u64);
            self.note_position();
            self.core.upkeep.raise();
            done += count;
            while let Some((_, outcome, ack)) = acks.next_if(|(end, _, _)| *end <= done) {
                ack.settle(Ok(outcome));
            }
            if let Err(error) = self.sync_if_due().await {
                return self.fail(acks.map(|(_, _, ack)| ack).collect(), &error).await;
            }
        }
        // Writes without records waited only for the records before them.
        acks.for_each(|(_, outcome, ack)| ack.settle(Ok(outcome)));
        self.publish();
    }

    /// Writes a group, in the next segment if this one is full or has failed. Syncs before it returns if the policy
    /// syncs before acknowledgements.
    async fn write(&mut self, group: &[Record]) -> Result<(), DiskError> {
        if self.writer.is_broken() {
            self.mend().await?;
        }
        if !self.writer.fits(group) {
            self.rotate().await?;
        }
        let begun = Instant::now();
        let core = self.core.clone();
        let in_flight = core.begin_write();
        let sync = matches!(self.sync, SyncPolicy::DataOnly | SyncPolicy::Full);
        let written = Cell::new(None);
        let on_written = || written.set(Some(Instant::now()));
        let append = self.writer.append_noting(group, unix_ms(), sync, on_written);
        core.heart.doing.during(Doing::Commit, append).await?;
        drop(in_flight);
        if let Some(written) = written.get().filter(|_| sync) {
            self.core.observed.stages.fsync.record(written.elapsed());
        }
        self.core.observed.stages.commit.record(begun.elapsed());
        self.is_sealed = false;
        if self.writer.fill() > SPARE_AT_FILL {
            spare::want(&self.core, &self.shard, self.writer.next_number());
        }
        Ok(())
    }

    /// Syncs acknowledged groups if the period has passed, [`UNSYNCED_BYTES_MAX`] is reached or a task asked for it.
    async fn sync_if_due(&mut self) -> Result<(), DiskError> {
        let is_late = match self.sync {
            SyncPolicy::Periodic(period) => self.synced.elapsed() >= period,
            _ => false,
        };
        let is_due = is_late || self.writer.unsynced_bytes() > UNSYNCED_BYTES_MAX;
        if is_due { self.sync_now().await } else { Ok(()) }
    }

    /// Syncs acknowledged groups, unless the log is broken and has to write them again.
    async fn sync_now(&mut self) -> Result<(), DiskError> {
        if self.writer.has_unsynced() && !self.writer.is_broken() {
            let begun = Instant::now();
            self.writer.sync().await?;
            self.core.observed.stages.fsync.record(begun.elapsed());
            self.note_durable();
        }
        self.synced = Instant::now();
        Ok(())
    }

    fn note_durable(&self) {
        self.shard.durable.set(self.writer.durable());
        self.shard.log_moved.wake();
    }

    async fn rotate(&mut self) -> Result<(), DiskError> {
        let number = self.writer.next_number();
        let prepared = spare::take(&self.core, &self.shard, number).await?;
        let (number, sealed) = self.writer.rotate(prepared, unix_ms()).await?;
        self.shard.segment.set(self.writer.segment());
        self.shard.snapshots.note_sealed(number, sealed);
        let (core, id) = (self.core.clone(), self.shard.id);
        spawn(self.core.queues.upkeep, async move {
            keep_end(&core, id, number, sealed).await;
        });
        Ok(())
    }

    /// Begins a fresh segment for operators who asked; a segment without groups already counts as fresh.
    async fn rotate_as_asked(&mut self) {
        let asked = self.shard.rotations.take();
        let mut is_new = false;
        if self.writer.has_groups() && !self.writer.is_broken() {
            match self.rotate().await {
                // The header of the fresh segment seals the one before.
                Ok(()) => (is_new, self.is_sealed) = (true, true),
                Err(error) => self.fail(Vec::new(), &error).await,
            }
            self.note_durable();
            self.publish();
        }
        let rotated = match self.writer.is_broken() || self.shard.check_log().is_err() {
            true => Err(Error::unavailable("the log can't be written: see its breaker")),
            false => Ok(Rotated { segment: self.writer.segment(), is_new }),
        };
        asked.into_iter().for_each(|reply| reply.send(rotated.clone()));
    }

    /// Continues the log in a fresh segment after a failure, and writes unsynced groups again there.
    async fn mend(&mut self) -> Result<(), DiskError> {
        self.shard.counters.wal_retries.add(1);
        let number = self.writer.next_number();
        let prepared = spare::take(&self.core, &self.shard, number).await?;
        let is_rewrite = self.writer.has_unsynced();
        let replaced = self.writer.replace(prepared, unix_ms()).await;
        // Also set after a failure: the fresh segment may have been begun before the failure.
        self.shard.segment.set(self.writer.segment());
        let given_up = replaced?;
        self.synced = Instant::now();
        if is_rewrite {
            self.shard.rewrites.set(self.shard.rewrites.get() + 1);
            self.note_position();
        }
        self.note_durable();
        if let Some(engine) = &*self.shard.engine.borrow() {
            assert_eq!(
                self.writer.next_lsn(),
                engine.applied().next(),
                "the log goes on from here"
            );
        }
        tracing::warn!(
            shard = self.shard.id.0,
            segment = number,
            "the log goes on in a new segment"
        );
        self.drop_unused();
        for (number, sealed) in given_up {
            self.shard.snapshots.note_sealed(number, sealed);
            let (core, id) = (self.core.clone(), self.shard.id);
            spawn(self.core.queues.upkeep, async move {
                // The reader stops at the recorded end, so the space behind it can be freed.
                let is_kept = keep_end(&core, id, number, sealed).await;
                if is_kept
                    && let Err(error) =
                        cut(&*core.disk, &segment_name(id, number), sealed.end_bytes).await
                {
                    tracing::warn!(shard = id.0, "space could not be given back: {error}");
                }
            });
        }
        Ok(())
    }

    /// Removes segments that could not be begun from MANIFEST, then their files. Segments after them may be dropped
    /// once a snapshot covers those; the chain would then seem to break at these.
    fn drop_unused(&mut self) {
        for number in self.writer.take_unused() {
            let (core, id) = (self.core.clone(), self.shard.id);
            spawn(self.core.queues.upkeep, async move {
                let kept = core.keep(Change::Unused(id, number)).await;
                // If removing fails, the next start removes the file.
                if kept.is_ok()
                    && let Err(error) = core.disk.remove(&segment_name(id, number)).await
                {
                    tracing::warn!(shard = id.0, "space could not be given back: {error}");
                }
            });
        }
    }

    /// Re-creates the file of the active segment after it was removed from outside.
    async fn restore(&mut self) {
        if self.shard.check_log().is_err() {
            return;
        }
        let shard = self.shard.clone();
        match self.writer.restore().await {
            Ok(()) => {
                tracing::error!(
                    shard = shard.id.0,
                    segment = self.writer.segment(),
                    "a segment of the log was removed and has been restored: leave the data \
                     directory to the server"
                );
                shard.log_failed(Kind::Failed);
            }
            Err(RestoreError::Disk(error)) => self.fail(Vec::new(), &error).await,
            Err(RestoreError::Lost(error)) => {
                shard.counters.is_read_only.store(true, Ordering::Relaxed);
                self.fail(Vec::new(), &error).await;
            }
        }
    }

    /// Applies the records of a logged group to memory.
    async fn apply(&self, group: Vec<Record>) {
        let first = self.writer.next_lsn().0 - group.len() as u64;
        for (lsn, record) in (first..).zip(group) {
            let apply = |record| {
                let _piece = self.core.heart.doing.begin(Doing::Apply);
                let mut engine = self.shard.engine.borrow_mut();
                let engine = engine.as_mut().expect("nothing is staged before the dimension");
                engine.apply(crate::types::Lsn(lsn), record)
            };
            let mut done = apply(record);
            while !done {
                glommio::executor().yield_if_needed().await;
                let _piece = self.core.heart.doing.begin(Doing::Apply);
                let mut engine = self.shard.engine.borrow_mut();
                done = engine.as_mut().expect("it was there").apply_more();
            }
            glommio::executor().yield_if_needed().await;
        }
        self.shard.pump_loads(&self.core.settings);
    }

    /// Refuses the writes that wait for the log after a failure.
    async fn fail(&self, acks: Vec<Ack>, error: &DiskError) {
        let shard = &self.shard;
        tracing::error!(shard = shard.id.0, "the log could not be written: {error}");
        shard.log_failed(error.kind);
        // A refused group may be complete on disk. Before its client gets the error, MANIFEST records the end of the
        // log before that group, so that a restart does not bring it back. If MANIFEST can't be written either, it may
        // come back.
        if let Some((number, sealed)) = self.writer.broken_end() {
            let keep = async { Ok(keep_end(&self.core, shard.id, number, sealed).await) };
            if !glommio::timer::timeout(KEEP_PATIENCE, keep).await.unwrap_or(false) {
                tracing::error!(shard = shard.id.0, "a refused write may come back after a crash");
            }
        }
        let error = shard.check_log().err().unwrap_or_else(|| {
            let what = format!("the log of shard {} could not be written", shard.id.0);
            Error::Unavailable { what, retry_after: spare::RETRY }
        });
        acks.into_iter().for_each(|ack| ack.settle(Err(error.clone())));
        shard.fail_writes(&error);
    }

    fn publish(&self) {
        let (stats, counters) = (self.writer.stats(), &self.shard.counters);
        counters.wal_groups.set(stats.groups);
        counters.wal_records.set(stats.records);
        counters.wal_bytes.set(stats.bytes);
        counters.wal_syncs.set(stats.syncs);
        let (unsynced_bytes, since_ms) =
            (self.writer.unsynced_bytes(), &counters.unsynced_since_ms);
        counters.unsynced_bytes.set(unsynced_bytes);
        match (unsynced_bytes, since_ms.get()) {
            (0, _) => since_ms.set(0),
            (_, 0) => since_ms.set(unix_ms()),
            _ => {}
        }
        self.shard.publish();
    }
}

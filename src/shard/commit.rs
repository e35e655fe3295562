//! Group commit: what is staged while one group is being written goes into the next.
//!
//! One task a shard. No timer delays a write: an idle log is written at once, and under load the
//! write and sync in flight are the window in which the next group gathers. Memory is changed
//! only after the log is durable, and a client hears only after both.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::core::{Core, Shard, SyncPolicy, spawn};
use super::event::Event;
use super::keeper::Change;
use super::load::LoadTicket;
use super::open::unix_ms;
use super::reply::Reply;
use super::snapshot::QUIET;
use crate::disk::direct::{DirectDisk, DirectFile};
use crate::disk::{Disk, DiskError, Kind};
use crate::engine::{Engine, Outcome, Write};
use crate::error::{Error, Result};
use crate::wal::record::Record;
use crate::wal::{GROUP_BYTES_MAX, Prepared, Writer, segment_name};

/// An idle log vouches for its last group after so long.
const SEAL_AFTER: Duration = Duration::from_millis(50);

/// How long a group gathers for the sake of linking: not at all up to this share of the soft
/// limit, so that a burst is acknowledged at the speed of the disk; beyond it in proportion to
/// how far linking is behind, but never so long that a client would take it for a fault.
const DEBT_FREE: f64 = 0.25;
const LINK_TIME_AT_SOFT_LIMIT: Duration = Duration::from_millis(20);
const LINK_TIME_MAX: Duration = Duration::from_millis(5);

/// Writes that may be staged in one shard. Each holds a document.
pub(super) const STAGED_MAX: usize = 4_096;

/// Where the segment is so full, the next one is made.
const SPARE_AT_FILL: f64 = 0.5;

/// After a failure to make a segment, so long until another try.
const SPARE_RETRY: Duration = Duration::from_secs(1);

/// Who is told about a write.
pub(super) enum Ack {
    /// A client.
    One(Reply<Result<Outcome>>),
    /// A bulk load, about its write with this index.
    Load(Rc<LoadTicket>, usize),
}

impl Ack {
    pub(super) fn settle(self, result: Result<Outcome>) {
        match self {
            Self::One(reply) => reply.send(result),
            Self::Load(ticket, index) => ticket.settle(index, result),
        }
    }
}

/// A write that passed every check and waits to be logged.
pub(super) struct StagedWrite {
    records: Vec<Record>,
    outcome: Outcome,
    ack: Ack,
}

impl Shard {
    /// Checks a write and stages it; who asked is told when it is durable, or why not.
    pub(super) fn stage(&self, write: Write, ack: Ack) {
        let staged = self.check_writable().and_then(|()| {
            if self.staged.borrow().len() >= STAGED_MAX {
                return Err(Error::busy(format!("{STAGED_MAX} writes wait for the log")));
            }
            match &mut *self.engine.borrow_mut() {
                Some(engine) => engine.stage(write),
                None => Ok(crate::engine::Staged::nothing()),
            }
        });
        match staged {
            Ok(staged) => self.stage_records(staged.records, staged.outcome, ack),
            Err(error) => ack.settle(Err(error)),
        }
    }

    /// Stages records that the engine has planned. Without records, waits for what was staged
    /// before: the outcome may rest on it.
    pub(super) fn stage_records(&self, records: Vec<Record>, outcome: Outcome, ack: Ack) {
        let has_staged = self.engine.borrow().as_ref().is_some_and(|engine| engine.has_staged());
        if records.is_empty() && !has_staged {
            return ack.settle(Ok(outcome));
        }
        self.staged.borrow_mut().push_back(StagedWrite { records, outcome, ack });
        self.staged_event.raise();
    }

    /// Refuses everything staged.
    pub(super) fn fail_writes(&self, error: &Error) {
        self.abandoned.set(self.abandoned.get() + 1);
        if let Ok(mut engine) = self.engine.try_borrow_mut()
            && let Some(engine) = &mut *engine
        {
            engine.abandon_staged();
        }
        for staged in self.staged.take() {
            staged.ack.settle(Err(error.clone()));
        }
        for load in self.loads.take() {
            load.fail(error);
        }
    }

    /// The next writes to log: about a group of them, or one that is larger.
    fn take_batch(&self) -> Vec<StagedWrite> {
        let mut staged = self.staged.borrow_mut();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < GROUP_BYTES_MAX
            && let Some(write) = staged.pop_front()
        {
            bytes += write.records.iter().map(Record::encoded_bytes).sum::<usize>();
            batch.push(write);
        }
        batch
    }
}

/// The commit task of a shard: runs until the shard closes or its log fails.
pub(super) async fn run(core: Rc<Core>, shard: Rc<Shard>, writer: Writer<DirectDisk>) {
    let mut committer = Committer {
        sync: core.settings.sync,
        core,
        shard,
        writer,
        is_sealed: true,
        synced: Instant::now(),
    };
    loop {
        if committer.shard.staged.borrow().is_empty() {
            if committer.shard.is_closing.get() {
                break;
            }
            if committer.idle().await.is_err() {
                return;
            }
            continue;
        }
        committer.leave_time_to_link().await;
        let batch = committer.shard.take_batch();
        if committer.commit(batch).await.is_err() {
            return;
        }
    }
    if committer.is_sealed {
        return;
    }
    if let Err(error) = committer.writer.seal(unix_ms()).await {
        tracing::error!(shard = committer.shard.id.0, "the log could not be sealed: {error}");
    }
}

/// The log has failed: nothing will be written any more.
struct LogFailed;

struct Committer {
    core: Rc<Core>,
    shard: Rc<Shard>,
    writer: Writer<DirectDisk>,
    sync: SyncPolicy,
    /// The last group is vouched for.
    is_sealed: bool,
    /// When the log was last synced, or was found to need no sync.
    synced: Instant,
}

impl Committer {
    /// Waits for something to do, and meanwhile brings the log to rest.
    async fn idle(&mut self) -> Result<(), LogFailed> {
        if self.is_sealed {
            self.wait_while_sealed().await;
            return Ok(());
        }
        let wait = match self.sync {
            SyncPolicy::Periodic(period) => period.saturating_sub(self.synced.elapsed()),
            _ => SEAL_AFTER,
        };
        let event = async {
            self.shard.staged_event.wait().await;
            Ok(())
        };
        if glommio::timer::timeout(wait, event).await.is_ok() {
            return Ok(());
        }
        let sealed =
            if self.sync == SyncPolicy::Never { Ok(()) } else { self.writer.seal(unix_ms()).await };
        self.is_sealed = true;
        self.synced = Instant::now();
        self.publish();
        sealed.map_err(|error| self.fail(Vec::new(), &error))
    }

    /// Waits for something to do, and has upkeep look whether a quiet shard wants a snapshot.
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

    /// The farther linking is behind, the longer a group gathers, and linking has the core. Where
    /// writes come faster than they can be linked for long, this is what slows them down, long
    /// before the hot tier is full.
    async fn leave_time_to_link(&self) {
        let debt = (self.core.hot.debt() - DEBT_FREE) / (1.0 - DEBT_FREE);
        if debt > 0.0 {
            let wait = LINK_TIME_AT_SOFT_LIMIT.mul_f64(debt).min(LINK_TIME_MAX);
            glommio::timer::sleep(wait).await;
        }
    }

    /// Logs, applies and acknowledges a batch. On an error the batch and all that was staged
    /// after it are refused, those of the batch excepted that are complete.
    async fn commit(&mut self, batch: Vec<StagedWrite>) -> Result<(), LogFailed> {
        // How many records are done when a write is.
        let mut acks = Vec::with_capacity(batch.len());
        let mut records = Vec::new();
        for write in batch {
            records.extend(write.records);
            acks.push((records.len(), write.outcome, write.ack));
        }
        let mut acks = acks.into_iter().peekable();
        let mut done = 0;
        while !records.is_empty() {
            let rest = records.split_off(Writer::<DirectDisk>::group_len(&records));
            let group = std::mem::replace(&mut records, rest);
            let (count, before) = (group.len(), self.writer.stats().bytes);
            match self.write(&group).await {
                Ok(()) => {}
                Err(WriteError::NoSegment) => {
                    self.shard.counters.disk_full.add(1);
                    let what = "the log can't grow, as on a full disk; the server's log says why";
                    let error = Error::Busy { what: what.into(), retry_after: SPARE_RETRY };
                    acks.for_each(|(_, _, ack)| ack.settle(Err(error.clone())));
                    self.shard.fail_writes(&error);
                    return Ok(());
                }
                Err(WriteError::Failed(error)) => {
                    let acks = acks.map(|(_, _, ack)| ack).collect();
                    return Err(self.fail(acks, &error));
                }
            }
            let bytes = self.writer.stats().bytes - before;
            self.apply(group).await;
            self.shard.snapshots.note_group(self.writer.position(), count, bytes);
            self.core.upkeep.raise();
            done += count;
            while let Some((_, outcome, ack)) = acks.next_if(|(end, _, _)| *end <= done) {
                ack.settle(Ok(outcome));
            }
        }
        // Writes without records waited for those before them.
        acks.for_each(|(_, outcome, ack)| ack.settle(Ok(outcome)));
        self.publish();
        Ok(())
    }

    /// Writes a group, in the next segment if this one is full, and syncs as the policy has it.
    async fn write(&mut self, group: &[Record]) -> Result<(), WriteError> {
        if !self.writer.fits(group) {
            self.rotate().await?;
        }
        let begun = Instant::now();
        let core = self.core.clone();
        let in_flight = core.begin_write();
        let sync = matches!(self.sync, SyncPolicy::DataOnly | SyncPolicy::Full);
        self.writer.append(group, unix_ms(), sync).await?;
        drop(in_flight);
        self.core.observed.stages.commit.record(begun.elapsed());
        self.is_sealed = false;
        if let SyncPolicy::Periodic(period) = self.sync
            && self.synced.elapsed() >= period
        {
            self.writer.sync().await?;
            self.synced = Instant::now();
        }
        if self.writer.fill() > SPARE_AT_FILL {
            want_spare(&self.core, &self.shard, self.writer.segment() + 1);
        }
        Ok(())
    }

    async fn rotate(&mut self) -> Result<(), WriteError> {
        loop {
            want_spare(&self.core, &self.shard, self.writer.segment() + 1);
            match self.shard.spare.take() {
                Took::Ready(prepared) => {
                    let (number, sealed) = self.writer.rotate(prepared, unix_ms()).await?;
                    self.shard.snapshots.note_sealed(number, sealed);
                    let (core, id) = (self.core.clone(), self.shard.id);
                    spawn(self.core.queues.upkeep, async move {
                        // Until it is recorded, the next segment's header vouches for this one.
                        if let Err(error) = core.keep(Change::Sealed(id, number, sealed)).await {
                            tracing::warn!(shard = id.0, "MANIFEST could not be updated: {error}");
                        }
                    });
                    return Ok(());
                }
                Took::Failed(error) if error.kind == Kind::NoSpace => {
                    return Err(WriteError::NoSegment);
                }
                Took::Failed(error) => return Err(WriteError::Failed(error)),
                Took::Nothing => self.shard.spare.event.wait().await,
            }
        }
    }

    /// Changes memory as the log says.
    async fn apply(&self, group: Vec<Record>) {
        let first = self.writer.next_lsn().0 - group.len() as u64;
        for (lsn, record) in (first..).zip(group) {
            let apply = |record| {
                let mut engine = self.shard.engine.borrow_mut();
                let engine = engine.as_mut().expect("nothing is staged before the dimension");
                engine.apply(crate::types::Lsn(lsn), record)
            };
            let mut done = apply(record);
            while !done {
                glommio::executor().yield_if_needed().await;
                let mut engine = self.shard.engine.borrow_mut();
                done = engine.as_mut().expect("it was there").apply_more();
            }
            glommio::executor().yield_if_needed().await;
        }
        self.shard.pump_loads(self.core.settings.bulk_hot_max);
    }

    /// The log can't be written any more: what is on disk is not known until it is read again.
    fn fail(&self, acks: Vec<Ack>, error: &DiskError) -> LogFailed {
        let shard = &self.shard;
        tracing::error!(shard = shard.id.0, "the log has failed, writes are refused: {error}");
        shard.counters.wal_failures.add(1);
        shard.counters.is_read_only.store(true, Ordering::Relaxed);
        let error = shard.check_writable().expect_err("it was just made read-only");
        acks.into_iter().for_each(|ack| ack.settle(Err(error.clone())));
        shard.fail_writes(&error);
        LogFailed
    }

    fn publish(&self) {
        let (stats, counters) = (self.writer.stats(), &self.shard.counters);
        counters.wal_groups.set(stats.groups);
        counters.wal_records.set(stats.records);
        counters.wal_bytes.set(stats.bytes);
        counters.wal_syncs.set(stats.syncs);
        self.shard.publish();
    }
}

enum WriteError {
    /// Nothing was written for want of a segment; it may go on when there is one.
    NoSegment,
    /// What was written is unknown.
    Failed(DiskError),
}

impl From<DiskError> for WriteError {
    fn from(error: DiskError) -> Self {
        Self::Failed(error)
    }
}

/// The next segment, made ahead so that no commit waits for it.
#[derive(Default)]
pub(super) struct Spare {
    state: RefCell<SpareState>,
    event: Event,
}

#[derive(Default)]
enum SpareState {
    #[default]
    None,
    Preparing,
    Ready(Prepared<DirectFile>),
    Failed {
        error: DiskError,
        at: Instant,
        /// The file is there, but it is not known whether MANIFEST names it.
        unnamed: Option<Prepared<DirectFile>>,
    },
}

/// What was found in place of the next segment.
enum Took {
    Ready(Prepared<DirectFile>),
    Failed(DiskError),
    /// It is being made.
    Nothing,
}

impl Spare {
    /// Takes the segment if it is ready; else says how it stands.
    fn take(&self) -> Took {
        match self.state.take() {
            SpareState::Ready(prepared) => Took::Ready(prepared),
            state => {
                let took = match &state {
                    SpareState::Failed { error, .. } => Took::Failed(error.clone()),
                    _ => Took::Nothing,
                };
                self.state.replace(state);
                took
            }
        }
    }
}

/// Has the segment `number` made in the background, unless that is done, being done, or has
/// failed a moment ago.
fn want_spare(core: &Rc<Core>, shard: &Rc<Shard>, number: u64) {
    let mut state = shard.spare.state.borrow_mut();
    let unnamed = match &mut *state {
        SpareState::None => None,
        SpareState::Failed { at, unnamed, .. } if at.elapsed() >= SPARE_RETRY => unnamed.take(),
        _ => return,
    };
    *state = SpareState::Preparing;
    let (core, shard) = (core.clone(), shard.clone());
    spawn(core.queues.upkeep, async move {
        let made = make_segment(&core, &shard, number, unnamed).await;
        if let SpareState::Failed { error, .. } = &made {
            tracing::warn!(shard = shard.id.0, "no new log segment: {error}");
        }
        shard.spare.state.replace(made);
        shard.spare.event.raise();
    });
}

/// Makes a segment, unless an earlier try has made it, and has MANIFEST name it, before anything
/// is written to it. Once MANIFEST may name it, the file stays.
async fn make_segment(
    core: &Core,
    shard: &Shard,
    number: u64,
    unnamed: Option<Prepared<DirectFile>>,
) -> SpareState {
    let name = segment_name(shard.id, number);
    let prepared = match unnamed {
        Some(prepared) => Ok(prepared),
        None => {
            let bytes = core.settings.segment_bytes;
            Prepared::create(&*core.disk, shard.id, number, bytes).await
        }
    };
    let at = Instant::now();
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // A part of a file would keep what little space there is.
            let removed = core.disk.remove(&name).await;
            tracing::debug!(?removed, "removed {name}");
            return SpareState::Failed { error, at, unnamed: None };
        }
    };
    match core.keep(Change::Added(shard.id, number)).await {
        Ok(()) => SpareState::Ready(prepared),
        Err(reason) => {
            // Nothing has been written to the segment: another try is harmless.
            let (kind, operation) = (Kind::NoSpace, "record in MANIFEST");
            let error = DiskError { kind, operation, file: name, reason };
            SpareState::Failed { error, at, unnamed: Some(prepared) }
        }
    }
}

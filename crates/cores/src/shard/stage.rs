//! Staging: checked writes that wait for the log, and the acknowledgement of each.
//!
//! A request or a bulk load stages, [`super::commit`] takes staged writes group by group.

use std::rc::Rc;
use std::time::Instant;

use super::load::LoadTicket;
use super::reply::Reply;
use super::state::Shard;
use crate::engine::{Outcome, Write};
use crate::error::{Error, Result};
use crate::types::limits::GROUP_BYTES_MAX;
use crate::types::record::Record;

/// Most staged writes of one shard. Each holds a document.
pub(super) const STAGED_MAX: usize = 4_096;

/// Receiver of the result of a write.
pub(super) enum Ack {
    /// A client.
    One(Reply<Result<Outcome>>),
    /// A bulk load, for the write with this index.
    Load(Rc<LoadTicket>, usize),
}

impl Ack {
    fn is_load(&self) -> bool {
        matches!(self, Self::Load(..))
    }

    pub(super) fn settle(self, result: Result<Outcome>) {
        match self {
            Self::One(reply) => reply.send(result),
            Self::Load(ticket, index) => ticket.settle(index, result),
        }
    }
}

/// A write that passed every check and waits to be logged.
pub(super) struct StagedWrite {
    pub(super) records: Vec<Record>,
    pub(super) outcome: Outcome,
    pub(super) ack: Ack,
    /// Time of staging.
    pub(super) at: Instant,
}

impl StagedWrite {
    /// Number of documents that this write adds to those waiting to be linked.
    pub(super) fn puts(&self) -> usize {
        self.records.iter().filter(|record| matches!(record, Record::Put { .. })).count()
    }
}

impl Shard {
    /// Checks a write and stages it. Its `ack` gets the result when the write is durable, or the error.
    pub(super) fn stage(&self, write: Write, ack: Ack) {
        let staged = self.check_writable().and_then(|()| {
            // Bulk loads stage only what there is room for, and are not checked here.
            if matches!(ack, Ack::One(_)) {
                if self.staged.borrow().len() >= STAGED_MAX {
                    return Err(Error::busy(format!("{STAGED_MAX} writes wait for the log")));
                }
                self.check_pace(&write)?;
            }
            match &mut *self.engine.borrow_mut() {
                Some(engine) => engine.stage(write),
                None if matches!(write, Write::Put { .. }) => {
                    Err(Error::Internal("a document came before its dimension".into()))
                }
                None => Ok(crate::engine::Staged::nothing()),
            }
        });
        match staged {
            Ok(staged) => self.stage_records(staged.records, staged.outcome, ack),
            Err(error) => ack.settle(Err(error)),
        }
    }

    /// Stages records that the engine has planned. Without records, the ack still waits for earlier staged writes: the
    /// outcome may depend on them.
    pub(super) fn stage_records(&self, records: Vec<Record>, outcome: Outcome, ack: Ack) {
        let has_staged = self.engine.borrow().as_ref().is_some_and(|engine| engine.has_staged());
        if records.is_empty() && !has_staged {
            return ack.settle(Ok(outcome));
        }
        self.staged_loads.set(self.staged_loads.get() + usize::from(ack.is_load()));
        self.staged.borrow_mut().push_back(StagedWrite {
            records,
            outcome,
            ack,
            at: Instant::now(),
        });
        // If the commit waits for room in the hot tier, upkeep wakes it later.
        if !self.waits_for_room.get() {
            self.staged_event.raise();
        }
    }

    /// Refuses all staged writes.
    pub(super) fn fail_writes(&self, error: &Error) {
        self.abandoned.set(self.abandoned.get() + 1);
        if let Ok(mut engine) = self.engine.try_borrow_mut()
            && let Some(engine) = &mut *engine
        {
            engine.abandon_staged();
        }
        self.staged_loads.set(0);
        self.waits_for_room.set(false);
        self.counters.insert_wait_ms.set(0);
        for staged in self.staged.take() {
            staged.ack.settle(Err(error.clone()));
        }
        for load in self.loads.take() {
            load.fail(error);
        }
    }

    /// Takes the next writes to log: about one group, or a single larger write, with at most `puts_max` puts.
    pub(super) fn take_batch(&self, puts_max: usize) -> Vec<StagedWrite> {
        let mut staged = self.staged.borrow_mut();
        let (mut batch, mut bytes, mut puts) = (Vec::new(), 0, 0);
        while bytes < GROUP_BYTES_MAX
            && let Some(write) = staged.pop_front()
        {
            let more = write.puts();
            if more > 0 && puts + more > puts_max {
                staged.push_front(write);
                break;
            }
            puts += more;
            self.staged_loads.set(self.staged_loads.get() - usize::from(write.ack.is_load()));
            bytes += write.records.iter().map(Record::encoded_bytes).sum::<usize>();
            batch.push(write);
        }
        batch
    }
}

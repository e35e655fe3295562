//! Bulk loads: documents are staged only as fast as they can be linked, in the order of their stream, so that a load of
//! millions never makes the hot tier, which every search scans, large. With vectors on disk, they are staged only as
//! fast as snapshots write them there, too.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::core::Settings;
use super::reply::Reply;
use super::stage::{Ack, STAGED_MAX};
use super::state::Shard;
use crate::engine::{Outcome, Write};
use crate::error::{Error, Result};

/// Most loads waiting in one shard. Each holds a batch of documents.
const LOADS_MAX: usize = 64;

/// A paused load continues once 1/4 of the hot tier's bound is free: if each document were staged as soon as there is
/// room for one, each would be a log group of its own.
const ROOM_SHARE: usize = 4;

/// Documents that loads may have staged beside other writes, however little room there is: writes that do not ask for
/// room would otherwise take all of it, and a load would never continue.
const BESIDE_OTHERS: usize = 64;

/// Collects the results of one batch.
pub(super) struct LoadTicket {
    results: RefCell<Vec<Result<Outcome>>>,
    remaining: Cell<usize>,
    reply: RefCell<Option<Reply<Vec<Result<Outcome>>>>>,
}

impl LoadTicket {
    /// The write with this index is durable, or was refused.
    pub(super) fn settle(&self, index: usize, result: Result<Outcome>) {
        self.results.borrow_mut()[index] = result;
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0
            && let Some(reply) = self.reply.take()
        {
            reply.send(self.results.take());
        }
    }

    fn is_cancelled(&self) -> bool {
        self.reply.borrow().as_ref().is_none_or(Reply::is_cancelled)
    }
}

/// A batch with writes that are not staged yet.
pub(super) struct PendingLoad {
    puts: std::iter::Enumerate<std::vec::IntoIter<Write>>,
    ticket: Rc<LoadTicket>,
}

impl PendingLoad {
    /// Refuses the writes that are not staged yet.
    pub(super) fn fail(self, error: &Error) {
        for (index, _) in self.puts {
            self.ticket.settle(index, Err(error.clone()));
        }
    }
}

impl Shard {
    /// Takes a batch of puts; they are staged as room becomes free.
    pub(super) fn load(
        &self,
        puts: Vec<Write>,
        reply: Reply<Vec<Result<Outcome>>>,
        settings: &Settings,
    ) {
        let count = puts.len();
        if count == 0 {
            return reply.send(Vec::new());
        }
        let unknown = Err(Error::unavailable("the shard went away"));
        let ticket = Rc::new(LoadTicket {
            results: RefCell::new(vec![unknown; count]),
            remaining: Cell::new(count),
            reply: RefCell::new(Some(reply)),
        });
        let load = PendingLoad { puts: puts.into_iter().enumerate(), ticket };
        if self.loads.borrow().len() >= LOADS_MAX {
            return load.fail(&Error::busy(format!("{LOADS_MAX} bulk loads are waiting")));
        }
        self.loads.borrow_mut().push_back(load);
        self.pump_loads(settings);
    }

    /// Stages the writes of waiting loads that fit.
    pub(super) fn pump_loads(&self, settings: &Settings) {
        let hot_max = settings.bulk_hot_max;
        loop {
            // The bound that all writes have, well below the one at which they are refused.
            let refused_at = self.params.hot_documents_max.div_ceil(2);
            let hot_max = hot_max.min(refused_at).min(self.pace.borrow().last_bound());
            let (unlinked, is_room_short) = match &*self.engine.borrow() {
                Some(engine) => (engine.unlinked_count(), engine.is_short_of_room_for_rows()),
                None => (0, false),
            };
            let staged = self.staged.borrow().len();
            let is_log_busy = staged >= STAGED_MAX / 2;
            let loads_staged = self.staged_loads.get();
            let has_turn = loads_staged < BESIDE_OTHERS
                && staged > loads_staged
                && staged < STAGED_MAX
                && unlinked < refused_at;
            // If no snapshot will free memory, the load is refused instead of waiting.
            let waits_for_snapshot = is_room_short && self.snapshots.are_taken(settings.snapshots);
            if unlinked >= hot_max {
                self.is_load_paused.set(true);
            } else if unlinked <= hot_max - hot_max / ROOM_SHARE {
                self.is_load_paused.set(false);
            }
            let has_no_room = (self.is_load_paused.get() || is_log_busy) && !has_turn;
            let is_paused = has_no_room || waits_for_snapshot;
            if is_paused || self.is_staging_batch.get() {
                return;
            }
            let mut loads = self.loads.borrow_mut();
            let Some(load) = loads.front_mut() else {
                return;
            };
            // The rest of a load is dropped if its client is gone.
            let next = if load.ticket.is_cancelled() { None } else { load.puts.next() };
            let Some((index, write)) = next else {
                loads.pop_front();
                continue;
            };
            let ack = Ack::Load(load.ticket.clone(), index);
            drop(loads);
            self.stage(write, ack);
        }
    }
}

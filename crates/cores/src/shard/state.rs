//! State of one shard that the tasks of its core share: staged writes, waiting requests, gauges.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::breaker::{self, Breaker};
use super::event::{Event, Waiters};
use super::load::PendingLoad;
use super::pacing::Pace;
use super::recall::Sampler;
use super::reply::Reply;
use super::request::Request;
use super::rotate::Rotations;
use super::snapshot::Snapshots;
use super::spare::Spare;
use super::stage::StagedWrite;
use super::truncate::Compaction;
use crate::engine::{self, Engine};
use crate::error::{Error, Result};
use crate::observe::counters::ShardCounters;
use crate::types::{Lsn, ShardId};

/// A request that waits until the hot tier is linked.
pub(super) struct Flush {
    /// Position up to which documents have to be linked.
    pub(super) end: u64,
    /// Number of those documents.
    pub(super) count: u64,
    pub(super) reply: Reply<Result<u64>>,
}

/// A shard, as the tasks of its core share it.
pub(super) struct Shard {
    pub(super) id: ShardId,
    pub(super) counters: Arc<ShardCounters>,
    pub(super) params: engine::Params,
    /// `None` until the dimension is known.
    pub(super) engine: RefCell<Option<Engine>>,
    pub(super) staged: RefCell<VecDeque<StagedWrite>>,
    pub(super) staged_event: Event,
    /// Number of staged writes that belong to bulk loads.
    pub(super) staged_loads: Cell<usize>,
    /// Rate control of writes, and whether the commit waits for room in the hot tier; upkeep wakes it.
    pub(super) pace: RefCell<Pace>,
    pub(super) waits_for_room: Cell<bool>,
    pub(super) loads: RefCell<VecDeque<PendingLoad>>,
    /// Bulk loads wait for room in the hot tier.
    pub(super) is_load_paused: Cell<bool>,
    pub(super) flushes: RefCell<Vec<Flush>>,
    pub(super) compactions: RefCell<Vec<Compaction>>,
    /// Requests that wait for a fresh segment.
    pub(super) rotations: Rotations,
    pub(super) spare: Spare,
    pub(super) snapshots: Snapshots,
    pub(super) sampler: Sampler,
    pub(super) breaker: RefCell<Breaker>,
    /// Number of the active segment.
    pub(super) segment: Cell<u64>,
    /// The file of the active segment has been removed.
    pub(super) is_segment_gone: Cell<bool>,
    /// LSN up to which the log is durable.
    pub(super) durable: Cell<Lsn>,
    /// Number of times that groups acknowledged before their sync were written again.
    pub(super) rewrites: Cell<u64>,
    /// A task waits for a sync.
    pub(super) wants_sync: Cell<bool>,
    /// Tasks that wait for the log to be durable.
    pub(super) log_moved: Waiters,
    /// A batch delete is being staged, in slices. No other write may be staged until it is complete.
    pub(super) is_staging_batch: Cell<bool>,
    /// A task that forgets idle listings is running.
    pub(super) forgets_listings: Cell<bool>,
    /// Number of times that all staged writes were refused.
    pub(super) abandoned: Cell<u64>,
    /// Requests that wait for the batch delete to be staged.
    pub(super) deferred: RefCell<VecDeque<Request>>,
    pub(super) is_closing: Cell<bool>,
}

impl Shard {
    pub(super) fn new(
        id: ShardId,
        params: engine::Params,
        mut engine: Option<Engine>,
        counters: Arc<ShardCounters>,
        snapshots: Snapshots,
    ) -> Self {
        if let Some(engine) = &mut engine {
            engine.tell_changes(counters.changes.clone());
            let row_bytes = engine.store().vectors().row_bytes() as u64;
            snapshots.note_unlinked(engine.hot_count() as u64, row_bytes);
        }
        let owners = params.home.as_ref().map_or(1, |home| home.stripe().owners() as usize);
        let shard = Self {
            id,
            counters,
            pace: RefCell::new(Pace::new(owners, params.hot_documents_max)),
            params,
            engine: RefCell::new(engine),
            staged: RefCell::default(),
            staged_event: Event::default(),
            staged_loads: Cell::new(0),
            waits_for_room: Cell::new(false),
            loads: RefCell::default(),
            is_load_paused: Cell::new(false),
            flushes: RefCell::default(),
            compactions: RefCell::default(),
            rotations: Rotations::default(),
            spare: Spare::default(),
            snapshots,
            sampler: Sampler::default(),
            breaker: RefCell::new(Breaker::new(breaker::Params::default())),
            segment: Cell::new(0),
            is_segment_gone: Cell::new(false),
            durable: Cell::new(Lsn(0)),
            rewrites: Cell::new(0),
            wants_sync: Cell::new(false),
            log_moved: Waiters::default(),
            is_staging_batch: Cell::new(false),
            forgets_listings: Cell::new(false),
            abandoned: Cell::new(0),
            deferred: RefCell::default(),
            is_closing: Cell::new(false),
        };
        shard.publish();
        shard
    }

    /// True if other shards own parts of its graph.
    pub(super) fn shares_its_graph(&self) -> bool {
        self.params.home.is_some()
    }

    /// Sets the number of values in a vector.
    pub(super) fn set_dimension(&self, dimension: usize) {
        let mut engine = self.engine.borrow_mut();
        if engine.is_none() {
            let mut fresh = Engine::new(engine::Params { dimension, ..self.params.clone() });
            fresh.open_ledger();
            fresh.tell_changes(self.counters.changes.clone());
            *engine = Some(fresh);
        }
    }

    /// Refuses if the state in memory may be half written.
    pub(super) fn check_readable(&self) -> Result<()> {
        if self.counters.is_fenced.load(Ordering::Relaxed) {
            let what = format!("shard {} is fenced after a fault; restart the server", self.id.0);
            return Err(Error::unavailable(what));
        }
        Ok(())
    }

    /// Refuses if the log can't be written.
    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_readable()?;
        self.check_log()?;
        if self.is_closing.get() {
            return Err(Error::unavailable("the server is shutting down"));
        }
        Ok(())
    }

    /// Refuses all requests from now on: the state in memory may be half written.
    pub(super) fn fence(&self, what: &str) {
        tracing::error!(shard = self.id.0, "{what}: the shard is fenced");
        self.counters.panics.add(1);
        self.counters.is_fenced.store(true, Ordering::Relaxed);
        if let Ok(mut engine) = self.engine.try_borrow_mut()
            && let Some(engine) = &mut *engine
        {
            engine.fence();
        }
        let error = Error::Internal("internal server panic".into());
        self.fail_writes(&error);
        self.snapshots.refuse(&error);
        self.is_staging_batch.set(false);
        self.log_moved.wake();
        for request in self.deferred.take() {
            request.refuse(&error);
        }
        for flush in self.flushes.take() {
            flush.reply.send(self.check_readable().map(|()| 0));
        }
        self.end_compactions();
    }

    /// Updates the gauges.
    pub(super) fn publish(&self) {
        let Ok(engine) = self.engine.try_borrow() else {
            return;
        };
        if let Some(engine) = &*engine {
            self.counters.documents.set(engine.live_count() as u64);
            self.counters.hot_documents.set(engine.hot_count() as u64);
            self.counters.linked_nodes.set(u64::from(engine.linked_count()));
            self.counters.slots.set(u64::from(engine.store().slot_count()));
            self.counters.link_distances.set(engine.link_work().distances);
            let healing = engine.healing();
            self.counters.dead_nodes.set(engine.dead_count() as u64);
            self.counters.removed_nodes.set(healing.removed);
            self.counters.unreachable_nodes.set(healing.unreachable);
            self.counters.graph_checks.set(healing.checks);
            self.counters.stale_postings.set(engine.stale_postings());
            let indistinct = f64::from(engine.codes_indistinct().unwrap_or(0.0));
            self.counters.codes_indistinct_millionths.set((indistinct * 1e6) as u64);
            let (is_over, was_over) =
                (!engine.codes_tell_apart(), self.counters.codes_passed_over.get() > 0);
            self.counters.codes_passed_over.set(u64::from(is_over));
            if is_over && !was_over {
                tracing::warn!(
                    "8-bit codes miss {:.0} % of the nearest vectors, which are much alike: walks go by \
                     vectors, or are wider where those are on disk",
                    indistinct * 100.0
                );
            }
        }
    }
}

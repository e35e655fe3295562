//! Training of the vector cache (`cache.strategy: learned`): a task of each core, in the queue with the small share of
//! CPU time.
//!
//! The cache logs its uses. Once there are enough, or after an interval, the task takes the log, tests on a sample of
//! it which tactic would have done best, a slice at a time, and gives the cache a new model. No request waits for that:
//! without the task, or after it has crashed, the cache continues with the model that it has. Uses are kept for a
//! while, so that a restarted task learns from them too, and so does a restarted server: every core has a file of them
//! (`log_name`), which may be lost, damaged or removed at any time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use glommio::timer::Timer;

use super::cache::{Trainer, Use, decode, encode};
use crate::disk::{Disk, File, Kind, blocks};
use crate::observe::document_cache::{DocumentCache, Training as State};
use crate::shard::core::Core;
use crate::shard::direct::DirectDisk;
use crate::shard::doing::Doing;
use crate::shard::event::Event;

/// Uses that are learned between two pauses: some tens of microseconds.
const SLICE_USES: usize = 256;

/// Uses kept for a restarted task, per row of the cache; at most as many as can be written and read in some hundreds of
/// microseconds.
const HISTORY_ROWS: usize = 8;
const HISTORY_MAX: usize = super::LOG_USES_MAX;

/// Consecutive crashes without a completed cycle after which the task is not restarted.
const CRASHES_MAX: u32 = 8;

/// Pause after the first crash; doubled after each further one.
const REST: Duration = Duration::from_millis(10);

/// Bytes of the file written at once.
const PIECE_BYTES: usize = 256 << 10;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: usize = 2 << 20;

/// Parameters of the training task.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Longest time between two cycles, and between two writes of the uses.
    pub interval: Duration,
    /// Uses kept for a restarted task.
    pub history_max: usize,
    /// Uses that have to be known before a model is adopted.
    pub samples_min: usize,
}

/// State that outlives a crash of the task.
pub(super) struct Training {
    params: Option<Params>,
    /// Number of the core.
    core: usize,
    /// Enough uses are logged for a cycle.
    pub(super) is_due: Event,
    /// A restart of the task was requested.
    restart: Event,
    history: RefCell<VecDeque<Use>>,
    /// The file has been read, and its uses were given to the cache.
    is_warm: Cell<bool>,
    /// `history` has uses that are not in the file.
    is_unsaved: Cell<bool>,
}

/// Name of the file with the uses of a core.
fn log_name(core: usize) -> String {
    match core {
        0 => "access_log.bin".into(),
        core => format!("access_log.{core}.bin"),
    }
}

impl Training {
    pub(super) fn new(params: Option<Params>, core: usize) -> Self {
        Self {
            params,
            core,
            is_due: Event::default(),
            restart: Event::default(),
            history: RefCell::default(),
            is_warm: Cell::new(false),
            is_unsaved: Cell::new(false),
        }
    }

    /// True if a training task is configured.
    pub(super) fn is_on(&self) -> bool {
        self.params.is_some()
    }

    /// Keeps uses for a restarted task, the newest `history_max` of them.
    fn keep(&self, uses: &[Use], history_max: usize) {
        if uses.is_empty() {
            return;
        }
        let mut history = self.history.borrow_mut();
        let uses = &uses[uses.len().saturating_sub(history_max)..];
        let excess = (history.len() + uses.len()).saturating_sub(history_max);
        let excess = excess.min(history.len());
        history.drain(..excess);
        history.extend(uses);
        self.is_unsaved.set(true);
    }

    /// A slice of the kept uses.
    fn kept(&self, from: usize) -> Vec<Use> {
        self.history.borrow().iter().skip(from).take(SLICE_USES).copied().collect()
    }

    /// Replaces the file with the kept uses. It is not synced: a file that is damaged by a crash is detected by its
    /// checksum, and commits need the disk more.
    async fn save(&self, disk: &DirectDisk) -> crate::disk::Result<()> {
        if !self.is_unsaved.take() {
            return Ok(());
        }
        let content = encode(self.history.borrow_mut().make_contiguous());
        let (name, temporary) = (log_name(self.core), format!("{}.tmp", log_name(self.core)));
        let file = disk.begin(&temporary).await?;
        for (piece, content) in content.chunks(PIECE_BYTES).enumerate() {
            let mut buffer = disk.buffer(blocks(content.len()));
            let target = buffer.as_mut();
            target[..content.len()].copy_from_slice(content);
            target[content.len()..].fill(0);
            file.write_at(buffer, (piece * PIECE_BYTES) as u64).await?;
        }
        file.truncate(content.len() as u64).await?;
        file.close().await?;
        disk.rename(&temporary, &name).await
    }

    /// Reads the uses that an earlier server has written.
    async fn load(&self, disk: &DirectDisk, history_max: usize) {
        let name = log_name(self.core);
        match crate::disk::read_all(disk, &name, FILE_BYTES_MAX).await {
            Ok(content) => match decode(&content) {
                Some(uses) => {
                    self.keep(&uses, history_max);
                    self.is_unsaved.set(false);
                }
                None => {
                    tracing::warn!("{name} is damaged: what the cache had learned of is forgotten")
                }
            },
            Err(error) if error.kind == Kind::NotFound => {}
            Err(error) => tracing::warn!("what the cache had learned of is forgotten: {error}"),
        }
    }
}

impl Core {
    /// Restarts the task, if there is one.
    pub(in crate::shard) fn restart_training(&self) {
        self.vectors.training.restart.raise();
    }

    /// Writes the kept uses, for the next start.
    pub(in crate::shard) async fn save_access_log(&self) {
        let training = &self.vectors.training;
        if training.is_on() && training.is_warm.get() {
            let noted = self.vectors.take_log();
            training.keep(&noted, self.history_max());
            if let Err(error) = training.save(&self.disk).await {
                tracing::warn!("what the cache has learned of is not kept: {error}");
            }
        }
    }

    fn history_max(&self) -> usize {
        let of_rows = self.vectors.cache.borrow().rows_max() * HISTORY_ROWS;
        self.vectors
            .training
            .params
            .map_or(0, |params| params.history_max.min(of_rows).min(HISTORY_MAX))
    }

    /// Learns while the cache has this number of rows, for which `trainer` is made.
    async fn learn(&self, params: Params, cycles: &Cell<u64>) {
        let (vectors, counters) = (&self.vectors, &self.vectors.counters);
        let training = &vectors.training;
        let rows_max = loop {
            match vectors.cache.borrow().rows_max() {
                0 => {}
                rows_max => break rows_max,
            }
            training.is_due.wait().await;
        };
        let mut trainer = Trainer::new(rows_max);
        if !training.is_warm.get() {
            training.load(&self.disk, self.history_max()).await;
            vectors.cache.borrow_mut().warm(training.history.borrow_mut().make_contiguous());
            training.is_warm.set(true);
        }
        let (mut known, mut from) = (0, 0);
        loop {
            let uses = training.kept(from);
            if uses.is_empty() {
                break;
            }
            from += uses.len();
            known += uses.len();
            self.learn_slice(&mut trainer, &uses).await;
        }
        let mut saved = Instant::now();
        while vectors.cache.borrow().rows_max() == rows_max {
            if known >= params.samples_min {
                vectors.cache.borrow_mut().adopt(trainer.model());
            } else {
                counters.skips.add(1);
            }
            counters.cycles.add(1);
            cycles.set(cycles.get() + 1);
            if saved.elapsed() >= params.interval {
                let accuracy = vectors.cache.borrow().figures().accuracy();
                tracing::debug!(
                    core = training.core,
                    accuracy,
                    "what to keep of vectors is learned"
                );
                if let Err(error) = training.save(&self.disk).await {
                    tracing::warn!("what the cache has learned of is not kept: {error}");
                }
                saved = Instant::now();
            }
            let is_due = std::pin::pin!(training.is_due.wait());
            select(is_due, Timer::new(params.interval)).await;
            let noted = vectors.take_log();
            training.keep(&noted, self.history_max());
            for uses in noted.chunks(SLICE_USES) {
                self.learn_slice(&mut trainer, uses).await;
            }
            known = known.saturating_add(noted.len());
        }
    }

    async fn learn_slice(&self, trainer: &mut Trainer, uses: &[Use]) {
        let piece = self.heart.doing.begin(Doing::Train);
        #[cfg(any(test, feature = "testing"))]
        sabotage::strike();
        trainer.learn(uses);
        drop(piece);
        self.give_way().await;
    }
}

/// Runs the training task until the core ends, if it is configured.
pub(in crate::shard) async fn run(core: Rc<Core>) {
    let training = &core.vectors.training;
    let Some(params) = training.params else { return };
    let counters: &DocumentCache = &core.vectors.counters;
    let mut crashes = 0;
    loop {
        counters.training.set(State::Runs as u64);
        let cycles = Cell::new(0);
        let life = AssertUnwindSafe(core.learn(params, &cycles)).catch_unwind();
        let restart = std::pin::pin!(training.restart.wait());
        match select(std::pin::pin!(life), restart).await {
            // A restart was requested, or the number of rows has changed.
            Either::Right(_) | Either::Left((Ok(()), _)) => crashes = 0,
            Either::Left((Err(_), _)) => {
                counters.crashes.add(1);
                crashes = if cycles.get() > 0 { 1 } else { crashes + 1 };
                if crashes > CRASHES_MAX {
                    counters.training.set(State::GivenUp as u64);
                    tracing::error!(
                        "training crash: learning what to keep of vectors on disk has crashed {crashes} times \
                         in a row and is left alone; the cache goes on as it is; SIGHUP restarts it"
                    );
                    training.restart.wait().await;
                    crashes = 0;
                } else {
                    let rest = REST * (1 << (crashes - 1).min(16));
                    tracing::warn!(
                        "training crash: Training task crashed, attempt {crashes}/{CRASHES_MAX}: learning what \
                         to keep of vectors on disk starts again in {} ms",
                        rest.as_millis()
                    );
                    let restart = std::pin::pin!(training.restart.wait());
                    select(restart, Timer::new(rest)).await;
                }
            }
        }
        counters.restarts.add(1);
        tracing::info!(core = core.vectors.training.core, "training task restarted");
    }
}

/// Makes training panic, as a bug in it would.
#[cfg(any(test, feature = "testing"))]
pub mod sabotage {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Slices left until one panics; 0 for never.
    pub static SLICES: AtomicU64 = AtomicU64::new(0);

    pub(super) fn strike() {
        if SLICES.load(Ordering::Relaxed) > 0 && SLICES.fetch_sub(1, Ordering::Relaxed) == 1 {
            panic!("learning is sabotaged");
        }
    }
}

//! Vectors that are on disk (`storage.vectors: nvme`), for the searches of a core and for documents
//! that are read by id.
//!
//! What the core has read before comes from its cache. The rest is read in one batch: sorted by
//! file and place, neighbours in one read, the same page once. Each read is a task of its own, at most
//! 32 of them at a time, so that a commit finds the device at most so far behind; batches take
//! turns, and a read becomes a task when it is its turn. Who waits for them leaves at its deadline, and
//! takes along what has not begun: nothing piles up behind a device that stands still. Every row is
//! compared with the checksum that memory has of it. One that is not as it was written is read once more
//! by itself, from where it is by then, and is lost if that does not help: its document is left out, and
//! named in the log.

mod cache;
mod plan;
mod training;
#[cfg(test)]
mod training_tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use glommio::sync::Semaphore;

pub use self::cache::Strategy;
use self::cache::{Cache, Key, Use};
use self::plan::{Run, Wanted, runs};
pub use self::training::Params as TrainingParams;
use self::training::Training;
pub(super) use self::training::run as run_training;
use super::core::Core;
use super::event::Event;
use super::serve::GetAnswer;
use super::state::Shard;
use super::task::spawn;
use crate::disk::direct::{DirectDisk, DirectFile};
use crate::disk::{BLOCK, Disk, File};
use crate::engine::Engine;
use crate::engine::read::Search;
use crate::error::{Error, Result};
use crate::observe::document_cache::DocumentCache;
use crate::snapshot::snapshot_name;
use crate::store::places::Spot;
use crate::types::{ShardId, Slot};

/// Most reads of vectors that a core has under way.
const READS_MAX: u64 = 32;

/// Most that all cores together have, so that the queue of the device, and with it a commit, is no
/// longer where there are many cores; each may have some.
const READS_OF_ALL_MAX: u64 = 256;
const READS_MIN: u64 = 4;

/// Most documents whose vectors are lost that are named in the log, each once.
const NAMED_MAX: usize = 1_000;

/// How long documents that are read by id wait for the disk.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at whether anybody waits for what is read.
const LEFT_LOOK: Duration = Duration::from_millis(5);

/// What was asked for is learned from once it is one for so many rows of the cache, but so many at least.
const CYCLE_ROWS: usize = 4;
const CYCLE_USES_MIN: usize = 256;

/// At most so many uses wait for that.
const LOG_USES_MAX: usize = 1 << 16;

/// What a core keeps of vectors that it has read.
#[derive(Clone, Copy, Debug)]
pub struct CacheParams {
    /// Bytes of it, at most.
    pub bytes_max: usize,
    /// Which of it goes.
    pub strategy: Strategy,
    /// How it learns, if it does.
    pub training: Option<TrainingParams>,
    /// How many cores read from the same disk.
    pub cores: usize,
}

impl Default for CacheParams {
    /// Nothing is kept.
    fn default() -> Self {
        Self { bytes_max: 0, strategy: Strategy::Lru, training: None, cores: 1 }
    }
}

/// What became of a row that was wanted.
type Outcome = Option<Box<[f32]>>;

/// A file that is open, and whether it has been used of late.
struct Open {
    file: Rc<DirectFile>,
    is_used: Cell<bool>,
}

/// What a core has of vectors on disk.
pub(super) struct Vectors {
    files: RefCell<BTreeMap<(ShardId, u64), Open>>,
    cache: RefCell<Cache>,
    training: Training,
    counters: Arc<DocumentCache>,
    /// Places for reads.
    reads: Rc<Semaphore>,
    reads_max: u64,
    /// The most that were under way at a time since [`Vectors::publish`].
    reads_peak: Cell<u64>,
    named: RefCell<BTreeSet<(ShardId, Slot, u64)>>,
}

/// Rows that somebody waits for.
struct Batch {
    shard: Rc<Shard>,
    rows: RefCell<Vec<(usize, Outcome)>>,
    /// Reads that have not ended.
    left: Cell<usize>,
    has_moved: Event,
    /// Nobody waits any more.
    is_abandoned: Cell<bool>,
}

/// Tells the batch that a read has ended, however it did, or that it will not begin.
struct Ending(Rc<Batch>);

impl Ending {
    fn new(batch: &Rc<Batch>) -> Self {
        let pending = &batch.shard.counters.vectors.pending;
        pending.set(pending.get() + 1);
        batch.left.set(batch.left.get() + 1);
        Self(batch.clone())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.left.set(self.0.left.get() - 1);
        let pending = &self.0.shard.counters.vectors.pending;
        pending.set(pending.get() - 1);
        self.0.has_moved.raise();
    }
}

/// Abandons a batch if whoever waits for it goes.
struct Waiting<'a>(&'a Vectors, Rc<Batch>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.1.is_abandoned.set(true);
        // A place that was about to be taken is for the next who waits.
        self.0.reads.signal(0);
    }
}

impl Vectors {
    /// Nothing was read yet by this core.
    pub(super) fn new(params: CacheParams, core: usize, counters: Arc<DocumentCache>) -> Self {
        let training = params.training.filter(|_| params.strategy == Strategy::Learned);
        counters.bytes_max.set(params.bytes_max as u64);
        counters.learns.set(u64::from(params.strategy == Strategy::Learned));
        let reads_max = READS_OF_ALL_MAX / params.cores.max(1) as u64;
        let reads_max = reads_max.clamp(READS_MIN, READS_MAX);
        Self {
            files: RefCell::default(),
            cache: RefCell::new(Cache::new(
                params.bytes_max,
                params.strategy,
                training.map_or(0, |_| LOG_USES_MAX),
            )),
            training: Training::new(training, core),
            counters,
            reads: Rc::new(Semaphore::new(reads_max)),
            reads_max,
            reads_peak: Cell::new(0),
            named: RefCell::default(),
        }
    }

    /// Closes files that nothing was read from since the last time: snapshots may have made them
    /// dispensable, and their room is given back once nobody has them open.
    pub(super) async fn close_unused(&self) {
        let is_unused = |_: &(ShardId, u64), open: &mut Open| !open.is_used.replace(false);
        let unused: Vec<Open> =
            self.files.borrow_mut().extract_if(.., is_unused).map(|(_, open)| open).collect();
        for open in unused {
            // One that is being read is closed when that ends.
            if let Ok(file) = Rc::try_unwrap(open.file)
                && let Err(error) = file.close().await
            {
                tracing::warn!("{error}");
            }
        }
    }

    /// Says how the cache is.
    pub(super) fn publish(&self) {
        let (cache, counters) = (self.cache.borrow(), &self.counters);
        let figures = cache.figures();
        counters.reads_in_flight.set(self.reads_peak.replace(self.reads_under_way()));
        counters.rows.set(cache.len() as u64);
        counters.bytes.set(cache.bytes() as u64);
        counters.log_depth.set(cache.log_len() as u64);
        counters.log_dropped.set(cache.log_dropped());
        counters.is_trained.set(u64::from(figures.is_trained));
        counters.tracked.set(figures.tracked_keys);
        counters.hot.set(figures.hot_rows);
        counters.predictions.set(figures.predictions);
        counters.predictions_by_region.set(figures.predictions_by_region);
        counters.resolved.set(figures.resolved);
        counters.false_positives.set(figures.false_positives);
        counters.false_negatives.set(figures.false_negatives);
    }

    /// What was noted since the last time.
    fn take_log(&self) -> Vec<Use> {
        let mut noted = Vec::new();
        self.cache.borrow_mut().take_log(&mut noted);
        noted
    }

    fn reads_under_way(&self) -> u64 {
        self.reads_max - self.reads.available()
    }

    async fn file(
        &self,
        disk: &DirectDisk,
        shard: ShardId,
        number: u64,
    ) -> crate::disk::Result<Rc<DirectFile>> {
        let known = |files: &BTreeMap<(ShardId, u64), Open>| {
            let open = files.get(&(shard, number))?;
            open.is_used.set(true);
            Some(open.file.clone())
        };
        if let Some(file) = known(&self.files.borrow()) {
            return Ok(file);
        }
        let file = Rc::new(disk.open(&snapshot_name(shard, number)).await?);
        let open = Open { file: file.clone(), is_used: Cell::new(true) };
        self.files.borrow_mut().insert((shard, number), open);
        Ok(file)
    }
}

impl Shard {
    /// The shard that is this owner of the partition.
    fn of_owner(&self, owner: u32) -> ShardId {
        let own = self.params.home.as_ref().map_or(0, |home| home.stripe().owner());
        ShardId(self.id.0 - own + owner)
    }

    fn key_of(&self, engine: &Engine, slot: Slot) -> Key {
        let (_, born) = engine.version_in(slot);
        Key { shard: self.of_owner(engine.store().stripe().owner_of(slot)), slot, born }
    }
}

impl Core {
    /// Gives a search what it waits for as far as that is in memory. What is missing, by its index and
    /// slot.
    pub(super) fn give_cached(
        &self,
        shard: &Shard,
        engine: &Engine,
        search: &mut Search,
    ) -> Vec<(usize, Slot)> {
        let wanted = search.wanted().to_vec();
        let mut cache = self.vectors.cache.borrow_mut();
        let (region, mut missing, mut hits) = (search.region(), Vec::new(), 0);
        for (index, slot) in wanted.into_iter().enumerate() {
            if search.is_given(index) {
                continue;
            }
            let cached = region.and_then(|region| cache.get(shard.key_of(engine, slot), region));
            if let Some(row) = cached {
                search.give(index, row);
                hits += 1;
            } else if let Some(row) = engine.row_in_memory(slot) {
                search.give(index, &row);
            } else {
                missing.push((index, slot));
            }
        }
        shard.counters.vectors.cache_hits.add(hits);
        shard.counters.vectors.cache_misses.add(missing.len() as u64);
        if cache.log_len()
            >= CYCLE_USES_MIN.max(cache.rows_max() / CYCLE_ROWS).min(LOG_USES_MAX / 2)
        {
            self.vectors.training.is_due.raise();
        }
        missing
    }

    /// Reads vectors that are on disk, each with what its caller knows it by, until the deadline; those
    /// that are lost come as `None`, and those that there was no time for not at all. Whoever calls
    /// keeps the versions in these slots as they are, by a view. They are wanted by a search in this
    /// region of the graph ([`Search::region`]), for as long as whoever asked for it waits.
    pub(super) async fn read_vectors(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        slots: &[(usize, Slot)],
        region: Option<u32>,
        deadline: Instant,
        has_left: impl Fn() -> bool,
    ) -> Vec<(usize, Outcome)> {
        let mut rows = Vec::new();
        let runs = {
            let engine = shard.engine.borrow();
            let Some(engine) = &*engine else { return rows };
            let mut wanted = Vec::with_capacity(slots.len());
            for &(index, slot) in slots {
                match engine.spot(slot) {
                    Some(spot) => {
                        let (document, born) = engine.version_in(slot);
                        wanted.push(Wanted { index, slot, document, born, spot, region });
                    }
                    // It came to be in memory, or is nowhere.
                    None => rows.push((index, engine.row_in_memory(slot))),
                }
            }
            runs(wanted)
        };
        let batch = Rc::new(Batch {
            shard: shard.clone(),
            rows: RefCell::new(rows),
            left: Cell::new(0),
            has_moved: Event::default(),
            is_abandoned: Cell::new(false),
        });
        let _waiting = Waiting(&self.vectors, batch.clone());
        let reads = runs.into_iter().map(|run| (run, Ending::new(&batch))).collect();
        let mut read = std::pin::pin!(self.read_runs(&batch, reads));
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let pause = glommio::timer::Timer::new(patience.min(LEFT_LOOK));
            let is_read = matches!(select(read.as_mut(), pause).await, Either::Left(_));
            if is_read || has_left() || Instant::now() >= deadline {
                return batch.rows.take();
            }
        }
    }

    /// Begins reads as there are places for them, and waits for their ends. Those that have begun go on if
    /// nobody waits any more.
    async fn read_runs(self: &Rc<Self>, batch: &Batch, reads: Vec<(Run, Ending)>) {
        for (run, ending) in reads {
            // It is never closed.
            let Ok(place) = self.vectors.reads.acquire_static_permit(1).await else { return };
            let peak = &self.vectors.reads_peak;
            peak.set(peak.get().max(self.vectors.reads_under_way()));
            let core = self.clone();
            spawn(self.queues.serve, async move {
                core.read_run(&ending.0, run).await;
                drop((place, ending));
            });
        }
        while batch.left.get() > 0 {
            batch.has_moved.wait().await;
        }
    }

    /// Reads rows that lie side by side.
    async fn read_run(&self, batch: &Batch, run: Run) {
        let shard = &batch.shard;
        // Whoever waited may have left since this became a task.
        if batch.is_abandoned.get() {
            return;
        }
        let content = self.read_range(shard, run.owner, run.file, run.start, run.bytes()).await;
        for wanted in run.rows {
            let spot = wanted.spot;
            let from = (spot.offset - run.start) as usize;
            let row = content.as_ref().ok().and_then(|bytes| bytes.get(from..from + spot.bytes));
            let row = match row.filter(|row| spot.is_row(row)) {
                Some(row) => self.keep_row(shard, wanted, row),
                None if batch.is_abandoned.get() => return,
                None => self.read_again(batch, wanted).await,
            };
            batch.rows.borrow_mut().push((wanted.index, row));
        }
    }

    /// Reads one row by itself, from where it is now.
    async fn read_again(&self, batch: &Batch, wanted: Wanted) -> Outcome {
        let shard = &*batch.shard;
        let spot = shard.engine.borrow().as_ref().and_then(|engine| engine.spot(wanted.slot));
        // Where nobody waits for it any more, the slot may be another version's by now.
        let spot = spot.filter(|spot| spot.crc == wanted.spot.crc).unwrap_or(wanted.spot);
        let start = spot.offset / BLOCK as u64 * BLOCK as u64;
        let end = (spot.offset + spot.bytes as u64).next_multiple_of(BLOCK as u64);
        let bytes = (end - start) as usize;
        let content = self.read_range(shard, spot.owner, spot.file, start, bytes).await;
        let from = (spot.offset - start) as usize;
        let why = match &content {
            Ok(content) => match content.get(from..from + spot.bytes) {
                Some(row) if spot.is_row(row) => return self.keep_row(shard, wanted, row),
                Some(_) => "it is not what was written there".to_owned(),
                None => "the file ends before it".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        // Of another version, or of what is in another file by now, this says nothing.
        if !batch.is_abandoned.get() {
            self.name_lost(shard, wanted, spot, &why);
        }
        None
    }

    async fn read_range(
        &self,
        shard: &Shard,
        owner: u32,
        file: u64,
        start: u64,
        bytes: usize,
    ) -> crate::disk::Result<Vec<u8>> {
        let of = shard.of_owner(owner);
        let (begun, counters) = (Instant::now(), &shard.counters.vectors);
        let mut content = Vec::with_capacity(bytes);
        let file = self.vectors.file(&self.disk, of, file).await?;
        let read = file.read_at(start, bytes, &mut content).await;
        counters.reads.add(1);
        counters.read_bytes.add(content.len() as u64);
        self.observed.vector_reads.record(begun.elapsed());
        read.map(|()| content)
    }

    /// Keeps a row that was read, and that its checksum vouches for, in the cache; the row.
    fn keep_row(&self, shard: &Shard, wanted: Wanted, row: &[u8]) -> Outcome {
        let row: Box<[f32]> = bytemuck::pod_collect_to_vec(row).into();
        let Wanted { slot, born, spot, region, .. } = wanted;
        if let Some(region) = region {
            let mut cache = self.vectors.cache.borrow_mut();
            let before = cache.evictions;
            cache.put(Key { shard: shard.of_owner(spot.owner), slot, born }, &row, region);
            shard.counters.vectors.cache_evictions.add(cache.evictions - before);
        }
        Some(row)
    }

    /// Says once which document's vector is lost.
    fn name_lost(&self, shard: &Shard, wanted: Wanted, spot: Spot, why: &str) {
        shard.counters.vectors.lost.add(1);
        if let Some(engine) = &*shard.engine.borrow() {
            engine.note_damaged(wanted.slot);
        }
        let owner = shard.of_owner(spot.owner);
        let mut named = self.vectors.named.borrow_mut();
        if named.len() < NAMED_MAX && named.insert((owner, wanted.slot, wanted.born)) {
            tracing::error!(
                shard = owner.0,
                document = wanted.document.0,
                file = snapshot_name(owner, spot.file),
                offset = spot.offset,
                "the vector of a document can't be read, and the document is left out of answers; \
                 delete it, or store it again: {why}"
            );
        }
    }

    /// Reads the vectors of documents that came without.
    ///
    /// # Errors
    /// If one can't be read, or not in time.
    pub(super) async fn read_documents(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        mut documents: GetAnswer,
        has_left: impl Fn() -> bool,
    ) -> Result<GetAnswer> {
        let deadline = Instant::now() + READ_PATIENCE;
        let mut missing = Vec::new();
        if let Some(engine) = &*shard.engine.borrow() {
            let mut cache = self.vectors.cache.borrow_mut();
            for (index, (_, document)) in documents.iter_mut().enumerate() {
                let Some(slot) = document.on_disk else { continue };
                match cache.get(shard.key_of(engine, slot), 0) {
                    Some(row) => document.embedding = Some(row[..engine.params().dimension].into()),
                    None => missing.push((index, slot)),
                }
            }
        }
        let rows = self.read_vectors(shard, &missing, Some(0), deadline, has_left).await;
        let dimension = shard.engine.borrow().as_ref().map_or(0, |e| e.params().dimension);
        for (index, row) in rows {
            let (_, document) = &mut documents[index];
            document.embedding = row.map(|row| row[..dimension].into());
        }
        match documents.iter().any(|(_, document)| document.embedding.is_none()) {
            false => Ok(documents),
            true => Err(Error::unavailable(
                "the vector of a document can't be read from disk; the log of the server names it",
            )),
        }
    }

    /// Gives what was read to the search that waits for it; true if that is all it waits for.
    pub(super) fn give_read(
        search: &mut Search,
        missing: usize,
        rows: &[(usize, Outcome)],
    ) -> bool {
        for (index, row) in rows {
            match row {
                Some(row) => search.give(*index, row),
                None => search.lose(*index),
            }
        }
        rows.len() == missing
    }
}

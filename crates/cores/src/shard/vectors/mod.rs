//! Reads of vectors on disk (`storage.vectors: nvme`), for the searches of a core and for documents that are read by
//! id.
//!
//! Vectors that the core has read before come from its cache. The rest is read in one batch: sorted by file and offset,
//! adjacent pages in one read, each page once. Each read is a task of its own, at most 32 of them at a time, so that a
//! commit waits for at most that many reads of the device; batches take turns, and a read becomes a task when its turn
//! comes. A search gives up at its deadline and drops its reads that have not begun: no queue grows behind a device
//! that hangs. Every row is compared with its checksum in memory. A damaged row is read once more by itself, from its
//! present location, and is lost if that fails too: its document is left out, and named in the log.

mod cache;
mod plan;
pub mod training;

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
use crate::disk::{BLOCK, Disk, File};
use crate::engine::Engine;
use crate::engine::read::Search;
use crate::error::{Error, Result};
use crate::observe::document_cache::DocumentCache;
use crate::shard::direct::{DirectDisk, DirectFile};
use crate::snapshot::snapshot_name;
use crate::store::places::Spot;
use crate::types::{ShardId, Slot};

/// Most reads of vectors in flight on a core.
const READS_MAX: u64 = 32;

/// Most reads in flight on all cores together, so that the queue of the device, and with it a commit, does not grow
/// with the number of cores; each core may have at least `READS_MIN`.
const READS_OF_ALL_MAX: u64 = 256;
const READS_MIN: u64 = 4;

/// Most documents with lost vectors that are named in the log, each once.
const NAMED_MAX: usize = 1_000;

/// Longest wait of reads by id for the disk.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// Period of checking whether the caller still waits for a read.
const LEFT_LOOK: Duration = Duration::from_millis(5);

/// Training is due at one logged use per this many rows of the cache, and at `CYCLE_USES_MIN` uses at least.
const CYCLE_ROWS: usize = 4;
const CYCLE_USES_MIN: usize = 256;

/// Most uses in the log.
const LOG_USES_MAX: usize = 1 << 16;

/// Parameters of a core's cache of vectors.
#[derive(Clone, Copy, Debug)]
pub struct CacheParams {
    /// Most bytes of the cache.
    pub bytes_max: usize,
    /// Replacement policy.
    pub strategy: Strategy,
    /// Parameters of training; `None` without it.
    pub training: Option<TrainingParams>,
    /// Number of cores that read from this disk.
    pub cores: usize,
}

impl Default for CacheParams {
    /// No cache.
    fn default() -> Self {
        Self { bytes_max: 0, strategy: Strategy::Lru, training: None, cores: 1 }
    }
}

/// Row that was read; `None` if it is lost.
type Outcome = Option<Box<[f32]>>;

/// An open file, and whether it has been used since the last check.
struct Open {
    file: Rc<DirectFile>,
    is_used: Cell<bool>,
}

/// A core's access to vectors on disk.
pub(super) struct Vectors {
    files: RefCell<BTreeMap<(ShardId, u64), Open>>,
    cache: RefCell<Cache>,
    training: Training,
    counters: Arc<DocumentCache>,
    /// Permits for reads.
    reads: Rc<Semaphore>,
    reads_max: u64,
    /// Peak of reads in flight since [`Vectors::publish`].
    reads_peak: Cell<u64>,
    named: RefCell<BTreeSet<(ShardId, Slot, u64)>>,
}

/// Rows that a caller waits for.
struct Batch {
    shard: Rc<Shard>,
    rows: RefCell<Vec<(usize, Outcome)>>,
    /// Reads that have not ended.
    left: Cell<usize>,
    has_moved: Event,
    /// The caller has given up.
    is_abandoned: Cell<bool>,
}

/// Tells the batch when dropped that a read has ended, or will not begin.
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

/// Abandons a batch when its caller gives up.
struct Waiting<'a>(&'a Vectors, Rc<Batch>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.1.is_abandoned.set(true);
        // Passes the wake for a free permit on to the next waiting read.
        self.0.reads.signal(0);
    }
}

impl Vectors {
    /// An empty cache and no open files.
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

    /// Closes files without a read since the last call: snapshots may have made them dispensable, and their space is
    /// freed once they are closed.
    pub(super) async fn close_unused(&self) {
        let is_unused = |_: &(ShardId, u64), open: &mut Open| !open.is_used.replace(false);
        let unused: Vec<Open> =
            self.files.borrow_mut().extract_if(.., is_unused).map(|(_, open)| open).collect();
        for open in unused {
            // A file with a read in progress is closed when that ends.
            if let Ok(file) = Rc::try_unwrap(open.file)
                && let Err(error) = file.close().await
            {
                tracing::warn!("{error}");
            }
        }
    }

    /// Updates the gauges of the cache.
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

    /// The uses logged since the last call.
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
    /// Gives a search the vectors that it waits for and that are in memory. Returns the missing ones, by index and
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

    /// Reads vectors on disk until the deadline; each result has the caller's index. Lost vectors are returned as
    /// `None`; those without time to read are not returned. The caller holds a view, which keeps the versions in these
    /// slots. The rows are cached for a search in this region of the graph ([`Search::region`]). Reads stop once
    /// `has_left` is true.
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
                    // Its vector is in memory by now, or nowhere.
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

    /// Begins reads as permits become free, and waits for their ends. Reads in flight continue if the caller gives up.
    async fn read_runs(self: &Rc<Self>, batch: &Batch, reads: Vec<(Run, Ending)>) {
        for (run, ending) in reads {
            // The semaphore is never closed.
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

    /// Reads adjacent rows.
    async fn read_run(&self, batch: &Batch, run: Run) {
        let shard = &batch.shard;
        // The caller may have given up since this became a task.
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

    /// Reads one row by itself, from its present location.
    async fn read_again(&self, batch: &Batch, wanted: Wanted) -> Outcome {
        let shard = &*batch.shard;
        let spot = shard.engine.borrow().as_ref().and_then(|engine| engine.spot(wanted.slot));
        // If the caller has given up, the slot may hold another version by now.
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
        // An error about another version, or another file, would not mean that this row is lost.
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

    /// Caches a row that was read and whose checksum is right; returns the row.
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

    /// Logs once per document that its vector is lost.
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

    /// Gives rows that were read to the search that waits for them; true if none is missing.
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

//! Taking a shard into service: restore its state, begin a new segment.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::core::Core;
use super::doing::Doing;
use super::snapshot::{Known, Snapshots};
use super::state::Shard;
use crate::clock::unix_ms;
use crate::disk::DiskError;
use crate::engine::partition::Settling;
use crate::engine::{self, Engine, Query};
use crate::manifest::{self, LoadError, Segment};
use crate::observe::counters::ShardCounters;
use crate::recovery::{Listed, RecoverError, Recovered, recover};
use crate::snapshot::retain::Usage;
use crate::types::ShardId;
use crate::wal::reader::Left;
use crate::wal::{self, Prepared, Writer, segment_name};

/// Most documents of a shard whose placement is checked: enough to notice a changed number of shards.
const PLACED_DOCUMENTS: usize = 64;

/// Documents on which the speed of the scan is measured.
const MEASURED_DOCUMENTS: u64 = 4_096;

/// Everything that a core needs to open a shard.
pub struct Open {
    /// The shard to open.
    pub shard: ShardId,
    /// The snapshots that MANIFEST names.
    pub snapshots: Vec<manifest::Snapshot>,
    /// The segments that MANIFEST names.
    pub segments: Vec<Segment>,
    /// Parameters of its engine; a dimension of 0 is taken from the log, if that has a document.
    pub params: engine::Params,
    /// Counters and gauges of the shard.
    pub counters: Arc<ShardCounters>,
    /// Number of graphs that answer a search together.
    pub partitions: usize,
    /// Number of shards that documents are distributed over.
    pub shards: u32,
}

/// Result of reading a shard.
pub struct Opened {
    /// The shard that was read.
    pub shard: ShardId,
    /// Snapshots of the shard that are intact.
    pub snapshots: Vec<manifest::Snapshot>,
    /// Segments of the shard that have records.
    pub segments: Vec<Segment>,
    /// Files to be removed once MANIFEST does not name them.
    pub unused: Vec<String>,
    /// Data behind the end of its log, by segment file.
    pub left: Vec<(String, Left)>,
    /// Log records read.
    pub records: u64,
    /// Values in a vector; 0 if the shard never had a document.
    pub dimension: usize,
}

/// Why a data directory, or a shard in it, is not opened.
#[derive(Debug)]
pub struct Refusal {
    /// The reason, as text.
    pub what: String,
    /// The contents of the directory can't be used. If false, they may be good: the obstacle is something else, such as
    /// a full disk or a setting.
    pub is_damage: bool,
}

impl Refusal {
    /// A refusal because of unusable contents.
    pub fn damage(what: impl Into<String>) -> Self {
        Self { what: what.into(), is_damage: true }
    }

    /// A refusal for any other reason.
    pub fn other(what: impl Into<String>) -> Self {
        Self { what: what.into(), is_damage: false }
    }
}

impl From<RecoverError> for Refusal {
    fn from(error: RecoverError) -> Self {
        let is_damage = matches!(error, RecoverError::Damage(_));
        Self { what: error.to_string(), is_damage }
    }
}

/// A shard that has been read and is not in service yet.
pub(super) struct Pending {
    params: engine::Params,
    engine: Option<Engine>,
    counters: Arc<ShardCounters>,
    partitions: usize,
    known: Known,
    number: u64,
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        let is_damage = matches!(error, LoadError::Damaged(_));
        Self { what: error.to_string(), is_damage }
    }
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        Self::other(error.to_string())
    }
}

/// Reads a shard without changing the directory: other shards may be damaged.
pub(super) async fn read(core: &Rc<Core>, open: Open) -> Result<Opened, Refusal> {
    let Open { shard: id, snapshots, segments, params, counters, partitions, shards } = open;
    let disk = core.disk.clone();
    let listed = Listed { shard: id, snapshots: &snapshots, segments: &segments };
    let counted = counters.clone();
    let recovered =
        recover(&*disk, listed, params.clone(), || counted.replayed_records.add(1)).await?;
    let Recovered { mut engine, log, snapshots, extents, damaged, unused, next_snapshot } =
        recovered;
    if let Some(engine) = &mut engine {
        check_places(engine, id, shards)?;
        counters.scan_ns.set(measure_scan(engine));
    }
    for why in &damaged {
        tracing::error!(
            shard = id.0,
            "a snapshot can't be used; what is older, or the log alone, was: {why}"
        );
        counters.damaged_snapshots.add(1);
    }
    counters.fallback_recoveries.add(u64::from(!damaged.is_empty()));
    tell_of_log(id, &log, &counters);
    let number = log.next_number;
    let file = segment_name(id, number);
    // A file of the new segment's name may be left from a start that failed.
    let unused = log.unused.into_iter().chain(unused).filter(|name| *name != file).collect();
    let (segments, position) = (log.segments, log.position);
    let opened = Opened {
        shard: id,
        snapshots: snapshots.clone(),
        segments: segments.clone(),
        unused,
        left: log.left,
        records: log.records,
        dimension: engine.as_ref().map_or(0, |engine| engine.params().dimension),
    };
    let usage = Usage::of(&*core.disk, &extents).await;
    let known = Known { snapshots, extents, usage, next_snapshot, segments, position, epoch: 0 };
    let pending = Pending { params, engine, counters, partitions, known, number };
    core.pending.borrow_mut().insert(id, pending);
    Ok(opened)
}

/// Reports an unexpected end of the log: an error if changes are known to be missing, or whole groups lie behind a bad
/// one; else a warning.
fn tell_of_log(shard: ShardId, log: &wal::recover::Recovered, counters: &ShardCounters) {
    let shard = shard.0;
    for torn in &log.torn {
        tracing::warn!(shard, "the last write of the log was cut off: {torn}");
    }
    for warning in &log.warnings {
        tracing::warn!(shard, "the log is not what it was when it was left: {warning}");
    }
    for loss in &log.losses {
        tracing::error!(shard, "acknowledged changes may be missing at the end of the log: {loss}");
    }
    counters.torn_writes.add((log.torn.len() + log.warnings.len() + log.losses.len()) as u64);
}

/// Refuses a shard whose documents, in a sample, belong to other shards. If MANIFEST has another number of shards than
/// the documents were distributed over, hardly one belongs here, and the others would not be found.
fn check_places(engine: &Engine, shard: ShardId, shards: u32) -> Result<(), Refusal> {
    let store = engine.store();
    let live = store.slots().filter(|&slot| store.is_live(slot)).take(PLACED_DOCUMENTS);
    let mut placed = live.map(|slot| store.doc_id(slot));
    match placed.find(|id| id.shard(shards) != shard) {
        None => Ok(()),
        Some(id) => Err(Refusal::damage(format!(
            "document {} is in shard {} and belongs to shard {}: the documents were not placed on \
             the {shards} shards that MANIFEST has",
            id.0,
            shard.0,
            id.shard(shards).0
        ))),
    }
}

/// Takes a shard that has been read into service: its log continues in a new segment of the generation `epoch`, which
/// MANIFEST already contains and no log uses yet. The caller adds the segment to MANIFEST.
pub(super) async fn begin(core: &Rc<Core>, id: ShardId, epoch: u64) -> Result<Segment, Refusal> {
    let Some(pending) = core.pending.borrow_mut().remove(&id) else {
        return Err(Refusal::other(format!("shard {} has not been read", id.0)));
    };
    let Pending { params, engine, counters, partitions, known, number } = pending;
    let (disk, position) = (core.disk.clone(), known.position);
    let bytes = core.settings.segment_bytes;
    let prepared = Prepared::create(&*disk, id, number, bytes).await?;
    let writer = Writer::begin(disk, id, epoch, prepared, position, unix_ms()).await?;
    let snapshots = Snapshots::new(Known { epoch, ..known });
    core.adopt(Rc::new(Shard::new(id, params, engine, counters, snapshots)), writer, partitions);
    Ok(Segment { shard: id.0, number, file: segment_name(id, number), sealed: None })
}

impl Shard {
    /// Drops links of the restored graph that lead to slots which other shards of the partition did not restore.
    pub(super) async fn fit_graph(&self, core: &Core) {
        let mut settling = Settling::default();
        loop {
            let piece = core.heart.doing.begin(Doing::Open);
            let is_done = match &mut *self.engine.borrow_mut() {
                Some(engine) => engine.settle(&mut settling),
                None => true,
            };
            drop(piece);
            if is_done {
                break;
            }
            glommio::executor().yield_if_needed().await;
        }
        if settling.dropped > 0 {
            tracing::info!(
                shard = self.id.0,
                links = settling.dropped,
                "links to nodes of other shards that are not there any more were dropped"
            );
        }
        self.publish();
    }
}

/// Measured time to scan one document, in nanoseconds; 0 if there are none.
fn measure_scan(engine: &mut Engine) -> u64 {
    let mut vector = vec![0.0; engine.params().dimension];
    vector[0] = 1.0;
    let (k, ef, filter) = (10, 10, None);
    let query =
        Query { vector, k, ef, min_score: 0.0, filter, include_embeddings: false, is_exact: true };
    let begun = Instant::now();
    let Ok(mut search) = engine.begin_scan(Arc::new(query)) else {
        unreachable!("the vector has the engine's dimension");
    };
    while search.considered() < MEASURED_DOCUMENTS && !search.step(engine) {}
    let considered = search.considered().max(1);
    engine.abandon_search(search);
    begun.elapsed().as_nanos() as u64 / considered
}

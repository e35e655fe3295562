//! Taking a shard into service: bring its state back, begin a new segment.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::core::{Core, Shard};
use super::doing::Doing;
use super::snapshot::{Known, Snapshots};
use crate::clock::unix_ms;
use crate::disk::DiskError;
use crate::engine::partition::Settling;
use crate::engine::recover::{Listed, RecoverError, Recovered, recover};
use crate::engine::{self, Engine, Query};
use crate::manifest::{self, LoadError, Segment};
use crate::observe::counters::ShardCounters;
use crate::types::ShardId;
use crate::wal::{Prepared, Writer, segment_name};

/// Documents that the scan is measured on.
const MEASURED_DOCUMENTS: u64 = 4_096;

/// What a core needs to open a shard.
pub struct Open {
    /// Which shard.
    pub shard: ShardId,
    /// The snapshots that MANIFEST names.
    pub snapshots: Vec<manifest::Snapshot>,
    /// The segments that MANIFEST names.
    pub segments: Vec<Segment>,
    /// What shapes it; a dimension of 0 is taken from the log, if that knows one.
    pub params: engine::Params,
    /// The generation of its writer.
    pub epoch: u64,
    /// Where it is to be seen.
    pub counters: Arc<ShardCounters>,
    /// Graphs that answer a search together.
    pub partitions: usize,
}

/// What opening came to.
pub struct Opened {
    /// Which shard.
    pub shard: ShardId,
    /// Its snapshots: those that are good.
    pub snapshots: Vec<manifest::Snapshot>,
    /// Its segments: those with records, and the one to be written.
    pub segments: Vec<Segment>,
    /// Files to be removed once MANIFEST does not name them.
    pub unused: Vec<String>,
    /// Writes that were cut off by the end of the last process.
    pub torn: Vec<String>,
    /// Records read.
    pub records: u64,
    /// Values in a vector; 0 if there has been none.
    pub dimension: usize,
}

/// Why a data directory, or a shard in it, is not opened.
#[derive(Debug)]
pub struct Refusal {
    /// In words.
    pub what: String,
    /// What is in the directory can't be used. Otherwise it may be good: something else is in
    /// the way, such as a full disk, or what was asked for.
    pub is_damage: bool,
}

impl Refusal {
    /// What is in the directory can't be used.
    pub fn damage(what: impl Into<String>) -> Self {
        Self { what: what.into(), is_damage: true }
    }

    /// Something else is in the way.
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

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        let is_damage = !matches!(error, LoadError::Disk(_));
        Self { what: error.to_string(), is_damage }
    }
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        Self::other(error.to_string())
    }
}

/// Opens a shard on this core.
pub(super) async fn open(core: &Rc<Core>, open: Open) -> Result<Opened, Refusal> {
    let Open { shard: id, snapshots, segments, params, epoch, counters, partitions } = open;
    let disk = core.disk.clone();
    let listed = Listed { shard: id, snapshots: &snapshots, segments: &segments };
    let counted = counters.clone();
    let recovered =
        recover(&*disk, listed, params.clone(), || counted.replayed_records.add(1)).await?;
    let Recovered { mut engine, log, snapshots, extents, damaged, unused, next_snapshot } =
        recovered;
    if let Some(engine) = &mut engine {
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
    for torn in &log.torn {
        tracing::warn!(shard = id.0, "the last write of the log was cut off: {torn}");
        counters.torn_writes.add(1);
    }
    let number = log.next_number;
    let bytes = core.settings.segment_bytes;
    let prepared = Prepared::create(&*disk, id, number, bytes).await?;
    let position = log.position;
    let writer = Writer::begin(disk, id, epoch, prepared, position, unix_ms()).await?;
    let mut segments = log.segments;
    let file = segment_name(id, number);
    // A file of that name may have been left by a start that got no further.
    let unused = log.unused.into_iter().chain(unused).filter(|name| *name != file).collect();
    let known =
        Known { snapshots, extents, next_snapshot, segments: segments.clone(), position, epoch };
    segments.push(Segment { shard: id.0, number, file, sealed: None });
    let dimension = engine.as_ref().map_or(0, |engine| engine.params().dimension);
    let snapshots = known.snapshots.clone();
    let shard = Rc::new(Shard::new(id, params, engine, counters, Snapshots::new(known)));
    core.adopt(shard, writer, partitions);
    Ok(Opened {
        shard: id,
        snapshots,
        segments,
        unused,
        torn: log.torn,
        records: log.records,
        dimension,
    })
}

impl Shard {
    /// Fits what was restored of the graph to what was of the parts that other shards own.
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

/// Nanoseconds that looking at one document takes; 0 if there are none.
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

//! Salvage of one shard, from all data left in its files.
//!
//! Sources, each as far as it is whole: the newest snapshot that can be restored, with its graph; the log after it,
//! over every gap; and for gaps in the log, the documents of newer snapshots that can't be restored as they are. A
//! version that can't be read is left out, and so are older versions of the document: better none than a wrong one.

use super::Loss;
use super::pieces::{Merged, Pieces};
use crate::disk::{Disk, DiskError};
use crate::engine::{Engine, Params};
use crate::graph::check::check;
use crate::manifest::{Manifest, Snapshot};
use crate::recovery::{RecoverError, restore};
use crate::types::record::Record;
use crate::types::{Lsn, ShardId};
use crate::verify::{Fault, Report, read_log};
use crate::wal::parse_segment_name;

/// A salvaged shard.
pub(super) struct Salvaged {
    /// State of the shard; `None` if there is no document, nor anything that tells the dimension.
    pub(super) engine: Option<Engine>,
    /// LSN after the last record known of.
    pub(super) next_lsn: Lsn,
    /// File of the snapshot with which it was begun.
    pub(super) base: Option<String>,
    /// Number of records of the log applied after it.
    pub(super) records: u64,
    pub(super) loss: Loss,
}

/// Salvages `shard`. `snapshots` are those of this shard, oldest first. With a dimension of 0 in `params`, the first
/// document sets it.
///
/// # Errors
/// If the directory can't be listed.
pub(super) async fn salvage<D: Disk>(
    disk: &D,
    manifest: Option<&Manifest>,
    shard: ShardId,
    snapshots: &[Snapshot],
    params: Params,
) -> Result<Salvaged, DiskError> {
    let mut replay = Replay::new(shard, manifest.map(|manifest| manifest.shards), params.clone());
    let mut base = None;
    let mut damaged = snapshots.len();
    while damaged > 0 {
        damaged -= 1;
        let snapshot = &snapshots[damaged];
        if let Some(engine) = restore_whole(disk, shard, snapshot, &params).await? {
            replay.begin(engine);
            base = Some(snapshot.file.clone());
            damaged += 1;
            break;
        }
    }
    let mut known_to = Lsn(1);
    for snapshot in &snapshots[damaged..] {
        let pieces = Pieces::open(disk, shard, snapshot.number).await;
        let Ok(pieces) = pieces.map_err(|why| replay.loss.note(why.to_string())) else {
            known_to = known_to.max(Lsn(snapshot.next_lsn));
            continue;
        };
        replay.until = Some(pieces.next_lsn);
        read_log(disk, manifest, shard, &mut |lsn, record| replay.take(lsn, record)).await?;
        replay.skip_to(pieces.next_lsn);
        // With a whole log, there is nothing to take from it.
        if replay.has_gap() {
            replay.merge(&pieces, &params, &snapshot.file).await;
            base = Some(snapshot.file.clone());
        }
    }
    replay.until = None;
    let report =
        read_log(disk, manifest, shard, &mut |lsn, record| replay.take(lsn, record)).await?;
    let sealed = manifest.iter().flat_map(|manifest| &manifest.segments);
    let sealed = sealed.filter(|segment| segment.shard == shard.0).filter_map(|s| s.sealed);
    let ends = sealed.map(|sealed| sealed.last_lsn + 1);
    let ends = ends.chain(snapshots.last().map(|snapshot| snapshot.next_lsn));
    known_to = ends.map(Lsn).fold(known_to, Lsn::max);
    replay.finish(known_to, &report);
    let Replay { engine, next_lsn, records, loss, .. } = replay;
    Ok(Salvaged { engine, next_lsn, base, records, loss })
}

/// A snapshot with its graph, if all of it is sound.
async fn restore_whole<D: Disk>(
    disk: &D,
    shard: ShardId,
    snapshot: &Snapshot,
    params: &Params,
) -> Result<Option<Engine>, DiskError> {
    let restored = restore(disk, shard, snapshot, params.clone()).await;
    match restored {
        Ok((engine, _)) => {
            let checked = check(engine.graph(), engine.store().slot_count());
            let is_sound = checked.is_ok_and(|report| report.unreachable.is_empty());
            Ok(Some(engine).filter(|_| is_sound))
        }
        // A sector that can't be read is damage like any other.
        Err(RecoverError::Damage(_) | RecoverError::Disk(_) | RecoverError::Newer(_)) => Ok(None),
    }
}

/// State of a salvage on its way through the log.
struct Replay {
    shard: ShardId,
    shards: Option<u32>,
    params: Params,
    engine: Option<Engine>,
    next_lsn: Lsn,
    /// Exclusive upper bound of the LSNs that are taken.
    until: Option<Lsn>,
    /// Gaps since the base, or since the last snapshot that made up for them.
    gaps: Vec<(u64, u64)>,
    records: u64,
    loss: Loss,
}

impl Replay {
    fn new(shard: ShardId, shards: Option<u32>, params: Params) -> Self {
        let loss = Loss::default();
        let (engine, next_lsn, until, gaps) = (None, Lsn(1), None, Vec::new());
        Self { shard, shards, params, engine, next_lsn, until, gaps, records: 0, loss }
    }

    fn begin(&mut self, engine: Engine) {
        self.next_lsn = engine.applied().next();
        self.params.dimension = engine.params().dimension;
        self.engine = Some(engine);
    }

    fn has_gap(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Continues at `next`; the LSNs between are a gap.
    fn skip_to(&mut self, next: Lsn) {
        if next > self.next_lsn {
            self.gaps.push((self.next_lsn.0, next.0 - 1));
            self.next_lsn = next;
            if let Some(engine) = &mut self.engine {
                engine.skip_to(next);
            }
        }
    }

    /// Takes the next record; a record that comes twice, as from a file that was copied, counts once.
    fn take(&mut self, lsn: Lsn, record: Record) {
        if lsn < self.next_lsn || self.until.is_some_and(|until| lsn >= until) {
            return;
        }
        self.skip_to(lsn);
        self.next_lsn = lsn.next();
        self.loss.forget(&record);
        if let Record::Put { vector, .. } = &record
            && self.params.dimension == 0
        {
            self.params.dimension = vector.len();
        }
        if self.params.dimension > 0 && self.engine.is_none() {
            let mut engine = Engine::new(self.params.clone());
            engine.skip_to(lsn);
            self.engine = Some(engine);
        }
        // Before the first document there is nothing that a record could change.
        let Some(engine) = &mut self.engine else { return };
        if fits(&record, self.shard, self.shards, self.params.dimension) {
            self.records += 1;
            engine.apply_all(lsn, record);
        } else {
            engine.skip_to(lsn.next());
            let what = format!("the record with LSN {} is of another collection or shard", lsn.0);
            self.loss.note(what);
        }
    }

    /// Takes the documents of a damaged snapshot.
    async fn merge<D: Disk>(&mut self, pieces: &Pieces<'_, D>, params: &Params, file: &str) {
        let shape = pieces.shape;
        let (asked, found) = (self.params.dimension, shape.dimension as usize);
        if shape.metric != params.metric || asked != 0 && asked != found || found == 0 {
            return self.loss.note(format!("{file} is of another collection"));
        }
        self.params.dimension = found;
        let params = self.params.clone();
        let engine = self.engine.get_or_insert_with(|| Engine::new(params));
        engine.skip_to(pieces.next_lsn.max(engine.applied().next()));
        let Merged { lost, unknown } = pieces.merge(engine).await;
        self.loss.documents.extend(lost);
        if unknown == 0 {
            self.gaps.clear();
        } else {
            let live = shape.live;
            let what = format!("{file}: which documents were in {unknown} slots, of {live} in all");
            self.loss.lose(what);
        }
    }

    /// Ends the log. The shard is known to have reached `known_to`.
    fn finish(&mut self, known_to: Lsn, report: &Report) {
        let faults = &report.faults;
        let end = faults.iter().filter_map(|fault| fault.lost).map(|(_, last)| last);
        // Records that were read and not taken, since they are of another log, should be there.
        let is_gap = |file: &str| faults.iter().any(|fault| fault.is_gap && fault.file == file);
        let of_log = report.segments.iter().filter(|row| !is_gap(&row.file));
        let end = end.chain(of_log.filter_map(|row| row.last_lsn)).map(|last| Lsn(last).next());
        self.skip_to(end.fold(known_to, Lsn::max));
        self.loss.lsns.append(&mut self.gaps);
        // Damage behind which the end of the log is unknown.
        let is_followed = |fault: &Fault| {
            let of = |file: &str| parse_segment_name(file).map_or(0, |(_, number)| number);
            let number = of(&fault.file);
            report.segments.iter().any(|row| row.number > number && row.epoch.is_some())
        };
        let is_open = |fault: &&Fault| fault.is_gap && fault.lost.is_none() && !is_followed(fault);
        let open: Vec<String> = faults.iter().filter(is_open).map(ToString::to_string).collect();
        open.into_iter().for_each(|what| self.loss.lose(what));
        if let Some(engine) = &mut self.engine {
            engine.finish_replay();
        }
    }
}

/// True if a record belongs to this shard.
fn fits(record: &Record, shard: ShardId, shards: Option<u32>, dimension: usize) -> bool {
    let is_here = |id: &crate::types::DocId| shards.is_none_or(|shards| id.shard(shards) == shard);
    match record {
        Record::Put { id, vector, .. } => vector.len() == dimension && is_here(id),
        Record::Delete { id } | Record::SetPayload { id, .. } => is_here(id),
        Record::DeleteBatch { ids, .. } => ids.iter().all(is_here),
    }
}

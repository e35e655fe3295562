//! A machine: what a server does with its directory, without an executor.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Known, Report};
use crate::disk::sim::{SimDisk, run};
use crate::disk::{BLOCK, Disk, File};
use crate::engine::checkpoint::Checkpoint;
use crate::engine::recover::{Listed, recover};
use crate::engine::tests::{Model, Pair, Random, engine};
use crate::engine::{Engine, Params};
use crate::graph::check::check;
use crate::manifest::{MANIFEST_VERSION, Manifest, Segment, Snapshot};
use crate::snapshot::retain::{self, Retained};
use crate::snapshot::writer::{Identity, Writer as SnapshotWriter};
use crate::snapshot::{Extent, snapshot_name};
use crate::types::{DocId, ShardId};
use crate::wal::{Prepared, Writer, segment_name};

pub(super) const SHARDS: u32 = 2;

/// Ids of documents.
const IDS: u64 = 120;

/// Short segments are left often.
const SEGMENT_BYTES: u64 = 24 * BLOCK as u64;

/// The disk failed: the machine stops.
pub(super) struct Halt;

impl From<crate::disk::DiskError> for Halt {
    fn from(_: crate::disk::DiskError) -> Self {
        Self
    }
}

/// A snapshot on its way.
struct Running {
    checkpoint: Checkpoint,
    writer: SnapshotWriter<crate::disk::sim::SimFile>,
    identity: Identity,
}

struct Node {
    id: ShardId,
    pair: Pair,
    log: Writer<SimDisk>,
    snapshots: Vec<Snapshot>,
    extents: Vec<Extent>,
    next_snapshot: u64,
    running: Option<Running>,
    known: Known,
}

/// A machine that is up.
pub(super) struct Machine {
    disk: Rc<SimDisk>,
    manifest: Manifest,
    nodes: Vec<Node>,
}

fn params() -> Params {
    engine().params().clone()
}

/// True if the engine holds exactly these documents.
fn holds(engine: &Engine, model: &Model) -> bool {
    let found = |id| engine.get(id, "", true).map(|d| (d.embedding.unwrap(), d.payload));
    engine.live_count() == model.0.len()
        && (1..=IDS).map(DocId).all(|id| found(id).as_ref() == model.0.get(&id))
}

impl Machine {
    /// Starts on what is there. Finds what was acknowledged, and what was under way or not.
    ///
    /// Errors say why the directory is refused, or that the disk failed.
    pub(super) fn boot(disk: &Rc<SimDisk>, known: &[Known]) -> Result<Self, String> {
        let manifest = run(Manifest::load(&**disk)).map_err(|error| error.to_string())?;
        let mut manifest = match manifest {
            Some(manifest) => manifest,
            None => {
                let names = run(disk.list()).map_err(|error| error.to_string())?;
                if names.iter().any(|n| n.starts_with("wal_") || n.starts_with("snapshot_")) {
                    return Err("there is no MANIFEST".into());
                }
                fresh()
            }
        };
        manifest.epoch += (1 << 40) + 1;
        run(manifest.publish(&**disk)).map_err(|error| error.to_string())?;
        let before = std::mem::take(&mut manifest.segments);
        let snapshots = std::mem::take(&mut manifest.snapshots);
        let (mut nodes, mut unused, mut cut) = (Vec::new(), Vec::new(), Vec::new());
        for (id, known) in (0..SHARDS).map(ShardId).zip(known) {
            let listed = Listed { shard: id, snapshots: &snapshots, segments: &before };
            let opened = Node::open(disk, listed, manifest.epoch, known)?;
            let (node, segments, not_used) = opened;
            let was_open =
                |s: &&Segment| before.iter().any(|b| b.file == s.file && b.sealed.is_none());
            cut.extend(
                segments.iter().filter(was_open).filter_map(|s| Some((s.file.clone(), s.sealed?))),
            );
            manifest.segments.extend(segments);
            manifest.snapshots.extend(node.snapshots.clone());
            unused.extend(not_used);
            nodes.push(node);
        }
        run(manifest.publish(&**disk)).map_err(|error| error.to_string())?;
        let tidied = run(async {
            for name in unused {
                disk.remove(&name).await?;
            }
            for (name, sealed) in cut {
                let file = disk.open(&name).await?;
                file.truncate(sealed.end_bytes).await?;
                file.close().await?;
            }
            Ok::<_, crate::disk::DiskError>(())
        });
        tidied.map_err(|error| error.to_string())?;
        Ok(Self { disk: disk.clone(), manifest, nodes })
    }

    pub(super) fn known(&self) -> Vec<Known> {
        self.nodes.iter().map(|node| node.known.clone()).collect()
    }

    pub(super) fn documents(&self) -> u64 {
        self.nodes.iter().map(|node| node.pair.engine.live_count() as u64).sum()
    }

    /// Does one thing, as `random` has it.
    pub(super) fn step(&mut self, random: &mut Random, report: &mut Report) -> Result<(), Halt> {
        let shard = random.below(u64::from(SHARDS)) as usize;
        let what = random.below(20);
        report.note(what << 8 | shard as u64);
        match what {
            0..10 => {
                report.writes += 1;
                self.write(shard, 1 + random.below(4))
            }
            10..13 => {
                self.nodes[shard].pair.link(random.below(60) as usize);
                Ok(())
            }
            13 => Ok(run(self.nodes[shard].log.seal(0))?),
            14 => self.rotate(shard),
            _ => {
                report.snapshots += u64::from(self.snapshot(shard, 1 + random.below(6))?);
                Ok(())
            }
        }
    }

    /// Some changes in one group, acknowledged when it is durable.
    fn write(&mut self, shard: usize, count: u64) -> Result<(), Halt> {
        let node = &mut self.nodes[shard];
        (0..count).for_each(|_| node.pair.random_write(IDS));
        let records: Vec<_> = std::mem::take(&mut node.pair.records).into();
        node.known.under_way = Some(node.pair.model.clone());
        if !node.log.fits(&records) {
            self.rotate(shard)?;
        }
        let node = &mut self.nodes[shard];
        run(node.log.append(&records, 0, true))?;
        node.known = Known { acknowledged: node.pair.model.clone(), under_way: None };
        Ok(())
    }

    fn rotate(&mut self, shard: usize) -> Result<(), Halt> {
        let disk = self.disk.clone();
        let node = &mut self.nodes[shard];
        let (id, number) = (node.id, node.log.next_number());
        let prepared = run(Prepared::create(&*disk, id, number, SEGMENT_BYTES))?;
        let file = segment_name(id, number);
        self.manifest.segments.push(Segment { shard: id.0, number, file, sealed: None });
        run(self.manifest.publish(&*disk))?;
        let (number, sealed) = run(node.log.rotate(prepared, 0))?;
        let is_it = |s: &&mut Segment| (s.shard, s.number) == (id.0, number);
        let former = self.manifest.segments.iter_mut().find(is_it);
        former.expect("it was named before it was written").sealed = Some(sealed);
        Ok(run(self.manifest.publish(&*disk))?)
    }

    /// Begins a snapshot or goes on with it for so many pieces; true if it is done.
    fn snapshot(&mut self, shard: usize, pieces: u64) -> Result<bool, Halt> {
        let disk = self.disk.clone();
        let node = &mut self.nodes[shard];
        if node.running.is_none() && !node.begin_snapshot(&disk, self.manifest.epoch)? {
            return Ok(false);
        }
        let running = node.running.as_mut().expect("it has begun");
        for _ in 0..pieces {
            match running.checkpoint.next(&node.pair.engine) {
                Some(piece) => {
                    let put = running.writer.put(&*disk, piece.part, piece.block, &piece.bytes);
                    run(put)?;
                }
                None => return self.finish_snapshot(shard).map(|()| true),
            }
        }
        Ok(false)
    }

    fn finish_snapshot(&mut self, shard: usize) -> Result<(), Halt> {
        let disk = self.disk.clone();
        let node = &mut self.nodes[shard];
        let Running { checkpoint, writer, identity } = node.running.take().expect("it has begun");
        let (shape, carried) = (checkpoint.shape(), checkpoint.carried());
        let written = run(writer.finish(&*disk, shape, carried)).map_err(|_| Halt)?;
        let snapshot = Snapshot {
            shard: node.id.0,
            number: identity.number,
            file: snapshot_name(node.id, identity.number),
            next_lsn: identity.position.next_lsn.0,
            chain: identity.position.chain,
            file_bytes: written.file_bytes,
            files: retain::files(&written.extents, identity.number),
        };
        let ours = |s: &&Segment| s.shard == node.id.0;
        let sealed = self.manifest.segments.iter().filter(ours);
        let sealed: BTreeMap<_, _> = sealed.filter_map(|s| Some((s.number, s.sealed?))).collect();
        let retained = retain::retain(node.snapshots.clone(), snapshot, &sealed);
        let Retained { live, segments, files, .. } = retained;
        let id = node.id;
        self.manifest.snapshots.retain(|s| s.shard != id.0);
        self.manifest.snapshots.extend(live.clone());
        self.manifest.segments.retain(|s| s.shard != id.0 || !segments.contains(&s.number));
        run(self.manifest.publish(&*disk))?;
        node.snapshots = live;
        node.extents = written.extents;
        node.pair.engine.end_checkpoint(checkpoint);
        let files = files.into_iter().map(|number| snapshot_name(id, number));
        let segments = segments.into_iter().map(|number| segment_name(id, number));
        for name in files.chain(segments) {
            run(disk.remove(&name))?;
        }
        Ok(())
    }

    /// Brings all logs to rest.
    pub(super) fn seal(&mut self) -> Result<(), Halt> {
        for node in &mut self.nodes {
            run(node.log.seal(0))?;
        }
        Ok(())
    }
}

impl Node {
    /// Brings a shard back; its segments, and files that nothing needs.
    fn open(
        disk: &Rc<SimDisk>,
        listed: Listed<'_>,
        epoch: u64,
        known: &Known,
    ) -> Result<(Self, Vec<Segment>, Vec<String>), String> {
        let id = listed.shard;
        let recovered = run(recover(&**disk, listed, params(), || {}));
        let recovered = recovered.map_err(|why| why.to_string())?;
        let engine = recovered.engine.expect("the dimension is known");
        let found = [Some(&known.acknowledged), known.under_way.as_ref()];
        let found = found.into_iter().flatten().find(|model| holds(&engine, model));
        let Some(model) = found.cloned() else {
            panic!(
                "shard {} has {} documents; {} were acknowledged, {:?} under way",
                id.0,
                engine.live_count(),
                known.acknowledged.0.len(),
                known.under_way.as_ref().map(|model| model.0.len())
            );
        };
        check(engine.graph(), engine.store().slot_count()).expect("a sound graph");
        let number = recovered.log.next_number;
        let position = recovered.log.position;
        let log = run(async {
            let prepared = Prepared::create(&**disk, id, number, SEGMENT_BYTES).await?;
            Writer::begin(disk.clone(), id, epoch, prepared, position, 0).await
        });
        let log = log.map_err(|error| error.to_string())?;
        let mut segments = recovered.log.segments;
        let file = segment_name(id, number);
        let unused = recovered.log.unused.into_iter().chain(recovered.unused);
        let unused = unused.filter(|name| *name != file).collect();
        segments.push(Segment { shard: id.0, number, file, sealed: None });
        let seed = epoch ^ u64::from(id.0) << 20;
        let known = Known { acknowledged: model.clone(), under_way: None };
        let home = (id, SHARDS);
        let pair = Pair { engine, model, random: Random(seed), records: [].into(), home };
        let node = Self {
            id,
            pair,
            log,
            snapshots: recovered.snapshots,
            extents: recovered.extents,
            next_snapshot: recovered.next_snapshot,
            running: None,
            known,
        };
        Ok((node, segments, unused))
    }

    /// False if this is not the moment.
    fn begin_snapshot(&mut self, disk: &Rc<SimDisk>, epoch: u64) -> Result<bool, Halt> {
        if !self.pair.engine.may_checkpoint() {
            return Ok(false);
        }
        let worn = retain::worn_files(&self.extents);
        let stays = |extent: &Extent| !worn.contains(&extent.file);
        let checkpoint = self.pair.engine.begin_checkpoint(&self.extents, stays);
        let position = self.log.position();
        assert_eq!(position.next_lsn, self.pair.engine.applied().next());
        let number = self.next_snapshot;
        self.next_snapshot += 1;
        let identity = Identity { shard: self.id, number, epoch, position, unix_ms: 0 };
        let writer = run(SnapshotWriter::begin(&**disk, identity))?;
        self.running = Some(Running { checkpoint, writer, identity });
        Ok(true)
    }
}

fn fresh() -> Manifest {
    let params = params();
    Manifest {
        version: MANIFEST_VERSION,
        shards: SHARDS,
        dimension: params.dimension as u32,
        distance: params.metric.word().into(),
        epoch: 7 << 40,
        snapshots: Vec::new(),
        segments: Vec::new(),
    }
}

//! A machine: the work of a server on its directory, without an executor. Its start is here, its work after that in
//! [`super::work`].

use std::rc::Rc;
use std::sync::Arc;

use super::change::ids;
use super::clock::Clock;
use super::{Known, order, vectors};
use crate::disk::sim::{SimDisk, SimFile, run};
use crate::disk::{BLOCK, Disk, DiskError, File};
use crate::engine::checkpoint::Checkpoint;
use crate::engine::partition::{Home, Joint, Settling};
use crate::engine::testing::on_disk;
use crate::engine::testing::{Model, Random, engine};
use crate::engine::{Engine, LinkProgress, Params, Query, Scope};
use crate::graph::check::{Report, check};
use crate::manifest::{LoadError, MANIFEST_VERSION, Manifest, Segment, Snapshot};
use crate::recovery::{Listed, RecoverError, Recovered, recover};
use crate::shard::keeper::{Change as Kept, apply_all};
use crate::snapshot::writer::{Identity, Writer as SnapshotWriter};
use crate::types::image::Extent;
use crate::types::realm::Realm;
use crate::types::testing::make_small;
use crate::types::{DocId, ShardId, Slot, mix};
use crate::verify::verify;
use crate::wal::{Position, Prepared, Writer, segment_name};

pub(super) const SHARDS: u32 = 2;

/// Length of a segment: short, so that segments are often left.
pub(super) const SEGMENT_BYTES: u64 = 24 * BLOCK as u64;

/// The reason why a machine does not start.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The disk failed; the data on it may be good.
    Disk(#[allow(dead_code, reason = "a failed check shows it")] DiskError),
    /// The data on the disk can't be used.
    Damage(String),
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Disk(error) => Self::Disk(error),
            other => Self::Damage(other.to_string()),
        }
    }
}

impl From<RecoverError> for Refusal {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Disk(error) => Self::Disk(error),
            RecoverError::Damage(why) | RecoverError::Newer(why) => Self::Damage(why),
        }
    }
}

/// A snapshot in progress.
pub(super) struct Running {
    pub(super) checkpoint: Checkpoint,
    pub(super) writer: SnapshotWriter<SimFile>,
    pub(super) identity: Identity,
}

pub(super) struct Node {
    pub(super) id: ShardId,
    pub(super) ids: Vec<DocId>,
    pub(super) engine: Engine,
    pub(super) log: Writer<SimDisk>,
    /// Position of the log at which memory was last equal to it.
    pub(super) position: Position,
    /// The next segment, if MANIFEST could not be made to name it.
    pub(super) spare: Option<Prepared<SimFile>>,
    pub(super) snapshots: Vec<Snapshot>,
    pub(super) extents: Vec<Extent>,
    pub(super) next_snapshot: u64,
    pub(super) running: Option<Running>,
    /// Files that are not needed any more, once MANIFEST says so.
    pub(super) dispensable: Vec<String>,
    pub(super) known: Known,
    /// Groups of this life: the time of each, and the number of documents after it.
    pub(super) history: Vec<(u64, usize)>,
}

/// A shard that has been read, and writes nothing yet.
struct Read {
    id: ShardId,
    ids: Vec<DocId>,
    engine: Engine,
    model: Model,
    recovered: Recovered,
}

/// A running machine.
pub(super) struct Machine {
    pub(super) disk: Rc<SimDisk>,
    pub(super) manifest: Option<Manifest>,
    pub(super) nodes: Vec<Node>,
    pub(super) clock: Clock,
}

fn params() -> Params {
    engine().params().clone()
}

/// True if the engine holds exactly these documents.
fn holds(disk: &SimDisk, shard: ShardId, engine: &Engine, ids: &[DocId], model: &Model) -> bool {
    let found = |id| {
        let document = engine.get(id, &Realm::default(), true)?;
        let read =
            |slot| vectors::row(disk, shard, engine, slot)[..engine.params().dimension].into();
        let vector = document.embedding.or_else(|| document.on_disk.map(read));
        Some((vector.expect("it is in memory or on disk"), document.payload))
    };
    engine.live_count() == model.0.len()
        && ids.iter().all(|&id| found(id).as_ref() == model.0.get(&id))
}

impl Machine {
    /// Starts on the present files. Finds all acknowledged changes, and those under way or not.
    ///
    /// Errors say why the directory is refused, or that the disk failed.
    pub(super) fn boot(disk: &Rc<SimDisk>, known: &[Known]) -> Result<Self, Refusal> {
        make_small();
        let mut manifest = match run(Manifest::load(&**disk))? {
            Some(manifest) => manifest,
            None => {
                let names = run(disk.list())?;
                if names.iter().any(|n| n.starts_with("wal_") || n.starts_with("snapshot_")) {
                    return Err(Refusal::Damage("there is no MANIFEST".into()));
                }
                fresh()
            }
        };
        manifest.epoch += (1 << 40) + 1;
        let mut clock = Clock::new(manifest.epoch);
        let (before, snapshots) = (manifest.segments.clone(), manifest.snapshots.clone());
        let (mut nodes, mut unused, mut cut) = (Vec::new(), Vec::new(), Vec::new());
        // Now the shards share one graph, now each has its own, whichever was the case before.
        let joint = mix(manifest.epoch).is_multiple_of(2).then(|| Joint::new(SHARDS));
        let mut all_read = Vec::new();
        for (id, known) in (0..SHARDS).map(ShardId).zip(known) {
            let listed = Listed { shard: id, snapshots: &snapshots, segments: &before };
            let home = joint.as_ref().map(|joint| joint.home(id.0));
            all_read.push(Node::read(disk, listed, home, manifest.epoch, known)?);
        }
        // Nothing is written before every shard has been read.
        run(manifest.publish(&**disk))?;
        manifest.segments.clear();
        manifest.snapshots.clear();
        for read in all_read {
            let (node, segments, not_used) = Node::begin(disk, read, manifest.epoch, &mut clock)?;
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
        for node in &mut nodes {
            let mut settling = Settling::default();
            while !node.engine.settle(&mut settling) {}
        }
        let mut machine = Self { disk: disk.clone(), manifest: None, nodes, clock };
        machine.assert_graphs();
        machine.keep(Kept::Replace(manifest))?;
        // A failure from here on costs space, until the next start.
        for name in unused {
            run(disk.remove(&name)).ok();
        }
        for (name, sealed) in cut {
            machine.cut(&name, sealed.end_bytes).ok();
        }
        Ok(machine)
    }

    /// Writes a change to MANIFEST. If that fails, its next version has the changes that have happened, and none that
    /// was only asked for.
    pub(super) fn keep(&mut self, change: Kept) -> Result<(), DiskError> {
        let refused = apply_all(&mut self.manifest, [change]);
        let manifest = self.manifest.as_ref().expect("it has been read");
        let published = run(manifest.publish(&*self.disk));
        if published.is_err() {
            self.manifest = refused;
        }
        published
    }

    pub(super) fn cut(&self, name: &str, bytes: u64) -> Result<(), DiskError> {
        run(async {
            let file = self.disk.open(name).await?;
            file.truncate(bytes).await?;
            file.close().await
        })
    }

    pub(super) fn known(&self) -> Vec<Known> {
        self.nodes.iter().map(|node| node.known.clone()).collect()
    }

    pub(super) fn documents(&self) -> u64 {
        self.nodes.iter().map(|node| node.engine.live_count() as u64).sum()
    }

    /// Checks that the index of each shard has the metadata of its documents, all of it and nothing else.
    pub(super) fn assert_indexes(&self) {
        for node in &self.nodes {
            let checked = node.engine.check_index();
            checked.unwrap_or_else(|why| panic!("shard {}: {why}", node.id.0));
        }
    }

    /// Checks that no list leads to a node that does not exist.
    fn assert_graphs(&self) -> Vec<Report> {
        let graph = |node: &Node| {
            check(node.engine.graph(), node.engine.store().extent()).expect("a sound graph")
        };
        self.nodes.iter().map(graph).collect()
    }

    /// Links everything, and checks that then a walk reaches all live documents, and a search of any shard that
    /// shares its graph with others finds the documents of all of them.
    pub(super) fn assert_linked(&mut self) {
        let mut is_idle = false;
        while !is_idle {
            is_idle = true;
            for node in &mut self.nodes {
                is_idle &= node.engine.link_step() == LinkProgress::Idle;
            }
        }
        self.assert_indexes();
        for (report, node) in self.assert_graphs().iter().zip(&self.nodes) {
            assert_eq!(
                node.engine.stale_postings(),
                0,
                "no snapshot has metadata of deleted documents"
            );
            let is_live = |slot: &&Slot| node.engine.store().is_live(**slot);
            let unreachable = report.unreachable.iter().filter(is_live).count();
            assert_eq!(unreachable, 0, "live nodes that no walk reaches");
        }
        let all = self.documents() as usize;
        for node in &mut self.nodes {
            let owners = node.engine.store().stripe().owners();
            let expected = if owners > 1 { all } else { node.engine.live_count() };
            let query = Query {
                vector: Random(1).vector().into(),
                k: all + 1,
                ef: all + 1,
                min_score: 0.0,
                filter: None,
                include_embeddings: false,
                is_exact: false,
            };
            let search = node
                .engine
                .begin_search_in(Arc::new(query), Scope::Partition)
                .expect("the query is valid");
            let outcome = vectors::finish(&self.disk, node.id, &mut node.engine, search);
            assert_eq!(outcome.hits.len(), expected);
        }
    }

    /// Checks that memory has exactly the acknowledged changes, and that the disk has no fault.
    pub(super) fn assert_sound(&self) {
        for node in &self.nodes {
            let known = &node.known.acknowledged;
            let is_served = holds(&self.disk, node.id, &node.engine, &node.ids, known);
            assert!(is_served, "shard {} serves something else", node.id.0);
        }
        let report = run(verify(&self.disk.restarted(), &mut |_, _, _| {}));
        let report = report.expect("a disk that works").expect("a database");
        assert!(report.is_clean, "{report}");
    }
}

impl Node {
    /// Recovers a shard.
    fn read(
        disk: &Rc<SimDisk>,
        listed: Listed<'_>,
        home: Option<Home>,
        epoch: u64,
        known: &Known,
    ) -> Result<Read, Refusal> {
        let id = listed.shard;
        let ids = ids(id);
        // Vectors are now on disk, now in memory, whichever was the case before.
        let vectors = match mix(epoch ^ 1).is_multiple_of(2) {
            true => on_disk(&params()).vectors,
            false => params().vectors,
        };
        let params = Params { home, vectors, ..params() };
        let mut recovered = run(recover(&**disk, listed, params, || {}))?;
        let engine = recovered.engine.take().expect("the dimension is known");
        let mut found = std::iter::once(&known.acknowledged).chain(&known.under_way);
        let Some(model) = found.find(|model| holds(disk, id, &engine, &ids, model)).cloned() else {
            let under_way: Vec<usize> = known.under_way.iter().map(|model| model.0.len()).collect();
            panic!(
                "shard {} has {} documents; {} were acknowledged, {under_way:?} under way",
                id.0,
                engine.live_count(),
                known.acknowledged.0.len(),
            );
        };
        Ok(Read { id, ids, engine, model, recovered })
    }

    /// Takes a shard into service; returns its segments, and files that nothing needs.
    fn begin(
        disk: &Rc<SimDisk>,
        read: Read,
        epoch: u64,
        clock: &mut Clock,
    ) -> Result<(Self, Vec<Segment>, Vec<String>), Refusal> {
        let Read { id, ids, engine, model, recovered } = read;
        let number = recovered.log.next_number;
        let position = recovered.log.position;
        let log = run(async {
            let prepared = Prepared::create(&**disk, id, number, SEGMENT_BYTES).await?;
            Writer::begin(disk.clone(), id, epoch, prepared, position, clock.now()).await
        })?;
        let mut segments = recovered.log.segments;
        let file = segment_name(id, number);
        let unused = recovered.log.unused.into_iter().chain(recovered.unused);
        let unused = unused.filter(|name| *name != file).collect();
        segments.push(Segment { shard: id.0, number, file, sealed: None });
        let node = Self {
            id,
            ids,
            engine,
            log,
            position,
            spare: None,
            snapshots: recovered.snapshots,
            extents: recovered.extents,
            next_snapshot: recovered.next_snapshot,
            running: None,
            dispensable: Vec::new(),
            known: Known { acknowledged: model, under_way: Vec::new() },
            history: Vec::new(),
        };
        Ok((node, segments, unused))
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

/// A disk without files, whose order is watched.
pub(super) fn watched_disk() -> Rc<SimDisk> {
    let disk = SimDisk::default();
    disk.watch_order(order::claims);
    Rc::new(disk)
}

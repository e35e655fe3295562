//! Start of the cores: from a locked directory to shards in service.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dimension::forget_if_empty;
use super::directory::GuardedLock;
use super::reload::limits;
use super::repair::{repair_locked, reshard_as_asked};
use super::settings::settings;
use crate::access::Access;
use crate::config::{Codes, Config, RecoveryMode, VectorStorage};
use crate::disk::folders::Folders;
use crate::engine::partition::Joint;
use crate::engine::{self, Capacity};
use crate::graph;
use crate::manifest::{MANIFEST_VERSION, Manifest, Segment};
use crate::observe::Observed;
use crate::router::near::Near;
use crate::router::{Router, cached};
use crate::shard::core::CoreHandle;
use crate::shard::cpus::Placement;
use crate::shard::keeper::Change;
use crate::shard::open::{Open, Opened, Refusal};
use crate::shard::pulse::{Activity, Heart, Pulse};
use crate::shard::reply::{Reply, single};
use crate::shard::request::Request;
use crate::snapshot::parse_snapshot_name;
use crate::status::health::Health;
use crate::types::ShardId;
use crate::types::layout::Layout;
use crate::types::metric::Metric;
use crate::types::stripe::OWNERS_MAX;
use crate::wal::parse_segment_name;

/// Share of `timeouts.hot_tier_ms` that the scan of unlinked documents may take when the server becomes ready.
const SCAN_SHARE: f64 = 0.8;

/// Time for which a start waits for the remaining documents to be linked. Before the server is ready, linking has the
/// cores to itself; after that it takes its share of them beside searches, which scan the unlinked documents.
const LINK_PATIENCE: Duration = Duration::from_secs(2);

/// Time for which a start waits until graphs are checked for unreachable nodes: that takes some seconds for ten million
/// documents.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);

/// Period of checking the progress of linking.
const READY_PERIOD: Duration = Duration::from_millis(20);

/// Threads that have to be joined.
pub(super) struct Cores {
    handles: Vec<CoreHandle>,
    // Dropped after the cores: it keeps them awake until they have ended.
    pulse: Pulse,
}

impl Cores {
    fn hearts(&self) -> Vec<Arc<Heart>> {
        self.handles.iter().map(|core| core.heart.clone()).collect()
    }

    /// Stops the threads. False if one had panicked.
    pub(super) fn stop(self) -> bool {
        let mut handles = self.handles.into_iter();
        let first: Vec<CoreHandle> = handles.next().into_iter().collect();
        // The first core ends last: it writes MANIFEST, in which the others record the ends of their logs.
        let are_well = [handles.collect(), first].map(end);
        drop(self.pulse);
        are_well.iter().all(|&is_well| is_well)
    }
}

/// Stops these cores. False if one had panicked.
fn end(handles: Vec<CoreHandle>) -> bool {
    for handle in &handles {
        // A mailbox has room, or its core is busy and will make some.
        let mut stop = Request::Stop;
        while let Err(crate::shard::mailbox::Refused::Full(back)) = handle.mailbox.push(stop) {
            stop = back;
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let panicked = handles.into_iter().map(CoreHandle::join).filter(|ended| !ended).count();
    panicked == 0
}

/// State of the directory once it is open.
pub(super) struct Started {
    pub(super) router: Arc<Router>,
    pub(super) dimension: usize,
    pub(super) records: u64,
}

/// Parts of a server that exist before it has shards.
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) observed: &'a Arc<Observed>,
    pub(super) health: &'a Health,
    pub(super) access: &'a Access,
}

/// Starts the cores and opens the shards. A directory that can't be opened is moved aside, and an empty one is created,
/// if the configuration allows that.
pub(super) fn bring_up(
    Parts { config, observed, health, access }: Parts<'_>,
    placement: &Placement,
    io_memory_bytes: usize,
    runtime: &tokio::runtime::Runtime,
    lock: GuardedLock,
) -> Result<(Cores, Started, GuardedLock), String> {
    let persistence = &config.persistence;
    // Cores check the disk periodically, and compare it with this.
    let folders = Folders::of(&persistence.data_dir);
    let room = folders.room().map_err(|error| error.to_string())?;
    let reserve = folders.reserve(persistence.disk_reserve_bytes);
    observed.space.set_reserve(reserve.map_err(|error| error.to_string())?);
    observed.space.set_available(room.available);
    let attempt = || -> Result<(Cores, Started), Refusal> {
        forget_if_empty(config)?;
        if let Some(done) = reshard_as_asked(config)? {
            let (before, documents) = (done.before, done.documents);
            tracing::info!(
                before,
                after = config.runtime.shards,
                documents,
                "shards were made anew"
            );
        }
        let (cores, nodes) = (placement.cores.len(), placement.nodes);
        let opening = Opening { config, observed, health, access, cores, nodes };
        let (cores, activity) =
            start_cores(config, placement, io_memory_bytes, observed).map_err(Refusal::other)?;
        match runtime.block_on(opening.open(&cores, &activity)) {
            Ok(started) => {
                health.watch(cores.hearts());
                Ok((cores, started))
            }
            Err(why) => {
                cores.stop();
                Err(why)
            }
        }
    };
    let directory = &persistence.data_dir;
    let why = match attempt() {
        Ok((cores, started)) => return Ok((cores, started, lock)),
        Err(why) if why.is_damage => why.what,
        Err(why) => return Err(why.what),
    };
    let lock = if persistence.recovery_mode == RecoveryMode::BestEffort {
        tracing::error!("the data directory could not be opened and is repaired: {why}");
        match repair_locked(directory, config)? {
            Some(repaired) => {
                repaired.to_string().lines().for_each(|line| tracing::error!("{line}"))
            }
            None => return Err(way_out(&why, directory)),
        }
        lock
    } else if persistence.allow_fresh_start_on_recovery_failure {
        let (lock, aside) = lock.start_afresh(persistence)?;
        let aside = aside.display();
        tracing::error!("the data directory could not be opened and was moved to {aside}: {why}");
        lock
    } else {
        return Err(way_out(&why, directory));
    };
    let (cores, started) = attempt().map_err(|why| why.what)?;
    Ok((cores, started, lock))
}

fn way_out(what: &str, directory: &Path) -> String {
    let shown = directory.display();
    format!(
        "the data directory {shown} can't be opened, and nothing in it was changed:\n  {what}\n\
         Ways out: see all that is damaged with `kyrodb_server --data-dir {shown} --verify-wal`; \
         restore the directory with `kyrodb_backup restore`; make it usable again, and be told what \
         is lost, with `kyrodb_server --data-dir {shown} --verify --repair`; or start with an \
         empty one and keep this one beside it, with \
         persistence.allow_fresh_start_on_recovery_failure = true.",
    )
}

fn start_cores(
    config: &Config,
    placement: &Placement,
    io_memory_bytes: usize,
    observed: &Arc<Observed>,
) -> Result<(Cores, Arc<Activity>), String> {
    let count = placement.cores.len();
    let settings = settings(config, placement, io_memory_bytes);
    let mut handles: Vec<CoreHandle> = Vec::with_capacity(count);
    for (index, &cpu) in placement.cores.iter().enumerate() {
        let keeper = handles.first().map(|first| first.mailbox.clone());
        let core = CoreHandle::spawn(index, cpu, settings.clone(), keeper, observed.clone());
        handles.push(core.map_err(|error| error.to_string())?);
    }
    let activity = Arc::new(Activity::default());
    let hearts = handles.iter().map(|core| core.heart.clone()).collect();
    let pulse = Pulse::start(hearts, activity.clone()).map_err(|error| error.to_string())?;
    Ok((Cores { handles, pulse }, activity))
}

struct Opening<'a> {
    config: &'a Config,
    observed: &'a Arc<Observed>,
    health: &'a Health,
    access: &'a Access,
    cores: usize,
    /// Number of NUMA nodes that the cores lie on.
    nodes: usize,
}

impl Opening<'_> {
    async fn open(&self, cores: &Cores, activity: &Arc<Activity>) -> Result<Started, Refusal> {
        let first = &cores.handles[0];
        let manifest = ask(first, Request::LoadManifest).await??;
        let mut manifest = match manifest {
            Some(manifest) => self.check(manifest)?,
            None => self.fresh()?,
        };
        let layout = self.layout(manifest.shards)?;
        self.observed.set_shards(manifest.shards as usize);
        let sealed = manifest.segments.iter().filter_map(|segment| segment.sealed);
        self.health.expect_records(sealed.map(|s| s.last_lsn + 1 - s.first_lsn).sum());
        let joints: Vec<_> =
            (0..layout.partitions()).map(|partition| joint(layout, partition)).collect();
        // A refused start changes nothing: every shard is read before anything is written.
        let opened = self.open_shards(cores, &manifest, layout, &joints).await?;
        for shard in opened.iter().filter(|shard| shard.dimension != 0) {
            if shard.dimension != manifest.dimension as usize {
                return Err(Refusal::damage(format!(
                    "the log of shard {} has vectors of {} values, MANIFEST says {}",
                    shard.shard.0, shard.dimension, manifest.dimension
                )));
            }
        }
        // MANIFEST first: files without it would look like a loss, and no log may have an epoch that MANIFEST does not
        // have.
        publish(first, manifest.clone()).await?;
        let begun = self.begin_shards(cores, layout, manifest.epoch).await?;
        let before = std::mem::take(&mut manifest.segments);
        manifest.snapshots.clear();
        let was_sealed =
            |segment: &Segment| before.iter().any(|b| b.file == segment.file && b.sealed.is_some());
        let (mut unused, mut left, mut records) = (Vec::new(), Vec::new(), 0);
        for (shard, segment) in opened.into_iter().zip(begun) {
            records += shard.records;
            unused.extend(shard.unused);
            left.extend(shard.left);
            manifest.segments.extend(shard.segments);
            manifest.segments.push(segment);
            manifest.snapshots.extend(shard.snapshots);
        }
        let (dimension, shards) = (manifest.dimension as usize, manifest.shards);
        unused.extend(self.of_no_shard(shards)?);
        // Before MANIFEST has these ends: a later start that finds them there does not read what follows them.
        let left_there = ask(first, |reply| Request::KeepTails { left, reply }).await?;
        let is_new = |segment: &&Segment| {
            segment.sealed.is_some() && !was_sealed(segment) && !left_there.contains(&segment.file)
        };
        let complete: Vec<(String, u64)> = manifest
            .segments
            .iter()
            .filter(is_new)
            .filter_map(|segment| Some((segment.file.clone(), segment.sealed?.end_bytes)))
            .collect();
        publish(first, manifest).await?;
        ask(first, |reply| Request::Tidy { unused, complete, reply }).await?;
        self.fit_graphs(cores, layout).await?;
        for core in &cores.handles {
            send(core, Request::DirectoryIsOpen)?;
        }
        self.wait_for_linking(cores, layout, &joints).await;
        let mailboxes = cores.handles.iter().map(|core| core.mailbox.clone()).collect();
        let limits = limits(self.config);
        let observed = self.observed.clone();
        let mut router = Router::new(mailboxes, layout, limits, activity.clone(), observed);
        let cache = &self.config.cache;
        if cache.query_cache_enabled {
            let similarity_min = cache.query_cache_similarity_threshold;
            let metric = self.config.hnsw.distance.into();
            router = router.with_cache(cached::Params {
                metric,
                near: (similarity_min < 1.0).then_some(Near { metric, similarity_min }),
                entries_max: cache.query_cache_capacity,
                bytes_max: cache.query_cache_max_bytes,
                checks_per_second: cache.query_cache_checks_per_second,
                overlap_min: cache.query_cache_min_overlap,
            });
        }
        Ok(Started { router: Arc::new(router), dimension, records })
    }

    /// Assigns the shards of the directory to partitions.
    fn layout(&self, shards: u32) -> Result<Layout, Refusal> {
        let asked = self.config.runtime.partitions as u32;
        let least = shards.div_ceil(OWNERS_MAX);
        let partitions = match asked {
            0 => (self.nodes as u32).clamp(least, shards),
            asked => asked,
        };
        if partitions > shards {
            return Err(Refusal::other(format!(
                "runtime.partitions asks for {partitions} graphs, but the data directory has {shards} \
                 shards, and a graph has at least one. Lower it, set it to 0 for what suits this \
                 machine, or raise runtime.shards."
            )));
        }
        if partitions < least {
            return Err(Refusal::other(format!(
                "runtime.partitions asks for {partitions} graphs of {shards} shards; a graph has at \
                 most {OWNERS_MAX} shards. Raise it to {least} or more, or set it to 0."
            )));
        }
        Ok(Layout::new(shards, partitions))
    }

    /// Compares the MANIFEST found with the configuration.
    fn check(&self, mut manifest: Manifest) -> Result<Manifest, Refusal> {
        let config = self.config;
        let directory = config.persistence.data_dir.display();
        let asked = config.hnsw.distance.word();
        if manifest.distance != asked {
            return Err(Refusal::other(format!(
                "the data directory {directory} was made with hnsw.distance {}; the configuration \
                 asks for {asked}. Set it to what was found, or choose another directory.",
                manifest.distance
            )));
        }
        let (found, asked) = (manifest.dimension as usize, config.hnsw.dimension);
        if found != 0 && asked != 0 && found != asked {
            return Err(Refusal::other(format!(
                "the data directory {directory} holds vectors of {found} values; \
                 hnsw.dimension asks for {asked}. Set it to {found} or 0, or choose another \
                 directory."
            )));
        }
        manifest.epoch = next_epoch(manifest.epoch);
        manifest.dimension = manifest.dimension.max(config.hnsw.dimension as u32);
        Ok(manifest)
    }

    /// MANIFEST of a new directory, if there are no files that a MANIFEST should name.
    fn fresh(&self) -> Result<Manifest, Refusal> {
        let config = self.config;
        let mut names = self.names()?.into_iter();
        let orphan = names.find(|name| name.starts_with("wal_") || name.starts_with("snapshot_"));
        if let Some(orphan) = orphan {
            return Err(Refusal::damage(format!("there is no MANIFEST, but there is {orphan}")));
        }
        let shards = match config.runtime.shards {
            0 => self.cores,
            shards => shards,
        };
        Ok(Manifest {
            version: MANIFEST_VERSION,
            shards: shards as u32,
            dimension: config.hnsw.dimension as u32,
            distance: config.hnsw.distance.word().into(),
            epoch: next_epoch(0),
            snapshots: Vec::new(),
            segments: Vec::new(),
        })
    }

    /// Files of shards that the directory no longer has: their number was reduced, and the process died before they
    /// were removed.
    fn of_no_shard(&self, shards: u32) -> Result<Vec<String>, Refusal> {
        let is_left = |name: &String| {
            let place = parse_segment_name(name).or_else(|| parse_snapshot_name(name));
            place.is_some_and(|(shard, _)| shard.0 >= shards)
        };
        Ok(self.names()?.into_iter().filter(is_left).collect())
    }

    /// Names of all files of the directory, and of its log.
    fn names(&self) -> Result<Vec<String>, Refusal> {
        let names = Folders::of(&self.config.persistence.data_dir).list();
        names.map_err(|error| Refusal::other(error.to_string()))
    }

    async fn open_shards(
        &self,
        cores: &Cores,
        manifest: &Manifest,
        layout: Layout,
        joints: &[Option<Arc<Joint>>],
    ) -> Result<Vec<Opened>, Refusal> {
        let shards = manifest.shards as usize;
        let mut params = engine_params(self.config, manifest.dimension as usize, shards);
        params.vectors = vector_storage(self.config, shards);
        let capacity = Capacity::new(documents_max(self.config))
            .with_accounts(self.access.accounts())
            .with_memory(self.observed.memory.clone());
        params.capacity = Arc::new(capacity);
        let mut waiting = Vec::new();
        for shard in (0..manifest.shards).map(ShardId) {
            let core = &cores.handles[layout.core_of(shard, cores.handles.len())];
            let joint = &joints[layout.partition_of(shard) as usize];
            let home = joint.as_ref().map(|joint| joint.home(layout.owner_of(shard)));
            let open = Open {
                shard,
                snapshots: manifest.snapshots.clone(),
                segments: manifest.segments.clone(),
                params: engine::Params { home, ..params.clone() },
                counters: self.observed.shards()[shard.0 as usize].clone(),
                partitions: layout.partitions() as usize,
                shards: manifest.shards,
            };
            let (answers, reply) = single();
            send(core, Request::Open(Box::new(open), reply))?;
            waiting.push(answers);
        }
        let mut opened = Vec::new();
        for answers in waiting {
            let answer = answers.one().await.ok_or_else(core_gone)?;
            opened.push(answer?);
        }
        Ok(opened)
    }

    /// Takes the shards into service; returns the segments in which their logs continue.
    async fn begin_shards(
        &self,
        cores: &Cores,
        layout: Layout,
        epoch: u64,
    ) -> Result<Vec<Segment>, Refusal> {
        let mut waiting = Vec::new();
        for shard in (0..layout.shards()).map(ShardId) {
            let core = &cores.handles[layout.core_of(shard, cores.handles.len())];
            let (answers, reply) = single();
            send(core, Request::Begin { shard, epoch, reply })?;
            waiting.push(answers);
        }
        let mut begun = Vec::new();
        for answers in waiting {
            begun.push(answers.one().await.ok_or_else(core_gone)??);
        }
        Ok(begun)
    }

    /// Fits the parts of each graph that several shards own to each other.
    async fn fit_graphs(&self, cores: &Cores, layout: Layout) -> Result<(), Refusal> {
        let mut waiting = Vec::new();
        for shard in (0..layout.shards()).map(ShardId) {
            let core = &cores.handles[layout.core_of(shard, cores.handles.len())];
            let (answers, reply) = single();
            send(core, Request::FitGraph { shard, reply })?;
            waiting.push(answers);
        }
        for answers in waiting {
            answers.one().await.ok_or_else(core_gone)?;
        }
        Ok(())
    }

    /// Waits until all documents read from the log are linked, or for [`LINK_PATIENCE`]; in any case until scanning the
    /// unlinked ones takes well less than a search may spend on it, so that every answer is complete. Graphs that
    /// several shards own are checked meanwhile.
    async fn wait_for_linking(&self, cores: &Cores, layout: Layout, joints: &[Option<Arc<Joint>>]) {
        self.health.set_linking();
        let budget = Duration::from_millis(self.config.timeouts.hot_tier_ms).mul_f64(SCAN_SHARE);
        let begun = Instant::now();
        loop {
            let mut scans = vec![Duration::ZERO; cores.handles.len()];
            let mut hot = 0;
            let shards = self.observed.shards();
            // A fenced shard links nothing, and answers nothing either.
            for (index, shard) in shards.iter().enumerate().filter(|(_, shard)| !shard.is_fenced())
            {
                hot += shard.hot_documents.get();
                let scan_ns = shard.hot_documents.get() * shard.scan_ns.get();
                // A search scans the unlinked documents of all shards of a partition, on the core of one of them.
                let members = layout.members(layout.partition_of(ShardId(index as u32)));
                let core = layout.core_of(ShardId(members.start), cores.handles.len());
                scans[core] += Duration::from_nanos(scan_ns);
            }
            let longest = scans.into_iter().max().unwrap_or_default();
            // Parts restored from snapshots of different times may contain nodes that no walk reaches.
            let is_checking = joints.iter().flatten().any(|joint| joint.is_checking());
            let has_waited = self.health.uptime() >= LINK_PATIENCE;
            let is_checked = !is_checking || begun.elapsed() >= CHECK_PATIENCE;
            if is_checked && (hot == 0 || longest <= budget && has_waited) {
                tracing::debug!(waited = ?begun.elapsed(), hot, scan = ?longest, "linked enough");
                return;
            }
            tokio::time::sleep(READY_PERIOD).await;
        }
    }
}

/// State that the shards of a partition share; `None` for a single shard.
fn joint(layout: Layout, partition: u32) -> Option<Arc<Joint>> {
    let owners = layout.members(partition).len() as u32;
    (owners > 1).then(|| Joint::new(owners))
}

/// Parameters of a shard's engine, for this number of shards.
pub(super) fn engine_params(config: &Config, dimension: usize, shards: usize) -> engine::Params {
    let hnsw = &config.hnsw;
    let metric = hnsw.distance.into();
    // Codes of vectors without bounds of their own may be useless: all codes are equal if the differences of the
    // vectors are small beside their common part.
    let codes = match hnsw.codes {
        Codes::Auto => metric == Metric::Cosine,
        Codes::None => false,
        Codes::Sq8 => true,
    };
    engine::Params {
        metric,
        dimension,
        codes,
        graph: graph::Params { m: hnsw.m, ef_construction: hnsw.ef_construction, seed: hnsw.seed },
        hot_documents_max: (2 * config.cache.capacity).div_ceil(shards),
        capacity: Arc::new(Capacity::new(documents_max(config))),
        vectors: engine::VectorStorage::Memory,
        home: None,
    }
}

/// Storage of the vectors of each of `shards` shards.
pub(super) fn vector_storage(config: &Config, shards: usize) -> engine::VectorStorage {
    match config.storage.vectors {
        VectorStorage::Memory => engine::VectorStorage::Memory,
        VectorStorage::Nvme => {
            let unsaved_bytes_max = (config.storage.unsaved_bytes / shards as u64) as usize;
            engine::VectorStorage::Disk { unsaved_bytes_max }
        }
    }
}

fn documents_max(config: &Config) -> usize {
    match config.hnsw.max_elements {
        0 => usize::MAX,
        max => max,
    }
}

/// The next generation of the writer: the upper half is random, the lower one counts.
pub(super) fn next_epoch(epoch: u64) -> u64 {
    let random = RandomState::new().hash_one(std::process::id()) >> 32;
    random << 32 | u64::from((epoch as u32).wrapping_add(1))
}

async fn publish(first: &CoreHandle, manifest: Manifest) -> Result<(), Refusal> {
    let kept = ask(first, |reply| Request::Keep(Change::Replace(manifest), reply)).await?;
    kept.map_err(|why| Refusal::other(format!("MANIFEST can't be written: {why}")))
}

async fn ask<T>(
    core: &CoreHandle,
    request: impl FnOnce(Reply<T>) -> Request,
) -> Result<T, Refusal> {
    let (answers, reply) = single();
    send(core, request(reply))?;
    answers.one().await.ok_or_else(core_gone)
}

fn send(core: &CoreHandle, request: Request) -> Result<(), Refusal> {
    core.mailbox.push(request).map_err(|_| core_gone())
}

fn core_gone() -> Refusal {
    Refusal::other("a core has ended while it was starting; the log says why")
}

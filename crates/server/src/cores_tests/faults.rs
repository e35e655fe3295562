//! A core whose disk fails under it: answers to clients, contents after a restart, and recovery without an operator.
//! The disk is the real one, with faults injected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::disk::Kind;
use crate::engine::{self, Capacity, Outcome, Write};
use crate::error::{Error, Result};
use crate::manifest::{MANIFEST_VERSION, Manifest};
use crate::observe::Observed;
use crate::observe::counters::{BreakerState, MemoryPart, ShardCounters};
use crate::router::{Limits, Router};
use crate::shard::breaker::{Command, Params, Report};
use crate::shard::core::{CoreHandle, Settings, SyncPolicy};
use crate::shard::cpus;
use crate::shard::faults::Faults;
use crate::shard::keeper::Change;
use crate::shard::open::Open;
use crate::shard::pulse::{Activity, Pulse};
use crate::shard::reply::{Reply, single};
use crate::shard::request::Request;
use crate::shard::snapshot::Due;
use crate::shard::vectors::CacheParams;
use crate::types::metric::Metric;
use crate::types::payload::Payload;
use crate::types::realm::Realm;
use crate::types::{DocId, ShardId};

pub(super) const SHARD: ShardId = ShardId(0);
const SEGMENT_BYTES: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Short, so that no test has to wait, but longer than the requests that a test sends meanwhile.
const BREAKER: Params = Params {
    failures_max: 3,
    window: Duration::from_secs(60),
    open_for: Duration::from_secs(1),
    successes_min: 2,
};

/// One core with one shard, on a temporary directory.
pub(super) struct Server {
    pub(super) directory: TempDir,
    pub(super) faults: Faults,
    pub(super) observed: Arc<Observed>,
    pub(super) runtime: tokio::runtime::Runtime,
    sync: SyncPolicy,
    vectors: engine::VectorStorage,
    dimension: usize,
    document_cache_bytes: usize,
    pub(super) life: Option<Life>,
}

pub(super) struct Life {
    pub(super) core: CoreHandle,
    router: Router,
    _pulse: Pulse,
}

impl Server {
    fn start(sync: SyncPolicy) -> Self {
        Self::with_vectors(engine::VectorStorage::Memory, sync)
    }

    fn with_vectors(vectors: engine::VectorStorage, sync: SyncPolicy) -> Self {
        Self::of_dimension(2, 1 << 20, vectors, sync)
    }

    pub(super) fn of_dimension(
        dimension: usize,
        document_cache_bytes: usize,
        vectors: engine::VectorStorage,
        sync: SyncPolicy,
    ) -> Self {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target");
        let directory = TempDir::new_in(target).unwrap();
        let faults = Faults::of(directory.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let observed = Arc::new(Observed::default());
        let life = None;
        let mut server = Self {
            directory,
            faults,
            observed,
            runtime,
            sync,
            vectors,
            dimension,
            document_cache_bytes,
            life,
        };
        server.open();
        server
    }

    pub(super) fn open(&mut self) {
        self.try_open().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Opens the directory with a core; an error says why that is refused.
    fn try_open(&mut self) -> std::result::Result<(), String> {
        static EPOCH: AtomicU64 = AtomicU64::new(1);
        let settings = Settings {
            snapshots: Due { mutations: 0, log_bytes: u64::MAX },
            directory: self.directory.path().into(),
            sync: self.sync,
            segment_bytes: SEGMENT_BYTES,
            hot_soft_max: 1_000,
            bulk_hot_max: 1_000,
            mailbox_capacity: 256,
            io_memory_bytes: 1 << 20,
            is_dedicated: false,
            breaker: BREAKER,
            watch_period: Duration::from_millis(20),
            recall_per_second: 0.0,
            document_cache: CacheParams {
                bytes_max: self.document_cache_bytes,
                ..CacheParams::default()
            },
        };
        self.observed.set_shards(1);
        let cpu = cpus::allowed()[0];
        let core = CoreHandle::spawn(0, cpu, settings, None, self.observed.clone()).unwrap();
        let activity = Arc::new(Activity::default());
        let pulse = Pulse::start(vec![core.heart.clone()], activity.clone()).unwrap();
        let found = self.ask(&core, Request::LoadManifest).unwrap();
        let mut manifest = found.unwrap_or_else(|| Manifest {
            version: MANIFEST_VERSION,
            shards: 1,
            dimension: self.dimension as u32,
            distance: "euclidean".into(),
            epoch: 0,
            snapshots: Vec::new(),
            segments: Vec::new(),
        });
        manifest.epoch = EPOCH.fetch_add(1, Ordering::Relaxed);
        let keep = |manifest| |reply| Request::Keep(Change::Replace(manifest), reply);
        self.ask(&core, keep(manifest.clone())).unwrap();
        let open = Open {
            snapshots: manifest.snapshots.clone(),
            shard: SHARD,
            segments: manifest.segments.clone(),
            params: engine::Params {
                metric: Metric::Euclidean,
                dimension: self.dimension,
                codes: self.vectors.are_on_disk(),
                graph: crate::graph::Params { m: 8, ef_construction: 20, seed: 0 },
                hot_documents_max: 10_000,
                capacity: Arc::new(Capacity::new(usize::MAX)),
                vectors: self.vectors,
                home: None,
            },
            counters: self.counters(),
            partitions: 1,
            shards: 1,
        };
        let opened = match self.ask(&core, |reply| Request::Open(Box::new(open), reply)) {
            Ok(opened) => opened,
            Err(why) => {
                assert!(core.mailbox.push(Request::Stop).is_ok() && core.join());
                return Err(why.what);
            }
        };
        (manifest.segments, manifest.snapshots) = (opened.segments, opened.snapshots);
        let epoch = manifest.epoch;
        let begun = self.ask(&core, |reply| Request::Begin { shard: SHARD, epoch, reply });
        manifest.segments.push(begun.unwrap_or_else(|why| panic!("{}", why.what)));
        self.ask(&core, keep(manifest)).unwrap();
        assert!(core.mailbox.push(Request::DirectoryIsOpen).is_ok());
        let limits = Limits { searches_max: 10, hot_budget: Duration::from_secs(1) };
        let mailboxes = vec![core.mailbox.clone()];
        let router = Router::new(
            mailboxes,
            crate::types::layout::Layout::new(1, 1),
            limits,
            activity,
            self.observed.clone(),
        );
        self.life = Some(Life { core, router, _pulse: pulse });
        Ok(())
    }

    /// Ends the core while its faults stay active.
    fn stop(&mut self) {
        let life = self.life.take().unwrap();
        assert!(life.core.mailbox.push(Request::Stop).is_ok());
        assert!(life.core.join());
    }

    pub(super) fn ask<T>(&self, core: &CoreHandle, request: impl FnOnce(Reply<T>) -> Request) -> T {
        let (answers, reply) = single();
        assert!(core.mailbox.push(request(reply)).is_ok());
        self.runtime.block_on(answers.one()).expect("the core answers")
    }

    /// Ends the core, and opens the directory with a new one.
    pub(super) fn restart(&mut self) {
        self.faults.mend();
        self.stop();
        self.open();
    }

    pub(super) fn counters(&self) -> Arc<ShardCounters> {
        self.observed.shards()[0].clone()
    }

    pub(super) fn router(&self) -> &Router {
        &self.life.as_ref().unwrap().router
    }

    /// Vector of the document `id`: `id`, 1, and zeros.
    pub(super) fn vector(&self, id: u64) -> Vec<f32> {
        let mut vector = vec![0.0; self.dimension];
        vector[..2].copy_from_slice(&[id as f32, 1.0]);
        vector
    }

    pub(super) fn put(&self, id: u64) -> Result<Outcome> {
        let payload = Payload::new([], "").unwrap();
        let write = Write::Put {
            id: DocId(id),
            vector: self.vector(id).into(),
            payload,
            tenant_documents_max: None,
        };
        self.runtime.block_on(self.router().write(DocId(id), write))
    }

    fn delete(&self, id: u64) -> Result<Outcome> {
        let write = Write::Delete { id: DocId(id), realm: Realm::default() };
        self.runtime.block_on(self.router().write(DocId(id), write))
    }

    /// Which of the documents 1 to 40 are stored.
    fn stored(&self) -> Vec<u64> {
        let ids: Vec<DocId> = (1..=40).map(DocId).collect();
        let found = self.runtime.block_on(self.router().get(&ids, Realm::default(), true)).unwrap();
        for (id, document) in ids.iter().zip(&found) {
            let vector = document.as_ref().map(|document| document.embedding.clone().unwrap());
            assert!(vector.is_none_or(|vector| vector[..] == self.vector(id.0)));
        }
        let stored = ids.iter().zip(found).filter(|(_, document)| document.is_some());
        stored.map(|(id, _)| id.0).collect()
    }

    fn breaker(&self, command: Option<Command>) -> Report {
        self.runtime.block_on(self.router().breakers(command))[0].unwrap()
    }

    fn state(&self) -> BreakerState {
        self.breaker(None).state
    }

    pub(super) fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(life) = self.life.take() {
            let stopped = life.core.mailbox.push(Request::Stop).is_ok() && life.core.join();
            assert!(stopped || std::thread::panicking());
        }
    }
}

/// Time after which to retry, from the answer to a write that was not logged.
fn unavailable(result: Result<Outcome>) -> Duration {
    match result {
        Err(Error::Unavailable { retry_after, .. }) => retry_after,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_write_or_sync_is_refused_for_good_and_the_next_write_is_taken() {
    for operation in ["write", "fdatasync"] {
        let mut server = Server::start(SyncPolicy::DataOnly);
        server.put(1).unwrap();
        server.put(2).unwrap();
        server.faults.fail(operation, "wal_", Kind::Failed, 1);
        assert_eq!(unavailable(server.put(3)), Duration::from_secs(1), "{operation}");
        assert_eq!(server.stored(), [1, 2]);
        assert_eq!(server.state(), BreakerState::Closed, "one failure is no reason to stop");
        assert_eq!(server.counters().wal_failures.get(), 1);
        assert_eq!(server.counters().breaker_failures.get(), 1);
        server.put(4).unwrap();
        server.delete(1).unwrap();
        assert_eq!(server.counters().wal_retries.get(), 1);
        // The failed segment keeps its valid groups, and the space behind them is freed.
        let path = server.directory.path().join(crate::wal::segment_name(SHARD, 1));
        let bytes = || std::fs::metadata(&path).unwrap().len();
        server.wait_for("room", |_| bytes() < SEGMENT_BYTES / 2);
        assert_eq!(server.stored(), [2, 4]);
        server.restart();
        assert_eq!(server.stored(), [2, 4], "{operation}");
        server.put(3).unwrap();
        server.restart();
        assert_eq!(server.stored(), [2, 3, 4], "{operation}");
    }
}

/// The group is on disk whole, and only its sync has failed: it must not come back, even where nothing else is written
/// before the end.
#[test]
fn a_refused_write_does_not_come_back_after_a_restart() {
    let mut server = Server::start(SyncPolicy::DataOnly);
    server.put(1).unwrap();
    server.faults.fail("fdatasync", "wal_", Kind::Failed, 1);
    unavailable(server.put(2));
    server.restart();
    assert_eq!(server.stored(), [1]);
}

#[test]
fn three_failures_open_the_breaker_and_two_successes_close_it() {
    let mut server = Server::start(SyncPolicy::DataOnly);
    server.put(1).unwrap();
    server.faults.fail("fdatasync", "wal_", Kind::Failed, u64::MAX);
    for _ in 0..3 {
        assert_eq!(server.state(), BreakerState::Closed);
        unavailable(server.put(2));
    }
    assert_eq!(server.state(), BreakerState::Open);
    assert_eq!(server.counters().breaker(), BreakerState::Open);
    // The breaker is open: no write reaches the disk, and reads continue.
    let failures = server.counters().wal_failures.get();
    let left = unavailable(server.put(2));
    assert!(left <= BREAKER.open_for && !left.is_zero(), "{left:?}");
    assert_eq!(server.counters().wal_failures.get(), failures);
    assert_eq!(server.stored(), [1]);
    // The half-open state is visible without a write; one failure opens the breaker again.
    let is_half_open = |server: &Server| server.counters().breaker() == BreakerState::HalfOpen;
    server.wait_for("half-open", is_half_open);
    unavailable(server.put(2));
    assert_eq!(server.state(), BreakerState::Open);
    server.faults.mend();
    server.wait_for("half-open again", is_half_open);
    server.put(3).unwrap();
    assert_eq!(server.state(), BreakerState::HalfOpen);
    server.put(4).unwrap();
    assert_eq!(server.state(), BreakerState::Closed);
    server.restart();
    assert_eq!(server.stored(), [1, 3, 4]);
}

#[test]
fn a_full_disk_opens_the_breaker_at_once_and_space_closes_it() {
    let mut server = Server::start(SyncPolicy::DataOnly);
    server.put(1).unwrap();
    server.faults.leave(1_000);
    server.faults.fail("write", "wal_", Kind::NoSpace, 1);
    server.faults.fail("create", "wal_", Kind::NoSpace, u64::MAX);
    server.wait_for("a look at the disk", |server| server.observed.space.available() == 1_000);
    unavailable(server.put(2));
    assert_eq!(server.state(), BreakerState::Open);
    assert_eq!(server.counters().disk_full.get(), 1);
    assert_eq!(server.stored(), [1]);
    server.faults.mend();
    server.wait_for("closed", |server| server.state() == BreakerState::Closed);
    server.put(3).unwrap();
    server.restart();
    assert_eq!(server.stored(), [1, 3]);
}

#[test]
fn writes_acknowledged_before_their_sync_are_written_again() {
    let mut server = Server::start(SyncPolicy::Periodic(Duration::from_millis(50)));
    server.faults.fail("fdatasync", "wal_", Kind::Failed, 1);
    (1..=5).for_each(|id| assert!(server.put(id).is_ok()));
    server.wait_for("a failed sync", |server| server.counters().wal_failures.get() == 1);
    server.wait_for("a fresh segment", |server| server.counters().wal_retries.get() == 1);
    server.put(6).unwrap();
    assert_eq!(server.stored(), [1, 2, 3, 4, 5, 6]);
    server.restart();
    assert_eq!(server.stored(), [1, 2, 3, 4, 5, 6]);
}

/// The sync of acknowledged writes fails, and so does every retry, until the server ends: its last retry succeeds.
#[test]
fn shutdown_retries_unsynced_writes_a_last_time() {
    let mut server = Server::start(SyncPolicy::Periodic(Duration::from_millis(50)));
    server.faults.fail("fdatasync", "wal_", Kind::Failed, u64::MAX);
    server.put(1).unwrap();
    server.wait_for("open", |server| server.state() == BreakerState::Open);
    server.restart();
    assert_eq!(server.stored(), [1]);
}

/// A snapshot refers to its place in the log by the chain of records before it. Groups written again after a failed
/// sync get another chain: a snapshot of the first one must not be published.
#[test]
fn a_snapshot_waits_until_its_place_in_the_log_is_certain() {
    let mut server = Server::start(SyncPolicy::Periodic(Duration::from_secs(60)));
    (1..=3).for_each(|id| assert!(server.put(id).is_ok()));
    server.faults.fail("fdatasync", "wal_", Kind::Failed, 1);
    let snapshot = |server: &Server| server.runtime.block_on(server.router().snapshot());
    assert!(matches!(snapshot(&server), Err(Error::Unavailable { .. })));
    assert_eq!(server.counters().wal_retries.get(), 1);
    server.put(4).unwrap();
    assert_eq!(snapshot(&server).unwrap()[0].documents, 4);
    server.put(5).unwrap();
    server.restart();
    assert_eq!(server.stored(), [1, 2, 3, 4, 5]);
}

/// MANIFEST can't be written when a snapshot is done, and names it later, together with the next change: the snapshot
/// has to be dropped in its turn like any other, or the files that it needs would go before it.
#[test]
fn a_snapshot_that_manifest_names_late_is_dropped_in_its_turn() {
    let mut server = Server::start(SyncPolicy::DataOnly);
    let snapshot = |server: &Server, id| {
        server.put(id).unwrap();
        server.runtime.block_on(server.router().snapshot())
    };
    (1..=2).for_each(|id| assert!(snapshot(&server, id).is_ok()));
    server.faults.fail("create", "MANIFEST", Kind::Failed, 1);
    assert!(matches!(snapshot(&server, 3), Err(Error::Unavailable { .. })));
    for id in 4..=7 {
        snapshot(&server, id).unwrap();
        let directory = server.directory.path();
        let manifest = Manifest::decode(&std::fs::read(directory.join("MANIFEST")).unwrap());
        let snapshots = manifest.unwrap().snapshots;
        assert_eq!(snapshots.len(), 2);
        for number in snapshots.iter().flat_map(|snapshot| &snapshot.files) {
            assert!(directory.join(crate::snapshot::snapshot_name(SHARD, *number)).exists());
        }
    }
    server.restart();
    assert_eq!(server.stored(), [1, 2, 3, 4, 5, 6, 7]);
}

/// A late snapshot as above, but vectors are read from its files: truncation by an operator removes no file that
/// vectors are read from.
#[test]
fn truncation_keeps_files_that_vectors_are_read_from() {
    let vectors = engine::VectorStorage::Disk { unsaved_bytes_max: 64 << 20 };
    let server = Server::with_vectors(vectors, SyncPolicy::DataOnly);
    let snapshot = |id| {
        server.put(id).unwrap();
        server.runtime.block_on(server.router().snapshot())
    };
    (1..=2).for_each(|id| assert!(snapshot(id).is_ok()));
    // Each slot has a word that leads to its vector.
    let of_words = 2 * size_of::<usize>() as u64;
    server.wait_for("vectors are on disk", |server| {
        server.counters().memory[MemoryPart::Vectors as usize].get() == of_words
    });
    server.faults.fail("create", "MANIFEST", Kind::Failed, 2);
    (3..=4).for_each(|id| assert!(matches!(snapshot(id), Err(Error::Unavailable { .. }))));
    let truncated = server.runtime.block_on(server.router().truncate()).unwrap();
    assert!(truncated[0].removed.iter().any(|name| name.ends_with(".snap")), "{truncated:?}");
    // Unused files are closed, so the next read has to open its file.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(server.stored(), [1, 2, 3, 4]);
    assert_eq!(server.counters().vectors.lost.get(), 0);
}

#[test]
fn an_operator_trips_and_resets_the_breaker() {
    let server = Server::start(SyncPolicy::DataOnly);
    server.put(1).unwrap();
    let report = server.breaker(Some(Command::Trip));
    assert_eq!(report.state, BreakerState::Open);
    assert!(!unavailable(server.put(2)).is_zero());
    assert_eq!(server.stored(), [1]);
    assert_eq!(server.breaker(Some(Command::Reset)).state, BreakerState::Closed);
    server.put(2).unwrap();
    assert_eq!(server.stored(), [1, 2]);
}

#[test]
fn a_segment_file_that_was_removed_is_restored() {
    let mut server = Server::start(SyncPolicy::DataOnly);
    (1..=5).for_each(|id| assert!(server.put(id).is_ok()));
    let path = server.directory.path().join(crate::wal::segment_name(SHARD, 1));
    std::fs::remove_file(&path).unwrap();
    server.wait_for("the file", |_| path.exists());
    server.wait_for("a failure", |server| server.counters().wal_failures.get() == 1);
    server.put(6).unwrap();
    server.restart();
    assert_eq!(server.stored(), [1, 2, 3, 4, 5, 6]);
}

/// The log continues in a fresh segment, and writing unsynced groups again fails there: from then on the fresh file is
/// the active one, and losing the file before it does not harm the log.
#[test]
fn a_segment_that_failed_before_its_first_group_is_watched_in_place_of_the_one_before() {
    let server = Server::start(SyncPolicy::Periodic(Duration::from_secs(3_600)));
    (1..=5).for_each(|id| assert!(server.put(id).is_ok()));
    server.faults.fail("fdatasync", "wal_0000_00000001", Kind::Failed, 1);
    let behind_header = crate::disk::BLOCK as u64..u64::MAX;
    server.faults.fail_write("wal_0000_00000002", behind_header, 1);
    assert!(server.runtime.block_on(server.router().snapshot()).is_err());
    let failures = || server.counters().wal_failures.get();
    server.wait_for("both failures", |_| failures() == 2);
    let path = |number| server.directory.path().join(crate::wal::segment_name(SHARD, number));
    assert!(path(2).exists());
    std::fs::remove_file(path(1)).unwrap();
    // Several rounds of housekeeping, before and after the log is mended.
    server.wait_for("a mended log", |server| server.counters().wal_retries.get() == 2);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(failures(), 2, "a file that is not written any more was restored");
    server.put(6).unwrap();
    assert_eq!(server.stored(), [1, 2, 3, 4, 5, 6]);
}

/// MANIFEST names the next segment before it is used: if the sync before that fails, the file stays, though the disk
/// refuses another segment as well.
#[test]
fn a_sync_that_fails_before_the_next_segment_leaves_the_file_that_manifest_names() {
    let mut server = Server::start(SyncPolicy::Periodic(Duration::from_secs(3_600)));
    // A block each for the header and for the group without records.
    let groups = SEGMENT_BYTES / crate::disk::BLOCK as u64 - 2;
    (1..=groups).for_each(|id| assert!(server.put(id).is_ok()));
    let next = server.directory.path().join(crate::wal::segment_name(SHARD, 2));
    let bytes = || std::fs::metadata(&next).map_or(0, |metadata| metadata.len());
    server.wait_for("the next segment", |_| bytes() == SEGMENT_BYTES);
    let named = |server: &Server| {
        let life = server.life.as_ref().unwrap();
        let manifest = server.ask(&life.core, Request::LoadManifest).unwrap().unwrap();
        manifest.segments.iter().any(|segment| segment.number == 2)
    };
    server.wait_for("its name", named);
    server.faults.fail("fdatasync", "wal_", Kind::Failed, 1);
    server.faults.fail("create", "wal_", Kind::NoSpace, u64::MAX);
    unavailable(server.put(groups + 1));
    unavailable(server.put(groups + 2));
    server.stop();
    assert_eq!(bytes(), SEGMENT_BYTES, "the file of a segment that MANIFEST names is gone");
    server.faults.mend();
    server.open();
    assert_eq!(server.stored().len(), 40);
}

/// A refused change does not become part of the next change that succeeds.
#[test]
fn a_change_of_manifest_that_was_refused_is_put_back() {
    let server = Server::start(SyncPolicy::DataOnly);
    let core = &server.life.as_ref().unwrap().core;
    let keep = |change: Change| server.ask(core, |reply| Request::Keep(change, reply));
    let load = || server.ask(core, Request::LoadManifest).unwrap().unwrap();
    let before = load();
    for operation in ["create", "write", "fdatasync"] {
        server.faults.fail(operation, "MANIFEST", Kind::NoSpace, 1);
        assert!(keep(Change::Dimension(9)).is_err());
        assert_eq!(load(), before);
        assert!(keep(Change::Unused(SHARD, 99)).is_ok());
        assert_eq!(load(), before, "{operation}");
    }
    assert!(keep(Change::Dimension(9)).is_ok());
    assert_eq!(load().dimension, 9);
}

/// A bad sector comes back as a read of fewer bytes than were asked for: that is not the end of the log.
#[test]
fn a_read_that_gives_less_than_the_file_has_refuses_the_start() {
    let mut server = Server::start(SyncPolicy::DataOnly);
    (1..=10).for_each(|id| assert!(server.put(id).is_ok()));
    server.stop();
    server.faults.shorten_reads("wal_", 3 * crate::disk::BLOCK as u64);
    let why = server.try_open().unwrap_err();
    assert!(why.contains("the disk gives nothing from byte"), "{why}");
    server.faults.mend();
    server.open();
    assert_eq!(server.stored().len(), 10);
}

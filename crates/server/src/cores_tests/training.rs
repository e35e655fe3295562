//! A whole server whose training crashes repeatedly while it is searched.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::config::{Config, VectorStorage};
use crate::observe::document_cache::{DocumentCache, Training};
use crate::proto::kyro_db_service_client::KyroDbServiceClient;
use crate::proto::{InsertRequest, SearchRequest, SearchResponse, SnapshotRequest};
use crate::server::{Listeners, Server};
use crate::shard::vectors::training::sabotage::SLICES;
use crate::types::mix;

type Client = KyroDbServiceClient<Channel>;

const DIMENSION: u64 = 32;
const DOCUMENTS: u64 = 3_000;
const QUESTIONS: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(60);

/// Lock: the switch that makes training panic acts on all servers of this process.
static ALONE: Mutex<()> = Mutex::new(());

fn vector(seed: u64) -> Vec<f32> {
    let value = |d| (mix(seed << 20 | d) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..DIMENSION).map(value).collect()
}

/// The query with this number: some are sent far more often than others.
fn question(number: u64) -> (u64, SearchRequest) {
    let rank = (mix(number) % QUESTIONS) * (mix(number ^ 99) % QUESTIONS) / QUESTIONS;
    let query_embedding = vector(1 << 30 | rank);
    (rank, SearchRequest { query_embedding, k: 10, ..SearchRequest::default() })
}

fn found(answer: &SearchResponse) -> Vec<(u64, u32)> {
    answer.results.iter().map(|result| (result.doc_id, result.score.to_bits())).collect()
}

struct Town {
    server: Option<Server>,
    runtime: tokio::runtime::Runtime,
    directory: TempDir,
}

impl Town {
    fn start() -> Self {
        let directory =
            TempDir::new_in(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")).unwrap();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let mut town = Self { server: None, runtime, directory };
        town.open();
        town.runtime.block_on(async {
            let mut client = town.client().await;
            let document = |doc_id| {
                let embedding = vector(doc_id);
                InsertRequest { doc_id, embedding, ..InsertRequest::default() }
            };
            let documents: Vec<InsertRequest> = (1..=DOCUMENTS).map(document).collect();
            let loaded = client.bulk_load_hnsw(futures_util::stream::iter(documents)).await;
            assert!(loaded.unwrap().into_inner().success);
            client.create_snapshot(SnapshotRequest::default()).await.unwrap();
        });
        town
    }

    fn open(&mut self) {
        let mut config = Config::default();
        config.persistence.data_dir = self.directory.path().into();
        config.persistence.wal_segment_bytes = 4 << 20;
        config.runtime.cores = 1;
        config.storage.vectors = VectorStorage::Nvme;
        config.cache.query_cache_enabled = false;
        config.cache.training_interval_secs = 1;
        // A restarted task has one slice to learn from.
        config.cache.logger_window_size = 200;
        config.cache.document_bytes = 128 << 10;
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = Listeners { grpc: listener(), http: listener() };
        self.server = Some(Server::start(config, BTreeMap::new(), listeners).unwrap());
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn close(&mut self) {
        assert!(self.server.take().unwrap().shut_down());
    }

    fn cache(&self) -> Arc<DocumentCache> {
        let caches = self.server().observed().document_caches();
        assert_eq!(caches.len(), 1);
        caches[0].clone()
    }

    async fn client(&self) -> Client {
        let address = format!("http://{}", self.server().grpc_address());
        KyroDbServiceClient::new(Channel::from_shared(address).unwrap().connect().await.unwrap())
    }

    /// The results of each query, which never change.
    fn answers(&self) -> BTreeMap<u64, Vec<(u64, u32)>> {
        self.runtime.block_on(async {
            let (mut client, mut answers) = (self.client().await, BTreeMap::new());
            for number in 0..4 * QUESTIONS {
                let (rank, request) = question(number);
                let answer = client.search(request).await.unwrap().into_inner();
                assert!(answer.results.len() == 10);
                answers.insert(rank, found(&answer));
            }
            answers
        })
    }

    /// Searches from four clients while `is_wanted`; returns latencies in microseconds.
    fn search_while(
        &self,
        answers: &Arc<BTreeMap<u64, Vec<(u64, u32)>>>,
        mut is_wanted: impl FnMut() -> bool,
    ) -> Histogram<u64> {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (stop, next, answers) = (stop.clone(), next.clone(), answers.clone());
                let mut client = self.runtime.block_on(self.client());
                self.runtime.spawn(async move {
                    let mut latencies = Histogram::<u64>::new(3).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                        let (rank, request) = question(number);
                        let begun = Instant::now();
                        let answer = client.search(request).await.expect("no search fails");
                        latencies.saturating_record(begun.elapsed().as_micros() as u64);
                        let answer = answer.into_inner();
                        if let Some(expected) = answers.get(&rank) {
                            assert_eq!(&found(&answer), expected, "question {rank}");
                        }
                    }
                    latencies
                })
            })
            .collect();
        while is_wanted() {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        let mut all = Histogram::<u64>::new(3).unwrap();
        for task in tasks {
            all.add(self.runtime.block_on(task).unwrap()).unwrap();
        }
        all
    }

    fn until(&self, answers: &Arc<BTreeMap<u64, Vec<(u64, u32)>>>, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        self.search_while(answers, || {
            assert!(begun.elapsed() < PATIENCE, "it does not come about");
            !is_so()
        });
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        SLICES.store(0, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            assert!(server.shut_down() || std::thread::panicking());
        }
    }
}

/// `KYRODB_TRAINING_KILLS` sets the number of kills; latencies are printed, beside those of such searches without
/// kills, in turns.
#[test]
fn no_search_notices_that_training_is_killed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kills = std::env::var("KYRODB_TRAINING_KILLS");
    let kills: u64 = kills.map_or(100, |kills| kills.parse().unwrap());
    let town = Town::start();
    let answers = Arc::new(town.answers());
    let cache = town.cache();
    town.until(&answers, || cache.cycles.get() > 2 && cache.is_trained.get() == 1);
    assert_eq!((cache.crashes.get(), cache.restarts.get()), (0, 0));
    let mut all = [Histogram::<u64>::new(3).unwrap(), Histogram::<u64>::new(3).unwrap()];
    let (turns, begun) = (10, Instant::now());
    let mut armed = 0;
    for turn in 1..=turns {
        let length = Instant::now();
        all[0]
            .add(town.search_while(&answers, || length.elapsed() < Duration::from_millis(200)))
            .unwrap();
        let due = kills * turn / turns;
        let killed = town.search_while(&answers, || {
            assert!(begun.elapsed() < PATIENCE * 10, "{} crashes", cache.crashes.get());
            // The kill before has been counted, which happens a moment before the restart.
            if armed == cache.crashes.get() && armed < due {
                SLICES.store(mix(armed) % 12 + 1, Ordering::Relaxed);
                armed += 1;
            }
            cache.crashes.get() < due
        });
        all[1].add(killed).unwrap();
    }
    town.until(&answers, || cache.restarts.get() == kills);
    let cycles = cache.cycles.get();
    town.until(&answers, || cache.cycles.get() > cycles + 2);
    assert_eq!((cache.crashes.get(), cache.restarts.get()), (kills, kills));
    assert_eq!(cache.training.get(), Training::Runs as u64);
    let [quiet, killed] =
        all.map(|all| (all.value_at_quantile(0.5), all.value_at_quantile(0.99), all.len()));
    println!(
        "{kills} kills in {:.1} s, {} searches beside them: p50 {} µs, p99 {} µs; without {} and {} µs",
        begun.elapsed().as_secs_f64(),
        killed.2,
        killed.0,
        killed.1,
        quiet.0,
        quiet.1
    );
}

#[test]
fn training_that_keeps_crashing_stops_until_a_restart_is_requested() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let town = Town::start();
    let answers = Arc::new(town.answers());
    let cache = town.cache();
    town.until(&answers, || cache.cycles.get() > 2);
    town.until(&answers, || {
        SLICES.store(1, Ordering::Relaxed);
        cache.training.get() == Training::GivenUp as u64
    });
    SLICES.store(0, Ordering::Relaxed);
    let (crashes, restarts) = (cache.crashes.get(), cache.restarts.get());
    assert_eq!(restarts + 1, crashes);
    let length = Instant::now();
    town.search_while(&answers, || length.elapsed() < Duration::from_millis(100));
    assert_eq!((cache.crashes.get(), cache.restarts.get()), (crashes, restarts));
    let (config, origins) = (Config::default(), BTreeMap::new());
    town.server().reloader().apply(config, origins).unwrap();
    let cycles = cache.cycles.get();
    town.until(&answers, || cache.cycles.get() > cycles + 1);
    assert_eq!(cache.training.get(), Training::Runs as u64);
    assert_eq!(cache.restarts.get(), restarts + 1);
}

#[test]
fn logged_uses_survive_a_restart_and_may_be_lost() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut town = Town::start();
    let answers = Arc::new(town.answers());
    let cache = town.cache();
    town.until(&answers, || cache.cycles.get() > 2);
    town.close();
    let path = town.directory.path().join("access_log.bin");
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() >= 1_000, "{} bytes", whole.len());
    let mut damaged = whole.clone();
    damaged[whole.len() / 3] ^= 4;
    // Unchanged, damaged, cut, empty, and missing.
    for content in [Some(&whole[..]), Some(&damaged), Some(&whole[..700]), Some(&[]), None] {
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        town.open();
        let (answers, cache) = (Arc::new(town.answers()), town.cache());
        town.until(&answers, || cache.cycles.get() > 1);
        let (is_whole, skips) = (content == Some(&whole), cache.skips.get());
        // With the uses from before, the first cycle has enough samples.
        assert!(if is_whole { skips == 0 } else { skips >= 1 }, "{is_whole}, {skips} skipped");
        town.close();
        assert!(path.exists());
    }
}

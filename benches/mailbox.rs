//! The round trip gateway → core → gateway, on a real pinned core: the overhead of every request before and after its
//! work.
//!
//! `cargo bench --bench mailbox`. "one at a time" finds the core asleep and wakes it; "64 in
//! flight" finds it awake. A tokio mpsc + oneshot pair to a tokio thread runs beside it for scale.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use kyrodb::observe::Observed;
use kyrodb::shard::core::{CoreHandle, Settings, SyncPolicy};
use kyrodb::shard::cpus;
use kyrodb::shard::mailbox::Mailbox;
use kyrodb::shard::pulse::{Activity, Pulse};
use kyrodb::shard::reply::single;
use kyrodb::shard::request::Request;
use kyrodb::shard::snapshot::Due;
use kyrodb::shard::vectors::CacheParams;
use kyrodb::types::{DocId, ShardId};
use tokio::sync::{mpsc, oneshot};

const IN_FLIGHT: usize = 64;

/// A request without work: it names a shard that does not exist, and is dropped.
async fn trip(mailbox: &Mailbox<Request>) {
    let (answers, reply) = single();
    let request = Request::Get {
        shard: ShardId(7),
        ids: vec![(0, DocId(1))],
        realm: Arc::default(),
        include_embeddings: false,
        reply,
    };
    assert!(mailbox.push(request).is_ok());
    assert!(answers.one().await.is_none());
}

fn gateway() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn cores(criterion: &mut Criterion) {
    let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = Settings {
        directory: directory.path().into(),
        sync: SyncPolicy::DataOnly,
        segment_bytes: 4 << 20,
        snapshots: Due { mutations: 0, log_bytes: 1 << 30 },
        hot_soft_max: 1,
        bulk_hot_max: 1,
        mailbox_capacity: 1024,
        io_memory_bytes: 1 << 20,
        is_dedicated: false,
        breaker: kyrodb::shard::breaker::Params::default(),
        watch_period: Duration::from_secs(1),
        recall_per_second: 0.0,
        document_cache: CacheParams::default(),
    };
    let place = cpus::place(&cpus::allowed(), 1).unwrap();
    let core = CoreHandle::spawn(0, place.cores[0], settings, None, Arc::new(Observed::default()))
        .unwrap();
    let activity = Arc::new(Activity::default());
    let pulse = Pulse::start(vec![core.heart.clone()], activity.clone()).unwrap();
    let runtime = gateway();
    let mut group = criterion.benchmark_group("round_trip");
    group.measurement_time(Duration::from_secs(8));
    group.bench_function("core/one_at_a_time", |bench| {
        bench.iter(|| {
            activity.note();
            runtime.block_on(trip(&core.mailbox));
        });
    });
    group.throughput(Throughput::Elements(IN_FLIGHT as u64));
    group.bench_function("core/64_in_flight", |bench| {
        bench.iter(|| {
            activity.note();
            runtime.block_on(join_all((0..IN_FLIGHT).map(|_| trip(&core.mailbox))));
        });
    });
    group.finish();
    assert!(core.mailbox.push(Request::Stop).is_ok());
    assert!(core.join());
    drop(pulse);
}

fn bare_channels(criterion: &mut Criterion) {
    let (sender, mut receiver) = mpsc::channel::<oneshot::Sender<()>>(1024);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move {
            while let Some(reply) = receiver.recv().await {
                reply.send(()).unwrap();
            }
        });
    });
    let runtime = gateway();
    let trip = || async {
        let (reply, answer) = oneshot::channel();
        sender.send(reply).await.unwrap();
        answer.await.unwrap();
    };
    let mut group = criterion.benchmark_group("round_trip");
    group.bench_function("bare_tokio/one_at_a_time", |bench| {
        bench.iter(|| runtime.block_on(trip()));
    });
    group.throughput(Throughput::Elements(IN_FLIGHT as u64));
    group.bench_function("bare_tokio/64_in_flight", |bench| {
        bench.iter(|| runtime.block_on(join_all((0..IN_FLIGHT).map(|_| trip()))));
    });
    group.finish();
    drop(sender);
    thread.join().unwrap();
}

criterion_group!(benches, cores, bare_channels);
criterion_main!(benches);

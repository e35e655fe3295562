//! Many round trips gateway → core → gateway: none may be lost. glommio 0.9 occasionally loses a wake-up, which the
//! pulse repeats.
//!
//! 100,000 trips in an ordinary run; `KYRODB_SOAK_TRIPS=10000000` for a soak, and `KYRODB_SOAK_PULSE=off` to see it
//! hang.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kyrodb::observe::Observed;
use kyrodb::shard::core::{CoreHandle, Settings, SyncPolicy};
use kyrodb::shard::cpus;
use kyrodb::shard::mailbox::Mailbox;
use kyrodb::shard::pulse::{Activity, Pulse};
use kyrodb::shard::reply::single;
use kyrodb::shard::request::Request;
use kyrodb::shard::snapshot::Due;
use kyrodb::shard::vectors::CacheParams;
use kyrodb::types::ShardId;

/// Senders that wait for each answer before they send again: the pattern that loses wakes.
const CLIENTS: u64 = 3;

/// Time without an answer that counts as a hang: without the pulse a lost wake is never repeated, and a busy machine
/// takes less than this.
const HUNG: Duration = Duration::from_secs(10);

fn core(directory: &std::path::Path) -> CoreHandle {
    let settings = Settings {
        directory: directory.into(),
        sync: SyncPolicy::DataOnly,
        segment_bytes: 4 << 20,
        snapshots: Due { mutations: 0, log_bytes: 1 << 30 },
        hot_soft_max: 1,
        bulk_hot_max: 1,
        mailbox_capacity: 64,
        io_memory_bytes: 1 << 20,
        // Spinning before sleep loses most wakes.
        is_dedicated: true,
        breaker: kyrodb::shard::breaker::Params::default(),
        watch_period: Duration::from_secs(1),
        recall_per_second: 0.0,
        document_cache: CacheParams::default(),
    };
    let place = cpus::place(&cpus::allowed(), 1).unwrap();
    CoreHandle::spawn(0, place.cores[0], settings, None, Arc::new(Observed::default())).unwrap()
}

/// In microseconds, up to the time that counts as a hang.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HUNG.as_micros() as u64, 3).unwrap()
}

async fn client(
    mailbox: Arc<Mailbox<Request>>,
    activity: Arc<Activity>,
    trips: u64,
) -> Histogram<u64> {
    let mut taken = latencies();
    for trip in 0..trips {
        let (answers, reply) = single();
        let begun = Instant::now();
        activity.note();
        let request = Request::SetDimension { shard: ShardId(9), dimension: 1, reply };
        assert!(mailbox.push(request).is_ok());
        let answer = tokio::time::timeout(HUNG, answers.one()).await;
        assert!(answer.is_ok(), "trip {trip} hangs: a wake-up was lost");
        taken.saturating_record(begun.elapsed().as_micros() as u64);
    }
    taken
}

#[test]
fn no_round_trip_is_lost() {
    let setting = |name: &str| std::env::var(name).ok();
    let trips: u64 = setting("KYRODB_SOAK_TRIPS").map_or(100_000, |trips| trips.parse().unwrap());
    let is_guarded = setting("KYRODB_SOAK_PULSE").is_none_or(|word| word != "off");
    let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let core = core(directory.path());
    let activity = Arc::new(Activity::default());
    let hearts = if is_guarded { vec![core.heart.clone()] } else { Vec::new() };
    let pulse = Pulse::start(hearts, activity.clone()).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = AtomicU64::new(0);
    let latencies = runtime.block_on(async {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(client(core.mailbox.clone(), activity.clone(), trips / CLIENTS)))
            .collect();
        let mut all = latencies();
        for client in clients {
            let latencies = client.await.expect("no trip hangs");
            done.fetch_add(latencies.len(), Ordering::Relaxed);
            all.add(latencies).unwrap();
        }
        all
    });
    let micros = |quantile| latencies.value_at_quantile(quantile);
    println!(
        "{} trips: p50 {} us, p99 {} us, p99.9 {} us, p99.999 {} us, most {} us",
        latencies.len(),
        micros(0.5),
        micros(0.99),
        micros(0.999),
        micros(0.99999),
        latencies.max(),
    );
    assert_eq!(done.into_inner(), trips / CLIENTS * CLIENTS);
    assert!(core.mailbox.push(Request::Stop).is_ok());
    assert!(core.join());
    drop(pulse);
}

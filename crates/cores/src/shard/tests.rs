//! A core, its mailbox and the pulse, on a real executor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{CoreHandle, Settings, SyncPolicy};
use super::cpus;
use super::pulse::{Activity, Pulse};
use super::reply::{Answers, single};
use super::request::Request;
use super::snapshot::Due;
use super::vectors::CacheParams;
use crate::observe::Observed;
use crate::types::ShardId;

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
        is_dedicated: false,
        breaker: super::breaker::Params::default(),
        watch_period: Duration::from_secs(1),
        recall_per_second: 0.0,
        document_cache: CacheParams::default(),
    };
    let cpu = cpus::allowed()[0];
    CoreHandle::spawn(0, cpu, settings, None, Arc::new(Observed::default())).unwrap()
}

/// A request that a core drops as soon as it sees it.
fn request() -> (Answers<()>, Request) {
    let (answers, reply) = single();
    (answers, Request::SetDimension { shard: ShardId(9), dimension: 1, reply })
}

/// The effect of a lost wake, made on purpose: the message is in the mailbox, and its receiver has not been woken.
/// Without the pulse it stays there.
#[test]
fn the_pulse_and_nothing_else_saves_a_request_whose_wake_was_lost() {
    let directory = tempfile::TempDir::new_in(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"));
    let directory = directory.unwrap();
    let core = core(directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let wait = |answers: Answers<()>, patience: Duration| {
        runtime.block_on(async { tokio::time::timeout(patience, answers.one()).await })
    };
    // The core has begun to receive.
    let (answers, first) = request();
    assert!(core.mailbox.push(first).is_ok());
    assert!(wait(answers, Duration::from_secs(30)).is_ok());

    // A core that has just answered may look once more before it sleeps.
    let is_stranded = (0..10).any(|_| {
        let (answers, stranded) = request();
        core.mailbox.push_silently(stranded);
        wait(answers, Duration::from_millis(300)).is_err()
    });
    assert!(is_stranded, "somebody woke the core");

    let activity = Arc::new(Activity::default());
    let pulse = Pulse::start(vec![core.heart.clone()], activity.clone()).unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..50 {
        let (answers, stranded) = request();
        activity.note();
        let begun = Instant::now();
        core.mailbox.push_silently(stranded);
        assert!(wait(answers, Duration::from_secs(30)).is_ok(), "the pulse woke the core");
        fastest = fastest.min(begun.elapsed());
    }
    // Single ones may take longer on a busy machine.
    assert!(fastest < Duration::from_millis(10), "{fastest:?}");
    assert!(core.heart.beats() > 0);
    assert!(core.mailbox.push(Request::Stop).is_ok());
    assert!(core.join());
    drop(pulse);
}

/// A core can lose a wake before it has run anything, and before the pulse has a task to wake.
#[test]
fn a_core_always_gets_to_its_first_request() {
    let directory = tempfile::TempDir::new_in(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"));
    let directory = directory.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for start in 0..300 {
        let core = core(directory.path());
        let activity = Arc::new(Activity::default());
        let pulse = Pulse::start(vec![core.heart.clone()], activity.clone()).unwrap();
        let (answers, first) = request();
        activity.note();
        assert!(core.mailbox.push(first).is_ok());
        let answered = async { tokio::time::timeout(Duration::from_secs(20), answers.one()).await };
        assert!(runtime.block_on(answered).is_ok(), "start {start} hangs: {:?}", core.heart);
        assert!(core.mailbox.push(Request::Stop).is_ok());
        assert!(core.join());
        drop(pulse);
    }
}

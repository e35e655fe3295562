//! Effect of background work on searches: ratios of the 99th percentiles inside one run.

use std::time::{Duration, Instant};

use kyrodb::proto::SnapshotRequest;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Code;

use crate::bounds::Bounds;
use crate::common::clustered::{K, vector};
use crate::common::{Client, Process, directory, insert, runtime, search};
use crate::{SETTINGS, alone, data, load};

const BESIDE_INSERTS: &str = "search_p99_ratio_beside_inserts";
const BESIDE_SNAPSHOTS: &str = "search_p99_ratio_beside_snapshots";

/// Searches and inserts per second, and length of a measurement.
const RATE: u32 = 500;
const PERIOD: Duration = Duration::from_secs(2);

/// Measurements of each ratio, of which the least counts: a neighbour of this machine can make each of them worse, and
/// none of them better than the server is.
const ROUNDS: usize = 4;

/// The 99th percentile of searches that begin at a fixed rate, in seconds. Each counts from the time it was due, so
/// that a search that is late because of the one before it counts as slow.
async fn p99(client: &Client) -> f64 {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let count = (PERIOD.as_secs_f64() * f64::from(RATE)) as usize;
    let mut searches = Vec::with_capacity(count);
    for number in 0..count {
        let due = ticks.tick().await;
        let mut client = client.clone();
        let request = search(&data().queries[number % data().queries.len()], K as u32);
        searches.push(tokio::spawn(async move {
            // On a machine that stands still for a second it is refused, which counts as slow too.
            if let Err(status) = client.search(request).await {
                assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            }
            due.elapsed().as_secs_f64()
        }));
    }
    let mut taken = Vec::with_capacity(count);
    for search in searches {
        taken.push(search.await.unwrap());
    }
    taken.sort_by(f64::total_cmp);
    taken[count * 99 / 100]
}

/// Inserts new documents at a fixed rate until dropped.
async fn insert_without_end(client: Client, first: u64) {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    for id in first.. {
        ticks.tick().await;
        let mut client = client.clone();
        tokio::spawn(async move {
            client.insert(insert(id, &vector(id), &[])).await.unwrap();
        });
    }
}

/// Takes snapshots one after the other until dropped.
async fn snapshot_without_end(mut client: Client) {
    loop {
        client.create_snapshot(SnapshotRequest::default()).await.unwrap();
    }
}

/// The least ratio of the 99th percentile with `work` beside the searches to that without, of some rounds, if it is
/// above `enough`; else the first that is not.
async fn ratio<F>(client: &Client, enough: f64, work: impl Fn(usize) -> F) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut least = f64::INFINITY;
    for round in 0..ROUNDS {
        let without = p99(client).await;
        let beside = tokio::spawn(work(round));
        let with = p99(client).await;
        assert!(!beside.is_finished(), "the work beside the searches ended");
        beside.abort();
        println!("p99 without {:.3} ms, with {:.3} ms", without * 1e3, with * 1e3);
        least = least.min(with / without);
        if least <= enough {
            break;
        }
    }
    least
}

#[test]
fn searches_go_on_beside_inserts_and_snapshots() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let directory = directory();
    let mut settings = SETTINGS.to_vec();
    settings.push(("runtime.shards", "1"));
    let server = Process::start(&directory.path().join("data"), &settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        load(&mut client).await;
        // Threads, connections and memory are created by the first searches.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            client.search(search(&data().queries[0], K as u32)).await.unwrap();
        }
        let other = server.client().await;
        let enough = bounds.most(BESIDE_INSERTS);
        let inserts = |round| insert_without_end(other.clone(), 1_000_000 * (round as u64 + 1));
        let value = ratio(&client, enough, inserts).await;
        bounds.hold(BESIDE_INSERTS, value);
        let snapshots = |_| snapshot_without_end(other.clone());
        let enough = bounds.most(BESIDE_SNAPSHOTS);
        let value = ratio(&client, enough, snapshots).await;
        bounds.hold(BESIDE_SNAPSHOTS, value);
    });
    server.stop();
    bounds.end();
}

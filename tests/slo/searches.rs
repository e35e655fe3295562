//! Cost of a search: distances, hops, messages, allocations and sleeps.

use kyrodb::observe::Observed;
use kyrodb::observe::counters::ShardCounters;
use kyrodb::proto::SearchRequest;

use crate::bounds::Bounds;
use crate::common::clustered::K;
use crate::common::{Client, Inside, ids, runtime, search};
use crate::{SETTINGS, allocations, alone, data, load, threads};

/// Beam width of all searches here.
const EF: u32 = 20;

/// Counts so far.
struct Counts {
    distances: u64,
    full_distances: u64,
    prefetched: u64,
    hops: u64,
    messages: u64,
    wakes: u64,
    answers: u64,
}

impl Counts {
    fn now(observed: &Observed) -> Self {
        let traffic = &observed.traffic;
        Self {
            distances: sum(observed, |shard| shard.search_distances.get()),
            full_distances: sum(observed, |shard| shard.search_full_distances.get()),
            prefetched: sum(observed, |shard| shard.search_prefetched.get()),
            hops: sum(observed, |shard| shard.search_hops.get()),
            messages: traffic.messages.get(),
            wakes: traffic.wakes.get(),
            answers: traffic.search_answers.get(),
        }
    }
}

fn sum(observed: &Observed, value: fn(&ShardCounters) -> u64) -> u64 {
    observed.shards().iter().map(|shard| value(shard)).sum()
}

fn start(shards: &str, partitions: &str) -> Inside {
    let mut settings = SETTINGS.to_vec();
    settings.extend([("runtime.shards", shards), ("runtime.partitions", partitions)]);
    Inside::start(&settings)
}

/// Runs every query, one after the other; returns the ids found by each.
async fn search_all(client: &mut Client) -> Vec<Vec<u64>> {
    let mut found = Vec::new();
    for query in &data().queries {
        let request = SearchRequest { ef_search: EF, ..search(query, K as u32) };
        found.push(ids(&client.search(request).await.unwrap().into_inner()));
    }
    found
}

/// Names of the bounds of a search's figures.
struct Names {
    recall: &'static str,
    distances: &'static str,
    full_distances: &'static str,
    ahead: &'static str,
    hops: &'static str,
    messages: &'static str,
    wakes: &'static str,
    answers: &'static str,
}

async fn hold_work(bounds: &mut Bounds, server: &Inside, client: &mut Client, names: Names) {
    let observed = server.server().observed();
    let before = Counts::now(observed);
    let found = search_all(client).await;
    let after = Counts::now(observed);
    let each = |before: u64, after: u64| (after - before) as f64 / found.len() as f64;
    bounds.hold(names.recall, data().recall(&found));
    bounds.hold(names.distances, each(before.distances, after.distances));
    bounds.hold(names.full_distances, each(before.full_distances, after.full_distances));
    let prefetched = after.prefetched - before.prefetched;
    bounds.hold(names.ahead, prefetched as f64 / (after.distances - before.distances) as f64);
    bounds.hold(names.hops, each(before.hops, after.hops));
    bounds.hold(names.messages, each(before.messages, after.messages));
    bounds.hold(names.wakes, each(before.wakes, after.wakes));
    bounds.hold(names.answers, each(before.answers, after.answers));
}

#[test]
fn a_search_of_one_shard_costs_no_more_than_its_bounds() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let server = start("1", "1");
    runtime().block_on(async {
        let mut client = server.client().await;
        load(&mut client).await;
        let observed = server.server().observed();
        let links = sum(observed, |shard| shard.links.get());
        let distances = sum(observed, |shard| shard.link_distances.get());
        assert_eq!(links, data().documents.len() as u64);
        bounds.hold("link_distances", distances as f64 / links as f64);
        let names = Names {
            recall: "search_recall_1_shard",
            distances: "search_distances_1_shard",
            full_distances: "search_full_distances_1_shard",
            ahead: "search_rows_ahead_1_shard",
            hops: "search_hops_1_shard",
            messages: "search_messages_1_shard",
            wakes: "search_wakes_1_shard",
            answers: "search_answers_1_shard",
        };
        hold_work(&mut bounds, &server, &mut client, names).await;
        hold_steady_state(&mut bounds, &server, &mut client).await;
    });
    drop(server);
    bounds.end();
}

/// Allocations and system calls of searches, once all reusable buffers exist.
async fn hold_steady_state(bounds: &mut Bounds, server: &Inside, client: &mut Client) {
    let count = data().queries.len() as f64;
    let hearts = server.server().health().hearts();
    let now = || {
        let beats: u64 = hearts.iter().map(|heart| heart.beats()).sum();
        let counts = [allocations::of_threads("kyro-"), threads::sleeps("kyro-core"), beats];
        counts.map(|count| count as f64)
    };
    let before = now();
    search_all(client).await;
    let after = now();
    let [allocated, sleeps, beats] = std::array::from_fn(|figure| after[figure] - before[figure]);
    bounds.hold("search_server_allocations", allocated / count);
    // Wakes of a core by the pulse are not caused by searches.
    bounds.hold("search_core_sleeps", (sleeps - beats) / count);
    // With many searches at once, the executor's allocations per round are shared.
    search_at_once(client).await;
    let before = allocations::of_threads("kyro-core");
    search_at_once(client).await;
    let after = allocations::of_threads("kyro-core");
    bounds.hold("search_core_allocations", (after - before) as f64 / count);
}

/// Runs every query, all concurrently, with the narrowest beam.
async fn search_at_once(client: &Client) {
    let searches = data().queries.iter().map(|query| {
        let mut client = client.clone();
        let request = SearchRequest { ef_search: K as u32, ..search(query, K as u32) };
        async move { client.search(request).await.unwrap() }
    });
    futures_util::future::join_all(searches).await;
}

#[test]
fn a_search_of_four_graphs_costs_no_more_than_its_bounds() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let server = start("4", "4");
    runtime().block_on(async {
        let mut client = server.client().await;
        load(&mut client).await;
        let names = Names {
            recall: "search_recall_4_shards",
            distances: "search_distances_4_shards",
            full_distances: "search_full_distances_4_shards",
            ahead: "search_rows_ahead_4_shards",
            hops: "search_hops_4_shards",
            messages: "search_messages_4_shards",
            wakes: "search_wakes_4_shards",
            answers: "search_answers_4_shards",
        };
        hold_work(&mut bounds, &server, &mut client, names).await;
    });
    drop(server);
    bounds.end();
}

/// Recall and distances per search, with this number of shards and of graphs.
fn found_and_computed(shards: &str, partitions: &str) -> [f64; 2] {
    let server = start(shards, partitions);
    runtime().block_on(async {
        let mut client = server.client().await;
        load(&mut client).await;
        let observed = server.server().observed();
        let distances = || sum(observed, |shard| shard.search_distances.get());
        let before = distances();
        let found = search_all(&mut client).await;
        let computed = (distances() - before) as f64 / found.len() as f64;
        [data().recall(&found), computed]
    })
}

#[test]
fn several_graphs_find_what_one_does_for_little_more() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let [recall, distances] = found_and_computed("1", "1");
    let [recall_of_4, distances_of_4] = found_and_computed("4", "4");
    let [recall_of_16, distances_of_16] = found_and_computed("16", "16");
    bounds.hold("search_recall_of_4_shards_less_1", recall_of_4 - recall);
    bounds.hold("search_recall_of_16_shards_less_1", recall_of_16 - recall);
    bounds.hold("search_distances_of_4_shards_over_1", distances_of_4 / distances);
    bounds.hold("search_distances_of_16_shards_over_1", distances_of_16 / distances);
    let [recall_of_owners, distances_of_owners] = found_and_computed("16", "1");
    bounds.hold("search_recall_of_16_owners_less_1", recall_of_owners - recall);
    bounds.hold("search_distances_of_16_owners_over_1", distances_of_owners / distances);
    bounds.end();
}

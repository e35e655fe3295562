//! Cost of the query cache for a miss, and its saving for a hit.

use kyrodb::proto::SearchRequest;

use crate::bounds::Bounds;
use crate::common::clustered::K;
use crate::common::{Client, Inside, runtime, search};
use crate::{SETTINGS, allocations, alone, data, load};

/// Repetitions of a measurement. Other work of the server only adds to it, so the least counts.
const ROUNDS: u32 = 4;

/// Number of queries, and capacity of the cache: so few that the cache has one part.
const QUESTIONS: usize = 120;

/// Sends every query once; none was sent before with this beam.
async fn search_all(client: &mut Client, ef_search: u32) {
    for query in &data().queries[..QUESTIONS] {
        let request = SearchRequest { ef_search, ..search(query, K as u32) };
        client.search(request).await.unwrap();
    }
}

/// Cost per query: distances, messages to cores, and allocations of the whole server.
async fn cost(server: &Inside, client: &mut Client, ef_search: u32) -> [f64; 3] {
    let observed = server.server().observed();
    let now = || {
        let distances: u64 =
            observed.shards().iter().map(|shard| shard.search_distances.get()).sum();
        [distances, observed.traffic.messages.get(), allocations::of_threads("kyro-")]
    };
    let before = now();
    search_all(client, ef_search).await;
    let after = now();
    std::array::from_fn(|figure| (after[figure] - before[figure]) as f64 / QUESTIONS as f64)
}

#[test]
fn a_repeat_costs_no_search_and_a_miss_next_to_nothing() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let capacity = QUESTIONS.to_string();
    let settings = |is_on| {
        [
            ("cache.query_cache_enabled", is_on),
            ("cache.query_cache_capacity", capacity.as_str()),
            ("cache.query_cache_checks_per_second", "0"),
        ]
    };
    let start = |is_on| Inside::start(&[SETTINGS, &settings(is_on)].concat());
    let (with, without) = (start("true"), start("false"));
    runtime().block_on(async {
        let (mut client, mut other) = (with.client().await, without.client().await);
        load(&mut client).await;
        load(&mut other).await;
        // Fills reusable buffers, and the cache.
        cost(&with, &mut client, 20).await;
        cost(&without, &mut other, 20).await;
        let [distances, messages, allocations] = cost(&with, &mut client, 20).await;
        assert_eq!((distances, messages), (0.0, 0.0), "a repeat asks nobody");
        bounds.hold("cache_hit_allocations", allocations);
        let [mut missed, mut kept, mut uncached] = [f64::INFINITY; 3];
        for ef_search in 21..21 + ROUNDS {
            // The cache is full, and none of these queries has been sent before.
            missed = missed.min(cost(&with, &mut client, ef_search).await[2]);
            uncached = uncached.min(cost(&without, &mut other, ef_search).await[2]);
            // Now they have, and are kept.
            kept = kept.min(cost(&with, &mut client, ef_search).await[2]);
            uncached = uncached.min(cost(&without, &mut other, ef_search).await[2]);
        }
        bounds.hold("cache_miss_more_allocations", missed - uncached);
        bounds.hold("cache_kept_more_allocations", kept - uncached);
    });
    let cache = &with.server().observed().gateway.cache;
    let count = QUESTIONS as u64;
    assert_eq!((cache.hits.get(), cache.misses.get()), (count, u64::from(1 + 2 * ROUNDS) * count));
    assert!(cache.evictions.get() > count / 2, "{}", cache.evictions.get());
    drop((with, without));
    bounds.end();
}

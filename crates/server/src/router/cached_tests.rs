//! The query cache over mailboxes that a thread answers as told: events between the steps of a search, and which
//! answers are kept.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::cached::{Answer, Params};
use super::tests::Town;
use crate::access::fair::Guest;
use crate::engine::{Document, Hit, Query, Scope, SearchOutcome};
use crate::error::Result;
use crate::types::DocId;
use crate::types::changes::Changing;
use crate::types::metric::Metric;
use crate::types::payload::Payload;
use crate::types::realm::Realm;

const PARAMS: Params = Params {
    entries_max: 10,
    bytes_max: 1 << 20,
    metric: Metric::Cosine,
    near: None,
    checks_per_second: 1e6,
    overlap_min: 0.9,
};

/// Result of a shard: one document with this number.
fn found(number: u64) -> Result<SearchOutcome> {
    let payload = Payload::new([], "").unwrap();
    // Each scores a little lower than the one before.
    let score = 1.0 / number as f32;
    let hit = Hit { id: DocId(number), score, payload, embedding: None, is_hot: false };
    Ok(SearchOutcome { hits: vec![hit], complete: true, ..SearchOutcome::default() })
}

/// A router whose shard numbers its answers.
fn numbered(
    numbers: &Arc<AtomicU64>,
) -> impl Fn(Scope) -> Option<Result<SearchOutcome>> + Send + 'static {
    let numbers = numbers.clone();
    move |_| Some(found(numbers.fetch_add(1, Ordering::Relaxed)))
}

impl Town {
    /// Write counters of a shard's owner.
    fn owner(&self, shard: usize) -> Changing {
        let mut changing = Changing::default();
        changing.begin(self.observed.shards()[shard].changes.clone());
        changing
    }

    async fn ask(&self, k: usize) -> Result<Answer> {
        let query = Query {
            vector: vec![1.0],
            k,
            ef: 1,
            min_score: 0.0,
            filter: None,
            include_embeddings: false,
            is_exact: false,
        };
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(200);
        let mut trace = self.observed.begin(begun);
        self.router
            .search_cached(query, Realm::default(), Guest::default(), deadline, &mut trace)
            .await
    }

    /// Number of the answer, and whether it was cached.
    async fn number(&self) -> (u64, bool) {
        let answer = self.ask(1).await.unwrap();
        (answer.found().hits[0].id.0, answer.is_cached())
    }
}

fn document() -> Payload {
    Payload::new([], "").unwrap()
}

fn other_document() -> Payload {
    Payload::new([("k", "other")], "").unwrap()
}

#[tokio::test]
async fn writes_during_a_search_are_not_hidden_by_its_answer() {
    let town = Town::new(1, 1).with_cache(PARAMS);
    let (numbers, owner) = (Arc::new(AtomicU64::new(1)), std::sync::Mutex::new(town.owner(0)));
    // The shard answers first, and then changes before the answer is received.
    let (count, is_written) = (numbers.clone(), Arc::new(AtomicU64::new(0)));
    let writes = is_written.clone();
    town.answer(0, move |_| {
        let answer = found(count.fetch_add(1, Ordering::Relaxed));
        if writes.load(Ordering::Relaxed) > 0 {
            let mut owner = owner.lock().unwrap();
            owner.touch(&document());
            owner.settle();
        }
        Some(answer)
    });
    is_written.store(1, Ordering::Relaxed);
    for number in 1..=3 {
        assert_eq!(town.number().await, (number, false));
    }
    is_written.store(0, Ordering::Relaxed);
    assert_eq!(town.number().await, (4, false));
    assert_eq!(town.number().await, (4, true));
}

#[tokio::test]
async fn answers_are_neither_given_nor_kept_during_a_write() {
    let town = Town::new(2, 1).with_cache(PARAMS);
    let (numbers, mut owner) = (Arc::new(AtomicU64::new(1)), town.owner(1));
    (0..2).for_each(|shard| town.answer(shard, numbered(&numbers)));
    assert_eq!([town.number().await, town.number().await], [(1, false), (1, true)]);
    owner.touch(&document());
    assert_eq!([town.number().await, town.number().await], [(2, false), (3, false)]);
    owner.settle();
    assert_eq!([town.number().await, town.number().await], [(4, false), (4, true)]);
    // Also of a realm that the query does not name: the query asks for all of them.
    owner.touch(&Payload::new([], "elsewhere").unwrap());
    owner.settle();
    assert_eq!(town.number().await, (5, false));
}

#[tokio::test]
async fn answers_without_some_shard_are_not_kept() {
    let town = Town::new(2, 2).with_cache(PARAMS);
    let numbers = Arc::new(AtomicU64::new(1));
    town.answer(0, numbered(&numbers));
    let asked = Arc::new(AtomicU64::new(0));
    town.answer(1, move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => None,
        1 => Some(Ok(SearchOutcome { complete: false, ..SearchOutcome::default() })),
        2 => Some(Ok(SearchOutcome { hot_cut: true, complete: true, ..SearchOutcome::default() })),
        _ => Some(Ok(SearchOutcome { complete: true, ..SearchOutcome::default() })),
    });
    for number in 1..=4 {
        assert_eq!(town.number().await, (number, false), "it is not the whole answer");
    }
    assert_eq!(town.number().await, (4, true));
    town.fence(1);
    assert_eq!(town.number().await, (5, false));
    town.observed.shards()[1].is_fenced.store(false, Ordering::Relaxed);
    assert_eq!(town.number().await, (4, true));
    town.mailboxes[1].close();
    assert_eq!(town.number().await, (6, false));
}

#[tokio::test]
async fn cache_turns_itself_off_if_its_hits_differ_from_searches() {
    let town = Town::new(1, 1).with_cache(PARAMS);
    let numbers = Arc::new(AtomicU64::new(1));
    town.answer(0, numbered(&numbers));
    let counters = &town.observed.gateway.cache;
    for check in 1..=20 {
        let (number, is_cached) = town.number().await;
        assert!(!is_cached, "what has less than was found is forgotten");
        assert_eq!(town.number().await, (number, true));
        assert!(counters.is_on());
        // Each search finds other documents, and those found before do not exist any more.
        town.router.check_hit().await;
        assert_eq!(counters.checked.get(), check);
    }
    assert!(!counters.is_on() && counters.entries.get() == 0);
    assert_eq!(counters.overlap_millionths.get(), 0);
    let first = numbers.load(Ordering::Relaxed);
    assert_eq!([town.number().await, town.number().await], [(first, false), (first + 1, false)]);
    town.router.retry_cache();
    assert_eq!([town.number().await, town.number().await], [(first + 2, false), (first + 2, true)]);
}

/// Walks differ: a hit with nearer documents than a search finds now does not prove another state of the documents.
#[tokio::test]
async fn a_hit_whose_documents_are_there_counts_though_they_are_not_found() {
    for (payload, value, is_good) in
        [(document(), 1.0, true), (document(), 0.0, false), (other_document(), 1.0, false)]
    {
        let town = Town::new(1, 1).with_cache(PARAMS);
        let numbers = Arc::new(AtomicU64::new(1));
        town.answer(0, numbered(&numbers));
        // The document found at first, with its vector, which is that of the query.
        let embedding = Some([value].into());
        let read = Document { payload, embedding, on_disk: None, is_hot: false };
        town.documents.lock().unwrap().insert(DocId(1), read);
        let counters = &town.observed.gateway.cache;
        assert_eq!(town.number().await, (1, false));
        for check in 1..=if is_good { 30 } else { 1 } {
            assert_eq!(town.number().await, (1, true));
            town.router.check_hit().await;
            assert_eq!(counters.checked.get(), check);
        }
        assert_eq!(counters.overlap_millionths.get(), if is_good { 1_000_000 } else { 0 });
        assert!(counters.is_on());
        assert_eq!(town.number().await.1, is_good, "what is none is forgotten");
    }
}

/// A full cache has room again once something is written, without evicting valid answers.
#[tokio::test]
async fn outdated_answers_make_room_at_once() {
    let town = Town::new(1, 1).with_cache(Params { entries_max: 1, ..PARAMS });
    let (numbers, mut owner) = (Arc::new(AtomicU64::new(1)), town.owner(0));
    town.answer(0, numbered(&numbers));
    assert_eq!(town.number().await, (1, false));
    for round in 2..=5 {
        owner.touch(&document());
        owner.settle();
        assert_eq!([town.number().await, town.number().await], [(round, false), (round, true)]);
    }
    assert_eq!(town.observed.gateway.cache.missed_repeats.get(), 0);
}

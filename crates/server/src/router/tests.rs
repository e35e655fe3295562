//! The router's searches over mailboxes that a thread answers as told.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cached::Params;
use super::{Found, Limits, Router};
use crate::access::fair::Guest;
use crate::engine::filter::Filter;
use crate::engine::{Document, Query, Scope, SearchOutcome};
use crate::error::{Error, Result};
use crate::observe::Observed;
use crate::shard::mailbox::Mailbox;
use crate::shard::request::{Request, SearchAnswer};
use crate::types::layout::Layout;
use crate::types::{DocId, ShardId};

/// Capacity of a mailbox.
const MAILBOX_CAPACITY: usize = 4;

/// A router to cores that answer as `outcome` says.
pub(super) struct Town {
    pub(super) router: Arc<Router>,
    pub(super) mailboxes: Vec<Arc<Mailbox<Request>>>,
    pub(super) observed: Arc<Observed>,
    /// Documents that can be read by id.
    pub(super) documents: Arc<Mutex<BTreeMap<DocId, Document>>>,
    /// Searches answered, by shard asked.
    answered: Arc<Mutex<BTreeMap<u32, u32>>>,
}

impl Town {
    /// A shard on each core, `partitions` graphs; the cores do not answer.
    pub(super) fn new(shards: usize, partitions: u32) -> Self {
        let observed = Arc::new(Observed::default());
        observed.set_shards(shards);
        let mailbox = |_| Arc::new(Mailbox::new(MAILBOX_CAPACITY, Arc::default()));
        let mailboxes: Vec<_> = (0..shards).map(mailbox).collect();
        let limits = Limits { searches_max: 64, hot_budget: Duration::from_millis(50) };
        let layout = Layout::new(shards as u32, partitions);
        let activity = Arc::default();
        let router = Router::new(mailboxes.clone(), layout, limits, activity, observed.clone());
        Self {
            router: Arc::new(router),
            mailboxes,
            observed,
            documents: Arc::default(),
            answered: Arc::default(),
        }
    }

    /// Adds a query cache.
    pub(super) fn with_cache(mut self, params: Params) -> Self {
        let router = Arc::into_inner(self.router).expect("nobody else has it yet");
        self.router = Arc::new(router.with_cache(params));
        self
    }

    /// Makes the core of a shard answer each search with `outcome`; it does not answer if that is `None`.
    pub(super) fn answer(
        &self,
        shard: usize,
        outcome: impl Fn(Scope) -> Option<Result<SearchOutcome>> + Send + 'static,
    ) {
        let (mailbox, answered) = (self.mailboxes[shard].clone(), self.answered.clone());
        let documents = self.documents.clone();
        tokio::spawn(async move {
            let (mut batch, mut unanswered) = (Vec::new(), Vec::new());
            loop {
                mailbox.receive(&mut batch).await;
                for request in batch.drain(..) {
                    let request = match request {
                        Request::Search(request) => request,
                        Request::Get { ids, reply, .. } => {
                            let documents = documents.lock().unwrap();
                            let read = |(place, id)| Some((place, documents.get(&id)?.clone()));
                            reply.send(Ok(ids.into_iter().filter_map(read).collect()));
                            continue;
                        }
                        _ => panic!("neither a search nor a read"),
                    };
                    *answered.lock().unwrap().entry(request.shard.0).or_default() += 1;
                    let (shard, scope) = (request.shard, request.scope);
                    match outcome(scope) {
                        Some(outcome) => {
                            let answer = SearchAnswer { shard, scope, outcome, span: None };
                            request.reply.send(answer);
                        }
                        None => unanswered.push(request),
                    }
                }
            }
        });
    }

    pub(super) fn fence(&self, shard: usize) {
        self.observed.shards()[shard].is_fenced.store(true, Ordering::Relaxed);
    }

    async fn search(&self, filter: Option<Filter>) -> Result<Found> {
        let query = Query {
            vector: vec![1.0],
            k: 1,
            ef: 1,
            min_score: 0.0,
            filter,
            include_embeddings: false,
            is_exact: false,
        };
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(200);
        self.router.search(query, Guest::default(), deadline, &mut self.observed.begin(begun)).await
    }

    fn asked(&self) -> Vec<u32> {
        self.answered.lock().unwrap().keys().copied().collect()
    }
}

fn whole(_: Scope) -> Option<Result<SearchOutcome>> {
    Some(Ok(SearchOutcome { complete: true, ..SearchOutcome::default() }))
}

fn without(missing: &[u32]) -> impl Fn(Scope) -> Option<Result<SearchOutcome>> + Send + 'static {
    let missing = missing.to_vec();
    move |_| {
        let missing = missing.clone();
        Some(Ok(SearchOutcome { complete: true, missing, ..SearchOutcome::default() }))
    }
}

#[tokio::test]
async fn one_shard_of_each_graph_is_asked_and_answers_for_all_of_them() {
    let town = Town::new(4, 2);
    (0..4).for_each(|shard| town.answer(shard, whole));
    for round in 1..=64 {
        let found = town.search(None).await.unwrap();
        assert_eq!((found.shards_asked, found.shards_answered), (4, 4));
        assert!(found.reasons.is_empty(), "{:?}", found.reasons);
        let answered = town.answered.lock().unwrap().clone();
        let sum = |shards: [u32; 2]| -> u32 {
            shards.iter().map(|shard| answered.get(shard).copied().unwrap_or_default()).sum()
        };
        assert_eq!((sum([0, 1]), sum([2, 3])), (round, round), "one search of each graph");
    }
    assert_eq!(town.asked(), [0, 1, 2, 3], "the work is shared");
}

#[tokio::test]
async fn a_filter_asks_every_shard() {
    let town = Town::new(4, 2);
    (0..4).for_each(|shard| town.answer(shard, whole));
    let found = town.search(Some(Filter::All)).await.unwrap();
    assert_eq!((found.shards_asked, found.shards_answered), (4, 4));
    assert_eq!(*town.answered.lock().unwrap(), BTreeMap::from([(0, 1), (1, 1), (2, 1), (3, 1)]));
}

#[tokio::test]
async fn shards_that_can_not_answer_are_not_asked() {
    let town = Town::new(4, 1);
    // The first is fenced, the core of the second is gone, the mailbox of the third is full.
    town.answer(3, without(&[0, 1]));
    town.fence(0);
    town.mailboxes[1].close();
    let full = &town.mailboxes[2];
    for _ in 0..MAILBOX_CAPACITY {
        let (_, reply) = crate::shard::reply::single();
        let shard = ShardId(2);
        let request = Request::Flush { shard, only_count: true, reply };
        assert!(full.push(request).is_ok());
    }
    for _ in 0..64 {
        let found = town.search(None).await.unwrap();
        assert_eq!((found.shards_asked, found.shards_answered), (4, 2));
        let reasons: Vec<&str> =
            found.reasons.iter().map(|why| why.split(':').next().unwrap()).collect();
        assert_eq!(reasons, ["shard 0", "shard 1"], "those whose documents are missing");
    }
    assert_eq!(town.asked(), [3]);
    // No shard is left: an error, not an empty answer.
    town.fence(3);
    town.fence(2);
    let refused = town.search(None).await.unwrap_err();
    assert!(matches!(&refused, Error::Unavailable { what, .. } if what.contains("fenced")));
}

#[tokio::test]
async fn a_graph_that_does_not_answer_is_missing_by_all_of_its_shards() {
    let town = Town::new(5, 2);
    (0..2).for_each(|shard| town.answer(shard, whole));
    (2..5).for_each(|shard| town.answer(shard, |_| None));
    let found = town.search(None).await.unwrap();
    assert_eq!((found.shards_asked, found.shards_answered), (5, 2));
    let late = |shard| format!("shard {shard}: no answer by the deadline");
    assert_eq!(found.reasons, [late(2), late(3), late(4)]);
    // A shard that says it can't answer gives the result of one that does not answer.
    let town = Town::new(5, 2);
    (0..2).for_each(|shard| town.answer(shard, |_| Some(Err(Error::unavailable("a fault")))));
    (2..5).for_each(|shard| town.answer(shard, whole));
    let found = town.search(None).await.unwrap();
    assert_eq!(found.shards_answered, 3);
    assert_eq!(found.reasons.len(), 2);
    assert!(found.reasons.iter().all(|why| why.contains("a fault")), "{:?}", found.reasons);
}

#[tokio::test]
async fn a_search_that_was_cut_short_says_so_of_every_shard_it_was_for() {
    let town = Town::new(4, 2);
    let cut = |_| Some(Ok(SearchOutcome::default()));
    let hot_cut =
        |_| Some(Ok(SearchOutcome { hot_cut: true, complete: true, ..SearchOutcome::default() }));
    (0..2).for_each(|shard| town.answer(shard, cut));
    (2..4).for_each(|shard| town.answer(shard, hot_cut));
    let found = town.search(None).await.unwrap();
    assert_eq!((found.shards_asked, found.shards_answered), (4, 0));
    let why = |shard: u32| match shard {
        0 | 1 => format!("shard {shard}: stopped at the deadline"),
        _ => {
            format!("shard {shard}: the hot tier was not scanned to its end (timeouts.hot_tier_ms)")
        }
    };
    assert_eq!(found.reasons, (0..4).map(why).collect::<Vec<_>>());
}

#[tokio::test]
async fn full_mailboxes_are_said_to_be_full() {
    let town = Town::new(2, 1);
    let searches: Vec<_> = (0..2 * MAILBOX_CAPACITY).map(|_| town.search(None)).collect();
    let all = futures_util::future::join_all(searches);
    // Each of these is in one of the mailboxes; the next finds no room, and does not wait.
    let next = async {
        tokio::task::yield_now().await;
        town.search(None).await
    };
    let (answers, refused) = tokio::join!(all, next);
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Expired(_)))));
}

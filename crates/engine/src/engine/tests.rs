//! The engine against a model that is too simple to be wrong.

use std::sync::Arc;

use super::filter::Filter;
use super::read::Phase;
use super::testing::{Pair, Random, engine, finish, found, payload};
use super::*;
use crate::graph::check::check;
use crate::kernels::scalar;
use crate::types::payload::Payload;
use crate::types::realm::Realm;
use crate::types::record::{Record, delete_batch};

/// Documents of the hot tier that a search looks at are counted: none once they are linked.
#[test]
fn documents_of_the_hot_tier_are_counted_as_they_are_scanned() {
    let mut pair = Pair::new(1);
    (1..=2_000).for_each(|id| pair.put(id));
    for expected in [2_000, 0] {
        let query = pair.query(10, None);
        let search = pair.engine.begin_search(query).unwrap();
        assert_eq!(finish(&mut pair.engine, search).hot_scanned, expected);
        pair.link_all();
    }
}

#[test]
fn exact_searches_equal_the_model_after_any_writes() {
    for seed in 0..6 {
        let mut pair = Pair::new(seed);
        for round in 0..1_500 {
            pair.random_write(300);
            let steps = pair.random.below(30) as usize;
            pair.link(steps);
            if round % 25 == 0 {
                let filter = match round % 3 {
                    0 => Filter::Exact("colour".into(), "2".into()),
                    1 => Filter::namespace("a"),
                    _ => Filter::All,
                };
                let query = pair.query(10, Some(filter));
                let search = pair.engine.begin_search(query.clone()).unwrap();
                let outcome = finish(&mut pair.engine, search);
                assert_eq!(found(&outcome), pair.model.nearest(&query), "seed {seed}");
                assert!(outcome.complete);
                for hit in outcome.hits {
                    assert_eq!(hit.embedding.as_ref(), Some(&pair.model.0[&hit.id].0));
                }
            }
        }
        assert_eq!(pair.engine.live_count(), pair.model.0.len());
        for id in 1..=300 {
            let got = pair
                .engine
                .get(DocId(id), &Realm::default(), true)
                .map(|d| (d.embedding.unwrap(), d.payload));
            assert_eq!(got, pair.model.0.get(&DocId(id)).cloned());
        }
        pair.link_all();
        check(pair.engine.graph(), pair.engine.store().slot_count()).unwrap();
    }
}

/// Every search answers for the state at which it began, whatever is written between its steps.
#[test]
fn a_search_in_slices_sees_the_state_it_began_with() {
    for seed in 0..20 {
        let mut pair = Pair::new(100 + seed);
        for id in 1..=2_500 {
            pair.put(id);
        }
        let linked = pair.random.below(40_000) as usize;
        pair.link(linked);
        for round in 0..12 {
            let filter = (round % 2 == 0).then(|| Filter::Exact("colour".into(), "1".into()));
            let query = pair.query(50, filter);
            let before = pair.model.clone();
            let mut search = pair.engine.begin_search(query.clone()).unwrap();
            while !search.step(&pair.engine) {
                for _ in 0..pair.random.below(60) {
                    pair.random_write(2_500);
                }
                let steps = pair.random.below(80) as usize;
                pair.link(steps);
            }
            let outcome = pair.engine.finish_search(search);
            let found = found(&outcome);
            if query.filter.is_some() {
                assert_eq!(found, before.nearest(&query), "seed {seed}");
                continue;
            }
            assert_eq!(found.len(), 50);
            let mut ids: Vec<DocId> = found.iter().map(|(id, _)| *id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 50, "a document was returned twice");
            for (id, payload) in &found {
                assert_eq!(Some(payload), before.0.get(id).map(|(_, payload)| payload));
            }
            let truth = before.nearest(&query);
            let hits = truth.iter().filter(|wanted| found.contains(wanted)).count();
            assert!(hits >= 40, "seed {seed}: {hits} of 50 at ef 50");
        }
        assert!(pair.engine.store().retired_count() > 0);
        pair.link_all();
        assert_eq!(pair.engine.store().retired_count(), 0);
    }
}

#[test]
fn the_walk_finds_near_documents_and_no_dead_ones() {
    let mut pair = Pair::new(7);
    for id in 1..=6_000 {
        pair.put(id);
    }
    pair.link_all();
    for id in (1..=6_000).filter(|id| id % 3 != 0) {
        pair.delete(id, "");
    }
    let (mut hits, mut distances) = (0, 0);
    for _ in 0..100 {
        let query = pair.query(10, None);
        let search = pair.engine.begin_search(query.clone()).unwrap();
        assert_ne!(search.phase(), Phase::Scan(0), "6,000 documents are walked at ef 40");
        let outcome = finish(&mut pair.engine, search);
        let truth = pair.model.nearest(&query);
        let found = found(&outcome);
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|(id, _)| pair.model.0.contains_key(id)));
        hits += truth.iter().filter(|wanted| found.contains(wanted)).count();
        distances += outcome.work.distances;
    }
    assert!(hits >= 940, "{hits} of 1000");
    assert!(distances / 100 < 3_000, "{distances} distances are no walk");
}

#[test]
fn k_documents_come_back_if_there_are_k() {
    let mut pair = Pair::new(8);
    for id in 1..=3_000 {
        pair.put(id);
    }
    pair.link_all();
    for id in 1..=2_900 {
        pair.delete(id, "");
    }
    let query = pair.query(100, None);
    let search = pair.engine.begin_search(query.clone()).unwrap();
    let outcome = finish(&mut pair.engine, search);
    assert_eq!(found(&outcome), pair.model.nearest(&query));
    assert_eq!(outcome.found, 100);
}

#[test]
fn min_score_counts_before_the_cut() {
    let mut pair = Pair::new(9);
    for id in 1..=400 {
        pair.put(id);
    }
    let mut query = Query::clone(&pair.query(5, Some(Filter::All)));
    query.min_score = 0.3;
    let query = Arc::new(query);
    let search = pair.engine.begin_search(query.clone()).unwrap();
    let outcome = finish(&mut pair.engine, search);
    let above = pair.model.0.values().filter(|(v, _)| scalar::dot(v, &query.vector) >= 0.3).count();
    assert!(above > 5);
    assert_eq!((outcome.found, outcome.hits.len()), (above as u64, 5));
}

#[test]
fn writes_are_checked_against_staged_writes() {
    let mut pair = Pair::new(10);
    let capacity = Arc::new(Capacity::new(2));
    pair.engine.params.capacity = capacity.clone();
    let put = |id| Write::Put {
        id: DocId(id),
        vector: Random(id).vector(),
        payload: payload(1, "a"),
        tenant_documents_max: None,
    };
    let delete = |id, namespace: &str| Write::Delete { id: DocId(id), realm: namespace.into() };
    let first = pair.engine.stage(put(1)).unwrap();
    let again = pair.engine.stage(put(1)).unwrap();
    assert_eq!((first.outcome.existed, again.outcome.existed), (0, 1));
    let second = pair.engine.stage(put(2)).unwrap();
    assert!(matches!(pair.engine.stage(put(3)), Err(crate::error::Error::Busy { .. })));
    let other = pair.engine.stage(delete(1, "b")).unwrap();
    assert_eq!((other.outcome.existed, other.records.len()), (0, 0));
    assert!(pair.engine.has_staged());
    let gone = pair.engine.stage(delete(1, "a")).unwrap();
    let twice = pair.engine.stage(delete(1, "a")).unwrap();
    assert_eq!((gone.outcome.existed, twice.outcome.existed), (1, 0));
    assert!(twice.records.is_empty());
    let third = pair.engine.stage(put(3)).unwrap();
    for staged in [first, again, second, gone, third] {
        pair.apply(staged.records);
    }
    assert_eq!(pair.engine.live_count(), 2);
    assert!(pair.engine.staged.is_empty());
    assert!(!pair.engine.has_staged());

    assert_eq!(capacity.used(), 2);

    // A write that could not be logged has no effect.
    assert_eq!(pair.engine.stage(delete(2, "")).unwrap().outcome.existed, 1);
    pair.engine.abandon_staged();
    assert_eq!(pair.engine.stage(delete(2, "")).unwrap().outcome.existed, 1);
}

#[test]
fn a_merge_that_passes_a_limit_is_refused_before_it_is_logged() {
    let mut pair = Pair::new(11);
    let text = "x".repeat(40_000);
    let put = Write::Put {
        id: DocId(1),
        vector: Random(1).vector(),
        payload: Payload::new([("a", text.as_str())], "").unwrap(),
        tenant_documents_max: None,
    };
    pair.write(put);
    let update = Write::Update {
        id: DocId(1),
        realm: Realm::default(),
        payload: Payload::new([("b", text.as_str())], "").unwrap(),
        merge: true,
    };
    let refused = pair.engine.stage(update).unwrap_err();
    assert!(matches!(refused, crate::error::Error::Invalid { field: "metadata", .. }));
    assert!(pair.engine.staged.is_empty());
}

#[test]
fn a_large_batch_is_deleted_in_slices_and_seen_at_once() {
    let mut pair = Pair::new(12);
    for id in 1..=6_000 {
        pair.put(id);
    }
    let before = pair.model.clone();
    let ids: Vec<DocId> = (1..=5_990).map(DocId).collect();
    let records = delete_batch(&pair.engine.stage_deletes(&ids, &Filter::All));
    assert_eq!(records.len(), 3);
    let query = pair.query(20, Some(Filter::All));
    let mut slices = 0;
    for record in records {
        let mut done = pair.engine.apply(pair.engine.applied().next(), record);
        while !done {
            slices += 1;
            // Upkeep may run meanwhile, and must not drop documents that the batch has not deleted yet.
            pair.link(40);
            let search = pair.engine.begin_scan(query.clone()).unwrap();
            assert_eq!(found(&finish(&mut pair.engine, search)), before.nearest(&query));
            done = pair.engine.apply_more();
        }
    }
    assert!(slices >= 2);
    assert_eq!(pair.engine.live_count(), 10);
    let search = pair.engine.begin_search(query).unwrap();
    assert_eq!(finish(&mut pair.engine, search).hits.len(), 10);
}

#[test]
fn an_incomplete_batch_never_was() {
    let mut pair = Pair::new(15);
    for id in 1..=3_000 {
        pair.put(id);
    }
    let ids: Vec<DocId> = (1..=2_500).map(DocId).collect();
    let mut parts = delete_batch(&ids);
    parts.truncate(1);
    pair.apply(parts);
    assert_eq!(pair.engine.live_count(), 3_000);
    // Neither another batch nor any other record continues it.
    pair.apply(delete_batch(&ids[..10]));
    assert_eq!(pair.engine.live_count(), 2_990);
}

#[test]
fn a_sweep_finds_matching_documents_but_not_those_changed_meanwhile() {
    let mut pair = Pair::new(13);
    for id in 1..=3_000 {
        pair.put(id);
    }
    let filter = Filter::Exact("colour".into(), "4".into());
    let mut sweep = pair.engine.begin_sweep(filter);
    let mut changed = 0;
    while !sweep.step(&pair.engine) {
        changed += 1;
        pair.delete(changed, "");
        pair.put(100 + changed);
    }
    let (filter, ids) = pair.engine.finish_sweep(sweep);
    let ids = pair.engine.stage_deletes(&ids.concat(), &filter);
    assert!(ids.len() > 300);
    assert!(ids.iter().all(|id| filter.matches(&pair.model.0[id].1)));
}

#[test]
fn slots_of_documents_that_died_before_they_were_linked_are_used_again() {
    let mut pair = Pair::new(14);
    for _ in 0..50 {
        for id in 1..=100 {
            pair.put(id);
        }
        pair.engine.drop_dead();
    }
    assert!(pair.engine.store().slot_count() <= 400, "{}", pair.engine.store().slot_count());
    pair.link_all();
    assert_eq!(pair.engine.graph().linked_count(), 100);
}

#[test]
fn documents_read_from_the_log_do_not_keep_new_ones_out() {
    let mut pair = Pair::new(16);
    pair.engine.params.hot_documents_max = 5;
    for id in 1..=200 {
        let lsn = pair.engine.applied().next();
        let vector = pair.random.vector();
        pair.engine.apply(lsn, Record::Put { id: DocId(id), vector, payload: payload(1, "") });
    }
    pair.engine.finish_replay();
    (201..=205).for_each(|id| pair.put(id));
    let vector = pair.random.vector();
    let put =
        Write::Put { id: DocId(206), vector, payload: payload(1, ""), tenant_documents_max: None };
    let refused = pair.engine.stage(put.clone()).unwrap_err();
    assert!(matches!(refused, crate::error::Error::Busy { .. }), "{refused}");
    // Linked in order: first the documents read from the log, then one of the five.
    while pair.engine.hot_count() > 4 {
        pair.link(1);
    }
    assert!(pair.engine.stage(put).is_ok());
}

#[test]
fn tenants_have_their_own_counts_and_bounds() {
    let accounts = Arc::new(accounts::Accounts::default());
    let capacity = Arc::new(Capacity::new(5).with_accounts(Some(accounts.clone())));
    let params = engine().params().clone();
    let mut engine = Engine::new(Params { capacity, ..params });
    engine.open_ledger();
    let put = |tenant, id, max| Write::Put {
        id: DocId::of_tenant(tenant, id),
        vector: Random(u64::from(id)).vector(),
        payload: payload(1, "a"),
        tenant_documents_max: Some(max),
    };
    let stage = |engine: &mut Engine, write: Write| engine.stage(write);
    let counts = || [0, 1].map(|tenant| accounts.of(tenant).documents());
    let mut staged = Vec::new();
    for id in 1..=2 {
        staged.extend(stage(&mut engine, put(0, id, 2)).unwrap().records);
    }
    // Another document is refused, a new version of one is not; nor is another tenant's.
    let refused = stage(&mut engine, put(0, 3, 2)).unwrap_err();
    assert!(matches!(&refused, crate::error::Error::Quota(why) if why.contains("2 documents")));
    staged.extend(stage(&mut engine, put(0, 2, 2)).unwrap().records);
    staged.extend(stage(&mut engine, put(1, 1, 9)).unwrap().records);
    assert_eq!(counts(), [2, 1]);
    for (lsn, record) in (1..).zip(staged) {
        assert!(engine.apply(Lsn(lsn), record));
    }
    assert_eq!([0, 1].map(|tenant| accounts.of(tenant).inserted()), [2, 1]);
    // The place of a deleted document is free at once, and taken back if the delete is abandoned.
    let delete = Write::Delete { id: DocId::of_tenant(0, 1), realm: Realm::default() };
    stage(&mut engine, delete.clone()).unwrap();
    stage(&mut engine, put(0, 3, 2)).unwrap();
    assert_eq!(counts(), [2, 1]);
    engine.abandon_staged();
    assert_eq!(counts(), [2, 1]);
    assert!(stage(&mut engine, put(0, 3, 2)).is_err());
    // A document that does not fit into the capacity takes nothing of the quota.
    stage(&mut engine, put(1, 2, 9)).unwrap();
    stage(&mut engine, put(1, 3, 9)).unwrap();
    assert!(matches!(stage(&mut engine, put(1, 4, 9)), Err(crate::error::Error::Busy { .. })));
    assert_eq!(counts(), [2, 3]);
    engine.abandon_staged();
    let [record] = stage(&mut engine, delete).unwrap().records.try_into().unwrap();
    assert!(engine.apply(engine.applied().next(), record));
    assert_eq!((counts(), accounts.of(0).deleted()), ([1, 1], 1));
    // The recovery of a shard counts the documents that are there.
    engine.open_ledger();
    assert_eq!(counts(), [1, 1]);
    drop(engine);
    assert_eq!(counts(), [0, 0]);
}

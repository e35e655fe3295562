//! Searches and sweeps with filters, compared with a look at every document of the model.

use std::collections::BTreeSet;

use super::filter::{Bound, Filter, Side};
use super::index::MetadataIndex;
use super::index::evaluate::{Candidates, Evaluation};
use super::plan::{Way, way};
use super::testing::{Model, Pair, Random, finish, found};
use super::*;
use crate::types::Slot;
use crate::types::payload::Payload;
use crate::types::realm::Realm;
use crate::types::record::delete_batch;

/// Documents of the random tests. All that a filter selects are scanned, so that answers are exact.
pub(super) const IDS: u64 = 700;

const VALUES: [&str; 20] = [
    "10", "9", "1e3", " 5", "nan", "inf", "-inf", "abc", "", "+7", ".5", "10.0", "0x10", "NaN",
    "-0", "0", "-12", "z", "é", "zebra",
];

const KEYS: [&str; 6] = ["n", "t", "", "id", "long", "rare"];

fn pick(random: &mut Random, of: &[&str]) -> String {
    of[random.below(of.len() as u64) as usize].into()
}

/// Metadata of every kind: few values and many, numbers and words, more than the index keeps sets for.
fn random_payload(random: &mut Random) -> Payload {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    if random.below(4) > 0 {
        pairs.push(("n", pick(random, &VALUES)));
    }
    if random.below(3) == 0 {
        pairs.push(("t", pick(random, &VALUES)));
    }
    if random.below(2) == 0 {
        pairs.push(("id", random.below(1 << 40).to_string()));
    }
    if random.below(9) == 0 {
        pairs.push(("long", "x".repeat(250 + random.below(10) as usize)));
    }
    if random.below(20) == 0 {
        pairs.push(("", pick(random, &VALUES)));
        pairs.push(("rare", "1".into()));
    }
    let namespace = pick(random, &["", "a", "b"]);
    Payload::new(pairs.iter().map(|(key, value)| (*key, value.as_str())), &namespace).unwrap()
}

pub(super) fn random_filter(random: &mut Random, depth: u64) -> Filter {
    let kinds = if depth == 0 { 6 } else { 10 };
    let children = |random: &mut Random| {
        (0..random.below(4)).map(|_| random_filter(random, depth - 1)).collect::<Vec<_>>()
    };
    let key = pick(random, &KEYS);
    match random.below(kinds) {
        0 => Filter::Exact(key, pick(random, &VALUES)),
        1 => {
            let values = (0..random.below(8)).map(|_| pick(random, &VALUES)).collect();
            Filter::one_of(key, values)
        }
        2 | 3 => {
            let side = [Side::AtLeast, Side::AtMost, Side::Above, Side::Below];
            let side = side[random.below(4) as usize];
            let text = match random.below(3) {
                0 => random.below(1 << 40).to_string(),
                _ => pick(random, &VALUES),
            };
            Filter::Range(key, (random.below(9) > 0).then(|| Bound::new(side, text)))
        }
        4 => Filter::namespace(&pick(random, &["a", "b", "c"])),
        5 if random.below(2) == 0 => Filter::All,
        5 => Filter::Nothing,
        6 => Filter::And(children(random)),
        7 => Filter::Or(children(random)),
        _ => Filter::Not(Box::new(random_filter(random, depth - 1))),
    }
}

pub(super) fn put(pair: &mut Pair, id: u64) {
    let (vector, payload) = (pair.random.vector(), random_payload(&mut pair.random));
    pair.model.0.insert(DocId(id), (vector.clone(), payload.clone()));
    pair.write(Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None });
}

fn update(pair: &mut Pair, id: u64) {
    let (id, payload) = (DocId(id), random_payload(&mut pair.random));
    let merge = pair.random.below(2) == 0;
    if let Some((_, before)) = pair.model.0.get_mut(&id) {
        *before = if merge { before.merged(&payload).unwrap() } else { before.replaced(&payload) };
    }
    pair.write(Write::Update { id, realm: Realm::default(), payload, merge });
}

pub(super) fn disturb(pair: &mut Pair, writes_max: u64) {
    for _ in 0..pair.random.below(writes_max + 1) {
        let id = 1 + pair.random.below(IDS);
        match pair.random.below(20) {
            0..9 => put(pair, id),
            9..16 => update(pair, id),
            16..19 => pair.delete(id, ""),
            _ => {
                let ids: Vec<DocId> = (0..pair.random.below(12)).map(|n| DocId(id + n)).collect();
                let planned = pair.engine.stage_deletes(&ids, &Filter::All);
                ids.iter().for_each(|id| drop(pair.model.0.remove(id)));
                pair.apply(delete_batch(&planned));
            }
        }
    }
    let steps = pair.random.below(30) as usize;
    pair.link(steps);
}

/// A search, or a sweep, with a random filter, and with writes between its steps.
pub(super) fn ask(pair: &mut Pair, seed: u64, writes_max: u64) {
    let filter = random_filter(&mut pair.random, 3);
    let before = pair.model.clone();
    if pair.random.below(4) == 0 {
        let mut sweep = pair.engine.begin_sweep(filter.clone());
        while !sweep.step(&pair.engine) {
            disturb(pair, writes_max);
        }
        let mut ids = pair.engine.finish_sweep(sweep).1.concat();
        ids.sort_unstable();
        let passing = before.0.iter().filter(|(_, (_, payload))| filter.matches(payload));
        assert!(ids.iter().eq(passing.map(|(id, _)| id)), "seed {seed}: sweep of {filter:?}");
        return;
    }
    let k = 1 + pair.random.below(60) as usize;
    let query = pair.query(k, Some(filter));
    let mut search = pair.engine.begin_search(query.clone()).unwrap();
    while !search.step(&pair.engine) {
        disturb(pair, writes_max);
    }
    let outcome = pair.engine.finish_search(search);
    let filter = query.filter.as_ref().unwrap();
    assert_eq!(found(&outcome), before.nearest(&query), "seed {seed}: {filter:?}");
    let passing = before.0.values().filter(|(_, payload)| filter.matches(payload)).count();
    assert_eq!(outcome.found, passing as u64, "seed {seed}: {filter:?}");
}

/// The candidates that the index has for `filter` now.
fn candidates(engine: &mut Engine, filter: &Filter) -> Candidates {
    let snapshot = engine.applied;
    engine.store.open_snapshot(snapshot);
    let mut evaluation = Evaluation::new(&engine.index, filter);
    let candidates = loop {
        if let Some(found) = evaluation.step(filter, &engine.index, &engine.store, snapshot) {
            break found;
        }
    };
    engine.store.close_snapshot(snapshot);
    candidates
}

/// Slots of documents that pass.
pub(super) fn passing(engine: &Engine, filter: &Filter) -> BTreeSet<u32> {
    let store = &engine.store;
    let slots = (0..store.slot_count()).map(Slot).filter(|&slot| store.is_live(slot));
    slots.filter(|&slot| filter.matches(store.payload(slot))).map(|slot| slot.0).collect()
}

#[test]
fn answers_equal_those_of_looking_at_every_document() {
    for seed in 0..12 {
        let mut pair = Pair::new(1_000 + seed);
        (1..=IDS).for_each(|id| put(&mut pair, id));
        for round in 0..150 {
            // In some rounds another search is open all the while, which keeps old states alive.
            let held = (round % 10 == 0).then(|| {
                let query = pair.query(5, None);
                pair.engine.begin_search(query).unwrap()
            });
            for _ in 0..3 {
                disturb(&mut pair, 4);
                ask(&mut pair, seed, if round % 2 == 0 { 3 } else { 0 });
            }
            held.into_iter().for_each(|search| pair.engine.abandon_search(search));
        }
    }
}

/// While nothing is missing in the index, it alone has the answer.
#[test]
fn the_index_selects_exactly_the_documents_that_pass() {
    for seed in 0..6 {
        let mut pair = Pair::new(1_100 + seed);
        for _ in 0..200 {
            disturb(&mut pair, 10);
            pair.link_all();
            let filter = random_filter(&mut pair.random, 3);
            let Candidates { slots, unsure } = candidates(&mut pair.engine, &filter);
            let passing = passing(&pair.engine, &filter);
            assert!(passing.iter().all(|&slot| slots.contains(slot)), "seed {seed}: {filter:?}");
            if unsure == 0 {
                assert!(slots.iter().eq(passing), "seed {seed}: {filter:?}");
            }
        }
        let one = Filter::Exact("n".into(), "10".into());
        assert_eq!(candidates(&mut pair.engine, &one).unsure, 0);
        // All documents are deleted, and their entries in the index with them.
        (1..=IDS + 20).for_each(|id| pair.delete(id, ""));
        pair.link_all();
        assert_eq!(pair.engine.index.bytes(), MetadataIndex::new(Stripe::WHOLE).bytes());
    }
}

/// After a start the index is read in while searches go on.
#[test]
fn answers_are_right_while_the_index_is_read_in() {
    let mut rounds = 0;
    for seed in 0..40 {
        let mut pair = Pair::new(1_200 + seed);
        (1..=IDS).for_each(|id| put(&mut pair, id));
        pair.link_all();
        disturb(&mut pair, 200);
        pair.link_all();
        pair.engine.index = MetadataIndex::new(Stripe::WHOLE);
        while pair.engine.index.indexed_to() < pair.engine.store.slot_count() {
            ask(&mut pair, seed, 2);
            rounds += 1;
            pair.link(1);
        }
        ask(&mut pair, seed, 2);
    }
    assert!(rounds > 80, "{rounds} searches");
}

/// Without room for more values and keys, the index has fewer sets, and the answers do not change.
#[test]
fn answers_are_right_without_room_in_the_index() {
    for seed in 0..8 {
        let mut pair = Pair::new(1_300 + seed);
        // Room for some tens of values.
        pair.engine.index.occupy((1 << 20) - 6_000);
        for round in 0..120 {
            // The room that new documents add is taken away again.
            let before = pair.engine.store.slot_count() as usize;
            disturb(&mut pair, 8);
            let more = pair.engine.store.slot_count() as usize - before;
            pair.engine.index.occupy(256 * more);
            ask(&mut pair, seed, if round % 2 == 0 { 2 } else { 0 });
        }
        pair.link_all();
        let any = Filter::Range("id".into(), Some(Bound::new(Side::AtLeast, "1".into())));
        assert!(candidates(&mut pair.engine, &any).unsure > 0, "seed {seed}: there was room");
    }
}

/// Once an AND has few documents left, no further condition is read.
#[test]
fn few_documents_are_looked_at_rather_than_conditions_read() {
    let mut pair = Pair::new(1_400);
    for id in 1..=600 {
        let (vector, number) = (pair.random.vector(), id.to_string());
        let pairs = [("id", number.as_str()), ("mod", if id % 300 == 0 { "0" } else { "1" })];
        let payload = Payload::new(pairs, "").unwrap();
        pair.model.0.insert(DocId(id), (vector.clone(), payload.clone()));
        pair.write(Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None });
    }
    let range = Filter::Range("id".into(), Some(Bound::new(Side::AtLeast, "400".into())));
    let both = Filter::And(vec![range.clone(), Filter::Exact("mod".into(), "0".into())]);
    let found = candidates(&mut pair.engine, &both);
    assert_eq!((found.slots.len(), found.unsure), (2, 2), "300 and 600, of which one passes");
    assert_eq!(candidates(&mut pair.engine, &range).slots.len(), 201);
    let query = pair.query(10, Some(both));
    let search = pair.engine.begin_search(query).unwrap();
    let outcome = finish(&mut pair.engine, search);
    assert_eq!(found_ids(&outcome), [DocId(600)]);
    assert_eq!(outcome.work.distances, 1);
}

fn found_ids(outcome: &SearchOutcome) -> Vec<DocId> {
    outcome.hits.iter().map(|hit| hit.id).collect()
}

/// The strategies in turn, each on a shard of its own, also with documents that are not linked, and with writes
/// between the steps of a walk.
#[test]
fn every_way_finds_k_of_the_state_it_began_with() {
    let mut ways = BTreeSet::new();
    for (seed, percent) in [(1, 30), (2, 50), (3, 95), (4, 5)] {
        let mut pair = Pair::new(1_500 + seed);
        let put = |pair: &mut Pair, id: u64| {
            let vector = pair.random.vector();
            let is_in = pair.random.below(100) < percent;
            let payload = Payload::new([("in", if is_in { "1" } else { "0" })], "").unwrap();
            pair.model.0.insert(DocId(id), (vector.clone(), payload.clone()));
            pair.write(Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None });
        };
        (1..=6_000).for_each(|id| put(&mut pair, id));
        pair.link_all();
        (1..=700).for_each(|id| put(&mut pair, id * 3));
        let (mut hits, mut wanted) = (0, 0);
        for _ in 0..30 {
            let filter = Filter::Exact("in".into(), "1".into());
            let matching = candidates(&mut pair.engine, &filter).slots.len();
            ways.insert(format!("{:?}", way(matching, 0, pair.engine.live_count() as u64, 20)));
            let query = Query { ef: 20, ..Query::clone(&pair.query(10, Some(filter))) };
            let (query, before): (_, Model) = (Arc::new(query), pair.model.clone());
            let mut search = pair.engine.begin_search(query.clone()).unwrap();
            while !search.step(&pair.engine) {
                for _ in 0..pair.random.below(20) {
                    let id = 1 + pair.random.below(6_000);
                    match pair.random.below(3) {
                        0 => put(&mut pair, id),
                        1 => pair.delete(id, ""),
                        _ => put(&mut pair, 1 + id / 2),
                    }
                }
                pair.link(30);
            }
            let outcome = pair.engine.finish_search(search);
            let (found, truth) = (found(&outcome), before.nearest(&query));
            assert_eq!(found.len(), 10);
            for (id, payload) in &found {
                assert_eq!(payload.get("in"), Some("1"));
                assert_eq!(before.0.get(id).map(|(_, payload)| payload), Some(payload));
            }
            hits += truth.iter().filter(|wanted| found.contains(wanted)).count();
            wanted += truth.len();
        }
        assert!(hits * 100 >= wanted * 90, "{percent} %: {hits} of {wanted} at ef 20");
    }
    let all = [Way::Among, Way::Plain, Way::Scan].map(|way| format!("{way:?}"));
    assert!(ways.into_iter().eq(all), "each was taken");
}

/// The last document with a key loses it while the values of a range are read: no part of that range is taken for a
/// part of the next condition.
#[test]
fn a_key_that_goes_in_the_middle_of_a_range_leaves_nothing_behind() {
    for is_within_less in [false, true] {
        let mut pair = Pair::new(1_600);
        let put = |pair: &mut Pair, id: u64, key: &str, value: u64| {
            let (vector, value) = (pair.random.vector(), value.to_string());
            let payload = Payload::new([(key, value.as_str())], "").unwrap();
            pair.model.0.insert(DocId(id), (vector.clone(), payload.clone()));
            pair.write(Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None });
        };
        (1..=50).for_each(|id| put(&mut pair, id, "range", id));
        (51..=100).for_each(|id| put(&mut pair, id, "other", id % 3));
        let (side, bound) =
            if is_within_less { (Side::AtLeast, "30") } else { (Side::AtLeast, "20") };
        let range = Filter::Range("range".into(), Some(Bound::new(side, bound.into())));
        let other = Filter::Exact("other".into(), "1".into());
        let either = Filter::Or(vec![range, other]);
        let before = pair.model.clone();
        let mut sweep = pair.engine.begin_sweep(either.clone());
        assert!(!sweep.step(&pair.engine));
        for id in (1..=50).map(DocId) {
            let payload = Payload::new([("none", "1")], "").unwrap();
            pair.write(Write::Update { id, realm: Realm::default(), payload, merge: false });
        }
        while !sweep.step(&pair.engine) {}
        let mut ids = pair.engine.finish_sweep(sweep).1.concat();
        ids.sort_unstable();
        let passing = before.0.iter().filter(|(_, (_, payload))| either.matches(payload));
        assert!(ids.iter().eq(passing.map(|(id, _)| id)), "{ids:?}");
    }
}

/// A filter that is wide and deep everywhere takes no more memory than its limit, and its answer is right.
#[test]
fn the_sets_of_an_evaluation_have_a_bound() {
    let mut pair = Pair::new(1_700);
    (1..=IDS).for_each(|id| put(&mut pair, id));
    pair.link_all();
    let not = |number: u64| {
        let value = VALUES[number as usize % VALUES.len()];
        Filter::Not(Box::new(Filter::Exact("n".into(), value.into())))
    };
    let mut given_up = 0;
    for levels in 1..11 {
        let mut nodes: Vec<Filter> = (0..1 << levels).map(not).collect();
        for level in 0..levels {
            let join = if level % 2 == 0 { Filter::Or } else { Filter::And };
            nodes = nodes.chunks(2).map(|pair| join(pair.to_vec())).collect();
        }
        let filter = nodes.remove(0);
        let snapshot = pair.engine.applied;
        let mut evaluation = Evaluation::new(&pair.engine.index, &filter);
        let found = loop {
            if let Some(found) =
                evaluation.step(&filter, &pair.engine.index, &pair.engine.store, snapshot)
            {
                break found;
            }
            let (bytes, max) = evaluation.bytes(&pair.engine.index);
            assert!(bytes <= max, "{bytes} bytes; {max} are allowed");
        };
        let passing = passing(&pair.engine, &filter);
        assert!(passing.iter().all(|&slot| found.slots.contains(slot)));
        given_up += u32::from(found.unsure > 0);
        let query = pair.query(60, Some(filter));
        let search = pair.engine.begin_search(query.clone()).unwrap();
        let outcome = finish(&mut pair.engine, search);
        assert_eq!(super::testing::found(&outcome), pair.model.nearest(&query), "{levels} levels");
    }
    assert!(given_up > 0, "the widest one is put to the documents");
}

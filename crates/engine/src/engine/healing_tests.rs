//! Graphs whose documents are replaced and deleted many times.

use std::sync::Arc;

use super::healing::Counts;
use super::read::{Phase, Query};
use super::testing::{Pair, finish, found, payload};
use super::write::Write;
use crate::graph::check::check;
use crate::types::realm::Realm;
use crate::types::{DocId, Slot};

/// Checks that no live node is unreachable, and every link leads to a node.
fn assert_sound(pair: &Pair) {
    let report = check(pair.engine.graph(), pair.engine.store().slot_count()).unwrap();
    let is_live = |slot: &&Slot| pair.engine.store().is_live(**slot);
    assert_eq!(report.unreachable.iter().find(is_live), None);
    assert_eq!(report.linked as usize, pair.model.0.len() + pair.engine.dead_count());
}

/// Share of the ten nearest that walks with a narrow beam find.
fn recall(pair: &mut Pair, queries: &[Query]) -> f64 {
    let mut hits = 0;
    for query in queries {
        let search = pair.engine.begin_search(Arc::new(query.clone())).unwrap();
        assert!(matches!(search.phase(), Phase::Hot(_)), "it walks");
        let found = found(&finish(&mut pair.engine, search));
        let truth = pair.model.nearest(query);
        hits += truth.iter().filter(|wanted| found.contains(wanted)).count();
    }
    hits as f64 / (10 * queries.len()) as f64
}

fn queries(pair: &mut Pair) -> Vec<Query> {
    (0..400).map(|_| Query { ef: 16, ..(*pair.query(10, None)).clone() }).collect()
}

/// A shard with equal documents, in a new graph.
fn fresh(pair: &Pair) -> Pair {
    let mut fresh = Pair::new(0);
    for (&id, (vector, payload)) in &pair.model.0 {
        let (vector, payload) = (vector.clone(), payload.clone());
        fresh.write(Write::Put { id, vector, payload, tenant_documents_max: None });
    }
    fresh.model = pair.model.clone();
    fresh.link_all();
    fresh
}

#[test]
fn replacing_all_documents_ten_times_costs_neither_recall_nor_slots() {
    const DOCUMENTS: u64 = 4_000;
    let mut pair = Pair::new(70);
    (1..=DOCUMENTS).for_each(|id| pair.put(id));
    pair.link_all();
    let mut slots_max = 0;
    for _ in 0..10 * DOCUMENTS {
        let id = 1 + pair.random.below(DOCUMENTS);
        if pair.random.below(4) == 0 {
            pair.delete(id, "");
            let id = 1 + pair.random.below(DOCUMENTS);
            pair.put(id);
        } else {
            pair.put(id);
        }
        // As many steps as upkeep has at the pace at which it links new documents.
        while pair.engine.hot_count() > 50 {
            pair.link(1);
        }
        slots_max = slots_max.max(pair.engine.store().slot_count());
    }
    pair.link_all();
    assert_sound(&pair);
    let Counts { removed, checks, .. } = pair.engine.healing();
    assert!(removed > 9 * DOCUMENTS && checks > 100, "{:?}", pair.engine.healing());
    assert!(f64::from(slots_max) <= 1.1 * DOCUMENTS as f64, "{slots_max} slots");
    assert!(pair.engine.dead_count() < 32, "{} dead", pair.engine.dead_count());
    let queries = queries(&mut pair);
    let (worn, new) = (recall(&mut pair, &queries), recall(&mut fresh(&pair), &queries));
    assert!(new < 0.995, "{new}: too easy to tell");
    assert!(worn >= new - 0.005, "recall {worn} after all of it, {new} afresh");
}

#[test]
fn documents_left_by_a_mass_delete_are_found() {
    for stays in [2, 10] {
        let mut pair = Pair::new(80 + stays);
        (1..=10_000).for_each(|id| pair.put(id));
        pair.link_all();
        (1..=10_000).filter(|id| id % stays != 0).for_each(|id| pair.delete(id, ""));
        let linked = pair.engine.graph().linked_count();
        pair.link_all();
        assert_sound(&pair);
        assert_eq!((linked, pair.engine.graph().linked_count()), (10_000, 10_000 / stays as u32));
        let queries = queries(&mut pair);
        let wide: Vec<Query> = queries.into_iter().map(|q| Query { ef: 10, ..q }).collect();
        let (worn, new) = (recall(&mut pair, &wide), recall(&mut fresh(&pair), &wide));
        assert!(worn >= new - 0.005, "one in {stays} left: recall {worn}, {new} afresh");
    }
}

#[test]
fn a_graph_that_lost_all_its_nodes_begins_again() {
    let mut pair = Pair::new(90);
    for round in 0..3 {
        (1..=500).for_each(|id| pair.put(id));
        pair.link_all();
        assert_sound(&pair);
        (1..=500).for_each(|id| pair.delete(id, ""));
        pair.link_all();
        assert_eq!(pair.engine.graph().entry(), None, "round {round}");
        assert_eq!((pair.engine.graph().linked_count(), pair.engine.dead_count()), (0, 0));
        assert!(pair.engine.store().slot_count() <= 500);
    }
    // A single node that is the entry is removed, and another one comes.
    for id in 1..=3 {
        pair.put(id);
        pair.link_all();
        pair.delete(id, "");
    }
    pair.put(9);
    pair.link_all();
    assert!(pair.engine.get(DocId(9), &Realm::default(), false).is_some());
    assert_sound(&pair);
}

/// While a snapshot of the graph is kept, no node leaves it; and a search that is at a node keeps its slot from being
/// filled with another document.
#[test]
fn slots_wait_for_snapshots_and_searches() {
    let mut pair = Pair::new(95);
    (1..=3_000).for_each(|id| pair.put(id));
    pair.link_all();
    (1..=1_000).for_each(|id| pair.delete(id, ""));
    let checkpoint =
        pair.engine.begin_checkpoint(std::sync::Arc::default(), std::collections::BTreeSet::new());
    pair.link(100_000);
    assert_eq!(pair.engine.graph().linked_count(), 3_000);
    pair.engine.end_checkpoint(checkpoint);
    let query = pair.query(10, None);
    let search = pair.engine.begin_search(query).unwrap();
    pair.link_all();
    // Nothing leads to them any more, but the search may be at one.
    assert_eq!(pair.engine.healing().removed, 1_000);
    assert_eq!(pair.engine.graph().linked_count(), 3_000);
    (4_001..=4_500).for_each(|id| pair.put(id));
    assert_eq!(pair.engine.store().slot_count(), 3_500);
    let outcome = finish(&mut pair.engine, search);
    assert_eq!(outcome.hits.len(), 10);
    pair.link_all();
    assert_eq!(pair.engine.graph().linked_count(), 2_500);
    (5_001..=5_500).for_each(|id| pair.put(id));
    assert_eq!(pair.engine.store().slot_count(), 3_500);
}

/// A new version that is a copy of the former one is linked beside it, and takes over copies that lose their place in
/// a list: none that is leaving the graph.
#[test]
fn versions_with_the_same_vector_leave_no_link_to_one_that_has_gone() {
    const DOCUMENTS: u64 = 1_500;
    let mut pair = Pair::new(75);
    let places: Vec<Box<[f32]>> = (0..15).map(|_| pair.random.vector()).collect();
    let put = |pair: &mut Pair, id: u64| {
        let (vector, payload) = (places[id as usize % 15].clone(), payload(1, ""));
        pair.model.0.insert(DocId(id), (vector.clone(), payload.clone()));
        pair.write(Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None });
    };
    (1..=DOCUMENTS).for_each(|id| put(&mut pair, id));
    pair.link_all();
    for round in 0..8 * DOCUMENTS {
        let id = 1 + pair.random.below(DOCUMENTS);
        put(&mut pair, id);
        while pair.engine.hot_count() > 20 || pair.engine.is_linking() {
            pair.link(1);
        }
        if round % 50 == 0 {
            check(pair.engine.graph(), pair.engine.store().slot_count()).unwrap();
        }
    }
    assert!(pair.engine.healing().removed > 4 * DOCUMENTS, "{:?}", pair.engine.healing());
}

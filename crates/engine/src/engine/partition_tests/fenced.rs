//! A partition of which one owner is fenced, or gone.

use super::*;

#[test]
fn a_fenced_owner_is_left_out_and_does_not_block_others() {
    let mut many = Many::new(3, 60);
    (1..=2_000).for_each(|id| many.put(id));
    many.link_all();
    // Owner 1 has a search open, and heals.
    let query = Arc::new(many.query(40, true));
    let open = many.engines[1].begin_search_in(query, Scope::Partition).unwrap();
    many.engines[1].fence();
    // As its core does with a search that has begun.
    many.engines[1].abandon_search(open);
    let gone: Vec<DocId> = many.model.0.keys().copied().filter(|id| id.shard(3).0 == 1).collect();
    gone.iter().for_each(|id| {
        many.model.0.remove(id);
    });
    for is_exact in [true, false] {
        let query = many.query(40, is_exact);
        let expected = many.model.nearest(&query);
        let search = many.engines[0].begin_search_in(Arc::new(query), Scope::Partition).unwrap();
        let outcome = finish(&mut many.engines[0], search);
        assert_eq!(outcome.missing, [1]);
        assert!(outcome.hits.iter().all(|hit| hit.id.shard(3).0 != 1));
        assert!(!is_exact || found(&outcome) == expected);
    }
    // Slots of the other owners are used again.
    let others: Vec<u64> = (1..=2_000).filter(|&id| DocId(id).shard(3).0 != 1).collect();
    let mut slots = Vec::new();
    for _ in 0..12 {
        others.iter().for_each(|&id| many.put(id));
        for _ in 0..20_000 {
            many.engines[0].link_step();
            many.engines[2].link_step();
        }
        slots.push(many.engines[0].store().slot_count());
    }
    let growth = slots[11] - slots[5];
    assert!(growth <= slots[5] / 50, "slots in use after each round: {slots:?}");
}

/// At any step at which the owner stops, no node that it has chosen or linked leads to a slot that is used again.
#[test]
fn a_node_that_a_fenced_owner_leaves_half_linked_is_kept_sound() {
    for steps in 1..30 {
        let mut many = Many::new(3, 80 + steps);
        (1..=300).for_each(|id| many.put(id));
        many.link_all();
        let own = (301..).find(|&id| DocId(id).shard(3).0 == 1).unwrap();
        many.put(own);
        for _ in 0..steps {
            many.engines[1].link_step();
        }
        many.engines[1].fence();
        let others: Vec<u64> = (1..=300).filter(|&id| DocId(id).shard(3).0 != 1).collect();
        for _ in 0..4 {
            others.iter().for_each(|&id| many.put(id));
            for _ in 0..4_000 {
                many.engines[0].link_step();
                many.engines[2].link_step();
            }
        }
        let engine = &many.engines[0];
        assert!(engine.store().slot_count() < 420, "its slots are used again");
        check(engine.graph(), engine.store().extent()).unwrap();
    }
}

/// A core may end before others: the views that it held are released.
#[test]
fn an_owner_that_is_gone_does_not_block_others() {
    let mut many = Many::new(2, 88);
    (1..=1_000).for_each(|id| many.put(id));
    many.link_all();
    let query = Arc::new(many.query(40, true));
    let gone = many.engines.pop().map(|mut engine| {
        let open = engine.begin_search_in(query.clone(), Scope::Partition).unwrap();
        drop(engine);
        open
    });
    let own: Vec<u64> = (1..=1_000).filter(|&id| DocId(id).shard(2).0 == 0).collect();
    for &id in &own {
        apply(&mut many.engines[0], Write::Delete { id: DocId(id), realm: Realm::default() });
    }
    while many.engines[0].link_step() == LinkProgress::More {}
    assert_eq!(many.engines[0].store().held_count(), 0);
    let search = many.engines[0].begin_search_in(query, Scope::Partition).unwrap();
    let outcome = finish(&mut many.engines[0], search);
    assert_eq!((outcome.missing, outcome.hits.len()), (vec![1], 0));
    drop(gone);
}

/// An owner that has announced links to dead nodes does not keep others from removing those, however it ends: `end`
/// ends owner 1.
fn is_held_up_by_nobody(end: impl FnOnce(&mut Many)) {
    let mut many = Many::new(2, 85);
    let own = |owner| move |&id: &u64| DocId(id).shard(2).0 == owner;
    (1..=300).filter(own(0)).for_each(|id| many.put(id));
    many.link_all();
    (1..=300).filter(own(0)).for_each(|id| many.delete(id));
    (1..=300).filter(own(1)).take(1).for_each(|id| many.put(id));
    // Its linker has begun again, among dead nodes.
    for _ in 0..40 {
        many.engines[1].link_step();
    }
    assert!(many.engines[1].is_linking());
    end(&mut many);
    for _ in 0..5_000 {
        many.engines[0].link_step();
    }
    assert_eq!(many.engines[0].dead_count(), 0);
    assert_eq!(many.engines[0].link_step(), LinkProgress::Idle, "it has come to its end");
}

#[test]
fn a_fenced_owner_that_links_to_dead_nodes_does_not_block_others() {
    is_held_up_by_nobody(|many| many.engines[1].fence());
}

#[test]
fn an_owner_gone_while_linking_to_dead_nodes_does_not_block_others() {
    is_held_up_by_nobody(|many| drop(many.engines.pop()));
}

/// Owners 0 and 1 have only dead nodes, and wait for owner 2, which has linked its only document to some of them.
/// Owner 0 has taken it on itself to look at that document once more.
fn linked_to_dead_nodes() -> Many {
    let mut many = Many::new(3, 86);
    let own = |owner| move |&id: &u64| DocId(id).shard(3).0 == owner;
    (1..=300).filter(|id| !own(2)(id)).for_each(|id| many.put(id));
    many.link_all();
    (1..=300).filter(|id| !own(2)(id)).for_each(|id| many.delete(id));
    (1..=300).filter(own(2)).take(1).for_each(|id| many.put(id));
    // Its linker has begun again, among dead nodes.
    for _ in 0..40 {
        many.engines[2].link_step();
    }
    assert!(many.engines[2].is_linking());
    for _ in 0..5_000 {
        many.engines[0].link_step();
        many.engines[1].link_step();
    }
    assert!(many.engines[0].dead_count() > 0 && many.engines[1].dead_count() > 0);
    while many.engines[2].is_linking() {
        many.engines[2].link_step();
    }
    many.engines[0].link_step();
    many
}

/// Puts the first document above number 300 that belongs to `owner`.
fn put_for(many: &mut Many, owner: u32) {
    let id = (301..).find(|&id| DocId(id).shard(3).0 == owner);
    many.put(id.unwrap());
}

/// An owner that is about to look once more at nodes linked to dead ones leaves them to others when it is fenced: no
/// node goes to which a list leads.
#[test]
fn nodes_linked_to_dead_ones_are_checked_when_an_owner_is_fenced() {
    let mut many = linked_to_dead_nodes();
    many.engines[0].fence();
    put_for(&mut many, 1);
    let linked = many.engines[2].store().stripe().slot(0);
    for _ in 0..200 {
        many.engines[1].link_step();
        let graph = many.engines[1].graph();
        for near in graph.neighbours(linked, 0) {
            assert!(graph.level(near).is_some(), "slot {} has gone", near.0);
        }
    }
    assert_eq!(many.engines[1].dead_count(), 0);
}

/// An owner that keeps linkers from dead nodes does not wait for itself.
#[test]
fn nodes_linked_to_dead_ones_are_checked_before_the_next_is_linked() {
    let mut many = linked_to_dead_nodes();
    let only = many.model.0.keys().next().unwrap().0;
    many.delete(only);
    many.engines[2].link_step();
    put_for(&mut many, 0);
    for _ in 0..5_000 {
        many.engines[0].link_step();
    }
    assert!(!many.engines[0].is_linking());
    assert_eq!(many.engines[0].hot_count(), 0);
}

//! Many copies of a vector among other documents, and nodes that have lost all links to them.

use super::*;

/// Puts a document with this vector, which the model does not know.
fn put(many: &mut Many, id: u64, vector: &[f32]) {
    let (id, vector, payload) = (DocId(id), vector.into(), payload(0, ""));
    many.write(Write::Put { id, vector, payload, tenant_documents_max: None });
}

/// Number of these documents that a walk by their own vector does not find.
fn missed(many: &mut Many, documents: &[(u64, Box<[f32]>)]) -> usize {
    let mut is_missed = |(id, vector): &&(u64, Box<[f32]>)| {
        let query = Query { vector: vector.clone().into(), ..many.query(50, false) };
        let outcome = many.search(query);
        outcome.hits.iter().all(|hit| hit.id != DocId(*id))
    };
    documents.iter().filter(|document| is_missed(document)).count()
}

fn unreachable(many: &Many) -> usize {
    let engine = &many.engines[0];
    check(engine.graph(), engine.store().extent()).unwrap().unreachable.len()
}

fn healing(many: &Many) -> (u64, u64) {
    let counts = many.engines.iter().map(Engine::healing);
    counts.fold((0, 0), |sum, counts| (sum.0 + counts.unreachable, sum.1 + counts.checks))
}

/// 600 copies and 200 others: the copies first, last or anywhere among them, with steps in random order.
#[test]
fn copies_of_a_document_cut_off_no_other() {
    for owners in [1, 2, 3, 16] {
        for place in 0..3 {
            let mut many = Many::new(owners, 300 + u64::from(owners) * 3 + place);
            let copied = many.random.vector();
            let mut others = Vec::new();
            for id in 1..=800 {
                let is_copy = match place {
                    0 => id <= 600,
                    1 => id > 200,
                    _ => id % 4 != 0,
                };
                let vector = if is_copy { copied.clone() } else { many.random.vector() };
                put(&mut many, id, &vector);
                if !is_copy {
                    others.push((id, vector));
                }
                many.link(30);
            }
            many.link_all();
            let (found, checks) = healing(&many);
            let case = format!("{owners} owners, place {place}");
            assert_eq!(unreachable(&many), 0, "{case}, {found} given links");
            // Linkers ensure it. A search may miss a node that is being linked.
            assert!(found <= 8, "{case}: {found} given links");
            assert!(checks > 0, "{case}: the graph was looked through");
            assert!(missed(&mut many, &others) <= 2, "{case}: {}", missed(&mut many, &others));
        }
    }
}

/// Many copies, with each owner on a thread of its own.
#[test]
fn copies_that_threads_link_cut_off_no_other() {
    let owners = 4;
    let mut engines = engines(owners);
    let mut random = Random(97 << 32);
    let copied = random.vector();
    let mut others = Vec::new();
    for id in 1..=2_000 {
        let is_copy = id % 4 != 0;
        let vector = if is_copy { copied.clone() } else { random.vector() };
        let owner = DocId(id).shard(owners).0 as usize;
        let (payload, tenant_documents_max) = (payload(0, ""), None);
        let put =
            Write::Put { id: DocId(id), vector: vector.clone(), payload, tenant_documents_max };
        apply(&mut engines[owner], put);
        if !is_copy {
            others.push((id, vector));
        }
    }
    std::thread::scope(|scope| {
        for engine in &mut engines {
            scope.spawn(|| {
                while engine.hot_count() > 0 && engine.link_step() == LinkProgress::More {}
            });
        }
    });
    let mut many = Many::of(engines, Model::default(), random);
    assert_eq!(unreachable(&many), 0);
    many.link_all();
    assert_eq!(unreachable(&many), 0);
    assert!(missed(&mut many, &others) <= 5, "{}", missed(&mut many, &others));
}

/// After a burst of writes that is small beside the graph, nodes without links to them are found and linked to.
#[test]
fn nodes_without_links_to_them_are_soon_found_again() {
    for owners in [1, 3] {
        let mut many = Many::new(owners, 400 + u64::from(owners));
        let vectors: Vec<_> = (1..=3_000).map(|id| (id, many.random.vector())).collect();
        vectors.iter().for_each(|(id, vector)| put(&mut many, *id, vector));
        many.link_all();
        let (found, checks) = healing(&many);
        let engine = &many.engines[0];
        let (graph, extent) = (engine.graph(), engine.store().extent());
        let mut lost = Vec::new();
        for (id, vector) in vectors.iter().step_by(60) {
            let owner = DocId(*id).shard(owners).0 as usize;
            graph.cut_off(many.engines[owner].store().find(DocId(*id)).unwrap(), extent);
            lost.push((*id, vector.clone()));
        }
        let entry = graph.entry().map(|(entry, _)| entry);
        assert!(unreachable(&many) >= 48, "{} cut off, {entry:?}", unreachable(&many));
        (3_001..=3_030).for_each(|id| many.put(id));
        many.link_all();
        assert_eq!(unreachable(&many), 0, "{owners} owners");
        let after = healing(&many);
        assert!(after.0 - found >= 48, "{} given links", after.0 - found);
        // One more check shows that they have links, and then there is none.
        assert!((2..=4).contains(&(after.1 - checks)), "{} times", after.1 - checks);
        assert_eq!(missed(&mut many, &lost), 0, "{owners} owners");
    }
}

/// Not each round that removes nodes looks for unreachable ones. If a round removes the entry of walks, the graph is
/// checked from the node that takes its place.
#[test]
fn the_graph_is_checked_from_each_new_entry() {
    let mut many = Many::new(2, 77);
    (1..=1_500).for_each(|id| many.put(id));
    many.link_all();
    for round in 0..4 {
        let checks = healing(&many).1;
        let (entry, _) = many.engines[0].graph().entry().unwrap();
        let owner = many.engines[0].store().stripe().owner_of(entry);
        let store = many.engines[owner as usize].store();
        let live = store.slots().filter(|&slot| slot != entry && store.is_live(slot)).take(40);
        let gone: Vec<u64> = live.chain([entry]).map(|slot| store.doc_id(slot).0).collect();
        gone.into_iter().for_each(|id| many.delete(id));
        many.link_all();
        assert_ne!(many.engines[0].graph().entry().unwrap().0, entry, "round {round}");
        assert!(healing(&many).1 > checks, "round {round}: nothing was looked for");
        assert_eq!(unreachable(&many), 0);
    }
}

//! Shards that share one graph, with vectors on disk, each in files of its own.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::engine::partition::Joint;
use crate::engine::testing::{Model, Random};

fn engines(owners: u32) -> Vec<Engine> {
    let joint = Joint::new(owners);
    let home = |owner| Params { home: Some(joint.home(owner)), ..on_disk(engine().params()) };
    (0..owners).map(|owner| Engine::new(home(owner))).collect()
}

fn put(engines: &mut [Engine], model: &mut Model, random: &mut Random, id: u64) {
    let (id, vector, payload) = (DocId(id), random.vector(), payload(random.below(5), ""));
    model.0.insert(id, (vector.clone(), payload.clone()));
    let engine = &mut engines[id.shard(engines.len() as u32).0 as usize];
    let write = Write::Put { id, vector, payload, tenant_documents_max: None };
    for record in engine.stage(write).unwrap().records {
        let lsn = engine.applied().next();
        assert!(engine.apply(lsn, record));
    }
}

/// A search on one core reads vectors from the files of all shards, and from the memory of all.
#[test]
fn a_search_of_one_owner_finds_the_vectors_of_all() {
    let (mut engines, mut model) = (engines(3), Model::default());
    let (mut random, mut files) = (Random(5 << 32), Files::default());
    for round in 1..=30 {
        for _ in 0..100 {
            let id = 1 + random.below(1_500);
            put(&mut engines, &mut model, &mut random, id);
            for engine in &mut engines {
                (0..20).for_each(|_| _ = engine.link_step());
            }
        }
        let saving = random.below(3) as usize;
        files.save(&mut engines[saving], round).unwrap();
        for (asked, engine) in engines.iter_mut().enumerate() {
            let query = Arc::new(Query {
                vector: random.vector().into(),
                k: 10,
                ef: 120,
                min_score: 0.0,
                filter: None,
                include_embeddings: true,
                is_exact: asked == 2,
            });
            let search = engine.begin_search_in(query.clone(), Scope::Partition).unwrap();
            let outcome = files.finish(engine, search);
            assert_eq!(found(&outcome), model.nearest(&query), "round {round}");
            for hit in &outcome.hits {
                assert_eq!(hit.embedding.as_ref(), Some(&model.0[&hit.id].0));
            }
        }
    }
    assert!(files.reads > 300, "{} rows were read", files.reads);
}

/// A document that a search has found in memory is answered with its vector, though another owner frees the row
/// before the answer is made.
#[test]
fn hits_keep_vectors_that_another_owner_lets_go() {
    let (mut engines, mut model) = (engines(2), Model::default());
    let (mut random, mut files) = (Random(8 << 32), Files::default());
    (1..=300).for_each(|id| put(&mut engines, &mut model, &mut random, id));
    let query = Arc::new(Query {
        vector: random.vector().into(),
        k: 10,
        ef: 10,
        min_score: 0.0,
        filter: None,
        include_embeddings: true,
        is_exact: true,
    });
    let mut search = engines[0].begin_search_in(query.clone(), Scope::Partition).unwrap();
    while !search.step(&engines[0]) {
        assert!(search.wanted().is_empty(), "all is in memory");
    }
    files.save(&mut engines[1], 1).unwrap();
    while engines[1].link_step() == LinkProgress::More {}
    let gone = model.nearest(&query).iter().filter(|(id, _)| id.shard(2).0 == 1).count();
    assert!(gone > 0, "some of the hits are the other's");
    assert!(engines[1].store().row_bytes_in_memory() < 100 * 64, "and not in memory any more");
    let outcome = engines[0].finish_search(search);
    assert_eq!(found(&outcome), model.nearest(&query));
    assert!(outcome.complete && outcome.lost.is_empty());
    for hit in &outcome.hits {
        assert_eq!(hit.embedding.as_ref(), Some(&model.0[&hit.id].0));
    }
}

/// One owner writes, saves and frees rows, while another searches on a thread of its own: the rows that the searches
/// find in memory are as they were written.
#[test]
fn rows_go_while_others_read_them() {
    let (mut engines, is_over) = (engines(2), AtomicBool::new(false));
    let (mut model, mut random) = (Model::default(), Random(6 << 32));
    (1..=400).for_each(|id| put(&mut engines, &mut model, &mut random, id));
    let owner_of = |id: u64| DocId(id).shard(2).0;
    let mut reader = engines.pop().unwrap();
    let mut writer = engines.pop().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(7 << 32);
            let mut seen = 0;
            while !is_over.load(Ordering::Acquire) || seen < 100 {
                let query = Query {
                    vector: random.vector().into(),
                    k: 300,
                    ef: 300,
                    min_score: 0.0,
                    filter: None,
                    include_embeddings: true,
                    is_exact: true,
                };
                let search = reader.begin_search_in(Arc::new(query.clone()), Scope::Partition);
                let mut search = search.unwrap();
                while !search.step(&reader) {
                    // No row is read: documents with vectors on disk are left out.
                }
                for hit in reader.finish_search(search).hits {
                    let vector = hit.embedding.unwrap();
                    let score = crate::kernels::scalar::dot(&query.vector, &vector);
                    assert!((score - hit.score).abs() < 1e-5, "{score} for {}", hit.score);
                }
                seen += 1;
            }
        });
        let mut files = Files::default();
        for round in 1..=60 {
            for _ in 0..100 {
                let id =
                    (0..).map(|_| 1 + random.below(400)).find(|&id| owner_of(id) == 0).unwrap();
                let (vector, payload) = (random.vector(), payload(1, ""));
                let write =
                    Write::Put { id: DocId(id), vector, payload, tenant_documents_max: None };
                for record in writer.stage(write).unwrap().records {
                    let lsn = writer.applied().next();
                    assert!(writer.apply(lsn, record));
                }
                (0..30).for_each(|_| _ = writer.link_step());
            }
            files.save(&mut writer, round).unwrap();
            while writer.link_step() == LinkProgress::More {}
        }
        is_over.store(true, Ordering::Release);
    });
    while writer.link_step() == LinkProgress::More {}
    assert_eq!(writer.store().row_bytes_in_memory(), 0, "nothing is kept for nobody");
}

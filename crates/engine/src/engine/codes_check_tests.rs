//! Vectors that have much more in common than tells them apart: with codes a search finds as many neighbours as
//! without.

use std::sync::Arc;

use super::read::Query;
use super::testing::{Random, finish, params, payload};
use super::write::Write;
use super::*;
use crate::kernels::{normalize, scalar};

const DIMENSION: usize = 96;
const DOCUMENTS: u64 = 2_500;

/// How documents are made.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// One direction and noise, with this mean cosine.
    Cone(f32),
    /// One value is larger than the others by this factor.
    Outlier(f32),
    /// Noise alone.
    Random,
}

fn noise(random: &mut Random) -> Box<[f32]> {
    let value = |random: &mut Random| random.below(2_001) as f32 / 1_000.0 - 1.0;
    let mut vector: Box<[f32]> =
        (0..DIMENSION).map(|_| (0..4).map(|_| value(random)).sum()).collect();
    assert!(normalize(&mut vector));
    vector
}

impl Kind {
    fn vector(self, random: &mut Random) -> Box<[f32]> {
        let mut vector = noise(random);
        match self {
            Self::Random => {}
            Self::Outlier(times) => vector[5] = times / (DIMENSION as f32).sqrt(),
            Self::Cone(cosine) => {
                let (base, spread) = (noise(&mut Random(1 << 50)), (1.0 / cosine - 1.0).sqrt());
                vector.iter_mut().zip(&base).for_each(|(x, base)| *x = base + spread * *x);
            }
        }
        assert!(normalize(&mut vector));
        vector
    }
}

struct Built {
    engine: Engine,
    vectors: Vec<Box<[f32]>>,
    random: Random,
    kind: Kind,
}

fn link_all(engine: &mut Engine) {
    while engine.link_step() == LinkProgress::More {}
}

fn put(engine: &mut Engine, id: u64, vector: Box<[f32]>) {
    let (payload, tenant_documents_max) = (payload(0, ""), None);
    let put = Write::Put { id: DocId(id), vector, payload, tenant_documents_max };
    let staged = engine.stage(put).unwrap();
    for record in staged.records {
        let lsn = engine.applied().next();
        assert!(engine.apply(lsn, record));
    }
}

fn build(kind: Kind, codes: bool, vectors: VectorStorage) -> Built {
    let graph = graph::Params { m: 16, ef_construction: 120, seed: 3 };
    let params = Params { dimension: DIMENSION, codes, vectors, graph, ..params() };
    let mut random = Random(7 << 40);
    let mut engine = Engine::new(params);
    let vectors: Vec<_> = (0..DOCUMENTS).map(|_| kind.vector(&mut random)).collect();
    for (id, vector) in (1..).zip(&vectors) {
        put(&mut engine, id, vector.clone());
    }
    link_all(&mut engine);
    Built { engine, vectors, random, kind }
}

impl Built {
    /// Share of the ten nearest that walks of width 50 find.
    fn recall(&mut self) -> f64 {
        const QUERIES: usize = 60;
        let mut hits = 0;
        for _ in 0..QUERIES {
            let vector = self.kind.vector(&mut self.random);
            let mut truth: Vec<(f32, u64)> = (1..)
                .zip(&self.vectors)
                .map(|(id, other)| (-scalar::dot(&vector, other), id))
                .collect();
            truth.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let (min_score, filter, include_embeddings) = (0.0, None, false);
            let (vector, k, ef, is_exact) = (vector.into(), 10, 50, false);
            let query = Query { vector, k, ef, min_score, filter, include_embeddings, is_exact };
            let search = self.engine.begin_search(Arc::new(query)).unwrap();
            let outcome = finish(&mut self.engine, search);
            hits += truth[..10]
                .iter()
                .filter(|(_, id)| outcome.hits.iter().any(|hit| hit.id == DocId(*id)))
                .count();
        }
        hits as f64 / (10 * QUERIES) as f64
    }
}

#[test]
fn codes_that_do_not_tell_neighbours_apart_are_not_used() {
    let kinds = [Kind::Cone(0.99), Kind::Cone(0.996), Kind::Cone(0.9996), Kind::Outlier(1_000.0)];
    for kind in kinds {
        let mut with = build(kind, true, VectorStorage::Memory);
        assert!(!with.engine.codes_tell_apart(), "{kind:?}");
        assert!(with.engine.codes_indistinct() > Some(0.2), "{kind:?}");
        let (with, without) = (with.recall(), build(kind, false, VectorStorage::Memory).recall());
        assert!(with >= without - 0.03, "{kind:?}: recall {with}, {without} without codes");
    }
}

#[test]
fn codes_that_tell_neighbours_apart_are_used() {
    for kind in [Kind::Random, Kind::Cone(0.5), Kind::Cone(0.9), Kind::Cone(0.96)] {
        let mut with = build(kind, true, VectorStorage::Memory);
        assert!(with.engine.codes_tell_apart(), "{kind:?}");
        assert!(with.engine.codes_indistinct() < Some(0.1), "{kind:?}");
        let (with, without) = (with.recall(), build(kind, false, VectorStorage::Memory).recall());
        assert!(with >= without - 0.03, "{kind:?}: recall {with}, {without} without codes");
    }
}

/// As after a restore, when nothing is linked.
#[test]
fn codes_are_tried_without_samples_of_their_agreement() {
    for (kind, are_good) in [(Kind::Cone(0.996), false), (Kind::Random, true)] {
        let mut built = build(kind, true, VectorStorage::Memory);
        built.engine.store().codes().unwrap().forget_agreement();
        assert!(built.engine.codes_tell_apart());
        link_all(&mut built.engine);
        assert_eq!(built.engine.codes_tell_apart(), are_good, "{kind:?}");
        assert!(!built.engine.store().codes().unwrap().want_samples());
    }
}

#[test]
fn codes_are_used_again_once_they_tell_apart() {
    let mut built = build(Kind::Cone(0.996), true, VectorStorage::Memory);
    assert!(!built.engine.codes_tell_apart());
    built.kind = Kind::Random;
    for id in 1..=DOCUMENTS {
        let vector = built.kind.vector(&mut built.random);
        built.vectors[id as usize - 1] = vector.clone();
        put(&mut built.engine, id, vector);
    }
    link_all(&mut built.engine);
    assert!(built.engine.codes_tell_apart(), "{:?}", built.engine.codes_indistinct());
    assert!(built.recall() > 0.75);
}

#[test]
fn walks_are_wider_with_vectors_on_disk() {
    let vectors = VectorStorage::Disk { unsaved_bytes_max: 1 << 30 };
    let mut built = build(Kind::Cone(0.99), true, vectors);
    assert!(!built.engine.codes_tell_apart());
    let wider = built.recall();
    built.engine.store().codes().unwrap().forget_agreement();
    let narrow = built.recall();
    assert!(wider > narrow + 0.1, "recall {wider}, {narrow} as wide as was asked for");
    let mut random = build(Kind::Random, true, vectors);
    assert!(random.engine.codes_tell_apart());
    assert!(random.recall() > 0.75);
}

//! Allocations of a search in the engine itself, counted exactly on one thread.

use std::sync::Arc;

use kyrodb::engine::{Capacity, Engine, LinkProgress, Params, Query, VectorStorage, Write};
use kyrodb::graph;
use kyrodb::types::DocId;
use kyrodb::types::metric::Metric;
use kyrodb::types::payload::Payload;

use crate::bounds::Bounds;
use crate::common::clustered::{K, WIDTH, vector};
use crate::{allocations, alone};

const DOCUMENTS: u64 = 5_000;

pub(crate) fn engine() -> Engine {
    let mut engine = Engine::new(Params {
        metric: Metric::Cosine,
        dimension: WIDTH,
        codes: true,
        graph: graph::Params { m: 16, ef_construction: 50, seed: 42 },
        hot_documents_max: usize::MAX,
        capacity: Arc::new(Capacity::new(usize::MAX)),
        vectors: VectorStorage::Memory,
        home: None,
    });
    for number in 0..DOCUMENTS {
        let payload = Payload::new([("page", "17")], "").unwrap();
        let write = Write::Put {
            id: DocId(number + 1),
            vector: vector(number).into(),
            payload,
            tenant_documents_max: None,
        };
        for record in engine.stage(write).unwrap().records {
            assert!(engine.apply(engine.applied().next(), record));
        }
        while engine.link_step() == LinkProgress::More {}
    }
    engine
}

/// Queries that are not documents.
pub(crate) fn queries() -> Vec<Arc<Query>> {
    let query = |number| Query {
        vector: vector((1_u64 << 32) | number),
        k: K,
        ef: 50,
        min_score: 0.0,
        filter: None,
        include_embeddings: false,
        is_exact: false,
    };
    (0..200).map(|number| Arc::new(query(number))).collect()
}

pub(crate) fn search_all(engine: &mut Engine, queries: &[Arc<Query>]) {
    for query in queries {
        let mut search = engine.begin_search(query.clone()).unwrap();
        while !search.step(engine) {}
        let outcome = engine.finish_search(search);
        assert_eq!(outcome.hits.len(), K);
        assert!(outcome.work.hops > 0, "it walks");
    }
}

#[test]
fn a_search_allocates_nothing_but_its_answer() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let mut engine = engine();
    let queries = queries();
    search_all(&mut engine, &queries);
    let before = allocations::of_this_thread();
    search_all(&mut engine, &queries);
    let counted = allocations::of_this_thread() - before;
    bounds.hold("search_engine_allocations", counted as f64 / queries.len() as f64);
    bounds.end();
}

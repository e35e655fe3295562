//! What tests and simulations share: a reproducible stream of numbers, a model of a shard that is too simple to
//! be wrong, and an engine that is written to in step with it.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests alone use it")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::filter::Filter;
use super::*;
use crate::kernels::{Distance, NegatedDot, normalize};
use crate::types::mix;
use crate::types::payload::Payload;
use crate::types::realm::Realm;
use crate::types::record::{Record, delete_batch};

pub const DIMENSION: usize = 12;

/// A reproducible stream of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 += 1;
        mix(self.0) % bound
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }

    pub fn vector(&mut self) -> Box<[f32]> {
        let mut vector: Box<[f32]> =
            (0..DIMENSION).map(|_| self.below(2_001) as f32 / 1_000.0 - 1.0).collect();
        vector[0] += 1e-3;
        assert!(normalize(&mut vector));
        vector
    }
}

pub fn engine() -> Engine {
    Engine::new(params())
}

pub fn params() -> Params {
    Params {
        metric: Metric::Cosine,
        dimension: DIMENSION,
        codes: true,
        graph: graph::Params { m: 12, ef_construction: 60, seed: 3 },
        hot_documents_max: usize::MAX,
        capacity: Arc::new(Capacity::new(usize::MAX)),
        vectors: VectorStorage::Memory,
        home: None,
    }
}

pub fn payload(colour: u64, namespace: &str) -> Payload {
    let colour = colour.to_string();
    Payload::new([("colour", colour.as_str())], namespace).unwrap()
}

/// The shard as a map, changed by the same writes.
#[derive(Clone, Default)]
pub struct Model(pub BTreeMap<DocId, (Box<[f32]>, Payload)>);

impl Model {
    /// Uses the engine's kernel, which the kernels' own tests compare with the scalar one: of two equally near
    /// documents, rounding decides which comes first.
    pub fn nearest(&self, query: &Query) -> Vec<(DocId, Payload)> {
        let mut scored: Vec<_> = self
            .0
            .iter()
            .filter(|(_, (_, payload))| query.filter.as_ref().is_none_or(|f| f.matches(payload)))
            .map(|(&id, (vector, payload))| {
                (-NegatedDot::between(&query.vector, vector), id, payload)
            })
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        scored.into_iter().take(query.k).map(|(_, id, payload)| (id, payload.clone())).collect()
    }
}

/// An engine and its model, written to in step.
pub struct Pair {
    pub engine: Engine,
    pub model: Model,
    pub random: Random,
    /// Records applied.
    pub records: VecDeque<Record>,
}

impl Pair {
    pub fn new(seed: u64) -> Self {
        let (model, records) = (Model::default(), VecDeque::new());
        Self { engine: engine(), model, random: Random(seed << 32), records }
    }

    pub fn apply(&mut self, records: Vec<Record>) {
        for record in records {
            let lsn = self.engine.applied().next();
            self.records.push_back(record.clone());
            let mut done = self.engine.apply(lsn, record);
            while !done {
                done = self.engine.apply_more();
            }
        }
    }

    pub fn write(&mut self, write: Write) -> Outcome {
        let staged = self.engine.stage(write).unwrap();
        self.apply(staged.records);
        staged.outcome
    }

    pub fn put(&mut self, id: u64) {
        let (vector, colour) = (self.random.vector(), self.random.below(5));
        let namespace = ["", "a", "b"][self.random.below(3) as usize];
        let payload = payload(colour, namespace);
        let write = Write::Put {
            id: DocId(id),
            vector: vector.clone(),
            payload: payload.clone(),
            tenant_documents_max: None,
        };
        let existed = self.model.0.insert(DocId(id), (vector, payload)).is_some();
        assert_eq!(self.write(write).existed, u64::from(existed));
    }

    pub fn delete(&mut self, id: u64, namespace: &str) {
        let id = DocId(id);
        let in_scope = |payload: &Payload| namespace.is_empty() || payload.namespace() == namespace;
        let existed = self.model.0.get(&id).is_some_and(|(_, payload)| in_scope(payload));
        if existed {
            self.model.0.remove(&id);
        }
        let outcome = self.write(Write::Delete { id, realm: namespace.into() });
        assert_eq!(outcome.existed, u64::from(existed));
    }

    pub fn update(&mut self, id: u64) {
        let id = DocId(id);
        let update = payload(self.random.below(5), "ignored");
        if let Some((_, payload)) = self.model.0.get_mut(&id) {
            *payload = payload.merged(&update).unwrap();
        }
        let outcome =
            self.write(Write::Update { id, realm: Realm::default(), payload: update, merge: true });
        assert_eq!(outcome.existed, u64::from(self.model.0.contains_key(&id)));
    }

    pub fn random_write(&mut self, ids: u64) {
        let id = 1 + self.random.below(ids);
        match self.random.below(10) {
            0..5 => self.put(id),
            5..7 => self.update(id),
            7 => self.delete(id, ""),
            8 => self.delete(id, "a"),
            _ => {
                let ids: Vec<DocId> =
                    (0..self.random.below(20)).map(|_| DocId(1 + self.random.below(ids))).collect();
                let count = self.model.0.len();
                ids.iter().for_each(|id| {
                    self.model.0.remove(id);
                });
                let planned = self.engine.stage_deletes(&ids, &Filter::All);
                assert_eq!(planned.len(), count - self.model.0.len());
                self.apply(delete_batch(&planned));
            }
        }
    }

    pub fn query(&mut self, k: usize, filter: Option<Filter>) -> Arc<Query> {
        let vector = self.random.vector().into();
        Arc::new(Query {
            vector,
            k,
            ef: k.max(40),
            min_score: 0.0,
            filter,
            include_embeddings: true,
            is_exact: false,
        })
    }

    pub fn link(&mut self, steps: usize) {
        for _ in 0..steps {
            self.engine.link_step();
        }
    }

    pub fn link_all(&mut self) {
        while self.engine.link_step() == LinkProgress::More {}
    }
}

pub fn finish(engine: &mut Engine, mut search: Search) -> SearchOutcome {
    while !search.step(engine) {}
    engine.finish_search(search)
}

pub fn found(outcome: &SearchOutcome) -> Vec<(DocId, Payload)> {
    outcome.hits.iter().map(|hit| (hit.id, hit.payload.clone())).collect()
}

/// Far more than these tests write.
pub const UNSAVED_MAX: usize = 1 << 30;

pub fn on_disk(params: &Params) -> Params {
    let vectors = VectorStorage::Disk { unsaved_bytes_max: UNSAVED_MAX };
    Params { vectors, ..params.clone() }
}

impl Engine {
    /// Dead nodes of the graph, as the engine counts them.
    pub fn dead_linked_count(&self) -> usize {
        self.dead_linked
    }
}

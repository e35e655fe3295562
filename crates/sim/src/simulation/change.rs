//! Changes of documents, as clients ask for them, and their records.

use crate::engine::filter::Filter;
use crate::engine::testing::{Model, Random, payload};
use crate::engine::{Engine, Write};
use crate::types::payload::Payload;
use crate::types::realm::Realm;
use crate::types::record::{Record, delete_batch};
use crate::types::{DocId, ShardId};

use super::machine::SHARDS;

/// Most documents in each shard.
const IDS: usize = 60;

/// Ids of documents that are on a shard.
pub(super) fn ids(shard: ShardId) -> Vec<DocId> {
    (1..).map(DocId).filter(|id| id.shard(SHARDS) == shard).take(IDS).collect()
}

/// A request of a client.
pub(super) enum Change {
    Put { id: DocId, vector: Box<[f32]>, payload: Payload },
    Update { id: DocId, payload: Payload, merge: bool },
    Delete { id: DocId, namespace: &'static str },
    DeleteBatch(Vec<DocId>),
}

impl Change {
    /// A random change of the documents `ids`.
    pub(super) fn random(random: &mut Random, ids: &[DocId]) -> Self {
        let kind = random.below(10);
        Self::of_kind(kind, random, ids)
    }

    /// The change with this number below 10, of documents that are picked from `ids`.
    pub(super) fn of_kind(kind: u64, random: &mut Random, ids: &[DocId]) -> Self {
        let pick = |random: &mut Random| ids[random.below(ids.len() as u64) as usize];
        let id = pick(random);
        match kind {
            0..5 => {
                let namespace = ["", "a", "b"][random.below(3) as usize];
                let (vector, colour) = (random.vector(), random.below(5));
                Self::Put { id, vector, payload: payload(colour, namespace) }
            }
            5..7 => {
                let payload = payload(random.below(5), "ignored");
                Self::Update { id, payload, merge: kind == 5 }
            }
            7 => Self::Delete { id, namespace: "" },
            8 => Self::Delete { id, namespace: "a" },
            _ => Self::DeleteBatch((0..random.below(20)).map(|_| pick(random)).collect()),
        }
    }

    /// Stages it in the engine, and changes the model; returns the records to log.
    pub(super) fn stage(self, engine: &mut Engine, model: &mut Model) -> Vec<Record> {
        let write = match self {
            Self::Put { id, vector, payload } => {
                model.0.insert(id, (vector.clone(), payload.clone()));
                Write::Put { id, vector, payload, tenant_documents_max: None }
            }
            Self::Update { id, payload: update, merge } => {
                if let Some((_, payload)) = model.0.get_mut(&id) {
                    let merged = payload.merged(&update).expect("small metadata");
                    *payload = if merge { merged } else { payload.replaced(&update) };
                }
                Write::Update { id, realm: Realm::default(), payload: update, merge }
            }
            Self::Delete { id, namespace } => {
                let in_scope =
                    |payload: &Payload| namespace.is_empty() || payload.namespace() == namespace;
                if model.0.get(&id).is_some_and(|(_, payload)| in_scope(payload)) {
                    model.0.remove(&id);
                }
                Write::Delete { id, realm: namespace.into() }
            }
            Self::DeleteBatch(ids) => {
                model.0.retain(|id, _| !ids.contains(id));
                return delete_batch(&engine.stage_deletes(&ids, &Filter::All));
            }
        };
        engine.stage(write).expect("a write that nothing speaks against").records
    }
}

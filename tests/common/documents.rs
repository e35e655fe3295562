//! Documents from a client's view: its writes, random changes, and reads.

use std::collections::{BTreeMap, HashMap};

use kyrodb::proto::batch_delete_request::DeleteCriteria;
use kyrodb::proto::{
    BatchDeleteRequest, BulkQueryRequest, DeleteRequest, IdList, InsertRequest, MetadataFilter,
    QueryRequest, QueryResponse, UpdateMetadataRequest,
};
use kyrodb::types::mix;
use tonic::Status;

use super::Client;

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub vector: Vec<f32>,
    pub metadata: BTreeMap<String, String>,
    pub namespace: String,
}

/// Documents by id.
pub type Contents = BTreeMap<u64, Document>;

/// The namespaces of random documents; most have none.
pub const NAMESPACES: [&str; 4] = ["", "", "red", "blue"];

/// Values in the vectors of random documents.
pub const DIMENSION: usize = 8;

/// One in this many random documents takes much room in the log.
const LARGE_EVERY: u64 = 8;

impl Document {
    pub fn insert(&self, doc_id: u64) -> InsertRequest {
        InsertRequest {
            doc_id,
            embedding: self.vector.clone(),
            metadata: map(&self.metadata),
            namespace: self.namespace.clone(),
        }
    }

    pub fn random(random: &mut Random) -> Self {
        let vector = (0..DIMENSION).map(|_| random.below(1 << 24) as f32 / 1e6 - 8.0).collect();
        let mut metadata = random_metadata(random);
        if random.below(LARGE_EVERY) == 0 {
            let text = format!("{:016x}", random.next());
            metadata.insert("large".into(), text.repeat(random.below(3_000) as usize));
        }
        let namespace = NAMESPACES[random.below(4) as usize].into();
        Self { vector, metadata, namespace }
    }
}

fn random_metadata(random: &mut Random) -> BTreeMap<String, String> {
    let keys = ["a", "b", "c", "é"];
    let count = random.below(4);
    let pair = |_| {
        let key = keys[random.below(4) as usize].to_owned();
        (key, random.below(1_000_000).to_string())
    };
    (0..count).map(pair).collect()
}

/// Pairs as in the messages.
pub fn map(pairs: &BTreeMap<String, String>) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Reproducible random numbers.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed) ^ mix(mix(stream)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A change by a client.
#[derive(Clone, Debug)]
pub enum Change {
    Put(u64, Document),
    Delete(u64),
    Update { id: u64, metadata: BTreeMap<String, String>, merge: bool },
    DeleteBatch(Vec<u64>),
}

impl Change {
    /// A change of one of `count` documents, the first of which has the id `first`.
    pub fn random(random: &mut Random, first: u64, count: u64) -> Self {
        let id = first + random.below(count);
        match random.below(20) {
            0..12 => Self::Put(id, Document::random(random)),
            12..15 => Self::Delete(id),
            15..19 => {
                let metadata = random_metadata(random);
                Self::Update { id, metadata, merge: random.below(2) == 0 }
            }
            _ => Self::DeleteBatch((0..5).map(|_| first + random.below(count)).collect()),
        }
    }

    /// Ids of the documents concerned.
    pub fn ids(&self) -> &[u64] {
        match self {
            Self::Put(id, _) | Self::Delete(id) | Self::Update { id, .. } => {
                std::slice::from_ref(id)
            }
            Self::DeleteBatch(ids) => ids,
        }
    }

    /// Applies the change to the documents.
    pub fn apply(&self, contents: &mut Contents) {
        match self {
            Self::Put(id, document) => {
                contents.insert(*id, document.clone());
            }
            Self::Update { id, metadata, merge } => {
                let Some(document) = contents.get_mut(id) else { return };
                if !merge {
                    document.metadata.clear();
                }
                document.metadata.extend(metadata.clone());
            }
            Self::Delete(_) | Self::DeleteBatch(_) => {
                self.ids().iter().for_each(|id| drop(contents.remove(id)));
            }
        }
    }

    /// Sends the change; the answer has to agree with the earlier `contents`.
    pub async fn send(&self, client: &mut Client, contents: &Contents) -> Result<(), Status> {
        match self {
            Self::Put(id, document) => {
                let answer = client.insert(document.insert(*id)).await?.into_inner();
                assert!(answer.success && answer.total_inserted == 1, "{answer:?}");
            }
            Self::Delete(id) => {
                let request = DeleteRequest { doc_id: *id, ..Default::default() };
                let answer = client.delete(request).await?.into_inner();
                assert_eq!((answer.success, answer.existed), (true, contents.contains_key(id)));
            }
            Self::Update { id, metadata, merge } => {
                let request = UpdateMetadataRequest {
                    doc_id: *id,
                    metadata: map(metadata),
                    merge: *merge,
                    namespace: String::new(),
                };
                let answer = client.update_metadata(request).await?.into_inner();
                assert_eq!((answer.success, answer.existed), (true, contents.contains_key(id)));
            }
            Self::DeleteBatch(ids) => {
                let mut present: Vec<_> =
                    ids.iter().filter(|id| contents.contains_key(id)).collect();
                present.sort();
                present.dedup();
                let answer = client.batch_delete(delete_ids(ids, "")).await?.into_inner();
                assert_eq!((answer.success, answer.deleted_count), (true, present.len() as u64));
            }
        }
        Ok(())
    }
}

pub fn delete_ids(ids: &[u64], namespace: &str) -> BatchDeleteRequest {
    let ids = IdList { doc_ids: ids.to_vec() };
    let delete_criteria = Some(DeleteCriteria::Ids(ids));
    BatchDeleteRequest { delete_criteria, namespace: namespace.into() }
}

pub fn delete_where(filter: MetadataFilter, namespace: &str) -> BatchDeleteRequest {
    let delete_criteria = Some(DeleteCriteria::Filter(filter));
    BatchDeleteRequest { delete_criteria, namespace: namespace.into() }
}

/// Reads one document by id, with its vector, if it is in the namespace.
pub async fn query(client: &mut Client, doc_id: u64, namespace: &str) -> QueryResponse {
    let request = QueryRequest { doc_id, include_embedding: true, namespace: namespace.into() };
    let answer = client.query(request).await.expect("a document can be asked for").into_inner();
    assert_eq!(answer.doc_id, doc_id);
    answer
}

/// True if there is a document with this id.
pub async fn is_stored(client: &Client, doc_id: u64) -> bool {
    query(&mut client.clone(), doc_id, "").await.found
}

/// All documents stored under these ids, with their namespaces, which are among [`NAMESPACES`].
pub async fn read(client: &mut Client, ids: &[u64]) -> Contents {
    let mut contents = Contents::new();
    for found in bulk_query(client, ids, true, "").await {
        let vector = found.embedding;
        let metadata = found.metadata.into_iter().collect();
        contents.insert(found.doc_id, Document { vector, metadata, namespace: String::new() });
    }
    for namespace in &NAMESPACES[2..] {
        for found in bulk_query(client, ids, false, namespace).await {
            let document = contents.get_mut(&found.doc_id).expect("it is in no namespace as well");
            assert_eq!(document.namespace, "", "{} is in two namespaces", found.doc_id);
            document.namespace = (*namespace).into();
        }
    }
    contents
}

async fn bulk_query(
    client: &mut Client,
    ids: &[u64],
    include_embeddings: bool,
    namespace: &str,
) -> Vec<QueryResponse> {
    let mut found = Vec::new();
    for ids in ids.chunks(10_000) {
        let doc_ids = ids.to_vec();
        let request = BulkQueryRequest { doc_ids, include_embeddings, namespace: namespace.into() };
        let answer = client.bulk_query(request).await.expect("documents can be read").into_inner();
        found.extend(answer.results.into_iter().filter(|result| result.found));
    }
    found
}

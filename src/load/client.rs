//! One request of each kind, and whether it was answered as it should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Fault;
use super::contact::late;
use super::data::{Data, metadata};
use super::pacing::Random;
use super::workload::Kind;
use crate::proto::kyro_db_service_client::KyroDbServiceClient;
use crate::proto::{
    DeleteRequest, InsertRequest, MetadataFilter, SearchRequest, SearchResponse,
    UpdateMetadataRequest,
};

pub(super) type Client = KyroDbServiceClient<Channel>;

/// Largest answer.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Documents that inserts write, over and over.
const WRITTEN_MAX: u64 = 100_000;

/// Opens a connection.
///
/// # Errors
/// If the address is none, or nobody answers there.
pub(super) async fn connect(server: &str, timeout: Duration) -> Result<Client, Fault> {
    let usage = |why: &dyn std::fmt::Display| {
        Fault::Usage(format!("--server {server}: {why}; it has to be like http://127.0.0.1:50051"))
    };
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|error| usage(&error))?;
    let uri = endpoint.uri();
    if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
        return Err(usage(&"not an http:// address"));
    }
    let channel = endpoint.connect_timeout(timeout).connect().await.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(String::new(), |c| format!(": {c}"));
        Fault::Failed(format!(
            "{server} can't be reached ({error}{cause}); is kyrodb_server running there? \
             --server URL names another"
        ))
    })?;
    Ok(KyroDbServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// What the requests are made of.
pub(super) struct Requests {
    pub(super) data: Arc<Data>,
    pub(super) filter: Option<MetadataFilter>,
    pub(super) k: u32,
    pub(super) timeout: Duration,
    /// Documents written and deleted so far. They have ids behind those of the base.
    pub(super) written: AtomicU64,
    pub(super) deleted: AtomicU64,
}

/// What came of a request that was answered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    /// Exact neighbours found, of `k`; where the exact ones are known.
    pub(super) hits: Option<u32>,
    /// The answer does not rest on all shards.
    pub(super) is_incomplete: bool,
}

impl Requests {
    /// Sends one request and waits for the answer, at most until its deadline.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub(super) async fn send(
        &self,
        client: &mut Client,
        kind: Kind,
        ef: u32,
        random: &mut Random,
    ) -> Result<Answer, Status> {
        let answered = async {
            match kind {
                Kind::Search => self.search(client, None, ef, random).await,
                Kind::Filtered => self.search(client, self.filter.clone(), ef, random).await,
                Kind::Insert => {
                    let request = self.with_deadline(self.next_insert());
                    accepted(client.insert(request).await.map(|r| r.into_inner().success))
                }
                Kind::Delete => {
                    let number = self.deleted.fetch_add(1, Ordering::Relaxed);
                    let request =
                        DeleteRequest { doc_id: self.written_id(number), ..Default::default() };
                    let answer = client.delete(self.with_deadline(request)).await;
                    accepted(answer.map(|r| r.into_inner().success))
                }
                Kind::Update => {
                    let request = self.update(random);
                    let answer = client.update_metadata(self.with_deadline(request)).await;
                    accepted(answer.map(|r| r.into_inner().success))
                }
            }
        };
        match tokio::time::timeout(self.timeout, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(late()),
        }
    }

    fn with_deadline<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    async fn search(
        &self,
        client: &mut Client,
        filter: Option<MetadataFilter>,
        ef_search: u32,
        random: &mut Random,
    ) -> Result<Answer, Status> {
        let index = random.below(self.data.query_count());
        // The exact answers are those without a filter.
        let is_comparable = filter.is_none();
        let request = SearchRequest {
            query_embedding: self.data.query(index).to_vec(),
            k: self.k,
            ef_search,
            filter,
            ..Default::default()
        };
        let found = client.search(self.with_deadline(request)).await?.into_inner();
        let SearchResponse { results, shards_asked, shards_answered, .. } = found;
        let ids = results.iter().map(|result| result.doc_id);
        let hits = is_comparable.then(|| self.data.hits(index, self.k, ids)).flatten();
        Ok(Answer { hits, is_incomplete: shards_answered < shards_asked })
    }

    fn written_id(&self, number: u64) -> u64 {
        self.data.base.count() as u64 + 1 + number % WRITTEN_MAX
    }

    fn next_insert(&self) -> InsertRequest {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let (row, embedding) = self.data.written(number);
        InsertRequest {
            doc_id: self.written_id(number),
            embedding,
            metadata: metadata(row),
            namespace: String::new(),
        }
    }

    fn update(&self, random: &mut Random) -> UpdateMetadataRequest {
        let doc_id = random.below(self.data.base.count()) as u64 + 1;
        let value = (random.next() % 1_000).to_string();
        UpdateMetadataRequest {
            doc_id,
            metadata: [("touched".to_owned(), value)].into(),
            merge: true,
            namespace: String::new(),
        }
    }
}

fn accepted(answer: Result<bool, Status>) -> Result<Answer, Status> {
    if answer? {
        return Ok(Answer::default());
    }
    Err(Status::internal("the answer says success = false"))
}

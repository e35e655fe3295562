//! Sends one request of each kind, and checks its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::Fault;
use super::contact::late;
use super::data::{Data, metadata};
use super::pacing::Random;
use super::workload::Kind;
use crate::credentials::WithKey;
use crate::proto::kyro_db_service_client::KyroDbServiceClient;
use crate::proto::{
    DeleteRequest, InsertRequest, MetadataFilter, SearchRequest, SearchResponse,
    UpdateMetadataRequest,
};

pub(super) type Client = KyroDbServiceClient<InterceptedService<Channel, WithKey>>;

/// Largest answer, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Number of distinct documents that inserts write, repeatedly.
const WRITTEN_MAX: u64 = 100_000;

/// Address of the server, and credentials that it requires.
pub(super) struct Door {
    pub(super) url: String,
    pub(super) key: Option<String>,
    /// PEM of the trusted certificate authority; `None` for those of the system.
    pub(super) ca_cert: Option<Vec<u8>>,
    /// PEM of a certificate and of its key.
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Door {
    /// True if the server uses TLS and the client presents no certificate.
    pub(super) fn is_without_certificate(&self) -> bool {
        self.url.starts_with("https://") && self.identity.is_none()
    }

    fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.ca_cert {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some((cert, key)) => tls.identity(Identity::from_pem(cert, key)),
            None => tls,
        }
    }
}

/// Opens a connection.
///
/// # Errors
/// If the address is invalid, no server answers there, or the TLS handshake fails.
pub(super) async fn connect(door: &Door, timeout: Duration) -> Result<Client, Fault> {
    let server = &door.url;
    let usage = |why: &dyn std::fmt::Display| {
        Fault::Usage(format!(
            "--server {server}: {why}; it has to be like http://127.0.0.1:50051, or begin with \
             https://"
        ))
    };
    let mut endpoint = Endpoint::from_shared(server.to_owned()).map_err(|error| usage(&error))?;
    let is_secured = match endpoint.uri().scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(usage(&"neither an http:// nor an https:// address")),
    };
    if endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(usage(&"no host"));
    }
    if is_secured {
        let set = endpoint.tls_config(door.tls());
        endpoint = set.map_err(|error| {
            Fault::Usage(format!(
                "the certificates can't be used: {}; --ca-cert names the authority of the server's",
                causes(&error)
            ))
        })?;
    }
    let channel = endpoint.connect_timeout(timeout).connect().await.map_err(|error| {
        let more = match is_secured {
            true => {
                "; is it one with TLS, and is --ca-cert the authority of its certificate? Where it \
                 asks for one of ours, --client-cert and --client-key show it"
            }
            false => "",
        };
        Fault::Failed(format!(
            "{server} can't be reached ({}); is kyrodb_server running there? --server URL names \
             another{more}",
            causes(&error)
        ))
    })?;
    let key = WithKey::new(door.key.as_deref())
        .map_err(|_| Fault::Usage("the API key has characters that no key has".into()))?;
    let client = KyroDbServiceClient::with_interceptor(channel, key);
    Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// An error with its causes: the outermost says little.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Contents of the requests.
pub(super) struct Requests {
    pub(super) data: Arc<Data>,
    pub(super) filter: Option<MetadataFilter>,
    pub(super) k: u32,
    pub(super) timeout: Duration,
    /// Documents written and deleted so far. Their ids follow those of the base.
    pub(super) written: AtomicU64,
    pub(super) deleted: AtomicU64,
}

/// Result of an answered request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answer {
    /// Exact neighbours among the `k` results, if the exact ones are known.
    pub(super) hits: Option<u32>,
    /// The answer does not cover all shards.
    pub(super) is_incomplete: bool,
}

impl Requests {
    /// Sends one request and waits for the answer, at most until its deadline.
    ///
    /// # Errors
    /// The error of the server or the connection.
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
        // The exact answers are those of unfiltered searches.
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

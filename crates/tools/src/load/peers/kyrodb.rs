//! KyroDB itself, measured by the loop that also measures the others.

use std::ops::Range;

use tonic::{Request, Status};

use super::{Durable, Facts, Session, Shape, UPKEEP_TIMEOUT, removals};
use crate::dataset::Rows;
use crate::load::client::Client;
use crate::proto::batch_delete_request::DeleteCriteria;
use crate::proto::{
    BatchDeleteRequest, ConfigResponse, FlushRequest, IdList, InsertRequest, SearchRequest,
};

#[derive(Clone)]
pub(in crate::load) struct Kyrodb {
    client: Client,
    server: ConfigResponse,
    shape: Shape,
    width: u32,
}

impl Kyrodb {
    pub(super) fn new(client: Client, server: ConfigResponse, shape: Shape) -> Self {
        Self { client, server, shape, width: 0 }
    }

    fn with_deadline<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.shape.timeout);
        request
    }
}

impl Session for Kyrodb {
    async fn facts(&mut self) -> Result<Facts, Status> {
        let policy = &self.server.fsync_policy;
        let durable = match policy.split('(').next() {
            Some("Always") => Durable::Yes,
            Some("Periodic" | "Never") => Durable::No,
            _ => Durable::Unknown,
        };
        Ok(Facts {
            version: self.server.version.clone(),
            index: format!(
                "HNSW m={} ef_construction={}",
                self.server.hnsw_m, self.server.hnsw_ef_construction
            ),
            durable,
            durable_how: format!("fsync: {policy}"),
            settings: String::new(),
        })
    }

    /// Its documents were loaded before, as for every other load test.
    async fn create(&mut self) -> Result<(), Status> {
        Ok(())
    }

    async fn load(&mut self, _rows: &Rows<f32>) -> Result<(), Status> {
        Ok(())
    }

    async fn set_width(&mut self, width: u32) -> Result<(), Status> {
        self.width = width;
        Ok(())
    }

    async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status> {
        let request = SearchRequest {
            query_embedding: query.to_vec(),
            k: self.shape.k,
            ef_search: self.width,
            ..Default::default()
        };
        let found = self.client.search(self.with_deadline(request)).await?.into_inner();
        Ok(found.results.iter().map(|result| result.doc_id).collect())
    }

    async fn insert(&mut self, doc_id: u64, vector: &[f32]) -> Result<(), Status> {
        let embedding = vector.to_vec();
        let request = InsertRequest { doc_id, embedding, ..Default::default() };
        let answer = self.client.insert(self.with_deadline(request)).await?.into_inner();
        if answer.success { Ok(()) } else { Err(Status::internal(answer.error)) }
    }

    async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status> {
        for doc_ids in removals(ids) {
            let criteria = DeleteCriteria::Ids(IdList { doc_ids: doc_ids.collect() });
            let message =
                BatchDeleteRequest { delete_criteria: Some(criteria), ..Default::default() };
            let mut request = Request::new(message);
            request.set_timeout(UPKEEP_TIMEOUT);
            self.client.batch_delete(request).await?;
        }
        let mut request = Request::new(FlushRequest { force: true });
        request.set_timeout(UPKEEP_TIMEOUT);
        self.client.flush_hot_tier(request).await.map(drop)
    }

    /// Its documents stay: they belong to the server's own data directory.
    async fn drop_table(&mut self) -> Result<(), Status> {
        Ok(())
    }
}

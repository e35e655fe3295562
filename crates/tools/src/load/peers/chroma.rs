//! Chroma, by version 2 of its HTTP interface.
//!
//! The server reads a collection's `ef_search` when it loads the index, and keeps as many indexes loaded as
//! `segment_manager.hnsw_index_pool_cache_config.memory` has `capacity` and `shards`. With one, a search in another
//! collection makes it load ours again. `perf/peers.sh` starts it in this way.
//!
//! Source: the interface's own description, at `/openapi.json` of a server.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::http::Http;
use super::{
    Durable, Facts, Metric, Session, Shape, TABLE, UPKEEP_TIMEOUT, batches, removals, strange,
};
use crate::dataset::Rows;

const ROOT: &str = "/api/v2";
const COLLECTIONS: &str = "/api/v2/tenants/default_tenant/databases/default_database/collections";

/// A temporary second collection.
const OTHER: &str = "kyrodb_compare_other";

#[derive(Clone)]
pub(in crate::load) struct Chroma {
    http: Http,
    shape: Shape,
    /// Path of the collection, once it exists.
    path: String,
    /// Most documents in one request.
    batch_max: usize,
    /// The collection's beam width, which all connections share.
    width: Arc<AtomicU32>,
}

#[derive(Serialize)]
struct Add<'a> {
    ids: Vec<String>,
    embeddings: Vec<&'a [f32]>,
}

#[derive(Serialize)]
struct Query<'a> {
    query_embeddings: [&'a [f32]; 1],
    n_results: u32,
    /// Ids are always returned; no other fields are requested.
    include: [&'a str; 0],
}

impl Chroma {
    /// Creates a client, without opening a connection.
    ///
    /// # Errors
    /// If the client can't be made.
    pub(super) fn connect(address: &str, shape: Shape) -> Result<Self, Status> {
        let (http, width) = (Http::new(address)?, Arc::new(AtomicU32::new(0)));
        Ok(Self { http, shape, path: String::new(), batch_max: 1, width })
    }

    /// Creates a collection; returns its path.
    async fn create_collection(&self, name: &str, configuration: Value) -> Result<String, Status> {
        let body = json!({"name": name, "configuration": configuration});
        let made = self.http.send(Method::POST, COLLECTIONS, Some(&body), UPKEEP_TIMEOUT).await?;
        let id = made["id"].as_str().ok_or_else(|| strange("id of the collection"))?;
        Ok(format!("{COLLECTIONS}/{id}"))
    }

    async fn drop_collection(&self, name: &str) -> Result<(), Status> {
        let path = format!("{COLLECTIONS}/{name}");
        match self.http.send::<()>(Method::DELETE, &path, None, UPKEEP_TIMEOUT).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            dropped => dropped.map(drop),
        }
    }

    async fn add(
        &self,
        path: &str,
        first: u64,
        values: &[f32],
        timeout: Duration,
    ) -> Result<(), Status> {
        let embeddings: Vec<&[f32]> = values.chunks(self.shape.dimension).collect();
        let ids = (first..).take(embeddings.len()).map(|id| id.to_string()).collect();
        let (path, body) = (format!("{path}/add"), Add { ids, embeddings });
        self.http.send(Method::POST, &path, Some(&body), timeout).await.map(drop)
    }

    async fn query(
        &self,
        path: &str,
        query: &[f32],
        timeout: Duration,
    ) -> Result<Vec<u64>, Status> {
        let body = Query { query_embeddings: [query], n_results: self.shape.k, include: [] };
        let path = format!("{path}/query");
        let found = self.http.send(Method::POST, &path, Some(&body), timeout).await?;
        let ids = found["ids"][0].as_array().ok_or_else(|| strange("ids"))?;
        let id = |id: &Value| id.as_str()?.parse().ok();
        ids.iter().map(id).collect::<Option<_>>().ok_or_else(|| strange("ids of ours"))
    }

    async fn delete(&self, ids: Range<u64>) -> Result<(), Status> {
        let path = format!("{}/delete", self.path);
        for ids in removals(ids) {
            let body = json!({"ids": ids.map(|id| id.to_string()).collect::<Vec<String>>()});
            self.http.send(Method::POST, &path, Some(&body), UPKEEP_TIMEOUT).await?;
        }
        Ok(())
    }

    /// Makes the server load the index again, if it keeps only one.
    async fn reload(&self) -> Result<(), Status> {
        let vector = vec![1.0; self.shape.dimension];
        // A new one each time: a collection this small could not be loaded again.
        self.drop_collection(OTHER).await?;
        let other = self.create_collection(OTHER, json!({})).await?;
        self.add(&other, 1, &vector, UPKEEP_TIMEOUT).await?;
        self.query(&other, &vector, UPKEEP_TIMEOUT).await?;
        self.drop_collection(OTHER).await?;
        // The index in files lacks the last documents, until a write makes it catch up. No document has the id 0.
        self.query(&self.path, &vector, UPKEEP_TIMEOUT).await?;
        self.add(&self.path, 0, &vector, UPKEEP_TIMEOUT).await?;
        self.query(&self.path, &vector, UPKEEP_TIMEOUT).await?;
        self.delete(0..1).await?;
        self.query(&self.path, &vector, UPKEEP_TIMEOUT).await.map(drop)
    }
}

impl Session for Chroma {
    async fn facts(&mut self) -> Result<Facts, Status> {
        let timeout = self.shape.timeout;
        let version = self.http.get(&format!("{ROOT}/version"), timeout).await?;
        let limits = self.http.get(&format!("{ROOT}/pre-flight-checks"), timeout).await?;
        let most = limits["max_batch_size"].as_u64().ok_or_else(|| strange("max_batch_size"))?;
        self.batch_max = most as usize;
        let Shape { m, ef_construction, .. } = self.shape;
        Ok(Facts {
            version: format!("API {}", version.as_str().ok_or_else(|| strange("version"))?),
            index: format!("HNSW max_neighbors={m} ef_construction={ef_construction}"),
            durable: Durable::Yes,
            durable_how: "SQLite with a rollback journal and synchronous=FULL;".into(),
            settings: "ef_search as of the last load of the index".into(),
        })
    }

    async fn create(&mut self) -> Result<(), Status> {
        self.drop_collection(TABLE).await?;
        let space = match self.shape.metric {
            Metric::Cosine => "cosine",
            Metric::Euclidean => "l2",
            Metric::InnerProduct => "ip",
        };
        let Shape { m, ef_construction, .. } = self.shape;
        let hnsw = json!({
            "space": space,
            "ef_construction": ef_construction,
            "max_neighbors": m,
        });
        self.path = self.create_collection(TABLE, json!({"hnsw": hnsw})).await?;
        Ok(())
    }

    async fn load(&mut self, rows: &Rows<f32>) -> Result<(), Status> {
        for (row, values) in batches(rows, self.batch_max) {
            self.add(&self.path, row as u64 + 1, values, UPKEEP_TIMEOUT).await?;
        }
        // A search adds missing documents to the index.
        self.query(&self.path, rows.row(0), UPKEEP_TIMEOUT).await.map(drop)
    }

    async fn set_width(&mut self, width: u32) -> Result<(), Status> {
        if self.width.swap(width, Ordering::Relaxed) == width {
            return Ok(());
        }
        let body = json!({"new_configuration": {"hnsw": {"ef_search": width}}});
        self.http.send(Method::PUT, &self.path, Some(&body), UPKEEP_TIMEOUT).await?;
        self.reload().await
    }

    async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status> {
        self.query(&self.path, query, self.shape.timeout).await
    }

    async fn insert(&mut self, id: u64, vector: &[f32]) -> Result<(), Status> {
        self.add(&self.path, id, vector, self.shape.timeout).await
    }

    async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status> {
        self.delete(ids).await
    }

    async fn drop_table(&mut self) -> Result<(), Status> {
        self.drop_collection(TABLE).await
    }
}

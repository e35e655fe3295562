//! Chroma, by version 2 of its HTTP interface.
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

#[derive(Clone)]
pub(in crate::load) struct Chroma {
    http: Http,
    shape: Shape,
    /// Path of the collection, once there is one.
    path: String,
    /// Most documents in one request.
    batch_max: usize,
    /// The collection's width, which all connections share.
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
    /// Ids come always; nothing else is asked for.
    include: [&'a str; 0],
}

impl Chroma {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// If the client can't be made.
    pub(super) fn connect(address: &str, shape: Shape) -> Result<Self, Status> {
        let (http, width) = (Http::new(address)?, Arc::new(AtomicU32::new(0)));
        Ok(Self { http, shape, path: String::new(), batch_max: 1, width })
    }

    async fn add(&self, first: u64, values: &[f32], timeout: Duration) -> Result<(), Status> {
        let embeddings: Vec<&[f32]> = values.chunks(self.shape.dimension).collect();
        let ids = (first..).take(embeddings.len()).map(|id| id.to_string()).collect();
        let body = Add { ids, embeddings };
        let path = format!("{}/add", self.path);
        self.http.send(Method::POST, &path, Some(&body), timeout).await.map(drop)
    }

    async fn query(&self, query: &[f32], timeout: Duration) -> Result<Vec<u64>, Status> {
        let body = Query { query_embeddings: [query], n_results: self.shape.k, include: [] };
        let path = format!("{}/query", self.path);
        let found = self.http.send(Method::POST, &path, Some(&body), timeout).await?;
        let ids = found["ids"][0].as_array().ok_or_else(|| strange("ids"))?;
        let id = |id: &Value| id.as_str()?.parse().ok();
        ids.iter().map(id).collect::<Option<_>>().ok_or_else(|| strange("ids of ours"))
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
            version: version.as_str().ok_or_else(|| strange("version"))?.to_owned(),
            index: format!("HNSW max_neighbors={m} ef_construction={ef_construction}"),
            durable: Durable::Yes,
            durable_how: "SQLite's default: a rollback journal, synchronous=FULL".into(),
            settings: "one process, documents in SQLite, vectors in hnswlib files".into(),
        })
    }

    async fn create(&mut self) -> Result<(), Status> {
        self.drop_table().await?;
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
        let body = json!({"name": TABLE, "configuration": {"hnsw": hnsw}});
        let made = self.http.send(Method::POST, COLLECTIONS, Some(&body), UPKEEP_TIMEOUT).await?;
        let id = made["id"].as_str().ok_or_else(|| strange("id of the collection"))?;
        self.path = format!("{COLLECTIONS}/{id}");
        Ok(())
    }

    async fn load(&mut self, rows: &Rows<f32>) -> Result<(), Status> {
        for (row, values) in batches(rows, self.batch_max) {
            self.add(row as u64 + 1, values, UPKEEP_TIMEOUT).await?;
        }
        // A search puts into the index what is not there yet.
        self.query(rows.row(0), UPKEEP_TIMEOUT).await.map(drop)
    }

    async fn set_width(&mut self, width: u32) -> Result<(), Status> {
        if self.width.swap(width, Ordering::Relaxed) == width {
            return Ok(());
        }
        let body = json!({"new_configuration": {"hnsw": {"ef_search": width}}});
        self.http.send(Method::PUT, &self.path, Some(&body), self.shape.timeout).await.map(drop)
    }

    async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status> {
        self.query(query, self.shape.timeout).await
    }

    async fn insert(&mut self, id: u64, vector: &[f32]) -> Result<(), Status> {
        self.add(id, vector, self.shape.timeout).await
    }

    async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status> {
        let path = format!("{}/delete", self.path);
        for ids in removals(ids) {
            let body = json!({"ids": ids.map(|id| id.to_string()).collect::<Vec<String>>()});
            self.http.send(Method::POST, &path, Some(&body), UPKEEP_TIMEOUT).await?;
        }
        Ok(())
    }

    async fn drop_table(&mut self) -> Result<(), Status> {
        let path = format!("{COLLECTIONS}/{TABLE}");
        match self.http.send::<()>(Method::DELETE, &path, None, UPKEEP_TIMEOUT).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            dropped => dropped.map(drop),
        }
    }
}

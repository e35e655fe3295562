//! Qdrant, over its REST interface.
//!
//! Source: <https://api.qdrant.tech/api-reference>.

use std::ops::Range;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use tonic::{Code, Status};

use super::http::Http;
use super::{
    Durable, Facts, Metric, Session, Shape, TABLE, UPKEEP_TIMEOUT, batches, removals, strange,
};
use crate::dataset::Rows;

/// Most documents in one request of a load.
const BATCH_MAX: usize = 10_000;

/// Period of asking whether its index is built.
const POLL: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(in crate::load) struct Qdrant {
    http: Http,
    shape: Shape,
    width: u32,
}

#[derive(Serialize)]
struct Points<'a> {
    points: Vec<Point<'a>>,
}

#[derive(Serialize)]
struct Point<'a> {
    id: u64,
    vector: &'a [f32],
}

#[derive(Serialize)]
struct Query<'a> {
    query: &'a [f32],
    limit: u32,
    params: Params,
}

#[derive(Serialize)]
struct Params {
    hnsw_ef: u32,
}

impl Qdrant {
    /// Creates a client, without opening a connection.
    ///
    /// # Errors
    /// If the client can't be made.
    pub(super) fn connect(address: &str, shape: Shape) -> Result<Self, Status> {
        Ok(Self { http: Http::new(address)?, shape, width: 0 })
    }

    fn path(rest: &str) -> String {
        format!("/collections/{TABLE}{rest}")
    }

    async fn put(&self, first: u64, values: &[f32], timeout: Duration) -> Result<(), Status> {
        let vectors = values.chunks(self.shape.dimension);
        let points = (first..).zip(vectors).map(|(id, vector)| Point { id, vector }).collect();
        let path = Self::path("/points?wait=true");
        self.http.send(Method::PUT, &path, Some(&Points { points }), timeout).await.map(drop)
    }

    /// Waits until the optimizer has nothing left to index.
    async fn settled(&self) -> Result<(), Status> {
        let begun = Instant::now();
        while begun.elapsed() < UPKEEP_TIMEOUT {
            let state = self.http.get(&Self::path(""), self.shape.timeout).await?;
            match state["result"]["status"].as_str() {
                Some("green") => return Ok(()),
                Some("red") => {
                    let why = state["result"]["optimizer_status"].to_string();
                    return Err(Status::internal(format!("its index failed: {why}")));
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
        Err(Status::deadline_exceeded("its index was not built in hours"))
    }
}

impl Session for Qdrant {
    async fn facts(&mut self) -> Result<Facts, Status> {
        let about = self.http.get("/", self.shape.timeout).await?;
        let Shape { m, ef_construction, .. } = self.shape;
        Ok(Facts {
            version: about["version"].as_str().ok_or_else(|| strange("version"))?.to_owned(),
            index: format!("HNSW m={m} ef_construct={ef_construction}"),
            durable: Durable::Unknown,
            durable_how: "its interface does not tell when its log is synced".into(),
            settings: "wait=true".into(),
        })
    }

    async fn create(&mut self) -> Result<(), Status> {
        self.drop_table().await?;
        let distance = match self.shape.metric {
            Metric::Cosine => "Cosine",
            Metric::Euclidean => "Euclid",
            Metric::InnerProduct => "Dot",
        };
        let Shape { dimension, m, ef_construction, .. } = self.shape;
        let body = json!({
            "vectors": {"size": dimension, "distance": distance},
            "hnsw_config": {"m": m, "ef_construct": ef_construction},
        });
        self.http.send(Method::PUT, &Self::path(""), Some(&body), UPKEEP_TIMEOUT).await.map(drop)
    }

    async fn load(&mut self, rows: &Rows<f32>) -> Result<(), Status> {
        for (row, values) in batches(rows, BATCH_MAX) {
            self.put(row as u64 + 1, values, UPKEEP_TIMEOUT).await?;
        }
        self.settled().await
    }

    async fn set_width(&mut self, width: u32) -> Result<(), Status> {
        self.width = width;
        Ok(())
    }

    async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status> {
        let (limit, params) = (self.shape.k, Params { hnsw_ef: self.width });
        let body = Query { query, limit, params };
        let path = Self::path("/points/query");
        let found = self.http.send(Method::POST, &path, Some(&body), self.shape.timeout).await?;
        let points = found["result"]["points"].as_array().ok_or_else(|| strange("points"))?;
        let ids = points.iter().map(|point| point["id"].as_u64());
        ids.collect::<Option<_>>().ok_or_else(|| strange("ids of ours"))
    }

    async fn insert(&mut self, id: u64, vector: &[f32]) -> Result<(), Status> {
        self.put(id, vector, self.shape.timeout).await
    }

    async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status> {
        let path = Self::path("/points/delete?wait=true");
        for ids in removals(ids) {
            let body = json!({"points": ids.collect::<Vec<u64>>()});
            self.http.send(Method::POST, &path, Some(&body), UPKEEP_TIMEOUT).await?;
        }
        self.settled().await
    }

    async fn drop_table(&mut self) -> Result<(), Status> {
        match self.http.send::<()>(Method::DELETE, &Self::path(""), None, UPKEEP_TIMEOUT).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            dropped => dropped.map(drop),
        }
    }
}

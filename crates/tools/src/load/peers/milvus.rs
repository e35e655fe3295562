//! Milvus and Milvus Lite, over Milvus' own gRPC protocol.

use std::ops::Range;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::milvus_proto as proto;
use super::{
    CONNECT_TIMEOUT, Durable, Facts, Metric, Session, Shape, TABLE, UPKEEP_TIMEOUT, batches,
    removals, strange,
};
use crate::dataset::Rows;

const ID: &str = "id";
const VECTOR: &str = "embedding";

/// Most documents in one request of a load.
const BATCH_MAX: usize = 10_000;

/// Largest answer, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Period of asking whether stored documents can be searched.
const POLL: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(in crate::load) struct Milvus {
    grpc: Grpc<Channel>,
    shape: Shape,
    params: Vec<proto::Pair>,
}

fn pair(key: &str, value: impl ToString) -> proto::Pair {
    proto::Pair { key: key.into(), value: value.to_string() }
}

/// The path of a method.
macro_rules! method {
    ($name:literal) => {
        PathAndQuery::from_static(concat!("/milvus.proto.milvus.MilvusService/", $name))
    };
}

impl Milvus {
    /// Opens a connection.
    ///
    /// # Errors
    /// If no server answers.
    pub(super) async fn connect(address: &str, shape: Shape) -> Result<Self, Status> {
        let endpoint = Endpoint::from_shared(address.to_owned());
        let endpoint = endpoint.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
        let channel = channel.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            Status::unavailable(cause.unwrap_or_else(|| error.to_string()))
        })?;
        let grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { grpc, shape, params: Vec::new() })
    }

    async fn call<Q, A>(
        &mut self,
        path: PathAndQuery,
        message: Q,
        timeout: Duration,
    ) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let answer = self.grpc.unary(request, path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    /// Calls a method that returns only a status.
    async fn command<Q>(&mut self, path: PathAndQuery, message: Q) -> Result<(), Status>
    where
        Q: Message + Send + Sync + 'static,
    {
        let status: proto::Status = self.call(path, message, UPKEEP_TIMEOUT).await?;
        accepted(Some(status))
    }

    async fn store(&mut self, first: u64, values: &[f32], timeout: Duration) -> Result<(), Status> {
        let dimension = self.shape.dimension;
        let count = values.len() / dimension;
        let first = first.cast_signed();
        let ids = proto::Longs { data: (first..).take(count).collect() };
        let ids = proto::FieldData {
            kind: proto::INT64,
            field_name: ID.into(),
            scalars: Some(proto::ScalarField { long_data: Some(ids) }),
            vectors: None,
        };
        let float_vector = Some(proto::Floats { data: values.to_vec() });
        let vectors = proto::FieldData {
            kind: proto::FLOAT_VECTOR,
            field_name: VECTOR.into(),
            scalars: None,
            vectors: Some(proto::VectorField { dim: dimension as i64, float_vector }),
        };
        let request = proto::InsertRequest {
            collection_name: TABLE.into(),
            fields_data: vec![ids, vectors],
            num_rows: count as u32,
        };
        let answer: proto::StatusResponse = self.call(method!("Insert"), request, timeout).await?;
        accepted(answer.status)
    }

    fn metric(&self) -> &'static str {
        match self.shape.metric {
            Metric::Cosine => "COSINE",
            Metric::Euclidean => "L2",
            Metric::InnerProduct => "IP",
        }
    }

    /// Waits until the collection can be searched.
    async fn loaded(&mut self) -> Result<(), Status> {
        let begun = std::time::Instant::now();
        let request = || proto::LoadStateRequest { collection_name: TABLE.into() };
        while begun.elapsed() < UPKEEP_TIMEOUT {
            let timeout = self.shape.timeout;
            let answer: proto::LoadStateResponse =
                self.call(method!("GetLoadState"), request(), timeout).await?;
            accepted(answer.status)?;
            if answer.state == proto::LOADED {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Status::deadline_exceeded("its collection was not loaded in hours"))
    }
}

impl Session for Milvus {
    async fn facts(&mut self) -> Result<Facts, Status> {
        let timeout = self.shape.timeout;
        let answer: proto::GetVersionResponse =
            self.call(method!("GetVersion"), proto::Empty {}, timeout).await?;
        accepted(answer.status)?;
        let is_lite = answer.version.starts_with("milvus_lite");
        let Shape { m, ef_construction, .. } = self.shape;
        let (durable, how) = if is_lite {
            (Durable::No, "its log is synced when it is closed;")
        } else {
            (Durable::Unknown, "it depends on the log it is set up with")
        };
        Ok(Facts {
            version: answer.version,
            index: format!("HNSW M={m} efConstruction={ef_construction}"),
            durable,
            durable_how: how.into(),
            settings: if is_lite { "Python, index by faiss".into() } else { String::new() },
        })
    }

    async fn create(&mut self) -> Result<(), Status> {
        self.drop_table().await?;
        let id = proto::FieldSchema {
            field_id: 100,
            name: ID.into(),
            is_primary_key: true,
            data_type: proto::INT64,
            type_params: Vec::new(),
        };
        let vector = proto::FieldSchema {
            field_id: 101,
            name: VECTOR.into(),
            is_primary_key: false,
            data_type: proto::FLOAT_VECTOR,
            type_params: vec![pair("dim", self.shape.dimension)],
        };
        let schema = proto::CollectionSchema { name: TABLE.into(), fields: vec![id, vector] };
        let request = proto::CreateCollectionRequest {
            collection_name: TABLE.into(),
            schema: schema.encode_to_vec(),
        };
        self.command(method!("CreateCollection"), request).await
    }

    /// Stores the rows, then builds the index.
    async fn load(&mut self, rows: &Rows<f32>) -> Result<(), Status> {
        for (row, values) in batches(rows, BATCH_MAX) {
            self.store(row as u64 + 1, values, UPKEEP_TIMEOUT).await?;
        }
        let request = proto::FlushRequest { collection_names: vec![TABLE.into()] };
        let answer: proto::StatusResponse =
            self.call(method!("Flush"), request, UPKEEP_TIMEOUT).await?;
        accepted(answer.status)?;
        let Shape { m, ef_construction, .. } = self.shape;
        let params = serde_json::json!({"M": m, "efConstruction": ef_construction});
        let request = proto::CreateIndexRequest {
            collection_name: TABLE.into(),
            field_name: VECTOR.into(),
            extra_params: vec![
                pair("index_type", "HNSW"),
                pair("metric_type", self.metric()),
                pair("params", params),
            ],
        };
        self.command(method!("CreateIndex"), request).await?;
        let request = proto::CollectionRequest { collection_name: TABLE.into() };
        self.command(method!("LoadCollection"), request).await?;
        self.loaded().await
    }

    async fn set_width(&mut self, width: u32) -> Result<(), Status> {
        self.params = vec![
            pair("anns_field", VECTOR),
            pair("topk", self.shape.k),
            pair("metric_type", self.metric()),
            pair("params", serde_json::json!({"ef": width})),
        ];
        Ok(())
    }

    async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status> {
        let bytes = query.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (tag, kind) = ("$0".into(), proto::FLOAT_VECTOR);
        let placeholders = vec![proto::Placeholder { tag, kind, values: vec![bytes] }];
        let request = proto::SearchRequest {
            collection_name: TABLE.into(),
            placeholder_group: proto::PlaceholderGroup { placeholders }.encode_to_vec(),
            dsl_type: proto::EXPRESSION,
            search_params: self.params.clone(),
            nq: 1,
            use_default_consistency: true,
        };
        let timeout = self.shape.timeout;
        let found: proto::SearchResults = self.call(method!("Search"), request, timeout).await?;
        accepted(found.status)?;
        let ids = found.results.and_then(|results| results.ids?.int_id);
        let ids = ids.ok_or_else(|| strange("ids"))?.data;
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }

    async fn insert(&mut self, id: u64, vector: &[f32]) -> Result<(), Status> {
        self.store(id, vector, self.shape.timeout).await
    }

    async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status> {
        for ids in removals(ids) {
            let ids = ids.map(|id| id.to_string()).collect::<Vec<String>>().join(",");
            let expr = format!("{ID} in [{ids}]");
            let request = proto::DeleteRequest { collection_name: TABLE.into(), expr };
            let answer: proto::StatusResponse =
                self.call(method!("Delete"), request, UPKEEP_TIMEOUT).await?;
            accepted(answer.status)?;
        }
        Ok(())
    }

    async fn drop_table(&mut self) -> Result<(), Status> {
        let request = proto::CollectionRequest { collection_name: TABLE.into() };
        let has: proto::BoolResponse =
            self.call(method!("HasCollection"), request.clone(), UPKEEP_TIMEOUT).await?;
        accepted(has.status)?;
        if has.value {
            self.command(method!("DropCollection"), request).await?;
        }
        Ok(())
    }
}

fn accepted(status: Option<proto::Status>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != 0 || status.error_code != 0 => {
            Err(Status::internal(format!("{} ({})", status.reason, status.code)))
        }
        _ => Ok(()),
    }
}

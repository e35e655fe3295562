//! The unary RPCs: validate, route, convert. The streaming ones are in [`super::stream`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, Streaming};

use super::convert::query_response;
use super::deadline::client_timeout;
use super::pieces::{Held, Kept, LARGE_BYTES, Listed, bytes};
use super::purse::Purses;
use super::status::{count, status};
use super::subject::Subject;
use super::{Gateway, validate};
use crate::config::{Distance, FsyncPolicy};
use crate::engine::Write;
use crate::engine::filter::Filter;
use crate::error::{Error, Result};
use crate::observe::Observed;
use crate::observe::latency::Latency;
use crate::proto;
use crate::proto::batch_delete_request::DeleteCriteria;
use crate::proto::kyro_db_service_server::KyroDbService;
use crate::status::health::{Verdict, cache_trouble};
use crate::types::DocId;
use crate::types::realm::Realm;

/// Longest time in which a delete by filter looks for its documents, if the client sets no limit.
const DELETE_MAX: Duration = Duration::from_secs(60);

/// Time after which to retry an insert that found no room on the disk.
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// Most documents of all BulkQueries in work: each is a copy in memory. More requests wait, but not for long.
pub(super) const BULK_IDS_MAX: usize = 40_000;
const BULK_PATIENCE: Duration = Duration::from_secs(1);

/// State of the query cache as text.
fn cache_health(observed: &Observed) -> String {
    let cache = &observed.gateway.cache;
    match cache_trouble(observed) {
        Some(why) => format!("degraded: {why}"),
        None if cache.capacity.get() == 0 => "healthy: switched off".to_owned(),
        None => format!("healthy: {} of {} answers", cache.entries.get(), cache.capacity.get()),
    }
}

/// Implements the generated trait.
pub(super) struct Service(pub(super) Arc<Gateway>);

impl Gateway {
    /// Ends a request: counts its latency and its failure.
    pub(super) fn answer<T>(
        &self,
        latency: &Latency,
        begun: Instant,
        result: Result<T>,
    ) -> Result<Response<T>, Status> {
        latency.record(begun.elapsed());
        match result {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) => {
                count(&self.observed, &error);
                Err(status(&error))
            }
        }
    }

    /// Runs `work` for at most as long as the client waits. A write that is cut off may or may not have been done.
    pub(super) async fn within<T>(
        &self,
        timeout: Option<Duration>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match timeout {
            None => work.await,
            Some(timeout) => tokio::time::timeout(timeout, work)
                .await
                .unwrap_or(Err(Error::Expired("while the request was being done"))),
        }
    }

    /// A validated put of one document; the dimension for its vector is decided.
    pub(super) async fn checked_put(
        self: &Arc<Self>,
        request: proto::InsertRequest,
        subject: &Subject,
    ) -> Result<Write> {
        let mut rules = self.rules();
        if rules.dimension == 0 {
            let length = request.embedding.len();
            validate::insert(request.clone(), rules, subject)?;
            self.check_space()?;
            rules = self.rules_for_insert(length).await?;
        }
        let write = validate::insert(request, rules, subject)?;
        self.check_space()?;
        Ok(write)
    }

    /// Refuses requests that permanently take disk space if only the reserve is left, which is for deletes and for
    /// freeing space.
    pub(super) fn check_space(&self) -> Result<()> {
        let space = &self.observed.space;
        if !space.is_low() {
            return Ok(());
        }
        let what = format!(
            "the file system of the data directory has {} MiB left, and {} MiB are kept free \
             (persistence.disk_reserve_bytes): no inserts until there is room",
            space.available() >> 20,
            space.reserve() >> 20
        );
        Err(Error::Busy { what, retry_after: SPACE_RETRY })
    }

    async fn insert(
        self: &Arc<Self>,
        subject: Result<Subject>,
        request: proto::InsertRequest,
    ) -> Result<proto::InsertResponse> {
        let (subject, router) = (subject?, self.router()?);
        router.check_insert(subject.doc_id("doc_id", request.doc_id)?)?;
        let bytes = self.write_rate.bytes_of(&request);
        let write = self.checked_put(request, &subject).await?;
        let Write::Put { id, .. } = &write else { unreachable!("an insert is a put") };
        self.write_rate.take(bytes)?;
        router.write(*id, write).await?;
        Ok(proto::InsertResponse {
            success: true,
            inserted_at: unix_secs(),
            tier: proto::insert_response::Tier::ColdTier.into(),
            total_inserted: 1,
            ..Default::default()
        })
    }

    async fn delete(
        &self,
        subject: Result<Subject>,
        request: proto::DeleteRequest,
    ) -> Result<proto::DeleteResponse> {
        let (subject, router) = (subject?, self.router()?);
        let id = subject.doc_id("doc_id", request.doc_id)?;
        validate::namespace(&request.namespace)?;
        let outcome = router
            .write(id, Write::Delete { id, realm: subject.realm(&request.namespace) })
            .await?;
        self.observed.gateway.deletes.add(outcome.existed);
        let existed = outcome.existed > 0;
        Ok(proto::DeleteResponse { success: true, existed, ..Default::default() })
    }

    async fn update(
        &self,
        subject: Result<Subject>,
        request: proto::UpdateMetadataRequest,
    ) -> Result<proto::UpdateMetadataResponse> {
        let (subject, router) = (subject?, self.router()?);
        let id = subject.doc_id("doc_id", request.doc_id)?;
        validate::namespace(&request.namespace)?;
        let payload = validate::payload(&request.metadata, &Realm::default())?;
        self.write_rate.take(self.write_rate.bytes_of(&request))?;
        let (realm, merge) = (subject.realm(&request.namespace), request.merge);
        let outcome = router.write(id, Write::Update { id, realm, payload, merge }).await?;
        let existed = outcome.existed > 0;
        Ok(proto::UpdateMetadataResponse { success: true, existed, ..Default::default() })
    }

    async fn batch_delete(
        &self,
        subject: Result<Subject>,
        request: proto::BatchDeleteRequest,
        deadline: Instant,
    ) -> Result<proto::BatchDeleteResponse> {
        let (subject, router) = (subject?, self.router()?);
        validate::namespace(&request.namespace)?;
        let none = HashMap::new();
        let (ids, filter) = match request.delete_criteria {
            None => {
                let why = "has neither ids nor a filter; to delete everything in scope, send an \
                           empty filter";
                return Err(Error::invalid("delete_criteria", why));
            }
            Some(DeleteCriteria::Ids(list)) => {
                let ids = subject.doc_ids("ids", &list.doc_ids)?;
                (Some(ids), validate::scope(&subject, &request.namespace, None, none)?)
            }
            Some(DeleteCriteria::Filter(filter)) => {
                (None, validate::scope(&subject, &request.namespace, Some(filter), none)?)
            }
        };
        let filter = filter.unwrap_or(Filter::All);
        let deleted_count = router.delete_many(ids, filter, subject.sweeps(), deadline).await?;
        self.observed.gateway.deletes.add(deleted_count);
        Ok(proto::BatchDeleteResponse { success: true, deleted_count, ..Default::default() })
    }

    async fn query(
        &self,
        subject: Result<Subject>,
        request: proto::QueryRequest,
    ) -> Result<proto::QueryResponse> {
        let (subject, router) = (subject?, self.router()?);
        let id = subject.doc_id("doc_id", request.doc_id)?;
        validate::namespace(&request.namespace)?;
        let realm = subject.realm(&request.namespace);
        let found = router.get(&[id], realm, request.include_embedding).await?;
        subject.note_queries(1);
        Ok(query_response(request.doc_id, found.into_iter().next().flatten()))
    }

    /// Reads each document once, however often it is named.
    async fn bulk_query(
        &self,
        subject: Result<Subject>,
        purses: Option<Arc<Purses>>,
        request: proto::BulkQueryRequest,
    ) -> Result<Listed<proto::BulkQueryResponse>> {
        let (subject, router) = (subject?, self.router()?);
        let ids = subject.doc_ids("doc_ids", &request.doc_ids)?;
        validate::namespace(&request.namespace)?;
        let (unique, order) = unique(&ids);
        let _places = self.bulk_places(unique.len()).await?;
        let held =
            self.held(purses.as_ref(), &subject, unique.len(), request.include_embeddings)?;
        let realm = subject.realm(&request.namespace);
        let found = router.get(&unique, realm, request.include_embeddings).await?;
        subject.note_queries(ids.len() as u64);
        let total_found = order.iter().filter(|&&place| found[place].is_some()).count() as u32;
        let total_requested = ids.len() as u32;
        let others =
            proto::BulkQueryResponse { total_found, total_requested, ..Default::default() };
        let bytes: usize = order.iter().map(|&place| bytes(found[place].as_ref())).sum();
        let kept = Kept { held, ..Kept::default() };
        let make =
            move |index: usize| query_response(request.doc_ids[index], found[order[index]].clone());
        if bytes < LARGE_BYTES {
            let results = (0..ids.len()).map(make).collect();
            return Ok(Listed::whole(proto::BulkQueryResponse { results, ..others }));
        }
        Listed::of(others, ids.len(), make, kept).await
    }

    /// Counts the vectors of documents that are about to be read.
    pub(super) fn held(
        &self,
        purses: Option<&Arc<Purses>>,
        subject: &Subject,
        documents: usize,
        include_embeddings: bool,
    ) -> Result<Option<Held>> {
        let values = if include_embeddings { self.rules().dimension } else { 0 };
        Held::admit(purses, subject.tenant(), (documents * values * size_of::<f32>()) as u64)
    }

    /// Waits, but not for long, until `count` more documents may be read at once.
    pub(super) async fn bulk_places(&self, count: usize) -> Result<OwnedSemaphorePermit> {
        let places = self.bulk_ids.clone().acquire_many_owned(count as u32);
        match tokio::time::timeout(BULK_PATIENCE, places).await {
            Ok(Ok(places)) => Ok(places),
            _ => Err(Error::busy(format!("reads of {BULK_IDS_MAX} documents are in work"))),
        }
    }

    async fn create_snapshot(&self, path: &str) -> Result<proto::SnapshotResponse> {
        if !path.trim().is_empty() {
            let why = "has to be empty: snapshots are in the data directory";
            return Err(Error::invalid("path", why));
        }
        let taken = self.router()?.snapshot().await?;
        let directory = &self.config.persistence.data_dir;
        let path = match taken.as_slice() {
            [only] => directory.join(&only.file),
            _ => directory.clone(),
        };
        Ok(proto::SnapshotResponse {
            success: true,
            error: String::new(),
            snapshot_path: path.display().to_string(),
            documents_snapshotted: taken.iter().map(|shard| shard.documents).sum(),
            snapshot_size_bytes: taken.iter().map(|shard| shard.bytes).sum(),
        })
    }

    fn health_response(&self, component: &str) -> Result<proto::HealthResponse> {
        use proto::health_response::Status;
        const COMPONENTS: [&str; 4] = ["cache", "hot_tier", "cold_tier", "wal"];
        if !component.is_empty() && !COMPONENTS.contains(&component) {
            let why = format!("`{component:.64}` is not one of: {}", COMPONENTS.join(", "));
            return Err(Error::invalid("component", why));
        }
        let (status, text) = match self.health.verdict() {
            Verdict::Healthy => (Status::Healthy, "healthy".to_owned()),
            Verdict::Degraded(why) => (Status::Degraded, format!("degraded: {why}")),
            Verdict::Starting(why) => (Status::Unhealthy, format!("unhealthy: starting: {why}")),
            Verdict::Unhealthy(why) => (Status::Unhealthy, format!("unhealthy: {why}")),
        };
        let shards = self.observed.shards();
        let log_trouble = self.health.log_trouble();
        let hot: u64 = shards.iter().map(|shard| shard.hot_documents.get()).sum();
        let linked: u64 = shards.iter().map(|shard| shard.linked_nodes.get()).sum();
        let of = |component: &str| match (component, status) {
            ("cache", Status::Healthy | Status::Degraded) => cache_health(&self.observed),
            ("wal", Status::Healthy | Status::Degraded) => match &log_trouble {
                None => "healthy".to_owned(),
                Some(why) => format!("degraded: {why}"),
            },
            ("hot_tier", Status::Healthy) => format!("healthy: {hot} documents to be linked"),
            ("cold_tier", Status::Healthy) => format!("healthy: {linked} nodes linked"),
            _ => text.clone(),
        };
        let components = COMPONENTS
            .iter()
            .filter(|name| component.is_empty() || **name == component)
            .map(|name| ((*name).to_owned(), of(name)))
            .collect();
        Ok(proto::HealthResponse {
            status: status.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            components,
            uptime_seconds: self.health.uptime().as_secs(),
            git_commit: env!("KYRODB_GIT_COMMIT").into(),
        })
    }

    fn config_response(&self) -> proto::ConfigResponse {
        let config = &*self.config;
        let (hnsw, persistence) = (&config.hnsw, &config.persistence);
        let interval_ms = persistence.wal_flush_interval_ms;
        let hot_age = config.cache.hot_tier_max_age_secs;
        proto::ConfigResponse {
            hot_tier_max_size: config.cache.capacity as u64,
            hot_tier_max_age_seconds: hot_age.unwrap_or(config.cache.training_interval_secs),
            hnsw_max_elements: hnsw.max_elements as u64,
            data_dir: persistence.data_dir.display().to_string(),
            fsync_policy: match persistence.fsync_policy {
                FsyncPolicy::DataOnly | FsyncPolicy::Full => "Always".into(),
                FsyncPolicy::Periodic => format!("Periodic({interval_ms})"),
                FsyncPolicy::None => "Never".into(),
            },
            snapshot_interval: persistence.snapshot_interval_mutations,
            flush_interval_seconds: hot_age.unwrap_or(config.cache.training_interval_secs),
            embedding_dimension: self.rules().dimension as u64,
            version: env!("CARGO_PKG_VERSION").into(),
            hnsw_m: hnsw.m as u64,
            hnsw_ef_construction: hnsw.ef_construction as u64,
            hnsw_ef_search: hnsw.ef_search as u64,
            hnsw_distance: match hnsw.distance {
                Distance::Cosine => "Cosine".into(),
                Distance::Euclidean => "Euclidean".into(),
                Distance::InnerProduct => "InnerProduct".into(),
            },
            hnsw_disable_normalization_check: hnsw.disable_normalization_check,
        }
    }
}

#[tonic::async_trait]
impl KyroDbService for Service {
    async fn insert(
        &self,
        request: Request<proto::InsertRequest>,
    ) -> Result<Response<proto::InsertResponse>, Status> {
        let (gateway, begun) = (&self.0, Instant::now());
        let subject = gateway.admit_write(request.extensions());
        let timeout = client_timeout(request.metadata());
        let result = gateway.within(timeout, gateway.insert(subject, request.into_inner())).await;
        let counters = &gateway.observed.gateway;
        if result.is_ok() {
            counters.inserts.add(1)
        } else {
            counters.inserts_failed.add(1)
        }
        gateway.answer(&gateway.observed.methods.insert, begun, result)
    }

    async fn bulk_insert(
        &self,
        request: Request<Streaming<proto::InsertRequest>>,
    ) -> Result<Response<proto::InsertResponse>, Status> {
        self.0.bulk_insert(request).await.map(Response::new)
    }

    async fn bulk_load_hnsw(
        &self,
        request: Request<Streaming<proto::InsertRequest>>,
    ) -> Result<Response<proto::BulkLoadResponse>, Status> {
        self.0.bulk_load(request).await.map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let (gateway, begun) = (&self.0, Instant::now());
        let subject = gateway.admit_write(request.extensions());
        let timeout = client_timeout(request.metadata());
        let result = gateway.within(timeout, gateway.delete(subject, request.into_inner())).await;
        gateway.answer(&gateway.observed.methods.change, begun, result)
    }

    async fn update_metadata(
        &self,
        request: Request<proto::UpdateMetadataRequest>,
    ) -> Result<Response<proto::UpdateMetadataResponse>, Status> {
        let (gateway, begun) = (&self.0, Instant::now());
        let subject = gateway.admit_write(request.extensions());
        let timeout = client_timeout(request.metadata());
        let result = gateway.within(timeout, gateway.update(subject, request.into_inner())).await;
        gateway.answer(&gateway.observed.methods.change, begun, result)
    }

    async fn batch_delete(
        &self,
        request: Request<proto::BatchDeleteRequest>,
    ) -> Result<Response<proto::BatchDeleteResponse>, Status> {
        let (gateway, begun) = (&self.0, Instant::now());
        let subject = gateway.admit_write(request.extensions());
        let timeout = client_timeout(request.metadata());
        let deadline = begun + timeout.unwrap_or(DELETE_MAX);
        let delete = gateway.batch_delete(subject, request.into_inner(), deadline);
        let result = gateway.within(timeout, delete).await;
        gateway.answer(&gateway.observed.methods.change, begun, result)
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<proto::QueryResponse>, Status> {
        let (gateway, begun) = (&self.0, Instant::now());
        let subject = gateway.admit(request.extensions());
        let timeout = client_timeout(request.metadata());
        let result = gateway.within(timeout, gateway.query(subject, request.into_inner())).await;
        let counters = &gateway.observed.gateway;
        counters.queries.add(1);
        counters.queries_failed.add(u64::from(result.is_err()));
        gateway.answer(&gateway.observed.methods.query, begun, result)
    }

    async fn bulk_query(
        &self,
        request: Request<proto::BulkQueryRequest>,
    ) -> Result<Response<proto::BulkQueryResponse>, Status> {
        let (gateway, begun) = (&self.0, Instant::now());
        let subject = gateway.admit(request.extensions());
        let timeout = client_timeout(request.metadata());
        let purses = request.extensions().get().cloned();
        let request = request.into_inner();
        let counters = &gateway.observed.gateway;
        let asked = request.doc_ids.len() as u64;
        counters.queries.add(asked);
        let result = gateway.within(timeout, gateway.bulk_query(subject, purses, request)).await;
        counters.queries_failed.add(if result.is_err() { asked } else { 0 });
        gateway.answer(&gateway.observed.methods.query, begun, result).map(Listed::respond)
    }

    async fn list_documents(
        &self,
        request: Request<proto::ListDocumentsRequest>,
    ) -> Result<Response<proto::ListDocumentsResponse>, Status> {
        self.0.list_page(request).await
    }

    async fn search(
        &self,
        request: Request<proto::SearchRequest>,
    ) -> Result<Response<proto::SearchResponse>, Status> {
        self.0.unary_search(request, Instant::now()).await
    }

    type BulkSearchStream = super::stream::SearchStream;

    async fn bulk_search(
        &self,
        request: Request<Streaming<proto::SearchRequest>>,
    ) -> Result<Response<Self::BulkSearchStream>, Status> {
        let timeout = client_timeout(request.metadata());
        let subject =
            self.0.subject(request.extensions()).map_err(|error| self.0.refuse(&error))?;
        Ok(Response::new(self.0.clone().bulk_search(request.into_inner(), subject, timeout)))
    }

    async fn flush_hot_tier(
        &self,
        request: Request<proto::FlushRequest>,
    ) -> Result<Response<proto::FlushResponse>, Status> {
        let (gateway, begun) = (&self.0, Instant::now());
        let admitted = gateway.admit_operator(request.extensions());
        let timeout = client_timeout(request.metadata());
        let force = request.into_inner().force;
        let flush = async {
            admitted?;
            gateway.router()?.flush(!force).await
        };
        let flushed = gateway.within(timeout, flush).await;
        gateway.observed.gateway.flushes.add(u64::from(force && flushed.is_ok()));
        let documents_flushed = flushed.map_err(|error| {
            count(&gateway.observed, &error);
            status(&error)
        })?;
        Ok(Response::new(proto::FlushResponse {
            success: true,
            error: String::new(),
            documents_flushed,
            flush_duration_ms: begun.elapsed().as_secs_f32() * 1e3,
        }))
    }

    async fn health(
        &self,
        request: Request<proto::HealthRequest>,
    ) -> Result<Response<proto::HealthResponse>, Status> {
        let response = self.0.health_response(&request.into_inner().component);
        response.map(Response::new).map_err(|error| status(&error))
    }

    async fn get_config(
        &self,
        request: Request<proto::ConfigRequest>,
    ) -> Result<Response<proto::ConfigResponse>, Status> {
        let admitted = self.0.admit_operator(request.extensions());
        admitted.map_err(|error| self.0.refuse(&error))?;
        Ok(Response::new(self.0.config_response()))
    }

    async fn metrics(
        &self,
        request: Request<proto::MetricsRequest>,
    ) -> Result<Response<proto::MetricsResponse>, Status> {
        let admitted = self.0.admit_operator(request.extensions());
        admitted.map_err(|error| self.0.refuse(&error))?;
        Ok(Response::new(self.0.metrics_response()))
    }

    async fn create_snapshot(
        &self,
        request: Request<proto::SnapshotRequest>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        let answer = match self.0.admit_operator(request.extensions()) {
            Ok(()) => self.0.create_snapshot(&request.into_inner().path).await,
            Err(error) => Err(error),
        };
        answer.map(Response::new).map_err(|error| {
            count(&self.0.observed, &error);
            status(&error)
        })
    }
}

/// The distinct ids, and for every id its index among those.
fn unique(ids: &[DocId]) -> (Vec<DocId>, Vec<usize>) {
    let mut places = HashMap::with_capacity(ids.len());
    let mut unique = Vec::with_capacity(ids.len());
    let order = ids.iter().map(|&id| {
        *places.entry(id).or_insert_with(|| {
            unique.push(id);
            unique.len() - 1
        })
    });
    let order = order.collect();
    (unique, order)
}

/// The time now, in Unix seconds.
pub(super) fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

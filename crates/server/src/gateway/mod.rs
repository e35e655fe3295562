//! gRPC: the only module that uses tonic and serves protobuf.
//!
//! ```text
//! connection (accept, limits, HTTP/2) → exchange → panics, guard → admit → service | stream → validate → router → convert
//!                                      inbox ┘ └ pipe (bytes in, bytes out, within their bounds)
//! ```
//!
//! A handler validates, sends to the router and converts the answer; it holds no state between
//! requests. Dropping a handler, because its client went away, tells the cores to stop.

mod activity;
mod admit;
mod connection;
mod convert;
mod deadline;
mod ended;
mod exchange;
mod guard;
mod inbox;
mod list;
mod method;
mod metrics;
#[cfg(feature = "otel")]
pub(crate) mod otlp;
mod panics;
mod pieces;
mod pings;
mod pipe;
mod places;
mod purse;
mod search;
mod service;
mod status;
mod stream;
mod subject;
mod timing;
mod validate;
mod write_rate;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::admit::Admitted;
pub use self::connection::{Door, Drain, Limits, serve};
use self::panics::Contained;
use self::validate::VectorRules;
use self::write_rate::WriteRate;
use crate::access::Access;
use crate::config::{Config, Distance, LoggingSection, TimeoutsSection};
use crate::error::{Error, Result};
use crate::observe::Observed;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::kyro_db_service_server::KyroDbServiceServer;
use crate::router::Router;
use crate::status::health::{Health, Phase, Verdict};
use crate::types::metric::Metric;

/// Period of updating `grpc.health.v1`, which is also updated whenever the server begins or ends to serve.
const HEALTH_PERIOD: Duration = Duration::from_millis(100);

/// Largest message of `grpc.health.v1` and of reflection, in bytes; both are served without a key.
const HEALTH_BYTES_MAX: usize = 4 << 10;
const REFLECTION_BYTES_MAX: usize = 64 << 10;

/// Name of the service in `grpc.health.v1`.
const SERVICE: &str = "kyrodb.v1.KyroDBService";

impl From<Distance> for Metric {
    fn from(distance: Distance) -> Self {
        match distance {
            Distance::Cosine => Self::Cosine,
            Distance::Euclidean => Self::Euclidean,
            Distance::InnerProduct => Self::InnerProduct,
        }
    }
}

/// State that all handlers share.
pub struct Gateway {
    config: Arc<Config>,
    observed: Arc<Observed>,
    health: Arc<Health>,
    access: Arc<Access>,
    router: OnceLock<Arc<Router>>,
    /// Values in a vector; 0 until the first document decides.
    dimension: AtomicUsize,
    /// Held while the first document decides the dimension.
    deciding: tokio::sync::Mutex<()>,
    /// Longest time of a search, in milliseconds.
    search_max_ms: AtomicU64,
    /// Permits for ids of BulkQueries in work.
    bulk_ids: Arc<tokio::sync::Semaphore>,
    /// Permits for bulk loads, and for bulk inserts.
    bulk_loads: tokio::sync::Semaphore,
    bulk_inserts: tokio::sync::Semaphore,
    /// Bound on bytes of documents per second.
    write_rate: WriteRate,
}

impl Gateway {
    /// A gateway that answers "starting" until it is [opened](Gateway::open).
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        observed: Arc<Observed>,
        health: Arc<Health>,
        access: Arc<Access>,
    ) -> Arc<Self> {
        let LoggingSection { slow_query_ms, slow_query_per_second, .. } = config.logging;
        observed.slow_log.set(slow_query_ms, slow_query_per_second);
        let write_rate = WriteRate::default();
        write_rate.set(config.storage.max_write_bytes_per_sec);
        observed.in_flight.count_in(&observed.memory);
        purse::bound(&observed.in_flight, observed.memory.max());
        Arc::new(Self {
            write_rate,
            search_max_ms: AtomicU64::new(config.timeouts.cold_tier_ms),
            config,
            observed,
            health,
            access,
            router: OnceLock::new(),
            dimension: AtomicUsize::new(0),
            deciding: tokio::sync::Mutex::default(),
            bulk_ids: Arc::new(tokio::sync::Semaphore::new(service::BULK_IDS_MAX)),
            bulk_loads: tokio::sync::Semaphore::new(stream::BULK_STREAMS_MAX),
            bulk_inserts: tokio::sync::Semaphore::new(stream::BULK_STREAMS_MAX),
        })
    }

    /// Opens the gateway once the shards are in service; their vectors have `dimension` values, 0 if unknown.
    pub fn open(&self, router: Arc<Router>, dimension: usize) {
        self.set_dimension(dimension);
        let first = self.router.set(router);
        debug_assert!(first.is_ok(), "a gateway is opened once");
    }

    /// Sets the longest time of a search.
    pub fn set_timeouts(&self, timeouts: &TimeoutsSection) {
        self.search_max_ms.store(timeouts.cold_tier_ms, Ordering::Relaxed);
    }

    /// Sets the memory limit of the process, in bytes.
    pub fn set_memory_max(&self, bytes: u64) {
        self.observed.memory.set_max(bytes);
        purse::bound(&self.observed.in_flight, bytes);
    }

    /// Sets the threshold and the rate of the slow-search log.
    pub fn set_logging(&self, logging: &LoggingSection) {
        self.observed.slow_log.set(logging.slow_query_ms, logging.slow_query_per_second);
    }

    /// Sets the bound on bytes of documents per second; 0 for none.
    pub fn set_write_rate(&self, bytes_per_second: u64) {
        self.write_rate.set(bytes_per_second);
    }

    fn set_dimension(&self, dimension: usize) {
        self.dimension.store(dimension, Ordering::Release);
        self.access.set_dimension(dimension);
    }

    /// The router, if requests may be served.
    fn router(&self) -> Result<&Arc<Router>> {
        match (self.health.phase(), self.router.get()) {
            (Phase::Serving, Some(router)) => Ok(router),
            (Phase::Draining, _) => Err(Error::planned("the server is shutting down")),
            _ => match self.health.verdict() {
                Verdict::Starting(progress) => Err(status::loading(&progress)),
                _ => Err(status::loading("a moment")),
            },
        }
    }

    fn metric(&self) -> Metric {
        self.config.hnsw.distance.into()
    }

    fn rules(&self) -> VectorRules {
        let dimension = self.dimension.load(Ordering::Acquire);
        VectorRules { metric: self.metric(), dimension }
    }

    /// The rules for vectors to be stored. A first document of `length` values, valid in itself, decides the dimension:
    /// it is in MANIFEST before the document is logged.
    async fn rules_for_insert(self: &Arc<Self>, length: usize) -> Result<VectorRules> {
        // A task of its own: the shards must not be left in disagreement if the client goes away meanwhile.
        let gateway = self.clone();
        let decided = tokio::spawn(async move { gateway.decide_dimension(length).await });
        decided.await.unwrap_or_else(|_| Err(Error::Internal("internal server panic".into())))?;
        Ok(self.rules())
    }

    async fn decide_dimension(&self, length: usize) -> Result<()> {
        let router = self.router()?;
        let _deciding = self.deciding.lock().await;
        if self.rules().dimension != 0 {
            return Ok(());
        }
        router.decide_dimension(length).await?;
        tracing::info!(dimension = length, "the first document has decided the dimension");
        self.set_dimension(length);
        Ok(())
    }

    /// All gRPC services of the server.
    ///
    /// # Errors
    /// If the descriptors can't be read: a broken build.
    pub fn routes(self: &Arc<Self>) -> std::result::Result<Contained<Routes>, String> {
        let service = KyroDbServiceServer::new(service::Service(self.clone()))
            .max_decoding_message_size(self.config.server.max_message_bytes)
            .max_encoding_message_size(usize::MAX);
        let service = Admitted { inner: service, gateway: self.clone() };
        let (reporter, health) = tonic_health::server::health_reporter();
        let health = health.max_decoding_message_size(HEALTH_BYTES_MAX);
        tokio::spawn(report(self.health.clone(), reporter));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // Details of statuses: without these, clients show them as bytes.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let v1 = reflection().build_v1().map_err(|error| error.to_string())?;
        let v1alpha = reflection().build_v1alpha().map_err(|error| error.to_string())?;
        let v1 = v1.max_decoding_message_size(REFLECTION_BYTES_MAX);
        let v1alpha = v1alpha.max_decoding_message_size(REFLECTION_BYTES_MAX);
        let routes = Routes::new(service).add_service(health).add_service(v1).add_service(v1alpha);
        Ok(Contained {
            inner: routes.prepare(),
            observed: self.observed.clone(),
            message_bytes_max: self.config.server.max_message_bytes,
        })
    }
}

/// Keeps `grpc.health.v1` up to date.
async fn report(health: Arc<Health>, mut reporter: HealthReporter) {
    let mut last = None;
    loop {
        let is_ready = health.is_ready();
        if last != Some(is_ready) {
            let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in ["", SERVICE] {
                reporter.set_service_status(service, status).await;
            }
            last = Some(is_ready);
        } else if health.phase() == Phase::Draining {
            // Watching clients have been told; this ends their streams.
            for service in ["", SERVICE] {
                reporter.clear_service_status(service).await;
            }
            return;
        }
        tokio::select! {
            () = health.moved_on() => {}
            () = tokio::time::sleep(HEALTH_PERIOD) => {}
        }
    }
}

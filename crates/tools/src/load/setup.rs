//! Preparation of a run: connections, and the documents that are searched.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Fault;
use super::arguments::{Settings, Source};
use super::client::{Client, Door, Requests, connect};
use super::data::{Data, metadata};
use super::record::LAG_MAX_MS;
use super::workload::Weights;
use crate::proto::{
    BulkQueryRequest, ConfigRequest, ConfigResponse, FlushRequest, InsertRequest, QueryRequest,
};

/// Documents per BulkQuery.
const IDS_AT_ONCE: usize = 10_000;

/// Documents whose vectors are compared with the base.
const COMPARED: usize = 8;

/// Least cosine between a row and the server's vector of it.
const COSINE_MIN: f64 = 0.999;

/// Longest wait for a connection during preparation.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for requests that a server answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A bulk load, until all of it is linked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) documents: usize,
    pub(super) seconds: f64,
}

/// State that all runs share.
pub(super) struct Bench {
    pub(super) clients: Vec<Client>,
    pub(super) requests: Arc<Requests>,
    pub(super) weights: Weights,
    pub(super) concurrency: usize,
    pub(super) warm_up: Duration,
    pub(super) seed: u64,
    pub(super) server: ConfigResponse,
    /// Lag above which the load tester is the bottleneck, in milliseconds.
    pub(super) lag_max_ms: f64,
    /// The bulk load, if there was one.
    pub(super) loaded: Option<Loaded>,
    /// Runs so far.
    pub(super) runs: usize,
}

impl Bench {
    /// Reads the data, connects, and checks that the server has the documents.
    ///
    /// # Errors
    /// If the data is inconsistent or not that of the server, or the server fails.
    pub(super) async fn set_up(settings: &Settings) -> Result<Self, Fault> {
        let data = Arc::new(Data::get(&settings.source, settings.seed, settings.k)?);
        let mut clients = Vec::with_capacity(settings.connections);
        for _ in 0..settings.connections {
            clients.push(connect(&settings.door, CONNECT_TIMEOUT).await?);
        }
        let client = &mut clients[0];
        let server = client.get_config(soon(ConfigRequest {})).await;
        let server =
            server.map_err(|status| refused("GetConfig", &status, &settings.door))?.into_inner();
        check_dimension(&server, &data, &settings.source)?;
        let loaded = match settings.source {
            Source::Random { .. } => {
                seed(&clients, &data, settings).await?;
                None
            }
            Source::Files { .. } => load(client, &data, settings.may_load).await?,
        };
        let requests = Requests {
            data,
            filter: settings.filter.clone(),
            k: settings.k,
            timeout: settings.timeout,
            written: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
        };
        Ok(Self {
            clients,
            requests: Arc::new(requests),
            weights: settings.weights.clone(),
            concurrency: settings.concurrency,
            warm_up: settings.warm_up,
            seed: settings.seed,
            server,
            lag_max_ms: LAG_MAX_MS,
            loaded,
            runs: 0,
        })
    }
}

/// A request with a deadline, so that a server which does not answer can't block the run.
fn soon<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT);
    request
}

fn failed(what: &str, status: &tonic::Status) -> Fault {
    Fault::Failed(format!("{what}: {:?}: {}", status.code(), status.message()))
}

/// The error of the first request, which shows whether the server accepts our credentials.
fn refused(what: &str, status: &tonic::Status, door: &Door) -> Fault {
    let way_out = match status.code() {
        tonic::Code::Unauthenticated => {
            "; --key-file FILE, or the variable KYRODB_API_KEY, has an API key for it"
        }
        tonic::Code::PermissionDenied => "; the load tester needs a key with is_admin",
        // The server closes connections without a certificate once they have sent something.
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
            if door.is_without_certificate() =>
        {
            "; where the server asks for a certificate, --client-cert and --client-key show one"
        }
        _ => return failed(what, status),
    };
    Fault::Failed(format!("{what}: {}{way_out}", status.message()))
}

fn check_dimension(server: &ConfigResponse, data: &Data, source: &Source) -> Result<(), Fault> {
    let (has, wants) = (server.embedding_dimension, data.base.width as u64);
    // 0: the first document will decide.
    if has == 0 || has == wants {
        return Ok(());
    }
    let way_out = match source {
        Source::Random { .. } => format!("give --dimension {has}"),
        Source::Files { .. } => "give data of that dimension".to_owned(),
    };
    Err(Fault::Usage(format!(
        "the server's vectors have {has} values, those of {} have {wants}: {way_out}, or a server \
         with a data directory of its own",
        data.name
    )))
}

/// A progress bar for a person at a terminal.
pub(super) fn progress(what: &'static str, count: u64) -> ProgressBar {
    let template = "{msg} [{wide_bar}] {pos}/{len} {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::new(count).with_style(style).with_message(what)
}

/// Inserts every row, one request each, with as many in flight as in a run.
async fn seed(clients: &[Client], data: &Arc<Data>, settings: &Settings) -> Result<(), Fault> {
    let count = data.base.count();
    let bar = progress("inserting", count as u64);
    let mut workers = tokio::task::JoinSet::new();
    let places = settings.concurrency.min(count);
    for place in 0..places {
        let mut client = clients[place % clients.len()].clone();
        let (data, bar) = (data.clone(), bar.clone());
        workers.spawn(async move {
            for row in (place..count).step_by(places) {
                client.insert(soon(document(&data, row))).await.map_err(|status| (row, status))?;
                bar.inc(1);
            }
            Ok::<(), (usize, tonic::Status)>(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        let ended = ended.map_err(|error| Fault::Failed(error.to_string()))?;
        ended.map_err(|(row, status)| failed(&format!("inserting {}", row + 1), &status))?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn document(data: &Data, row: usize) -> InsertRequest {
    InsertRequest {
        doc_id: row as u64 + 1,
        embedding: data.base.row(row).to_vec(),
        metadata: metadata(row),
        namespace: String::new(),
    }
}

/// Checks that the server has every row, and loads missing ones if that is permitted.
async fn load(
    client: &mut Client,
    data: &Arc<Data>,
    may_load: bool,
) -> Result<Option<Loaded>, Fault> {
    let missing = missing(client, data.base.count()).await?;
    let documents = missing.len();
    let begun = Instant::now();
    if !missing.is_empty() {
        if !may_load {
            return Err(Fault::Usage(format!(
                "the server lacks {} of the {} documents of {}: give --load to load them",
                missing.len(),
                data.base.count(),
                data.name
            )));
        }
        let bar = progress("loading", missing.len() as u64);
        let (shown, source) = (bar.clone(), data.clone());
        let stream = tokio_stream::iter(missing.into_iter().map(move |row| {
            shown.inc(1);
            document(&source, row)
        }));
        let loaded = client.bulk_load_hnsw(stream).await;
        let loaded = loaded.map_err(|status| failed("loading", &status))?.into_inner();
        bar.finish_and_clear();
        if !loaded.success {
            let (count, why) = (loaded.total_failed, loaded.error);
            return Err(Fault::Failed(format!("{count} documents were refused: {why}")));
        }
    }
    // Searches of unlinked documents would not measure the graph.
    let flush = client.flush_hot_tier(FlushRequest { force: true }).await;
    flush.map_err(|status| failed("FlushHotTier", &status))?;
    let seconds = begun.elapsed().as_secs_f64();
    compare(client, data).await?;
    Ok((documents > 0).then_some(Loaded { documents, seconds }))
}

/// Rows that the server has no document of.
async fn missing(client: &mut Client, count: usize) -> Result<Vec<usize>, Fault> {
    let mut missing = Vec::new();
    let ids: Vec<u64> = (1..=count as u64).collect();
    for doc_ids in ids.chunks(IDS_AT_ONCE) {
        let request = BulkQueryRequest { doc_ids: doc_ids.to_vec(), ..Default::default() };
        let found = client.bulk_query(soon(request)).await;
        let results = found.map_err(|status| failed("BulkQuery", &status))?.into_inner().results;
        let rows = results.iter().filter(|result| !result.found);
        missing.extend(rows.map(|result| result.doc_id as usize - 1));
    }
    Ok(missing)
}

/// Checks that some documents of the server are rows of the base, not those of another set.
async fn compare(client: &mut Client, data: &Data) -> Result<(), Fault> {
    let count = data.base.count();
    for row in (0..count).step_by(count.div_ceil(COMPARED)) {
        let doc_id = row as u64 + 1;
        let request = QueryRequest { doc_id, include_embedding: true, ..Default::default() };
        let found = client.query(soon(request)).await.map_err(|status| failed("Query", &status))?;
        let stored = found.into_inner().embedding;
        let wanted = data.base.row(row);
        if stored.len() != wanted.len() || cosine(&stored, wanted) < COSINE_MIN {
            return Err(Fault::Usage(format!(
                "document {doc_id} of the server is not row {row} of {}: it holds another set; \
                 give its data, or a server with a data directory of its own",
                data.name
            )));
        }
    }
    Ok(())
}

/// The cosine of the angle between two vectors; 1 if one of them has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms == 0.0 { 1.0 } else { dot(a, b) / norms }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

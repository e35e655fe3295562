//! Drivers of the compared engines: one kind of connection per engine, with its own protocol, behind one trait.
//!
//! A peer keeps its documents in a table or collection of the name [`TABLE`], which is replaced at
//! the start and dropped at the end. Ids are those of KyroDB: row `r` of the base is document
//! `r` + 1.

mod chroma;
mod http;
mod kyrodb;
mod milvus;
mod milvus_proto;
mod pgvector;
mod qdrant;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;
use tonic::{Code, Status};

use super::Fault;
use super::client::Client;
use super::workload::nearest_name;
use crate::dataset::Rows;
use crate::proto::ConfigResponse;
use crate::types::metric::Metric;

/// Name of the table or collection in a peer.
const TABLE: &str = "kyrodb_compare";

/// Longest time for a peer to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time of one request to create, fill, index or clean its table.
const UPKEEP_TIMEOUT: Duration = Duration::from_hours(4);

/// Most values in one request of a load.
const LOAD_VALUES_MAX: usize = 1 << 20;

/// Most documents removed by one request.
const REMOVED_AT_ONCE: usize = 1_000;

/// Parameters common to all engines, so that they do equal work.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) dimension: usize,
    pub(super) metric: Metric,
    /// Links per node of the graph.
    pub(super) m: u64,
    /// Beam width of an insert.
    pub(super) ef_construction: u64,
    /// Results per search.
    pub(super) k: u32,
    /// Deadline of a request.
    pub(super) timeout: Duration,
}

impl Shape {
    /// The parameters of KyroDB's server, which the others follow.
    ///
    /// # Errors
    /// If its metric is not known here.
    pub(super) fn of(
        server: &ConfigResponse,
        dimension: usize,
        k: u32,
        timeout: Duration,
    ) -> Result<Self, Fault> {
        let distance = &server.hnsw_distance;
        let metric = Metric::of_word(&distance.to_ascii_lowercase()).ok_or_else(|| {
            Fault::Failed(format!(
                "the server's distance is `{distance}`, which other engines do not have: \
                 hnsw.distance has to be cosine, euclidean or innerproduct"
            ))
        })?;
        let (m, ef_construction) = (server.hnsw_m, server.hnsw_ef_construction);
        Ok(Self { dimension, metric, m, ef_construction, k, timeout })
    }
}

/// Whether an insert is on the disk when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Durable {
    Yes,
    No,
    Unknown,
}

impl Durable {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// An engine's description of itself.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Facts {
    pub(super) version: String,
    /// Kind and parameters of its index.
    pub(super) index: String,
    pub(super) durable: Durable,
    /// Source of that information.
    pub(super) durable_how: String,
    /// Other settings that affect its figures.
    pub(super) settings: String,
}

/// A kind of engine that can be compared with KyroDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pgvector,
    Chroma,
    Qdrant,
    Milvus,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Pgvector, Self::Chroma, Self::Qdrant, Self::Milvus];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pgvector => "pgvector",
            Self::Chroma => "chroma",
            Self::Qdrant => "qdrant",
            Self::Milvus => "milvus",
        }
    }

    /// An example of an address for this kind.
    fn example(self) -> &'static str {
        match self {
            Self::Pgvector => "postgresql://postgres@127.0.0.1:5432/postgres",
            Self::Chroma => "http://127.0.0.1:8000",
            Self::Qdrant => "http://127.0.0.1:6333",
            Self::Milvus => "http://127.0.0.1:19530",
        }
    }

    fn parse(option: &str, word: &str) -> Result<Self, Fault> {
        let words = Self::ALL.map(Self::word);
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.word() == word) {
            return Ok(kind);
        }
        let hint = match nearest_name(word, &words) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("there are {}", words.join(", ")),
        };
        Err(Fault::Usage(format!("{option}: no engine is called `{word}`; {hint}")))
    }
}

/// An engine and its address, or why it has none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) place: Place,
}

/// Location of an engine.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    At(String),
    /// Not available, with the reason.
    Absent(String),
}

impl Target {
    /// Reads `WORD=ADDRESS` of `--peer`.
    ///
    /// # Errors
    /// If there is no such engine, or the address is invalid.
    pub(super) fn peer(text: &str) -> Result<Self, Fault> {
        let (kind, address) = split("--peer", text)?;
        let is_address = match kind {
            Kind::Pgvector => pgvector::is_address(address),
            _ => http::is_address(address),
        };
        if !is_address {
            let (word, example) = (kind.word(), kind.example());
            return Err(Fault::Usage(format!(
                "--peer {word}: `{address}` is no address; it has to be like {example}"
            )));
        }
        Ok(Self { kind, place: Place::At(address.to_owned()) })
    }

    /// Reads `WORD=REASON` of `--absent`.
    ///
    /// # Errors
    /// If there is no such engine.
    pub(super) fn absent(text: &str) -> Result<Self, Fault> {
        let (kind, reason) = split("--absent", text)?;
        Ok(Self { kind, place: Place::Absent(reason.to_owned()) })
    }
}

fn split<'a>(option: &str, text: &'a str) -> Result<(Kind, &'a str), Fault> {
    let Some((word, rest)) = text.split_once('=') else {
        let example = Kind::Pgvector.example();
        return Err(Fault::Usage(format!(
            "{option} {text}: it has to be ENGINE=..., such as pgvector={example}"
        )));
    };
    Ok((Kind::parse(option, word)?, rest))
}

/// One connection to an engine, with one request in flight. Errors of requests are statuses:
/// `Unavailable` when the engine can't be reached, `DeadlineExceeded` when it is late.
trait Session: Sized {
    /// The engine's description of itself.
    async fn facts(&mut self) -> Result<Facts, Status>;
    /// Creates an empty table, in place of an existing one of that name.
    async fn create(&mut self) -> Result<(), Status>;
    /// Stores all rows, and waits until searches find them by the index.
    async fn load(&mut self, rows: &Rows<f32>) -> Result<(), Status>;
    /// Sets the beam width of later searches.
    async fn set_width(&mut self, width: u32) -> Result<(), Status>;
    /// Ids of the nearest documents, best first.
    async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status>;
    /// Stores one document, as durably as the engine is configured to.
    async fn insert(&mut self, id: u64, vector: &[f32]) -> Result<(), Status>;
    /// Removes inserted documents.
    async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status>;
    /// Drops the table.
    async fn drop_table(&mut self) -> Result<(), Status>;
}

/// A connection to an engine of any kind.
pub(super) enum Connection {
    Kyrodb(kyrodb::Kyrodb),
    Pgvector(pgvector::Pgvector),
    Chroma(chroma::Chroma),
    Qdrant(qdrant::Qdrant),
    Milvus(Box<milvus::Milvus>),
}

/// Forwards a call to the engine's own connection.
macro_rules! each {
    ($connection:expr, $session:ident => $call:expr) => {
        match $connection {
            Connection::Kyrodb($session) => $call,
            Connection::Pgvector($session) => $call,
            Connection::Chroma($session) => $call,
            Connection::Qdrant($session) => $call,
            Connection::Milvus($session) => $call,
        }
    };
}

impl Connection {
    /// A connection to KyroDB, whose documents are loaded already.
    pub(super) fn kyrodb(client: Client, server: ConfigResponse, shape: &Shape) -> Self {
        Self::Kyrodb(kyrodb::Kyrodb::new(client, server, shape.clone()))
    }

    /// A connection to a peer, and the peer's description of itself.
    ///
    /// # Errors
    /// If no server answers at the address, or it is another program.
    pub(super) async fn open(
        kind: Kind,
        address: &str,
        shape: &Shape,
    ) -> Result<(Self, Facts), Status> {
        let shape = shape.clone();
        let opened = async {
            let mut connection = match kind {
                Kind::Pgvector => {
                    Self::Pgvector(pgvector::Pgvector::connect(address, shape).await?)
                }
                Kind::Chroma => Self::Chroma(chroma::Chroma::connect(address, shape)?),
                Kind::Qdrant => Self::Qdrant(qdrant::Qdrant::connect(address, shape)?),
                Kind::Milvus => {
                    Self::Milvus(Box::new(milvus::Milvus::connect(address, shape).await?))
                }
            };
            let facts = connection.facts().await?;
            Ok((connection, facts))
        };
        opened.await.map_err(|status: Status| {
            let (code, why, shown) = (status.code(), status.message(), without_password(address));
            let word = kind.word();
            let hint = if code == Code::Unavailable {
                format!("; is {word} running there? --peer {word}=ADDRESS names another place")
            } else {
                String::new()
            };
            Status::new(code, format!("{shown}: {why}{hint}"))
        })
    }

    /// Another connection to this engine and its table.
    pub(super) async fn another(&self) -> Result<Self, Status> {
        Ok(match self {
            Self::Kyrodb(session) => Self::Kyrodb(session.clone()),
            Self::Pgvector(session) => Self::Pgvector(session.another().await?),
            Self::Chroma(session) => Self::Chroma(session.clone()),
            Self::Qdrant(session) => Self::Qdrant(session.clone()),
            Self::Milvus(session) => Self::Milvus(session.clone()),
        })
    }

    pub(super) async fn facts(&mut self) -> Result<Facts, Status> {
        each!(self, session => session.facts().await)
    }

    pub(super) async fn create(&mut self) -> Result<(), Status> {
        each!(self, session => session.create().await)
    }

    pub(super) async fn load(&mut self, rows: &Rows<f32>) -> Result<(), Status> {
        each!(self, session => session.load(rows).await)
    }

    pub(super) async fn set_width(&mut self, width: u32) -> Result<(), Status> {
        each!(self, session => session.set_width(width).await)
    }

    pub(super) async fn search(&mut self, query: &[f32]) -> Result<Vec<u64>, Status> {
        each!(self, session => session.search(query).await)
    }

    pub(super) async fn insert(&mut self, id: u64, vector: &[f32]) -> Result<(), Status> {
        each!(self, session => session.insert(id, vector).await)
    }

    pub(super) async fn remove(&mut self, ids: Range<u64>) -> Result<(), Status> {
        each!(self, session => session.remove(ids).await)
    }

    pub(super) async fn drop_table(&mut self) -> Result<(), Status> {
        each!(self, session => session.drop_table().await)
    }
}

/// An address without its password: lines of JSON and reports are passed on.
fn without_password(address: &str) -> String {
    if let Some((scheme, rest)) = address.split_once("://") {
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        return format!("{scheme}://{place}");
    }
    let is_shown = |pair: &&str| !pair.starts_with("password");
    address.split_whitespace().filter(is_shown).collect::<Vec<&str>>().join(" ")
}

/// Rows of a load in requests, each with its first row.
fn batches(rows: &Rows<f32>, rows_max: usize) -> impl Iterator<Item = (usize, &[f32])> {
    let count = (LOAD_VALUES_MAX / rows.width).clamp(1, rows_max.max(1));
    rows.values.chunks(count * rows.width).enumerate().map(move |(i, values)| (i * count, values))
}

/// Ids of documents to remove, in requests.
fn removals(ids: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = ids.end;
    ids.step_by(REMOVED_AT_ONCE).map(move |first| first..end.min(first + REMOVED_AT_ONCE as u64))
}

/// The error for an answer that violates the protocol.
fn strange(what: impl fmt::Display) -> Status {
    Status::new(Code::Internal, format!("the answer has no {what}; is it another version?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_word_and_an_address() {
        let peer = |text: &str| {
            Target::peer(text).map_err(|fault| match fault {
                Fault::Usage(why) | Fault::Failed(why) => why,
            })
        };
        for kind in Kind::ALL {
            let text = format!("{}={}", kind.word(), kind.example());
            let place = Place::At(kind.example().into());
            assert_eq!(peer(&text).unwrap(), Target { kind, place });
        }
        assert!(peer("pgvector=host=/run/postgresql user=postgres").is_ok());
        let refused = [
            ("chrome=http://127.0.0.1:8000", "did you mean `chroma`?"),
            ("elsewhere=http://127.0.0.1:1", "there are pgvector, chroma, qdrant, milvus"),
            ("chroma", "ENGINE=..."),
            ("chroma=127.0.0.1:8000", "like http://127.0.0.1:8000"),
            ("milvus=/tmp/a.db", "like http://127.0.0.1:19530"),
            ("pgvector=mysql://a", "like postgresql://"),
        ];
        for (text, part) in refused {
            let why = peer(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("postgresql://u:p@h:5/d"), "postgresql://h:5/d");
        assert_eq!(without_password("host=h password=p user=u"), "host=h user=u");
        assert_eq!(without_password("http://h:1"), "http://h:1");
    }

    #[test]
    fn a_load_goes_in_requests_of_a_bounded_size() {
        let rows = Rows { width: 3, values: (0..21).map(|value| value as f32).collect() };
        let firsts: Vec<_> = batches(&rows, 3).map(|(first, v)| (first, v.len())).collect();
        assert_eq!(firsts, [(0, 9), (3, 9), (6, 3)]);
        assert_eq!(batches(&rows, usize::MAX).count(), 1);
        let wide = Rows { width: LOAD_VALUES_MAX + 1, values: vec![0.0; LOAD_VALUES_MAX + 1] };
        assert_eq!(batches(&wide, 100).count(), 1);
        let removed: Vec<_> = removals(5..2_006).collect();
        assert_eq!(removed, [5..1_005, 1_005..2_005, 2_005..2_006]);
    }
}

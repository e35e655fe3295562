//! `--demo`: the main job in one command. Loads the shipped sample, 5,000 WordNet glosses with MiniLM vectors, through
//! the server's own port, and shows the nearest neighbours of some. The sample is part of the program, so that a program
//! that was installed alone has it.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tonic::transport::Channel;

use crate::dataset::{Rows, vectors_of};
use crate::proto::kyro_db_service_client::KyroDbServiceClient;
use crate::proto::{BulkQueryRequest, InsertRequest, SearchRequest};

/// Default data directory of the demo, apart from a server's own.
pub const DATA_DIR: &str = "./data/demo";

/// The sample: one text per line, their vectors, and the licence, which every copy has to include.
const DOCS: &str = include_str!("../../../data/sample/docs.jsonl");
const VECTORS: &[u8] = include_bytes!("../../../data/sample/vectors.npy");
const LICENCE: &str = include_str!("../../../data/sample/LICENSE-WORDNET.txt");

/// Beginning of the line of the licence that names the owner of the texts.
const NOTICE: &str = "WordNet 3.0 Copyright";

/// Documents shown for each query.
const NEAREST: u32 = 5;

/// Ids in one BulkQuery.
const IDS_AT_ONCE: usize = 5_000;

/// Documents to search from: one plain word each, from different corners of the language.
const QUERIES: [&str; 6] = ["music", "dog", "river", "teacher", "anger", "run"];

/// Longest text shown.
const LINE_CHARS: usize = 100;

type Client = KyroDbServiceClient<Channel>;

/// A line of `docs.jsonl`.
#[derive(Deserialize)]
struct Gloss {
    words: Vec<String>,
    gloss: String,
    pos: String,
    lex: String,
    tag_count: u32,
}

struct Sample {
    glosses: Vec<Gloss>,
    vectors: Rows<f32>,
}

impl Sample {
    fn read() -> Result<Self, String> {
        let vectors = vectors_of(VECTORS, Path::new("vectors.npy")).map_err(|e| e.to_string())?;
        let glosses: Vec<Gloss> = DOCS
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("docs.jsonl: {error}"))?;
        if glosses.len() != vectors.count() {
            let counts = (glosses.len(), vectors.count());
            return Err(format!("the sample has {} texts but {} vectors", counts.0, counts.1));
        }
        Ok(Self { glosses, vectors })
    }

    /// Document `id` is row `id` − 1.
    fn document(&self, id: u64) -> InsertRequest {
        let row = id as usize - 1;
        let gloss = &self.glosses[row];
        let metadata = HashMap::from([
            ("words".to_owned(), gloss.words.join(", ")),
            ("gloss".to_owned(), gloss.gloss.clone()),
            ("pos".to_owned(), gloss.pos.clone()),
            ("lex".to_owned(), gloss.lex.clone()),
            ("tag_count".to_owned(), gloss.tag_count.to_string()),
        ]);
        let embedding = self.vectors.row(row).to_vec();
        InsertRequest { doc_id: id, embedding, metadata, namespace: String::new() }
    }

    /// The most common sense of a word.
    fn find(&self, word: &str) -> Option<u64> {
        let is_it = |gloss: &&Gloss| gloss.words.first().is_some_and(|first| first == word);
        let with_ids = self.glosses.iter().zip(1..);
        let matching = with_ids.filter(|(gloss, _)| is_it(gloss));
        matching.max_by_key(|(gloss, _)| gloss.tag_count).map(|(_, id)| id)
    }
}

/// Loads the missing documents of the sample, and shows some searches.
///
/// # Errors
/// If the sample can't be read, or the server answers unexpectedly.
pub async fn run(server: SocketAddr) -> Result<(), String> {
    let sample = Sample::read()?;
    let mut client = connect(server).await?;
    load(&mut client, &sample).await?;
    for word in QUERIES {
        if let Some(id) = sample.find(word) {
            show(&mut client, &sample, id).await?;
        }
    }
    if let Some(notice) = LICENCE.lines().find(|line| line.starts_with(NOTICE)) {
        say(&format!("\nThe texts: {notice}"));
    }
    Ok(())
}

async fn connect(server: SocketAddr) -> Result<Client, String> {
    let channel = Channel::from_shared(format!("http://{server}")).map_err(|e| e.to_string())?;
    let channel = channel.connect().await.map_err(|e| format!("{server}: {e}"))?;
    Ok(KyroDbServiceClient::new(channel).max_decoding_message_size(64 << 20))
}

/// Loads the documents that the server does not have.
async fn load(client: &mut Client, sample: &Sample) -> Result<(), String> {
    let total = sample.glosses.len();
    let mut missing = Vec::new();
    let ids: Vec<u64> = (1..=total as u64).collect();
    for doc_ids in ids.chunks(IDS_AT_ONCE) {
        let request = BulkQueryRequest { doc_ids: doc_ids.to_vec(), ..Default::default() };
        let found = client.bulk_query(request).await.map_err(|status| status.to_string())?;
        let results = found.into_inner().results;
        missing.extend(results.iter().filter(|r| !r.found).map(|r| r.doc_id));
    }
    if missing.is_empty() {
        say(&format!("{total} documents are on disk from an earlier start."));
        return Ok(());
    }
    let progress = ProgressBar::new(missing.len() as u64);
    if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("loading {bar:40} {pos}/{len} {per_sec}");
        progress.set_style(style.map_err(|error| error.to_string())?);
    } else {
        progress.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        eprintln!("loading {} documents", missing.len());
    }
    let documents: Vec<InsertRequest> = missing.iter().map(|&id| sample.document(id)).collect();
    let shown = progress.clone();
    let line_every = missing.len().div_ceil(4);
    let stream =
        tokio_stream::iter(documents.into_iter().enumerate().map(move |(sent, request)| {
            shown.set_position(sent as u64 + 1);
            if shown.is_hidden() && (sent + 1) % line_every == 0 {
                eprintln!("  sent {} documents", sent + 1);
            }
            request
        }));
    let begun = Instant::now();
    let loaded = client.bulk_load_hnsw(stream).await.map_err(|status| status.to_string())?;
    let loaded = loaded.into_inner();
    progress.finish_and_clear();
    if !loaded.success {
        return Err(format!("{} documents were refused: {}", loaded.total_failed, loaded.error));
    }
    let rate = loaded.total_loaded as f64 / begun.elapsed().as_secs_f64();
    say(&format!(
        "{} documents loaded, durable and linked in {:.1} s ({rate:.0} a second).",
        loaded.total_loaded,
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Searches from a document, and prints its nearest neighbours.
async fn show(client: &mut Client, sample: &Sample, id: u64) -> Result<(), String> {
    // One more than shown: the nearest is the document itself.
    let request = SearchRequest {
        query_embedding: sample.vectors.row(id as usize - 1).to_vec(),
        k: NEAREST + 1,
        ..Default::default()
    };
    let begun = Instant::now();
    let found = client.search(request).await.map_err(|status| status.to_string())?.into_inner();
    let round_trip = begun.elapsed();
    let gloss = &sample.glosses[id as usize - 1];
    say(&format!("\n{}", brief(&format!("{}: {}", gloss.words.join(", "), gloss.gloss))));
    for result in found.results.iter().filter(|r| r.doc_id != id).take(NEAREST as usize) {
        let text = |key: &str| result.metadata.get(key).map_or("", String::as_str);
        let line = brief(&format!("{}: {}", text("words"), text("gloss")));
        say(&format!("  {:.3}  {line}", result.score));
    }
    let server = Duration::from_secs_f32(found.search_latency_ms / 1e3);
    say(&format!("  {} in the server, {} with the round trip", in_ms(server), in_ms(round_trip)));
    Ok(())
}

fn in_ms(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// Prints commands that work when pasted.
pub fn print_how_to_go_on(grpc: SocketAddr, http: SocketAddr) {
    say(&format!(
        r#"
The server goes on; Ctrl-C ends it. http://{http}/ready and /metrics tell how it is.

With grpcurl: what is near document 42?

grpcurl -plaintext -d '{{"query_doc_id": 42, "k": 5}}' {grpc} kyrodb.v1.KyroDBService/Search

With Python, after `pip install grpcio grpcio-reflection`:

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
channel = grpc.insecure_channel("{grpc}")
pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
message = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName("kyrodb.v1." + name))
search = channel.unary_unary("/kyrodb.v1.KyroDBService/Search",
    request_serializer=message("SearchRequest").SerializeToString,
    response_deserializer=message("SearchResponse").FromString)
print("\n".join(f"{{r.score:.3f}}  {{r.metadata['words']}}" for r in
    search(message("SearchRequest")(query_doc_id=42, k=5)).results))
"#
    ));
}

fn say(line: &str) {
    // The reader may have closed the pipe, which is not a fault.
    let written = writeln!(std::io::stdout(), "{line}");
    tracing::trace!(?written);
}

/// A text on one line of a terminal, cut if it is too long.
fn brief(text: &str) -> String {
    match text.char_indices().nth(LINE_CHARS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_has_the_sample_and_its_licence() {
        let sample = Sample::read().unwrap();
        assert_eq!(
            (sample.glosses.len(), sample.vectors.count(), sample.vectors.width),
            (5_000, 5_000, 384)
        );
        assert!(QUERIES.iter().all(|word| sample.find(word).is_some()));
        assert!(LICENCE.lines().any(|line| line.starts_with(NOTICE)));
    }
}

//! Documents out of a server and into one, as JSON lines: one document a line, in the order of ids.
//!
//! A dump that was cut off goes on behind the last whole line. Loading stores documents as inserts do,
//! so that what was loaded twice is there once. Both see what an API key sees: the documents of its
//! tenant. So documents without a tenant, written before there were keys, are given to a tenant by
//! loading a dump with its key.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::client::{Identity, Place, read};
use crate::credentials::WithKey;
use crate::proto::kyro_db_service_client::KyroDbServiceClient;
use crate::proto::{InsertRequest, ListDocumentsRequest, ListedDocument};

/// Documents that are asked for at once.
const PAGE: u32 = 500;

/// Documents that are sent in one BulkInsert, and bytes of lines.
const BATCH: usize = 5_000;
const BATCH_BYTES: usize = 32 << 20;

/// Longest line: the largest document, as JSON.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// How often a server that is busy, or away for a moment, is asked again, and how long is waited at
/// most before.
const TRIES: u32 = 20;
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A document as a line has it.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Its id.
    pub doc_id: u64,
    /// Empty for none.
    #[serde(default)]
    pub namespace: String,
    /// Its metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Its vector.
    pub embedding: Vec<f32>,
}

impl From<ListedDocument> for Line {
    fn from(document: ListedDocument) -> Self {
        let ListedDocument { doc_id, embedding, metadata, namespace } = document;
        Self { doc_id, namespace, metadata: metadata.into_iter().collect(), embedding }
    }
}

impl From<Line> for InsertRequest {
    fn from(line: Line) -> Self {
        let Line { doc_id, namespace, metadata, embedding } = line;
        Self { doc_id, embedding, metadata: metadata.into_iter().collect(), namespace }
    }
}

type Client = KyroDbServiceClient<InterceptedService<Channel, WithKey>>;

/// Connects to the gRPC port at `place`.
async fn connect(place: &Place) -> Result<Client, String> {
    let told = |error: &dyn std::error::Error| {
        let mut said = error.to_string();
        if let Some(inner) = error.source() {
            said = format!("{said}: {inner}");
        }
        format!("{}: {said}; --grpc names the gRPC port.{}", place.url, place.hint())
    };
    let mut endpoint = Endpoint::from_shared(place.url.clone()).map_err(|error| told(&error))?;
    if place.url.starts_with("https://") {
        let mut tls = match &place.ca_cert {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
        };
        if let Some(Identity { cert, key }) = &place.identity {
            tls = tls.identity(transport::Identity::from_pem(read(cert)?, read(key)?));
        }
        rustls::crypto::ring::default_provider().install_default().ok();
        endpoint = endpoint.tls_config(tls).map_err(|error| told(&error))?;
    }
    let key = WithKey::new(place.key.as_deref());
    let key = key.map_err(|_| "the API key has characters that no key has".to_owned())?;
    let channel = endpoint.connect().await.map_err(|error| told(&error))?;
    Ok(KyroDbServiceClient::with_interceptor(channel, key).max_decoding_message_size(usize::MAX))
}

/// How long to wait before asking again; `None` if that would not help.
fn pause(status: &Status) -> Option<Duration> {
    let is_passing = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
    let said = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    is_passing.then(|| said.unwrap_or(WAIT_MAX / 10).min(WAIT_MAX))
}

/// Writes all documents in scope to the file at `path`, which must not be there yet unless
/// `is_resumed`: then what is whole of it stays, and the dump goes on behind it. To standard output
/// where there is no path. Returns how many documents were written.
///
/// # Errors
/// If the server refuses, or the file can't be written. What was written can be resumed.
pub async fn dump(
    place: &Place,
    path: Option<&Path>,
    is_resumed: bool,
    namespace: &str,
) -> Result<u64, String> {
    let mut client = connect(place).await?;
    let (mut output, mut after): (Box<dyn Write>, u64) = match path {
        None => (Box::new(std::io::stdout().lock()), 0),
        Some(path) => {
            let shown = path.display();
            let opened = open(path, is_resumed).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    format!("{shown} exists: go on with it by --resume, or name another file")
                }
                _ => format!("{shown}: {error}"),
            })?;
            (Box::new(opened.0), opened.1)
        }
    };
    let mut count = 0;
    loop {
        let request = ListDocumentsRequest {
            after_doc_id: after,
            limit: PAGE,
            include_embeddings: true,
            namespace: namespace.to_owned(),
            filter: None,
        };
        let page = patiently(place, async || client.list_documents(request.clone()).await).await?;
        let mut lines = Vec::new();
        for document in page.documents {
            let line = serde_json::to_writer(&mut lines, &Line::from(document));
            line.map_err(|error| error.to_string())?;
            lines.push(b'\n');
            count += 1;
        }
        output.write_all(&lines).map_err(|error| format!("the dump can't be written: {error}"))?;
        after = page.next_after_doc_id;
        if !page.has_more {
            break;
        }
    }
    output.flush().map_err(|error| format!("the dump can't be written: {error}"))?;
    drop(output);
    let synced = path.map_or(Ok(()), |path| File::open(path).and_then(|file| file.sync_all()));
    synced.map_err(|error| format!("the dump can't be made durable: {error}"))?;
    Ok(count)
}

/// Asks the server at `place`, and asks again as it says while it is busy, or away for a moment.
async fn patiently<T>(
    place: &Place,
    mut ask: impl AsyncFnMut() -> Result<tonic::Response<T>, Status>,
) -> Result<T, String> {
    let mut tries = 0;
    loop {
        let status = match ask().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        tries += 1;
        match pause(&status).filter(|_| tries < TRIES) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                return Err(match std::error::Error::source(&status) {
                    None => format!("the server says {:?}: {}", status.code(), status.message()),
                    // It refuses a certificate, or that there is none, once it is asked something.
                    Some(error) => {
                        format!("{}: no answer: {error}.{}", place.url, place.hint())
                    }
                });
            }
        }
    }
}

/// Opens the file of a dump, and finds behind which document it goes on.
fn open(path: &Path, is_resumed: bool) -> std::io::Result<(File, u64)> {
    if !is_resumed {
        return Ok((OpenOptions::new().write(true).create_new(true).open(path)?, 0));
    }
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let length = file.metadata()?.len();
    // The last whole line, and one that was cut off behind it.
    let start = length.saturating_sub(2 * LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    Read::by_ref(&mut file).take(2 * LINE_BYTES_MAX).read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let line = tail[..whole].trim_ascii_end().rsplit(|&byte| byte == b'\n').next();
    let after = match line.filter(|line| !line.is_empty()) {
        None if start > 0 => return Err(std::io::Error::other("it is not a dump")),
        None => 0,
        Some(line) => serde_json::from_slice::<Line>(line)?.doc_id,
    };
    file.set_len(start + whole as u64)?;
    file.seek(SeekFrom::End(0))?;
    Ok((file, after))
}

/// What became of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Documents that are stored, durably.
    pub stored: u64,
    /// Documents that were refused, and why the last one was.
    pub failed: u64,
    /// Why the last one was.
    pub last_error: String,
}

/// Stores the documents of the file at `path`, or of standard input.
///
/// # Errors
/// If a line is none, or the server refuses all: it says which lines are loaded.
pub async fn load(place: &Place, path: Option<&Path>) -> Result<Loaded, String> {
    let mut client = connect(place).await?;
    let mut input: Box<dyn BufRead> = match path {
        None => Box::new(std::io::stdin().lock()),
        Some(path) => {
            let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Box::new(BufReader::new(file))
        }
    };
    let (mut loaded, mut number, mut is_over) = (Loaded::default(), 0, false);
    while !is_over {
        let first = number + 1;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            match next_line(input.as_mut()).map_err(|why| (number + 1, why)) {
                Ok(None) => {
                    is_over = true;
                    break;
                }
                Ok(Some((line, length))) => {
                    number += 1;
                    bytes += length;
                    batch.push(InsertRequest::from(line));
                }
                Err((line, why)) => {
                    return Err(format!(
                        "line {line}: {why}; the lines before {first} are loaded, and loading them \
                         again does no harm"
                    ));
                }
            }
        }
        if !batch.is_empty() {
            let insert = async || client.bulk_insert(tokio_stream::iter(batch.clone())).await;
            let answer = patiently(place, insert).await.map_err(|why| {
                format!("lines {first} to {number}: {why}; the lines before are loaded")
            })?;
            loaded.stored += answer.total_inserted;
            loaded.failed += answer.total_failed;
            if answer.total_failed > 0 {
                loaded.last_error = answer.error;
            }
        }
    }
    Ok(loaded)
}

/// The next line, and its length.
fn next_line(input: &mut dyn BufRead) -> Result<Option<(Line, usize)>, String> {
    let mut text = Vec::new();
    let read = input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut text);
    read.map_err(|error| error.to_string())?;
    match text.len() {
        0 => Ok(None),
        length if length as u64 > LINE_BYTES_MAX => {
            Err(format!("it is longer than {LINE_BYTES_MAX} bytes"))
        }
        length => {
            let line = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            Ok(Some((line, length)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_goes_on_behind_its_last_whole_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        let line = |id: u64| {
            let line = Line {
                doc_id: id,
                namespace: "n".into(),
                metadata: BTreeMap::from([("k".into(), "v\n".into())]),
                embedding: vec![0.1, f32::MIN_POSITIVE, -3.0e38],
            };
            format!("{}\n", serde_json::to_string(&line).unwrap())
        };
        assert_eq!(open(&path, true).unwrap().1, 0, "there is nothing yet");
        let whole = format!("{}{}", line(3), line(7));
        for cut in [0, 1, line(9).len() - 1] {
            std::fs::write(&path, format!("{whole}{}", &line(9)[..cut])).unwrap();
            let (mut file, after) = open(&path, true).unwrap();
            assert_eq!(after, 7);
            file.write_all(b"x").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}x"));
        }
        std::fs::write(&path, &line(9)[..5]).unwrap();
        assert_eq!(open(&path, true).unwrap().1, 0, "not one line is whole");
        std::fs::write(&path, "hello\n").unwrap();
        assert!(open(&path, true).is_err());
        let error = open(&path, false).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\n", "it is as it was");
    }

    #[test]
    fn lines_are_checked() {
        let read = |text: &str| next_line(&mut text.as_bytes());
        let (line, _) = read("{\"doc_id\": 1, \"embedding\": [0.1]}").unwrap().unwrap();
        assert_eq!((line.doc_id, line.embedding), (1, vec![0.1]));
        assert!(read("").unwrap().is_none());
        for bad in ["\n", "{\"doc_id\": 1}", "[1]", "{\"doc_id\": 1, \"embedding\": [], \"x\": 1}"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let long = format!("\"{}\"", "x".repeat(LINE_BYTES_MAX as usize));
        assert!(read(&long).unwrap_err().contains("longer"));
    }
}

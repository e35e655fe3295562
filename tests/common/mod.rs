//! Servers and clients for tests and benches: the real binary in a process of its own, or a
//! server inside this one; both on free ports, with their files where O_DIRECT works.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

pub mod certificates;
pub mod clustered;
pub mod documents;
pub mod filters;
pub mod volume;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use kyrodb::config::{self, Config, Overrides};
use kyrodb::proto::kyro_db_service_client::KyroDbServiceClient;
use kyrodb::proto::{InsertRequest, SearchRequest, SearchResponse};
use kyrodb::server::{Listeners, Server};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

pub type Client = KyroDbServiceClient<Channel>;

/// Longest wait of a test for an expected event, on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A temporary directory on the file system of the build.
pub fn directory() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's directory is writable")
}

/// A port that was free a moment ago: below those that the kernel gives to outgoing connections, and another one each
/// time, so that concurrent tests rarely collide.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (kyrodb::types::mix(std::process::id().into()) % u64::from(COUNT)) as u16;
    let mut ports = std::iter::repeat_with(|| {
        FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT
    });
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.by_ref().take(usize::from(COUNT)).find(is_free).expect("a port is free")
}

/// Settings as environment variables, by key: `("hnsw.m", "8")`.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

fn variable(key: &str) -> String {
    format!("KYRODB__{}", key.replace('.', "__").to_ascii_uppercase())
}

/// Settings of every test server: small segments, so that they are changed often and made
/// quickly.
const DEFAULTS: Settings<'static> = &[("persistence.wal_segment_bytes", "4194304")];

/// A server in this process, and its directory.
pub struct Inside {
    pub server: Option<Server>,
    pub directory: TempDir,
}

impl Inside {
    pub fn start(settings: Settings<'_>) -> Self {
        Self::start_in(directory(), settings)
    }

    pub fn start_in(directory: TempDir, settings: Settings<'_>) -> Self {
        let server = start_inside(directory.path(), settings);
        let server = server.unwrap_or_else(|why| panic!("the server does not start: {why}"));
        Self { server: Some(server), directory }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub async fn client(&self) -> Client {
        connect(self.server().grpc_address()).await
    }

    /// Restarts the server on its directory.
    pub fn restart(&mut self, settings: Settings<'_>) {
        assert!(self.server.take().expect("it runs").shut_down());
        let server = start_inside(self.directory.path(), settings);
        self.server = Some(server.unwrap_or_else(|why| panic!("the server does not start: {why}")));
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            let ended = server.shut_down();
            assert!(ended || std::thread::panicking(), "the server did not end well");
        }
    }
}

/// Starts a server in this process.
pub fn start_inside(directory: &Path, settings: Settings<'_>) -> Result<Server, String> {
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let listeners = Listeners { grpc: listener(), http: listener() };
    Server::start(config(directory, settings), BTreeMap::new(), listeners)
}

pub fn config(directory: &Path, settings: Settings<'_>) -> Config {
    let overrides = Overrides { data_dir: Some(directory.into()), ..Overrides::default() };
    let variables = DEFAULTS.iter().chain(settings);
    let variables = variables.map(|(key, value)| (variable(key), (*value).to_owned()));
    let loaded = config::load(&overrides, variables);
    loaded.unwrap_or_else(|faults| panic!("{faults:?}")).0
}

/// The real binary, with arguments and variables for a server of its own.
pub struct Launch {
    pub command: Command,
    pub grpc_port: u16,
    pub http_port: u16,
    log: PathBuf,
}

impl Launch {
    /// Its output goes to a file beside the data directory.
    pub fn new(data_dir: &Path, settings: Settings<'_>) -> Self {
        Self::at(data_dir, settings, (free_port(), free_port()))
    }

    /// As [`Launch::new`], with these ports of gRPC and HTTP.
    pub fn at(data_dir: &Path, settings: Settings<'_>, ports: (u16, u16)) -> Self {
        let (grpc_port, http_port) = ports;
        let mut command = Command::new(env!("CARGO_BIN_EXE_kyrodb_server"));
        command.arg("--data-dir").arg(data_dir).args(["--port", &grpc_port.to_string()]);
        command.env("KYRODB__SERVER__HTTP_PORT", http_port.to_string());
        for (key, value) in DEFAULTS.iter().chain(settings) {
            command.env(variable(key), value);
        }
        let log = data_dir.with_extension(format!("{grpc_port}.log"));
        Self { command, grpc_port, http_port, log }
    }

    pub fn spawn(mut self) -> Process {
        let output = std::fs::File::create(&self.log).expect("the log file can be written");
        let errors = output.try_clone().expect("a file can be shared");
        let child = self.command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        Process {
            child: child.expect("the binary was built"),
            grpc: SocketAddr::from(([127, 0, 0, 1], self.grpc_port)),
            http: SocketAddr::from(([127, 0, 0, 1], self.http_port)),
            log: self.log,
        }
    }
}

/// The real binary in a process of its own.
pub struct Process {
    child: Child,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    log: PathBuf,
}

impl Process {
    /// Starts it and waits until it is ready.
    pub fn start(data_dir: &Path, settings: Settings<'_>) -> Self {
        let mut process = Self::spawn(data_dir, settings);
        process.wait_ready();
        process
    }

    /// Starts it.
    pub fn spawn(data_dir: &Path, settings: Settings<'_>) -> Self {
        Launch::new(data_dir, settings).spawn()
    }

    /// Starts it, expecting a refusal; returns its output.
    pub fn refused(data_dir: &Path, settings: Settings<'_>) -> String {
        Self::spawn(data_dir, settings).refuses()
    }

    /// Waits for the refusal; returns its output.
    pub fn refuses(mut self) -> String {
        let code = self.ended();
        assert_eq!(code, Some(1), "{}", self.log());
        self.log()
    }

    /// Waits until `/ready` reports readiness.
    pub fn wait_ready(&mut self) {
        let begun = Instant::now();
        loop {
            if get(self.http, "/ready").is_ok_and(|(code, _)| code == 200) {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("the server ended with {status} before it was ready:\n{}", self.log());
            }
            assert!(begun.elapsed() < PATIENCE, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it was killed");
    }

    /// Sends a signal, by name.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.expect("there is a kill program").success());
    }

    /// Stops it, and expects exit code 0.
    pub fn stop(mut self) {
        self.signal("TERM");
        let code = self.ended();
        assert_eq!(code, Some(0), "{}", self.log());
    }

    /// Waits for the end; returns the exit code.
    pub fn wait(mut self) -> Option<i32> {
        self.ended()
    }

    fn ended(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "still running:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its output, including standard error.
    pub fn log(&self) -> String {
        // A thread of the server writes it, a moment after the event: reads until it does not grow.
        let read = || std::fs::read_to_string(&self.log).unwrap_or_default();
        let mut text = read();
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(20));
            let before = std::mem::replace(&mut text, read());
            if before == text {
                break;
            }
        }
        text
    }

    /// Path of the output, also after the end.
    pub fn log_path(&self) -> PathBuf {
        self.log.clone()
    }

    pub async fn client(&self) -> Client {
        connect(self.grpc).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the server said:\n{}", self.log());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let ended = self.child.kill().and_then(|()| self.child.wait());
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

pub async fn channel(address: SocketAddr) -> Channel {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
    channel.connect().await.expect("the server listens")
}

pub async fn connect(address: SocketAddr) -> Client {
    KyroDbServiceClient::new(channel(address).await).max_decoding_message_size(256 << 20)
}

/// A runtime for clients.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("threads can be made")
}

/// An HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// A plain HTTP request.
pub fn http(address: SocketAddr, method: &str, path: &str) -> std::io::Result<Answer> {
    http_with(address, method, path, &[])
}

/// A plain HTTP request with headers.
pub fn http_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let headers: String =
        headers.iter().map(|(key, value)| format!("{key}: {value}\r\n")).collect();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Ok(Answer { code: code.unwrap_or(0), headers: headers.collect(), body: body.to_owned() })
}

/// A plain HTTP GET: status code and body.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    http(address, "GET", path).map(|answer| (answer.code, answer.body))
}

/// Value of a metric without labels, or with these.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(n, _)| n == name))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// Sum of a metric over all its labels.
pub fn metric_sum(text: &str, name: &str) -> f64 {
    let samples = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// The field that a refusal names.
pub fn bad_field(status: &Status) -> String {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let violations =
        &details.bad_request().expect("BadRequest is among the details").field_violations;
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(status.message().contains(&violations[0].field), "{status:?}");
    assert!(!violations[0].description.is_empty(), "{violations:?}");
    violations[0].field.clone()
}

/// Time after which to retry, from a refusal for lack of room.
pub fn retry_delay(status: &Status) -> Duration {
    let details = status.get_error_details();
    let info = details.retry_info().unwrap_or_else(|| panic!("no RetryInfo: {status:?}"));
    info.retry_delay.expect("RetryInfo says how long")
}

/// Polls until `is_so` returns true, for at most [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn insert(doc_id: u64, embedding: &[f32], pairs: &[(&str, &str)]) -> InsertRequest {
    let metadata: HashMap<String, String> =
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    InsertRequest { doc_id, embedding: embedding.to_vec(), metadata, namespace: String::new() }
}

pub fn search(query: &[f32], k: u32) -> SearchRequest {
    SearchRequest { query_embedding: query.to_vec(), k, ..SearchRequest::default() }
}

pub fn ids(response: &SearchResponse) -> Vec<u64> {
    response.results.iter().map(|result| result.doc_id).collect()
}

/// Reproducible vectors around a few centres, similar to real data.
pub fn vector(seed: u64, dimension: usize) -> Vec<f32> {
    let value = |a: u64, b: u64| {
        let bits = kyrodb::types::mix(a.wrapping_mul(0x1_0001).wrapping_add(b));
        (bits >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let centre = seed % 50;
    (0..dimension as u64).map(|d| value(1 << 40 | centre, d) + 0.5 * value(seed, d)).collect()
}

/// Directory of the large data sets, if there is one: beside the checkout, or as in `KYRODB_DATASETS`.
pub fn dataset(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("KYRODB_DATASETS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
        PathBuf::from,
    );
    Some(root.join(name)).filter(|path| path.join("base.npy").is_file())
}

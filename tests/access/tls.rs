//! TLS on both ports, and certificates that change.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use kyrodb::proto::HealthRequest;
use kyrodb::proto::kyro_db_service_client::KyroDbServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::DIMENSION;
use crate::common::certificates::{Authority, Signed};
use crate::common::{Client, Process, directory, eventually, insert, runtime};

/// Certificate and key files of a server.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new(signed: &Signed, authority: &Authority) -> Self {
        let files = Self { directory: directory() };
        files.write(signed);
        std::fs::write(files.path("ca.pem"), authority.pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the key first and the certificate later: in between they do not match.
    fn write(&self, signed: &Signed) {
        std::fs::write(self.path("key.pem"), &signed.key).unwrap();
        std::fs::write(self.path("cert.pem"), &signed.certificate).unwrap();
    }

    fn settings(&self, is_mutual: bool) -> Vec<(&'static str, String)> {
        let path = |name| self.path(name).to_string_lossy().into_owned();
        let mut settings = vec![
            ("runtime.shards", "1".into()),
            ("server.tls.enabled", "true".into()),
            ("server.tls.cert_path", path("cert.pem")),
            ("server.tls.key_path", path("key.pem")),
        ];
        if is_mutual {
            settings.push(("server.tls.ca_cert_path", path("ca.pem")));
            settings.push(("server.tls.require_client_cert", "true".into()));
        }
        settings
    }

    fn spawn(&self, is_mutual: bool) -> Process {
        let settings = self.settings(is_mutual);
        let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Process::spawn(&self.path("data"), &settings)
    }
}

async fn dial(
    address: SocketAddr,
    authority: &Authority,
    own: Option<&Signed>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(authority.pem()));
    if let Some(own) = own {
        tls = tls.identity(Identity::from_pem(&own.certificate, &own.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?;
    endpoint.connect().await
}

/// True if a request is answered. A server that refuses the client's certificate says so only after the client has sent
/// something.
async fn is_served(address: SocketAddr, authority: &Authority, own: Option<&Signed>) -> bool {
    match dial(address, authority, own).await {
        Ok(channel) => {
            KyroDbServiceClient::new(channel).health(HealthRequest::default()).await.is_ok()
        }
        Err(_) => false,
    }
}

/// The body of `GET path` over HTTPS.
async fn page(address: SocketAddr, authority: &Authority, path: &str) -> String {
    ask(address, authority, path).await.unwrap().text().await.unwrap()
}

/// The status of `GET path` over HTTPS.
async fn get(address: SocketAddr, authority: &Authority, path: &str) -> Result<u16, String> {
    ask(address, authority, path).await.map(|answer| answer.status().as_u16())
}

async fn ask(
    address: SocketAddr,
    authority: &Authority,
    path: &str,
) -> Result<reqwest::Response, String> {
    // A test may link both providers, so one has to be named.
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().ok();
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let answer = client.get(format!("https://localhost:{}{path}", address.port())).send().await;
    answer.map_err(|error| format!("{error:?}"))
}

async fn ready(process: &Process, authority: &Authority) {
    eventually("the server is ready", || async {
        get(process.http, authority, "/ready").await == Ok(200)
    })
    .await;
}

#[test]
fn both_ports_speak_tls_and_nothing_else() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign(2090), &authority);
    let process = files.spawn(false);
    runtime().block_on(async {
        ready(&process, &authority).await;
        let channel = dial(process.grpc, &authority, None).await.unwrap();
        let mut client: Client = KyroDbServiceClient::new(channel);
        let vector = crate::common::vector(1, DIMENSION);
        client.insert(insert(1, &vector, &[])).await.unwrap();
        let found = client.search(crate::common::search(&vector, 1)).await.unwrap().into_inner();
        assert_eq!(crate::common::ids(&found), [1]);
        // A certificate of another authority is not trusted, and plain text is not answered.
        assert!(!is_served(process.grpc, &Authority::new(), None).await);
        let plain = Endpoint::from_shared(format!("http://{}", process.grpc)).unwrap();
        if let Ok(channel) = plain.connect().await {
            let mut client = KyroDbServiceClient::new(channel);
            assert!(client.health(HealthRequest::default()).await.is_err());
        }
        let plain = crate::common::get(process.http, "/ready");
        assert!(plain.map_or(true, |(code, _)| code == 0), "HTTP without TLS is not answered");
        // Clients that connect and send nothing do not block others.
        let silent: Vec<TcpStream> = (0..200)
            .map(|n| TcpStream::connect(if n % 2 == 0 { process.http } else { process.grpc }))
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(get(process.http, &authority, "/ready").await, Ok(200));
        assert!(is_served(process.grpc, &authority, None).await);
        drop(silent);
    });
    process.stop();
}

#[test]
fn clients_show_a_certificate_where_that_is_asked_for() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign(2090), &authority);
    let process = files.spawn(true);
    runtime().block_on(async {
        let own = authority.sign(2090);
        // Health is answered while the log is read; the command's report on the server is valid once it is ready.
        eventually("the server is ready", || async { process.log().contains("is ready") }).await;
        assert!(is_served(process.grpc, &authority, Some(&own)).await);
        assert!(!is_served(process.grpc, &authority, None).await);
        let strangers = Authority::new().sign(2090);
        assert!(!is_served(process.grpc, &authority, Some(&strangers)).await);
        let expired = authority.sign(2001);
        assert!(!is_served(process.grpc, &authority, Some(&expired)).await);
        assert!(get(process.http, &authority, "/ready").await.is_err());
        std::fs::write(files.path("own.pem"), &own.certificate).unwrap();
        std::fs::write(files.path("own_key.pem"), &own.key).unwrap();
    });
    // Both ports, checked by the command.
    let (http, grpc) = (process.http.port(), process.grpc.port());
    let (http, grpc) = (format!("https://localhost:{http}"), format!("https://localhost:{grpc}"));
    let path = |name| files.path(name).to_string_lossy().into_owned();
    let (ca, cert, key) = (path("ca.pem"), path("own.pem"), path("own_key.pem"));
    let trusted = ["--url", &http, "--ca-cert", &ca];
    let shown = ["--client-cert", &cert, "--client-key", &key];
    let status = ["status"];
    let dump = ["dump", "--grpc", &grpc];
    for asked in [&status[..], &dump] {
        let (code, said) = ctl(&[&trusted[..], asked].concat());
        assert!(code == Some(2) && said.contains("--client-cert and --client-key"), "{said}");
        let (code, said) = ctl(&[&trusted[..], &shown, asked].concat());
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, said) = ctl(&[&trusted[..], &shown[..2], &status].concat());
    assert!(code == Some(2) && said.contains("go together"), "{said}");
    process.stop();
}

/// Runs `kyrodb_ctl`: its exit code, and all its output.
fn ctl(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kyrodb_ctl"));
    let output = command.args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn an_expired_certificate_is_replaced_while_the_server_runs() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign(2001), &authority);
    let process = files.spawn(false);
    runtime().block_on(async {
        // The server is up, and logs that; no client trusts its certificate.
        eventually("the server is up", || async { process.log().contains("is ready") }).await;
        assert!(!is_served(process.grpc, &authority, None).await);
        assert!(process.log().contains("has expired at 2001-12-31"), "{}", process.log());
        files.write(&authority.sign(2090));
        eventually("the new certificate is shown", || is_served(process.grpc, &authority, None))
            .await;
        let metrics = page(process.http, &authority, "/metrics").await;
        let end = "kyrodb_tls_certificate_expiry_timestamp_seconds";
        // 2090-12-31.
        assert_eq!(crate::common::metric(&metrics, end), Some(3_818_361_600.0));
        assert_eq!(get(process.http, &authority, "/ready").await, Ok(200));
        // A pair that does not match, or an invalid certificate, is not used: the good one stays.
        std::fs::write(files.path("key.pem"), authority.sign(2090).key).unwrap();
        eventually("the log tells", || async { process.log().contains("is not used") }).await;
        std::fs::write(files.path("cert.pem"), "nothing").unwrap();
        process.signal("HUP");
        eventually("the log tells", || async { process.log().contains("no certificate in") }).await;
        assert!(is_served(process.grpc, &authority, None).await);
    });
    process.stop();
}

fn refused(files: &Files) -> String {
    files.spawn(false).refuses()
}

#[test]
fn files_that_can_not_be_used_are_named_at_start() {
    let authority = Authority::new();
    let files = Files::new(&authority.sign(2090), &authority);
    std::fs::write(files.path("key.pem"), authority.sign(2090).key).unwrap();
    let said = refused(&files);
    assert!(said.contains("cert.pem") && said.contains("key.pem"), "{said}");
    std::fs::write(files.path("key.pem"), "nothing").unwrap();
    assert!(refused(&files).contains("key.pem"));
    std::fs::write(files.path("cert.pem"), "nothing").unwrap();
    assert!(refused(&files).contains("no certificate in"));
    std::fs::remove_file(files.path("cert.pem")).unwrap();
    let said = refused(&files);
    assert!(said.contains("cert.pem can't be used"), "{said}");
    assert!(!Path::new(&files.path("data")).join("MANIFEST").exists(), "nothing was made");
}

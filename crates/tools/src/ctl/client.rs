//! Requests to the HTTP port of a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client, Method, Url};
use serde_json::Value;

/// How long an answer may take: a snapshot of a large server takes minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Where a server is, and how to get in.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Its HTTP address, such as `http://127.0.0.1:51051`, or `127.0.0.1:51051`.
    pub url: String,
    /// An API key, if it asks for one.
    pub key: Option<String>,
    /// PEM of the authority that signs its certificate, if the system does not know it.
    pub ca_cert: Option<PathBuf>,
    /// What to show if it asks for a certificate.
    pub identity: Option<Identity>,
}

/// A certificate of ours, for a server with `server.tls.require_client_cert`.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM of the certificate, and of those between it and the authority.
    pub cert: PathBuf,
    /// PEM of its private key.
    pub key: PathBuf,
}

impl Place {
    /// What to say where a connection fails that may need a certificate to be shown.
    pub(super) fn hint(&self) -> &'static str {
        match &self.identity {
            None if self.url.starts_with("https://") => {
                " If it asks for a certificate of ours, --client-cert and --client-key show one."
            }
            _ => "",
        }
    }
}

/// An address as a person writes it, `host:port` among others: with the scheme that it has none of.
#[must_use]
pub fn with_scheme(address: &str, is_tls: bool) -> String {
    match (address.contains("://"), is_tls) {
        (true, _) => address.to_owned(),
        (false, true) => format!("https://{address}"),
        (false, false) => format!("http://{address}"),
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// The body: JSON, or text.
    pub body: Value,
}

impl Answer {
    fn read(code: u16, bytes: &[u8]) -> Self {
        let text = || Value::String(String::from_utf8_lossy(bytes).into_owned());
        Self { code, body: serde_json::from_slice(bytes).unwrap_or_else(|_| text()) }
    }

    /// The server did what was asked.
    #[must_use]
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// What is wrong, in the server's words.
    #[must_use]
    pub fn reason(&self) -> String {
        let said = ["error", "reason", "progress"].iter().find_map(|name| self.body[name].as_str());
        match (said.or(self.body.as_str()), self.code) {
            (_, 401) => "the server asks for an API key, or does not know this one: name a file \
                         with a good one by --key-file, or set KYRODB_API_KEY"
                .into(),
            (_, 403) => "this needs a key with is_admin; without keys, to be on the server's \
                         machine"
                .into(),
            (Some(said), _) if !said.is_empty() => said.to_owned(),
            (_, code) => format!("the server answered {code}"),
        }
    }
}

/// A server to ask.
pub struct Server {
    client: Client,
    url: Url,
    key: Option<String>,
    hint: &'static str,
}

impl Server {
    /// Gets ready to ask the server at this place.
    ///
    /// # Errors
    /// If the address or the certificate can't be used.
    pub fn at(place: &Place) -> Result<Self, String> {
        // `host:port` alone is plain HTTP.
        let given = match place.url.contains("://") {
            true => place.url.clone(),
            false => format!("http://{}", place.url),
        };
        let url = Url::parse(&given).map_err(|error| format!("{}: {error}", place.url))?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(format!("{url} begins neither with http:// nor with https://"));
        }
        // Only the first one in a process is installed, which is this one or as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut builder =
            Client::builder().timeout(PATIENCE).connect_timeout(CONNECT_PATIENCE).no_proxy();
        if let Some(path) = &place.ca_cert {
            builder = builder.tls_certs_only(certificates(path)?);
        } else if url.scheme() == "http" {
            // A small container has no authorities, and http needs none.
            builder = builder.tls_certs_only([]);
        }
        if let Some(Identity { cert, key }) = &place.identity {
            let pem = [read(cert)?, read(key)?].join(&b'\n');
            let identity = reqwest::Identity::from_pem(&pem);
            let shown = format!("{} with {}", cert.display(), key.display());
            builder =
                builder.identity(identity.map_err(|error| format!("{shown}: {}", told(&error)))?);
        }
        let client = builder.build().map_err(|error| told(&error))?;
        Ok(Self { client, url, key: place.key.clone(), hint: place.hint() })
    }

    /// Reads a page.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        self.ask(Method::GET, path).await
    }

    /// Has something done.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, path: &str) -> Result<Answer, String> {
        self.ask(Method::POST, path).await
    }

    /// Reads a file, byte by byte as it is; the answer if there is none.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn fetch(&self, path: &str) -> Result<Result<Vec<u8>, Answer>, String> {
        let (code, bytes) = self.send(Method::GET, path).await?;
        Ok(match (200..300).contains(&code) {
            true => Ok(bytes),
            false => Err(Answer::read(code, &bytes)),
        })
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Answer, String> {
        let (code, bytes) = self.send(method, path).await?;
        Ok(Answer::read(code, &bytes))
    }

    async fn send(&self, method: Method, path: &str) -> Result<(u16, Vec<u8>), String> {
        let url = self.url.join(path).map_err(|error| format!("{path}: {error}"))?;
        let mut request = self.client.request(method, url);
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        let lost = |error: reqwest::Error| {
            format!(
                "{} does not answer: {}. Is the server up, and is this its HTTP port (the gRPC port \
                 + 1000)?{}",
                self.url,
                told(&error),
                self.hint
            )
        };
        let answer = request.send().await.map_err(lost)?;
        let code = answer.status().as_u16();
        let bytes = answer.bytes().await.map_err(lost)?;
        Ok((code, bytes.into()))
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, String> {
    let bundle = Certificate::from_pem_bundle(&read(path)?);
    bundle.map_err(|error| format!("{}: {}", path.display(), told(&error)))
}

/// The bytes of a file that an option names.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{} can't be read: {error}", path.display()))
}

/// An error and what is behind it: the outermost says little.
fn told(error: &reqwest::Error) -> String {
    let mut said = vec![error.to_string()];
    let mut inner = std::error::Error::source(error);
    while let Some(error) = inner {
        said.push(error.to_string());
        inner = error.source();
    }
    said.join(": ")
}

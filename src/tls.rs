//! Transport security: certificates and keys from files, which are read again when they change. A
//! connection keeps what it began with; the next one has what is there then.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::config::TlsSection;
use crate::watched::Watched;

/// Between two looks at whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to agree on keys.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// A connection, with TLS or without.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http,
}

/// The certificate that is shown, and what clients have to show.
pub struct Tls {
    files: TlsSection,
    grpc: ArcSwap<ServerConfig>,
    http: ArcSwap<ServerConfig>,
    watched: Watched,
}

impl Tls {
    /// Reads the files of a configuration; `None` if it has TLS switched off.
    ///
    /// # Errors
    /// Which file can't be used, and why.
    pub fn new(files: &TlsSection) -> Result<Option<Arc<Self>>, String> {
        if !files.enabled {
            return Ok(None);
        }
        let paths = [&files.cert_path, &files.key_path, &files.ca_cert_path];
        let watched = Watched::new(paths.into_iter().flatten().cloned().collect());
        let config = |protocol| read_config(files, protocol).map(ArcSwap::from_pointee);
        let (grpc, http) = (config(Protocol::Grpc)?, config(Protocol::Http)?);
        Ok(Some(Arc::new(Self { files: files.clone(), grpc, http, watched })))
    }

    fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let config = match protocol {
            Protocol::Grpc => self.grpc.load_full(),
            Protocol::Http => self.http.load_full(),
        };
        TlsAcceptor::from(config)
    }

    /// Agrees on keys with a client.
    ///
    /// # Errors
    /// If that fails, or takes too long.
    pub async fn accept(
        &self,
        protocol: Protocol,
        stream: TcpStream,
    ) -> io::Result<Box<TlsStream<TcpStream>>> {
        let accepted = self.acceptor(protocol).accept(stream);
        tokio::time::timeout(HANDSHAKE_PATIENCE, accepted).await?.map(Box::new)
    }

    /// Reads the files again. If one is bad, what was in force stays.
    ///
    /// # Errors
    /// Which one, and why.
    pub fn reload(&self) -> Result<(), String> {
        self.watched.note_reading();
        let grpc = read_config(&self.files, Protocol::Grpc)?;
        let http = read_config(&self.files, Protocol::Http)?;
        self.grpc.store(Arc::new(grpc));
        self.http.store(Arc::new(http));
        Ok(())
    }

    /// Reads the files again whenever they change, until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = self.clone();
            if tokio::task::spawn_blocking(move || tls.look()).await.is_err() {
                tracing::error!("looking after certificates has panicked; it goes on");
            }
        }
    }

    /// Reads the files again if they have changed.
    fn look(&self) {
        if !self.watched.have_changed() {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!("the certificate has changed; new connections have it"),
            Err(why) => tracing::error!("the certificate has changed and is not used: {why}"),
        }
    }
}

fn read_config(files: &TlsSection, protocol: Protocol) -> Result<ServerConfig, String> {
    let cert_path = files.cert_path.as_deref().ok_or("server.tls.cert_path is not set")?;
    let key_path = files.key_path.as_deref().ok_or("server.tls.key_path is not set")?;
    let certificates = read_certificates(cert_path)?;
    let key = PrivateKeyDer::from_pem_file(key_path)
        .map_err(|error| format!("the key {} can't be used: {error}", key_path.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.ca_cert_path {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let shown = path.display();
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = match files.require_client_cert {
                true => verifier,
                false => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|error| format!("{shown}: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| {
        let (certificate, key) = (cert_path.display(), key_path.display());
        format!("the certificate {certificate} with the key {key} can't be used: {error}")
    })?;
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    let certificates: Vec<_> =
        read.map_err(|error| format!("the certificate {shown} can't be used: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("there is no certificate in {shown}"));
    }
    Ok(certificates)
}

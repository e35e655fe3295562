//! Transport security: certificates and keys from files, which are read again when they change. A connection keeps the
//! certificate with which it began; later ones use the new one.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
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

use crate::clock::unix_ms;
use crate::config::TlsSection;
use crate::watched::{Watched, open_to_others, read_regular};

mod expiry;

/// Period of checking whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// Largest file of certificates or keys, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Remaining validity of a certificate below which a warning is logged: at the start, when it is read again, and once a
/// day.
const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * DAY.as_secs());
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Longest time of a TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// A connection, with TLS or without.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http,
}

/// The server's certificate, and the certificates that clients have to present.
pub struct Tls {
    files: TlsSection,
    grpc: ArcSwap<ServerConfig>,
    http: ArcSwap<ServerConfig>,
    watched: Watched,
    /// End of validity of the first certificate of the chain in force, in Unix seconds; `i64::MAX` if unknown.
    not_after: Arc<AtomicI64>,
}

impl Tls {
    /// Reads the files of a configuration; `None` if it has TLS switched off.
    ///
    /// # Errors
    /// The file that can't be used, and why.
    pub fn new(files: &TlsSection) -> Result<Option<Arc<Self>>, String> {
        if !files.enabled {
            return Ok(None);
        }
        let paths = [&files.cert_path, &files.key_path, &files.ca_cert_path];
        let watched = Watched::new(paths.into_iter().flatten().cloned().collect());
        let read = Read::new(files)?;
        read.warn(files);
        Ok(Some(Arc::new(Self {
            files: files.clone(),
            grpc: ArcSwap::from_pointee(read.grpc),
            http: ArcSwap::from_pointee(read.http),
            watched,
            not_after: Arc::new(AtomicI64::new(read.not_after)),
        })))
    }

    /// End of validity of the chain in force, in Unix seconds; `i64::MAX` if unknown.
    #[must_use]
    pub fn not_after(&self) -> Arc<AtomicI64> {
        self.not_after.clone()
    }

    fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let config = match protocol {
            Protocol::Grpc => self.grpc.load_full(),
            Protocol::Http => self.http.load_full(),
        };
        TlsAcceptor::from(config)
    }

    /// Does the TLS handshake with a client.
    ///
    /// # Errors
    /// If it fails, or takes too long.
    pub async fn accept(
        &self,
        protocol: Protocol,
        stream: TcpStream,
    ) -> io::Result<Box<TlsStream<TcpStream>>> {
        let accepted = self.acceptor(protocol).accept(stream);
        tokio::time::timeout(HANDSHAKE_PATIENCE, accepted).await?.map(Box::new)
    }

    /// Reads the files again. If one is invalid, the previous ones stay in force.
    ///
    /// # Errors
    /// The file that is invalid, and why.
    pub fn reload(&self) -> Result<(), String> {
        self.watched.note_reading();
        let read = Read::new(&self.files)?;
        read.warn(&self.files);
        self.grpc.store(Arc::new(read.grpc));
        self.http.store(Arc::new(read.http));
        self.not_after.store(read.not_after, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the files again whenever they change, until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        let mut since_told = Duration::ZERO;
        loop {
            tokio::time::sleep(LOOK).await;
            since_told += LOOK;
            if since_told >= DAY {
                since_told = Duration::ZERO;
                warn_of_end(&self.files, self.not_after.load(Ordering::Relaxed));
            }
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

/// Contents of the files of a configuration.
struct Read {
    grpc: ServerConfig,
    http: ServerConfig,
    not_after: i64,
}

impl Read {
    fn new(files: &TlsSection) -> Result<Self, String> {
        let (grpc, not_after) = read_config(files, Protocol::Grpc)?;
        let (http, _) = read_config(files, Protocol::Http)?;
        Ok(Self { grpc, http, not_after })
    }

    /// Warns of a certificate that ends soon, and of a key file that others may access.
    fn warn(&self, files: &TlsSection) {
        warn_of_end(files, self.not_after);
        if let Some(why) = files.key_path.as_deref().and_then(open_to_others) {
            tracing::warn!("the key of the certificate {why}");
        }
    }
}

/// Warns of a certificate that has ended or soon will.
fn warn_of_end(files: &TlsSection, not_after: i64) {
    let now = i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX);
    let shown = files.cert_path.as_deref().unwrap_or_else(|| Path::new("")).display();
    let end = chrono::DateTime::from_timestamp(not_after, 0).unwrap_or_default();
    if not_after <= now {
        tracing::warn!("the certificate {shown} has expired at {end}: clients refuse it; renew it");
    } else if not_after - now < EXPIRY_NOTICE.as_secs() as i64 {
        let days = (not_after - now) / DAY.as_secs() as i64;
        tracing::warn!("the certificate {shown} expires in {days} days, at {end}: renew it");
    }
}

fn read_config(files: &TlsSection, protocol: Protocol) -> Result<(ServerConfig, i64), String> {
    let cert_path = files.cert_path.as_deref().ok_or("server.tls.cert_path is not set")?;
    let key_path = files.key_path.as_deref().ok_or("server.tls.key_path is not set")?;
    let certificates = read_certificates(cert_path)?;
    let unusable =
        |error: &dyn Display| format!("the key {} can't be used: {error}", key_path.display());
    let key = read_regular(key_path, FILE_BYTES_MAX).map_err(|error| unusable(&error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable(&error))?;
    let ends = certificates.iter().filter_map(|certificate| expiry::not_after(certificate));
    let not_after = ends.min().unwrap_or(i64::MAX);
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
    Ok((config, not_after))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let unusable = |error: &dyn Display| format!("the certificate {shown} can't be used: {error}");
    let bytes = read_regular(path, FILE_BYTES_MAX).map_err(|error| unusable(&error))?;
    let read = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| unusable(&error))?;
    if certificates.is_empty() {
        return Err(format!("there is no certificate in {shown}"));
    }
    Ok(certificates)
}

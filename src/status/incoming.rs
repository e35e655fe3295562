//! Accepts clients of HTTP, with TLS or without. One that takes its time to agree on keys keeps no other
//! waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::either::Either;

use crate::tls::{Protocol, Stream, Tls};

/// Clients that agree on keys at the same time.
const HANDSHAKES_MAX: usize = 1_024;

/// After a failure to accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Clients that are let in.
pub(super) struct Incoming {
    accepted: mpsc::Receiver<(Stream, SocketAddr)>,
    address: SocketAddr,
}

impl Incoming {
    /// Begins to accept, as a task of the runtime that this is called in.
    ///
    /// # Errors
    /// If the listener has no address.
    pub(super) fn new(listener: TcpListener, tls: Option<Arc<Tls>>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (send, accepted) = mpsc::channel(1);
        tokio::spawn(accept_all(listener, tls, send));
        Ok(Self { accepted, address })
    }
}

async fn accept_all(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    send: mpsc::Sender<(Stream, SocketAddr)>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = handshakes.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection of HTTP could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (tls, send) = (tls.clone(), send.clone());
        tokio::spawn(async move {
            let stream = match tls {
                None => Either::Left(stream),
                Some(tls) => match tls.accept(Protocol::Http, stream).await {
                    Ok(stream) => Either::Right(stream),
                    Err(error) => {
                        tracing::debug!(%peer, "no TLS with a client of HTTP: {error}");
                        return;
                    }
                },
            };
            drop(place);
            // Nobody takes it any more where the server is at its end.
            send.send((stream, peer)).await.ok();
        });
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

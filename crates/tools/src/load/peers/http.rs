//! JSON over HTTP, for engines that support it.

use std::time::Duration;

use reqwest::{Client, Method};
use serde::Serialize;
use serde_json::Value;
use tonic::Status;

use super::CONNECT_TIMEOUT;

/// Most characters shown of an error.
const SHOWN_CHARS_MAX: usize = 300;

/// A server, and the open connections to it.
#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    base: String,
}

/// True if a text is the address of a server.
pub(super) fn is_address(text: &str) -> bool {
    let uri = text.parse::<http::Uri>();
    uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some())
}

impl Http {
    /// Creates a client, without opening a connection.
    ///
    /// # Errors
    /// If the client can't be made.
    pub(super) fn new(base: &str) -> Result<Self, Status> {
        // TLS is not used, but its provider has to be installed. An error means that another one is.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build();
        let client = client.map_err(|error| Status::internal(told(&error)))?;
        Ok(Self { client, base: base.trim_end_matches('/').to_owned() })
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub(super) async fn get(&self, path: &str, timeout: Duration) -> Result<Value, Status> {
        self.send::<()>(Method::GET, path, None, timeout).await
    }

    /// Sends a request, and reads the JSON of its answer.
    ///
    /// # Errors
    /// If the server can't be reached, is late, refuses, or answers something else.
    pub(super) async fn send<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
        timeout: Duration,
    ) -> Result<Value, Status> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        request = request.timeout(timeout);
        if let Some(body) = body {
            let bytes =
                serde_json::to_vec(body).map_err(|error| Status::internal(error.to_string()))?;
            request = request.header("content-type", "application/json").body(bytes);
        }
        let answer = request.send().await.map_err(|error| lost(&error))?;
        let code = answer.status();
        let bytes = answer.bytes().await.map_err(|error| lost(&error))?;
        if !code.is_success() {
            let text = String::from_utf8_lossy(&bytes);
            let text: String = text.chars().take(SHOWN_CHARS_MAX).collect();
            let message = format!("{path}: {code}: {text}");
            let is_missing = code.as_u16() == 404;
            return Err(if is_missing {
                Status::not_found(message)
            } else {
                Status::internal(message)
            });
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| Status::internal(format!("{path}: not JSON: {error}")))
    }
}

fn lost(error: &reqwest::Error) -> Status {
    if error.is_timeout() && !error.is_connect() {
        return Status::deadline_exceeded("no answer in the time of a request");
    }
    Status::unavailable(told(error))
}

/// An error with its innermost cause.
fn told(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_and_a_host() {
        assert!(is_address("http://127.0.0.1:8000") && is_address("http://localhost:1/"));
        for text in ["", "localhost:1", "https://a:1", "http://", "/tmp/x", "http:// a"] {
            assert!(!is_address(text), "{text}");
        }
    }

    #[tokio::test]
    async fn a_missing_server_is_unavailable() {
        // Port 1 on loopback is not in use.
        let http = Http::new("http://127.0.0.1:1").unwrap();
        let status = http.get("/", Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    }
}

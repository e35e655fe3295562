//! Containment of panics: a panic in a handler becomes INTERNAL for that request, and the server continues. Other
//! answers pass, and their records are ended ([`super::timing`]).
//!
//! Requests are identified here by their clients' ids (`x-request-id`, `traceparent`): an answer repeats the id of its
//! request, and every error has an id, which is also logged if the server was at fault.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http::HeaderMap;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::guard::{Guard, refusal, settle};
use super::method::Method;
use super::pieces::in_pieces;
use super::timing::watched;
use crate::observe::Observed;
use crate::observe::counters::ErrorCategory;
use crate::observe::origin::{Origin, REQUEST_ID};

/// A service whose panics are contained.
#[derive(Clone)]
pub struct Contained<S> {
    pub(super) inner: S,
    pub(super) observed: Arc<Observed>,
    /// Largest message, in bytes: `server.max_message_bytes`.
    pub(super) message_bytes_max: usize,
}

impl<S, B> Service<http::Request<B>> for Contained<S>
where
    S: Service<http::Request<Guard<B>>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // gRPC services are always ready; one that fails to be will fail the call as well.
        self.inner.poll_ready(context).map(|_| Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let mut origin = Origin::read(request.headers());
        if let Some(refused) = refusal(request.headers()) {
            self.observed.gateway.errors(ErrorCategory::Validation).add(1);
            return Box::pin(async move { Ok(refused) });
        }
        let method = Method::of(request.uri().path());
        if !origin.is_empty() {
            request.extensions_mut().insert(origin.clone());
        }
        let request = request.map(|body| Guard::new(body, method, self.message_bytes_max));
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let observed = self.observed.clone();
        Box::pin(async move {
            let mut response = match answer.await {
                Ok(Ok(response)) => watched(in_pieces(response)),
                Ok(Err(error)) => {
                    tracing::error!("a request failed before its handler: {error}");
                    Status::internal("internal server error").into_http()
                }
                // The panic hook has written the location to standard error.
                Err(_) => {
                    observed.gateway.panics.add(1);
                    Status::internal("internal server panic").into_http()
                }
            };
            settle(&observed, method, response.headers_mut());
            let name = method.map_or("another", |method| method.name);
            self::name(name, &mut origin, response.headers_mut());
            Ok(response)
        })
    }
}

/// Gives an answer the id of its request, if there is one; an error always gets one.
fn name(method: &'static str, origin: &mut Origin, headers: &mut HeaderMap) {
    if let Some(status) = Status::from_header_map(headers).filter(|s| s.code() != Code::Ok) {
        origin.named();
        match status.code() {
            Code::Internal | Code::Unknown | Code::DataLoss => {
                log_fault(method, origin, status.message());
            }
            code => tracing::debug!(
                request_id = origin.request_id(),
                trace_id = origin.trace_id(),
                method,
                ?code,
                "a request was refused",
            ),
        }
    }
    if let Some(id) = &origin.request_id {
        headers.insert(REQUEST_ID, id.value());
    }
}

/// Logs a request that failed by a fault of the server.
pub(super) fn log_fault(method: &'static str, origin: &Origin, what: &str) {
    tracing::error!(
        request_id = origin.request_id(),
        trace_id = origin.trace_id(),
        method,
        "a request has failed: {what}",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    /// Lines written to the log.
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_panic_and_a_fault_are_logged_by_the_names_of_their_requests() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        let inner = tower::service_fn(async |request: http::Request<Guard<()>>| {
            let origin = request.extensions().get::<Origin>().cloned().unwrap_or_default();
            assert_eq!(origin.request_id(), Some("mine"));
            match request.uri().path() {
                "/kyrodb.v1.KyroDBService/Search" => panic!("on purpose"),
                "/fault" => Ok(Status::internal("a bug").into_http()),
                _ => Ok::<_, Infallible>(Status::unavailable("not now").into_http()),
            }
        });
        let service = Contained { inner, observed: Arc::default(), message_bytes_max: 1 << 20 };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let ask_all = async || {
            for path in ["/kyrodb.v1.KyroDBService/Search", "/fault", "/refusal"] {
                let request = http::Request::builder()
                    .uri(path)
                    .header("content-type", "application/grpc")
                    .header("x-request-id", "mine")
                    .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-00"))
                    .body(())
                    .unwrap();
                let response = service.clone().oneshot(request).await.unwrap();
                assert_eq!(response.headers()["x-request-id"], "mine");
            }
        };
        // A line that another test writes for the first time at the moment logging begins may be cached as disabled for
        // the rest of the process: so all lines are written once before.
        ask_all().await;
        let _guard = tracing::subscriber::set_default(subscriber);
        ask_all().await;
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 3, "{log}");
        for (line, parts) in lines.iter().zip([
            ["ERROR", "internal server panic", "method=\"Search\""],
            ["ERROR", "a bug", "method=\"another\""],
            ["DEBUG", "Unavailable", "method=\"another\""],
        ]) {
            for part in parts.into_iter().chain(["request_id=\"mine\"", trace]) {
                assert!(line.contains(part), "{part}: {line}");
            }
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let inner = tower::service_fn(async |request: http::Request<Guard<()>>| {
            assert!(request.uri().path() != "/panic", "on purpose");
            Ok::<_, Infallible>(http::Response::new(Body::empty()))
        });
        let observed = Arc::new(Observed::default());
        let service = Contained { inner, observed: observed.clone(), message_bytes_max: 1 << 20 };
        let ask = |path: &str| {
            let request = http::Request::builder().uri(path);
            request.header("content-type", "application/grpc").body(()).unwrap()
        };
        let request = ask("/panic");
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["x-request-id"].len(), 16);
        assert_eq!(response.headers()["grpc-status"], "13");
        assert_eq!(response.headers()["grpc-message"], "internal%20server%20panic");
        assert_eq!(observed.gateway.panics.get(), 1);
        let request = ask("/fine");
        assert!(!service.oneshot(request).await.unwrap().headers().contains_key("grpc-status"));
    }
}

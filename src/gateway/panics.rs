//! A panic in a handler is an answer of INTERNAL to that request, and the server goes on. What is
//! not a panic passes, and has its record ended ([`super::timing`]).

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::timing::watched;
use crate::observe::Observed;

/// Wraps a service.
#[derive(Clone)]
pub struct Contained<S> {
    pub(super) inner: S,
    pub(super) observed: Arc<Observed>,
}

impl<S, B> Service<http::Request<B>> for Contained<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
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

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let observed = self.observed.clone();
        Box::pin(async move {
            Ok(match answer.await {
                Ok(Ok(response)) => watched(response),
                Ok(Err(error)) => {
                    tracing::error!("a request failed before its handler: {error}");
                    Status::internal("internal server error").into_http()
                }
                // The panic hook has written the place to the log.
                Err(_) => {
                    observed.gateway.panics.add(1);
                    Status::internal("internal server panic").into_http()
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let inner = tower::service_fn(async |request: http::Request<()>| {
            assert!(request.uri().path() != "/panic", "on purpose");
            Ok::<_, Infallible>(http::Response::new(Body::empty()))
        });
        let observed = Arc::new(Observed::default());
        let service = Contained { inner, observed: observed.clone() };
        let request = http::Request::builder().uri("/panic").body(()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "13");
        assert_eq!(response.headers()["grpc-message"], "internal%20server%20panic");
        assert_eq!(observed.gateway.panics.get(), 1);
        let request = http::Request::builder().uri("/fine").body(()).unwrap();
        assert!(!service.oneshot(request).await.unwrap().headers().contains_key("grpc-status"));
    }
}

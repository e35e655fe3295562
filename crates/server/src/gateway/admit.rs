//! Admission of calls: identity, phase of the server and rate limits are checked before anything of a call is read, so
//! a refused call costs only a look at its headers.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::HeaderMap;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::Gateway;
use super::guard::note_refused;
use super::inbox::charge_to;
use super::method::{Kind, Method};
use crate::access::Caller;
use crate::error::Result;

/// A service behind admission.
#[derive(Clone)]
pub(super) struct Admitted<S> {
    pub(super) inner: S,
    pub(super) gateway: Arc<Gateway>,
}

impl<S: NamedService> NamedService for Admitted<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = std::result::Result<http::Response<Body>, Infallible>;

impl<S, B> Service<http::Request<B>> for Admitted<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Answer>>;

    fn poll_ready(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let method = Method::of(request.uri().path());
        match self.gateway.let_in(method, request.headers()) {
            Ok(caller) => {
                if let Some(tenant) = caller.grant().and_then(|grant| grant.tenant.as_ref()) {
                    charge_to(tenant);
                }
                if self.gateway.access.is_on() {
                    request.extensions_mut().insert(caller);
                }
                Either::Left(self.inner.call(request))
            }
            Err(error) => {
                if let Some(method) = method {
                    note_refused(&self.gateway.observed, method.kind);
                }
                Either::Right(ready(Ok(self.gateway.refuse(&error).into_http())))
            }
        }
    }
}

impl Gateway {
    /// Identifies the caller, if calls of this method are taken, and charges the call.
    fn let_in(&self, method: Option<&Method>, headers: &HeaderMap) -> Result<Caller> {
        let caller = self.access.caller(headers)?;
        match method.map(|method| method.kind) {
            None | Some(Kind::Stream | Kind::Server) => return Ok(caller),
            Some(Kind::Read) => self.health.modes.check()?,
            Some(Kind::Insert | Kind::Change | Kind::Load) => self.health.modes.check_write()?,
        }
        self.access.charge(&caller)?;
        Ok(caller)
    }
}

//! Services behind a gate: who calls is found out by the head of a call, before anything of its body is read. A stranger's message might be
//! megabytes, which would be held until their end comes.

use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

/// Decides who passes to a service.
pub trait Gate: Clone + Send + 'static {
    /// Has `carry_out` do what is called if the caller may, with what it is to know of them in the extensions of the call, and answers in its place
    /// if not.
    fn pass<F>(
        self,
        call: http::Request<Body>,
        carry_out: impl FnOnce(http::Request<Body>) -> F + Send + 'static,
    ) -> impl Future<Output = http::Response<Body>> + Send + 'static
    where
        F: Future<Output = http::Response<Body>> + Send + 'static;

    /// Puts a service behind this gate.
    fn guard<S>(&self, inner: S) -> Guarded<S, Self> {
        Guarded { inner, gate: self.clone() }
    }
}

/// A service behind a gate, which each call passes anew.
#[derive(Clone)]
pub struct Guarded<S, G> {
    inner: S,
    gate: G,
}

impl<S, G> Service<http::Request<Body>> for Guarded<S, G>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    G: Gate,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: http::Request<Body>) -> Self::Future {
        // The one that said that it is ready takes the call; the clone is asked again.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let carry_out = move |call| inner.call(call).map(|Ok(answer)| answer);
        self.gate.clone().pass(call, carry_out).map(Ok).boxed()
    }
}

impl<S: NamedService, G> NamedService for Guarded<S, G> {
    const NAME: &'static str = S::NAME;
}

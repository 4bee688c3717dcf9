//! Stands between hyper and a service: notes when a request arrives and when its answer has ended, and turns a panic into a 500.
//!
//! Only the head of a response is shielded. A panic in a body cuts that connection or stream, which is what the
//! client must see when half of a body is missing.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::{CatchUnwind, FutureExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::Service;
use pin_project_lite::pin_project;

use super::BoxError;
use super::activity::{Activity, Answering, Open};
use crate::shutdown::Shutdown;

pub(super) struct Shield<S> {
    service: S,
    shutdown: Shutdown,
    activity: Activity,
}

impl<S> Shield<S> {
    pub(super) fn new(service: S, shutdown: Shutdown, activity: Activity) -> Self {
        Self { service, shutdown, activity }
    }
}

impl<S, B> Service<Request<Incoming>> for Shield<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
{
    type Response = Response<Answering<Either<B, Full<Bytes>>>>;
    type Error = BoxError;
    type Future = ShieldedFuture<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let open = Some(self.activity.begin());
        // `call` is the service's own code, too, and may panic before there is a future.
        let called = catch_unwind(AssertUnwindSafe(|| self.service.call(request)));
        let shutdown = self.shutdown.clone();
        match called {
            Ok(future) => ShieldedFuture { inner: Some(AssertUnwindSafe(future).catch_unwind()), shutdown, open },
            Err(payload) => {
                shutdown.note_panic("request", payload.as_ref());
                ShieldedFuture { inner: None, shutdown, open }
            }
        }
    }
}

pin_project! {
    pub(super) struct ShieldedFuture<F> {
        // `None` when the call itself panicked.
        #[pin]
        inner: Option<CatchUnwind<AssertUnwindSafe<F>>>,
        shutdown: Shutdown,
        // Until it is the answer's.
        open: Option<Open>,
    }
}

impl<F, B, E> Future for ShieldedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<Answering<Either<B, Full<Bytes>>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outcome = match this.inner.as_pin_mut() {
            None => Ok(internal_error()),
            Some(inner) => match ready!(inner.poll(context)) {
                Ok(Ok(response)) => Ok(response.map(Either::Left)),
                Ok(Err(error)) => Err(error.into()),
                Err(payload) => Ok(after_panic(this.shutdown, payload.as_ref())),
            },
        };
        let open = this.open.take();
        Poll::Ready(outcome.map(|response| response.map(|body| Answering::new(body, open))))
    }
}

fn after_panic<B>(shutdown: &Shutdown, payload: &(dyn Any + Send)) -> Response<Either<B, Full<Bytes>>> {
    shutdown.note_panic("request", payload);
    internal_error()
}

fn internal_error<B>() -> Response<Either<B, Full<Bytes>>> {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from_static(b"internal error\n"))));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

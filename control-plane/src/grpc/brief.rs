//! Bounds in time, and in what is read, the calls that anybody may make: to join, to ask for health, and to ask what services there are.
//!
//! Without it a stranger could begin such calls, never end them, and hold their connections for good. Who has shown a certificate is no stranger, and may
//! watch for as long as they like.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use keyforge_runtime::accept::Transport;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use super::timed::{self, Timed};

/// Longest message that is read before it is known who sent it, in bytes: a join token and a signing request have some hundreds.
pub const MAX_FROM_STRANGERS: usize = 16 * 1024;
/// How long a stranger's call may take to say all that it has to say.
const SAID_WITHIN: Duration = Duration::from_secs(10);
/// How long it is answered: there is no end to watching health otherwise.
const ANSWERED_FOR: Duration = Duration::from_secs(60);

/// A service whose calls by strangers end in time.
#[derive(Clone)]
pub struct Brief<S> {
    inner: S,
    said_within: Duration,
    answered_for: Duration,
}

impl<S> Brief<S> {
    /// Bounds the calls of a service.
    pub const fn new(inner: S) -> Self {
        Self { inner, said_within: SAID_WITHIN, answered_for: ANSWERED_FOR }
    }
}

impl<S> Service<http::Request<Body>> for Brief<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let transport = request.extensions().get::<Transport>();
        if matches!(transport, Some(Transport::Tls { certificate: Some(_) })) {
            return Box::pin(self.inner.call(request));
        }
        let (said_within, answered_for) = (self.said_within, self.answered_for);
        let request = request.map(|body| timed::said_within(said_within, body));
        let answering = self.inner.call(request);
        Box::pin(async move { Ok(answering.await?.map(|body| Timed::body(body, answered_for, long_enough()))) })
    }
}

impl<S: NamedService> NamedService for Brief<S> {
    const NAME: &'static str = S::NAME;
}

/// What ends an answer: its caller is to ask again.
fn long_enough() -> Result<Frame<Bytes>, Status> {
    let status = Status::deadline_exceeded("a call without a certificate is not answered for longer: ask again");
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use http_body_util::{BodyExt as _, Empty, StreamBody};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn never_ending() -> Body {
        Body::new(StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Infallible>>()))
    }

    /// Answers with what it was sent.
    #[derive(Clone)]
    struct Echo;

    impl Service<http::Request<Body>> for Echo {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            ready(Ok(http::Response::new(request.into_body())))
        }
    }

    async fn answer(said_within: Duration, answered_for: Duration, transport: Transport, body: Body) -> Body {
        let mut brief = Brief { inner: Echo, said_within, answered_for };
        let mut request = http::Request::new(body);
        request.extensions_mut().insert(transport);
        brief.call(request).await.unwrap().into_body()
    }

    #[tokio::test]
    async fn a_call_of_a_stranger_that_is_never_sent_to_its_end_ends() {
        for transport in [Transport::Cleartext, Transport::Tls { certificate: None }] {
            let body = answer(SOON, Duration::MAX, transport, never_ending()).await;
            let status = body.collect().await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
        }
    }

    #[tokio::test]
    async fn an_answer_to_a_stranger_that_has_no_end_is_given_one() {
        let body = answer(Duration::MAX, SOON, Transport::Cleartext, never_ending()).await;
        let ended = body.collect().await.unwrap();
        assert_eq!(ended.trailers().unwrap()["grpc-status"], "4");
    }

    #[tokio::test]
    async fn what_ends_by_itself_is_passed_on_and_who_has_a_certificate_may_go_on() {
        let body = answer(SOON, SOON, Transport::Cleartext, Body::new(Empty::<Bytes>::new())).await;
        assert!(body.collect().await.unwrap().trailers().is_none());
        let known = Transport::Tls { certificate: Some(vec![1].into()) };
        let body = answer(SOON, SOON, known, never_ending()).await;
        tokio::time::timeout(SOON * 5, body.collect()).await.expect_err("it was cut");
    }
}

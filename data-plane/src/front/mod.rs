//! The agents' port: which path means what, and one log line and one set of metrics per request.
//!
//! * [`path`]: path and method → operation
//! * [`models`]: `GET /v1/models`, each key its own

pub mod models;
pub mod path;
#[cfg(test)]
mod served;
#[cfg(test)]
mod served_tests;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use keyforge_providers::dialect::Dialect;
use keyforge_runtime::propagation;
use keyforge_runtime::readiness::Readiness;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::RequestId;
use tracing::{Instrument, field};

use self::path::Operation;
use crate::plane::Plane;
use crate::rejection::Rejection;
use crate::request;
use crate::request::answer::{Answer, AnswerBody};
use crate::request::receive::Head;
use crate::request::settle::seconds;

/// The agents' port before and after the node is ready. Clones share it.
#[derive(Clone)]
pub struct Front {
    plane: Arc<OnceLock<Arc<Plane>>>,
    clock: Arc<dyn Clock>,
    readiness: Readiness,
}

impl Front {
    /// A front that answers 503 until it gets its plane.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, readiness: Readiness) -> Self {
        Self { plane: Arc::default(), clock, readiness }
    }

    /// From here on requests are served.
    pub fn open(&self, plane: Arc<Plane>) {
        // A second call changes nothing: a process has one plane.
        drop(self.plane.set(plane));
    }

    /// The service of one connection.
    #[must_use]
    pub fn for_peer(&self, peer: SocketAddr) -> Connection {
        Connection { front: self.clone(), peer }
    }

    async fn answer(self, peer: SocketAddr, request: Request<Incoming>) -> Response<AnswerBody> {
        let (parts, body) = request.into_parts();
        let operation = path::operation(&parts.method, parts.uri.path());
        if let Ok(Operation::Health | Operation::Ready) = operation {
            return self.health(operation.is_ok_and(|operation| operation == Operation::Ready));
        }
        let Ok(id) = RequestId::generate_at(self.clock.now()) else {
            let mut response = Response::new(AnswerBody::Whole(Full::default()));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        };
        let started = self.clock.monotonic_nanos();
        let head = Arc::new(Head { parts, peer, id, started, dialect: Dialect::ChatCompletions });
        let Some(plane) = self.plane.get() else {
            let rejection = Rejection::NotReady("This node is starting: it has no keys yet. Try again shortly.");
            let answer = Answer::refusal(&head, &rejection);
            log(self.clock.as_ref(), &head, &answer);
            return answer.response;
        };
        let name = path::span_name(&operation);
        let span = tracing::debug_span!(
            "request",
            otel.kind = "server",
            otel.name = name,
            gen_ai.operation.name = name,
            gen_ai.request.model = field::Empty,
            http.response.status_code = field::Empty,
            request = %id,
        );
        propagation::continue_trace(&span, &head.parts.headers);
        // In a box, because it is large and would be copied into each of the futures around it.
        let serving = Box::pin(serve(plane, &head, body, operation));
        let answer = serving.instrument(span.clone()).await;
        span.record("gen_ai.request.model", &answer.model);
        span.record("http.response.status_code", answer.response.status().as_u16());
        plane.metrics.answered(answer.response.status().as_u16(), answer.code);
        log(self.clock.as_ref(), &head, &answer);
        answer.response
    }

    fn health(&self, ready: bool) -> Response<AnswerBody> {
        let (status, text) = match self.readiness.report() {
            Err(reasons) if ready => (StatusCode::SERVICE_UNAVAILABLE, Bytes::from(reasons)),
            _ => (StatusCode::OK, Bytes::from_static(b"ok\n")),
        };
        let mut response = Response::new(AnswerBody::Whole(Full::new(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

async fn serve(
    plane: &Arc<Plane>,
    head: &Arc<Head>,
    body: Incoming,
    operation: Result<Operation, Rejection>,
) -> Answer {
    match operation {
        Ok(Operation::Generate(endpoint)) => request::handle(plane, endpoint, Arc::clone(head), body).await,
        Ok(Operation::Models) => models::list(plane, head),
        Ok(Operation::Model(name)) => models::get(plane, head, &name),
        Ok(Operation::Health | Operation::Ready) => Answer::refusal(head, &Rejection::Internal),
        Err(rejection) => Answer::refusal(head, &rejection),
    }
}

/// One structured line per request, when its answer begins. Nothing in it comes from the client unread.
fn log(clock: &dyn Clock, head: &Head, answer: &Answer) {
    let elapsed = seconds(clock.monotonic_nanos().saturating_sub(head.started));
    let status = answer.response.status().as_u16();
    let key = answer.key.map(|key| key.to_string());
    tracing::info!(
        target: "keyforge::request",
        request = %head.id,
        method = %head.parts.method,
        path = path::known(head.parts.uri.path()),
        peer = %head.peer.ip(),
        key,
        model = answer.model,
        status,
        code = answer.code,
        cost_nano_usd = answer.cost.map(|cost| cost.nanos()),
        seconds = elapsed,
        "request"
    );
}

/// The service of one connection.
pub struct Connection {
    front: Front,
    peer: SocketAddr,
}

impl Service<Request<Incoming>> for Connection {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (front, peer) = (self.front.clone(), self.peer);
        Box::pin(async move { Ok(front.answer(peer, request).await) })
    }
}

//! The operators' port: `/metrics` (Prometheus text), `/healthz` (the process lives), `/readyz` (it may be sent work).
//!
//! It answers until the process ends, also while it drains, so that an orchestrator sees "not ready" and not a refused
//! connection. It changes nothing, and shows no secret; it belongs on an address that only operators reach.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use tokio::net::TcpListener;

use crate::accept::{self, AcceptOptions};
use crate::readiness::Readiness;
use crate::shutdown::Shutdown;

const PLAIN: &str = "text/plain; charset=utf-8";
/// The content type of the Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Scrapers and probes are few.
const MAX_CONNECTIONS: usize = 64;

type MetricsText = dyn Fn() -> String + Send + Sync;

/// What the operators' port shows.
#[derive(Clone)]
pub struct Ops {
    metrics: Arc<MetricsText>,
    readiness: Readiness,
}

impl Ops {
    /// `metrics` gives the Prometheus text, for example [`crate::telemetry::Telemetry::prometheus_text`].
    #[must_use]
    pub fn new(metrics: impl Fn() -> String + Send + Sync + 'static, readiness: Readiness) -> Self {
        Self { metrics: Arc::new(metrics), readiness }
    }

    /// Answers on `listener` until the process ends; a drain of `shutdown` does not wait for it.
    pub fn start(self, listener: TcpListener, shutdown: &Shutdown) {
        let options = AcceptOptions { max_connections: MAX_CONNECTIONS, ..AcceptOptions::default() };
        let service = service_fn(move |request| {
            let response = self.answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        // A shutdown of its own, never triggered: connections of this port are not what the drain waits for.
        drop(shutdown.spawn_background("ops", accept::serve(listener, options, service, Shutdown::new())));
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, String::from("only GET\n"));
        }
        match request.uri().path() {
            "/metrics" => response(StatusCode::OK, PROMETHEUS, (self.metrics)()),
            "/healthz" => response(StatusCode::OK, PLAIN, String::from("ok\n")),
            "/readyz" => match self.readiness.report() {
                Ok(()) => response(StatusCode::OK, PLAIN, String::from("ready\n")),
                Err(lines) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines + "\n"),
            },
            _ => response(StatusCode::NOT_FOUND, PLAIN, String::from("try /metrics, /healthz or /readyz\n")),
        }
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

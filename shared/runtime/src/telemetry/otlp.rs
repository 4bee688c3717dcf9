//! Sends traces and metrics to a collector by OTLP over HTTP with protobuf bodies.
//!
//! The SDK exports on threads of its own, which have no runtime. Their requests run on the process's runtime instead
//! ([`CollectorClient`]); the threads wait, the requests of agents do not. A collector that cannot be reached is logged
//! when it starts and stops failing, not once per batch.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use keyforge_shared::secret::SecretBytes;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use tokio::runtime::Handle;

use super::TelemetryError;
use crate::tls;

/// A batch that takes longer is dropped.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The exporters for a collector at a base URL; the paths are those of the OTLP specification.
pub(super) fn exporters(
    endpoint: &str,
    headers: &[(String, SecretBytes)],
) -> Result<(SpanExporter, MetricExporter), TelemetryError> {
    let base = base_url(endpoint)?;
    let headers = checked_headers(headers)?;
    let client: Arc<dyn HttpClient> = Arc::new(CollectorClient::new()?);
    let spans = SpanExporter::builder()
        .with_http()
        .with_shared_http_client(Arc::clone(&client))
        .with_headers(headers.clone())
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(REQUEST_TIMEOUT)
        .with_endpoint(format!("{base}/v1/traces"))
        .build()
        .map_err(|error| TelemetryError::Exporter("trace", error.to_string()))?;
    let metrics = MetricExporter::builder()
        .with_http()
        .with_shared_http_client(client)
        .with_headers(headers)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(REQUEST_TIMEOUT)
        .with_endpoint(format!("{base}/v1/metrics"))
        .build()
        .map_err(|error| TelemetryError::Exporter("metrics", error.to_string()))?;
    Ok((spans, metrics))
}

fn base_url(endpoint: &str) -> Result<&str, TelemetryError> {
    let base = endpoint.trim_end_matches('/');
    let usable = base.parse::<Uri>().is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    if usable { Ok(base) } else { Err(TelemetryError::Endpoint(endpoint.to_owned())) }
}

fn checked_headers(headers: &[(String, SecretBytes)]) -> Result<HashMap<String, String>, TelemetryError> {
    let checked = |(name, value): &(String, SecretBytes)| {
        let text = value.expose_str().filter(|text| HeaderValue::from_str(text).is_ok());
        match (HeaderName::from_bytes(name.as_bytes()), text) {
            (Ok(_), Some(text)) => Ok((name.clone(), text.to_owned())),
            _ => Err(TelemetryError::Header(name.clone())),
        }
    };
    headers.iter().map(checked).collect()
}

#[derive(Debug)]
struct CollectorClient {
    runtime: Handle,
    http: HyperClient<HttpsConnector<HttpConnector>>,
    failing: AtomicBool,
}

impl CollectorClient {
    fn new() -> Result<Self, TelemetryError> {
        let runtime = Handle::try_current().map_err(|_| TelemetryError::NoRuntime)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config(None)?)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self { runtime, http: HyperClient::new(connector, REQUEST_TIMEOUT, None), failing: AtomicBool::new(false) })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let response = self.runtime.spawn(async move { http.send_bytes(request).await }).await?;
        match &response {
            Ok(answer) if answer.status().is_success() => self.note_success(),
            Ok(answer) => self.note_failure(&answer.status()),
            Err(error) => self.note_failure(error),
        }
        response
    }

    fn note_success(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the telemetry collector accepts data again");
        }
    }

    fn note_failure(&self, error: &dyn std::fmt::Display) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the telemetry collector does not accept data; further failures are not logged");
        }
    }
}

impl HttpClient for CollectorClient {
    fn send_bytes<'client, 'sent>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'client: 'sent,
        Self: 'sent,
    {
        Box::pin(self.send(request))
    }
}

//! The way to providers: one pooled HTTP client over rustls, and the request that goes out with the real key in its header.

mod connector;

use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use keyforge_providers::patch::Pieces;
use keyforge_runtime::tls::TlsError;

use self::connector::Connector;
use crate::config::Config;
use crate::replica::secrets::Authorization;

const AGENT: &str = concat!("keyforge/", env!("CARGO_PKG_VERSION"));
/// The header of the client that the provider gets to see, besides `accept`; every other one stays here. An idempotency key stays, too: all clients
/// share the credential that it would be looked up under.
const FORWARDED: HeaderName = HeaderName::from_static("openai-beta");
/// Idle connections kept to one provider.
const IDLE_CONNECTIONS: usize = 1024;

/// The pooled client.
#[derive(Clone)]
pub struct Upstream(Client<Connector, Full<Pieces>>);

/// Why no answer's head came.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection: nothing was sent.
    #[error("cannot connect: {}", causes(.0))]
    Connect(hyper_util::client::legacy::Error),
    /// The connection broke after sending began: whether the provider worked on it is unknown.
    #[error("no answer: {}", causes(.0))]
    Broken(hyper_util::client::legacy::Error),
    /// Nothing came in time.
    #[error("no answer in time")]
    Timeout,
    /// The credential's base URL and the path make no URL.
    #[error("the credential's base URL is not usable")]
    Url,
}

impl Upstream {
    /// The client of a node.
    ///
    /// # Errors
    /// [`TlsError`] when the extra certificates cannot be read.
    pub fn new(config: &Config) -> Result<Self, TlsError> {
        let tls = keyforge_runtime::tls::client_config(config.upstream_ca.as_deref())?;
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        http.set_keepalive(Some(Duration::from_secs(60)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        let connector = Connector { inner: connector, limit: config.upstream.connect };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http2_keep_alive_interval(Duration::from_secs(15))
            // Tried again only when a kept connection turns out to be closed before any of the request was sent.
            .retry_canceled_requests(true)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// [`UpstreamError`]; only [`UpstreamError::Connect`] and [`UpstreamError::Url`] mean that nothing was sent.
    pub async fn send(
        &self,
        request: Request<Full<Pieces>>,
        first_byte: Duration,
    ) -> Result<Response<Incoming>, UpstreamError> {
        match tokio::time::timeout(first_byte, self.0.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(UpstreamError::Connect(error)),
            Ok(Err(error)) => Err(UpstreamError::Broken(error)),
            Err(_) => Err(UpstreamError::Timeout),
        }
    }
}

/// An error with everything that caused it: the outermost alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The request to a provider: its own headers, the few of the client that it may see, and the credential.
///
/// # Errors
/// [`UpstreamError::Url`] when base URL and path make no URL.
pub fn request(
    base_url: &str,
    path: &str,
    client: &HeaderMap,
    authorization: &Authorization,
    body: Pieces,
) -> Result<Request<Full<Pieces>>, UpstreamError> {
    let uri: Uri = [base_url, path].concat().parse().map_err(|_| UpstreamError::Url)?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, authorization.header());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    // Answers are metered as they pass, so they must come uncompressed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(ACCEPT, client.get(ACCEPT).cloned().unwrap_or(HeaderValue::from_static("*/*")));
    if let Some(value) = client.get(&FORWARDED) {
        headers.insert(FORWARDED, value.clone());
    }
    Ok(request)
}

//! The way to providers: one pooled HTTP client over rustls, and the request that goes out with the real key in its header.

mod connector;

use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use keyforge_providers::exchange::Outgoing;
use keyforge_providers::patch::Pieces;
use keyforge_runtime::tls::TlsError;
use keyforge_shared::provider::{self, Api};

use self::connector::Connector;
use crate::config::Config;
use crate::pool::Candidate;

const AGENT: &str = concat!("keyforge/", env!("CARGO_PKG_VERSION"));
/// The header of the client that a host of OpenAI's API gets to see, besides `accept`; every other one stays here. An idempotency key stays, too:
/// all clients share the credential that it would be looked up under.
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

/// The request to a candidate's provider: what it says, its own headers, the few of the client that it may see, and the secret.
///
/// # Errors
/// [`UpstreamError::Url`] when the credential's base URL and the path make no URL.
pub fn request(
    candidate: &Candidate,
    outgoing: Outgoing,
    client: &HeaderMap,
) -> Result<Request<Full<Pieces>>, UpstreamError> {
    let provider = provider::of(&candidate.credential.provider.0);
    let uri = url(&candidate.credential.base_url, &outgoing.path)?;
    let mut request = Request::new(Full::new(outgoing.body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    // With host, length and trace.
    headers.reserve(12 + outgoing.headers.len());
    headers.extend(outgoing.headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    // Answers are metered as they pass, so they must come uncompressed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(ACCEPT, client.get(ACCEPT).cloned().unwrap_or(HeaderValue::from_static("*/*")));
    if let (Api::OpenAi, Some(value)) = (provider.api, client.get(&FORWARDED)) {
        headers.insert(FORWARDED, value.clone());
    }
    let (name, secret) = candidate.authorization.header(provider.secret_header);
    headers.insert(name, secret);
    Ok(request)
}

/// Base URL and path. The query that a base URL may have, such as the version of Azure's API, stays at the end.
fn url(base: &str, path: &str) -> Result<Uri, UpstreamError> {
    let joined = match base.split_once('?') {
        None => [base, path].concat(),
        Some((base, query)) => {
            let joint = if path.contains('?') { "&" } else { "?" };
            [base.trim_end_matches('/'), path, joint, query].concat()
        }
    };
    joined.parse().map_err(|_| UpstreamError::Url)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Arc;

    use keyforge_shared::catalog::ProviderName;
    use keyforge_shared::id::CredentialId;
    use keyforge_shared::secret::SecretBytes;
    use keyforge_shared::state::CredentialRecord;

    use super::*;
    use crate::replica::secrets::Secrets;

    fn sent(provider: &str, base_url: &str, path: &'static str) -> Request<Full<Pieces>> {
        let (secrets, id) = (Secrets::default(), CredentialId::from_bytes([9; 16]));
        secrets.put(id, 1, &SecretBytes::new(b"sk-real".to_vec())).unwrap();
        let credential = Arc::new(CredentialRecord {
            id,
            provider: ProviderName(provider.to_owned()),
            pool: "default".to_owned(),
            base_url: base_url.to_owned(),
            limit_group: "default".to_owned(),
            secret_version: 1,
            enabled: true,
            weight: 1,
        });
        let candidate = Candidate { credential, authorization: secrets.get(id, 1).unwrap() };
        let version = (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01"));
        let forged = (HeaderName::from_static("x-api-key"), HeaderValue::from_static("forged"));
        let outgoing = Outgoing { path: Cow::Borrowed(path), headers: vec![version, forged], body: Pieces::default() };
        let mut client = HeaderMap::new();
        for (name, value) in [("openai-beta", "assistants=v2"), ("authorization", "Bearer vk_x"), ("cookie", "c")] {
            client.insert(name, HeaderValue::from_static(value));
        }
        request(&candidate, outgoing, &client).unwrap()
    }

    #[test]
    fn the_query_of_a_base_url_stays_at_the_end() {
        let base = "https://host.example/openai/v1?api-version=2026-01-01";
        let uri = |base, path| sent("azure", base, path).uri().to_string();
        assert_eq!(
            uri(base, "/chat/completions"),
            "https://host.example/openai/v1/chat/completions?api-version=2026-01-01"
        );
        assert_eq!(uri(base, "/m:go?alt=sse"), "https://host.example/openai/v1/m:go?alt=sse&api-version=2026-01-01");
        assert_eq!(uri("https://host.example/v1", "/m:go?alt=sse"), "https://host.example/v1/m:go?alt=sse");
    }

    #[test]
    fn a_provider_sees_its_own_secret_and_headers_and_of_the_clients_only_what_concerns_it() {
        let of = |provider, name| {
            let sent = sent(provider, "https://host.example/v1", "/x");
            sent.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        for (provider, name, value) in [
            ("openai", "authorization", Some("Bearer sk-real")),
            ("openai", "openai-beta", Some("assistants=v2")),
            ("openai", "cookie", None),
            ("anthropic", "x-api-key", Some("sk-real")),
            ("anthropic", "anthropic-version", Some("2023-06-01")),
            ("anthropic", "openai-beta", None),
            ("anthropic", "authorization", None),
            ("google", "x-goog-api-key", Some("sk-real")),
            ("google", "authorization", None),
            ("azure", "api-key", Some("sk-real")),
        ] {
            assert_eq!(of(provider, name).as_deref(), value, "{provider}: {name}");
        }
    }
}

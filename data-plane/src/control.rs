//! The node's connection to the control plane: one HTTP/2 channel, and what proves that the node belongs to the fleet.
//!
//! Over TLS that is its certificate, and every call goes by the channel that was made with the newest one. In the clear, on this host, every call
//! carries the fleet token.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use keyforge_runtime::tls::mutual;
use keyforge_shared::secret::SecretBytes;
use parking_lot::RwLock;
use tokio_rustls::rustls::ClientConfig;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

/// Why no channel can be made. Making one does not connect yet.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The URL is none.
    #[error("control_plane.url is not a URL: {0}")]
    Url(tonic::transport::Error),
    /// The token cannot be sent.
    #[error(
        "the fleet token holds characters that cannot be sent: it must be the content of the control plane's fleet.token file"
    )]
    Token,
}

/// A channel whose every call proves that it comes from a node. Clones share it.
#[derive(Clone, Debug)]
pub struct ControlChannel {
    endpoint: Endpoint,
    current: Arc<RwLock<Channel>>,
    /// Another connection, for what must not wait behind anything.
    urgent: Arc<RwLock<Channel>>,
    token: Option<HeaderValue>,
}

impl ControlChannel {
    /// A channel in the clear to `url` that connects when first used and again whenever it must.
    ///
    /// # Errors
    /// [`ControlError`] when URL or token cannot be used at all.
    pub fn in_the_clear(url: &str, token: &SecretBytes) -> Result<Self, ControlError> {
        let endpoint = endpoint(url)?;
        let bearer = zeroize::Zeroizing::new(format!("Bearer {}", token.expose_str().ok_or(ControlError::Token)?));
        let mut value: HeaderValue = bearer.parse().map_err(|_| ControlError::Token)?;
        value.set_sensitive(true);
        let [current, urgent] = [(); 2].map(|()| Arc::new(RwLock::new(endpoint.connect_lazy())));
        Ok(Self { endpoint, current, urgent, token: Some(value) })
    }

    /// The same over TLS, with the certificate that `tls` presents.
    ///
    /// # Errors
    /// [`ControlError::Url`].
    pub fn over_tls(url: &str, tls: ClientConfig) -> Result<Self, ControlError> {
        let endpoint = endpoint(url)?;
        let channel = || endpoint.connect_with_connector_lazy(mutual::connector(tls.clone()));
        let [current, urgent] = [(); 2].map(|()| Arc::new(RwLock::new(channel())));
        Ok(Self { endpoint, current, urgent, token: None })
    }

    /// The same over a connection of its own.
    #[must_use]
    pub fn urgent(&self) -> Self {
        Self { current: Arc::clone(&self.urgent), ..self.clone() }
    }

    /// Makes every call from now on over a new connection with another certificate. Streams that are open stay on the old one.
    pub fn connect_with(&self, tls: ClientConfig) {
        for channel in [&self.current, &self.urgent] {
            *channel.write() = self.endpoint.connect_with_connector_lazy(mutual::connector(tls.clone()));
        }
    }
}

impl Service<http::Request<Body>> for ControlChannel {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Which channel it will be is known at the call only.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let mut channel = self.current.read().clone();
        if let Some(token) = &self.token {
            request.headers_mut().insert(http::header::AUTHORIZATION, token.clone());
        }
        Box::pin(async move {
            poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        })
    }
}

fn endpoint(url: &str) -> Result<Endpoint, ControlError> {
    Ok(Endpoint::from_shared(url.to_owned())
        .map_err(ControlError::Url)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

/// What a status says, and what is at the bottom of it: "transport error" says nothing, "certificate expired" does.
#[must_use]
pub fn said(status: &Status) -> String {
    match status.source() {
        Some(cause) => format!("{}: {}", status.code(), innermost(cause)),
        None => format!("{}: {}", status.code(), status.message()),
    }
}

/// The cause at the bottom.
#[must_use]
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    loop {
        // What an I/O error wraps is no source of it, but says more.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| cause.source()) {
            Some(next) => cause = next,
            None => return cause.to_string(),
        }
    }
}

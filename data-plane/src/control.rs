//! The node's connection to the control plane: one HTTP/2 channel, and the token that proves the node belongs to the fleet.

use std::time::Duration;

use keyforge_shared::secret::SecretBytes;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// A channel whose every call carries the fleet token.
pub type ControlChannel = InterceptedService<Channel, FleetToken>;

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

/// Adds the fleet token to a call.
#[derive(Clone)]
pub struct FleetToken(MetadataValue<Ascii>);

impl Interceptor for FleetToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A channel to `url` that connects when first used and again whenever it must.
///
/// # Errors
/// [`ControlError`] when URL or token cannot be used at all.
pub fn channel(url: &str, token: &SecretBytes) -> Result<ControlChannel, ControlError> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(ControlError::Url)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let bearer = zeroize::Zeroizing::new(format!("Bearer {}", token.expose_str().ok_or(ControlError::Token)?));
    let mut value: MetadataValue<Ascii> = bearer.parse().map_err(|_| ControlError::Token)?;
    value.set_sensitive(true);
    Ok(InterceptedService::new(endpoint.connect_lazy(), FleetToken(value)))
}

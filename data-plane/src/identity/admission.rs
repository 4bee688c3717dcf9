//! What a node is admitted by: its certificate over TLS, or the fleet token on this host; and which node it is by that.

use std::sync::Arc;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::tls::TlsError;
use keyforge_shared::clock::Clock;
use keyforge_shared::fleet_seal::SharedToken;
use keyforge_shared::id::NodeId;

use super::renewal::Renewal;
use super::{Identity, IdentityError};
use crate::audit::{NodeIdentity, SpoolError};
use crate::config::{Access, Config};
use crate::control::{ControlChannel, ControlError};
use crate::metrics::Metrics;

/// Why there is no way to the control plane.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The control plane's address or token cannot be used.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// There is no usable identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The identity's key does not belong to its certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data directory is another node's, or cannot be used.
    #[error(transparent)]
    Directory(#[from] SpoolError),
}

/// What the node is admitted by.
pub struct Admission {
    /// Which node.
    pub node: NodeId,
    /// The way to the control plane.
    pub channel: ControlChannel,
    /// What node and control plane have in common, where the node has no certificate.
    pub token: Option<SharedToken>,
}

impl Admission {
    /// Reads it, and keeps a certificate good from now on.
    ///
    /// # Errors
    /// [`AdmissionError`].
    pub fn of(
        config: &Config,
        metrics: &Metrics,
        clock: &Arc<dyn Clock>,
        shutdown: &Shutdown,
    ) -> Result<Self, AdmissionError> {
        let url = &config.control_plane_url;
        match &config.access {
            Access::Token(token) => {
                let node = NodeIdentity::load_or_create(&config.data_dir)?;
                let channel = ControlChannel::in_the_clear(url, token)?;
                Ok(Self { node, channel, token: Some(SharedToken::of(token)) })
            }
            Access::Joined(directory) => {
                let identity = Identity::load(directory)?;
                let node = identity.node();
                NodeIdentity::keep(&config.data_dir, node)?;
                let channel = ControlChannel::over_tls(url, identity.client()?)?;
                let renewal = Renewal {
                    identity,
                    directory: directory.clone(),
                    channel: channel.clone(),
                    clock: Arc::clone(clock),
                    metrics: metrics.clone(),
                };
                renewal.start(shutdown);
                Ok(Self { node, channel, token: None })
            }
        }
    }
}

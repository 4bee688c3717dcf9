//! What a node is admitted by: its certificate over TLS, or the fleet token on this host; and which node it is by that.

use std::path::Path;
use std::sync::Arc;

use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::tls::TlsError;
use keyforge_shared::clock::Clock;
use keyforge_shared::fleet_seal::SharedToken;
use keyforge_shared::id::NodeId;
use keyforge_shared::secret::{Key256, SecretBytes};
use zeroize::Zeroizing;

use super::renewal::Renewal;
use super::{Identity, IdentityError};
use crate::audit::{NodeIdentity, SpoolError};
use crate::config::{Access, Config};
use crate::control::{ControlChannel, ControlError};
use crate::metrics::Metrics;

/// Where a node that has joined keeps the secret of its last good state.
const STATE_KEY_FILE: &str = "state.key";

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
    /// The secret that the last good state is kept under cannot be read or made.
    #[error(transparent)]
    StateKey(#[from] PrivateFileError),
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness: {0}")]
    Random(String),
}

/// What the node is admitted by.
pub struct Admission {
    /// Which node.
    pub node: NodeId,
    /// The way to the control plane.
    pub channel: ControlChannel,
    /// What node and control plane have in common, where the node has no certificate.
    pub token: Option<SharedToken>,
    /// What the node keeps its last good state under: the fleet token, or a secret of its own, since its certificate's key changes.
    pub state_secret: Arc<SecretBytes>,
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
                let state_secret = Arc::new(SecretBytes::new(token.expose().to_vec()));
                Ok(Self { node, channel, token: Some(SharedToken::of(token)), state_secret })
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
                let state_secret = Arc::new(own_secret(&config.data_dir)?);
                Ok(Self { node, channel, token: None, state_secret })
            }
        }
    }
}

/// The secret of this directory, which is drawn when it is first wanted.
fn own_secret(data_dir: &Path) -> Result<SecretBytes, AdmissionError> {
    let path = data_dir.join(STATE_KEY_FILE);
    if !path.exists() {
        let secret = Key256::generate().map_err(|error| AdmissionError::Random(error.to_string()))?;
        let text: Zeroizing<String> =
            Zeroizing::new(secret.expose().iter().map(|byte| format!("{byte:02x}")).collect());
        private_file::create_new(&path, text.as_bytes())?;
    }
    Ok(private_file::read(&path)?)
}

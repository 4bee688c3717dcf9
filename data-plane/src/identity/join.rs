//! Joining: a machine with a join token and the authority's fingerprint becomes a node.
//!
//! The key is made here and stays here. The control plane is known by the fingerprint before the token is sent, so that nobody else gets to see
//! it. What was written is a whole identity, or nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::enrollment_service_client::EnrollmentServiceClient;
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_runtime::tls::mutual;
use keyforge_runtime::tls::peer::Fingerprint;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::NodeId;
use keyforge_shared::secret::SecretBytes;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::transport::{Endpoint, Uri};
use zeroize::Zeroizing;

use super::{IDENTITY_FILE, Identity, IdentityError, NewKey};
use crate::audit::{NodeIdentity, SpoolError};
use crate::control::innermost;

const CONNECT: Duration = Duration::from_secs(10);
const CALL: Duration = Duration::from_secs(30);

/// Why a machine did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The URL is none to join at.
    #[error(
        "--control-plane: {0:?} is not a URL of a control plane's TLS address, such as https://control-plane.internal:7443"
    )]
    Url(String),
    /// The machine is a node already.
    #[error(
        "{0} holds an identity whose certificate is still good: this is {1} already; move the file away to join as another node"
    )]
    Joined(PathBuf, NodeId),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] PrivateFileError),
    /// What the directory says about its node cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// No key, or what came back is no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The control plane cannot be reached, or is another one.
    #[error("cannot connect to the control plane at {url}: {cause}")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        cause: String,
    },
    /// The control plane refused.
    #[error("the control plane refused: {0}")]
    Refused(String),
    /// The token cannot be sent.
    #[error("the join token is not text: use it as `keyforge node token create` printed it")]
    Token,
    /// The answer makes no sense.
    #[error("the control plane's answer is no identity under the authority with that fingerprint")]
    Answer,
}

/// What a machine joins with.
pub struct Join<'a> {
    /// The TLS address of the control plane, as `https://` URL.
    pub url: &'a str,
    /// The token.
    pub token: &'a SecretBytes,
    /// The fingerprint of the authority.
    pub authority: Fingerprint,
    /// Where the identity is kept: the node's data directory.
    pub directory: &'a Path,
    /// What time it is.
    pub now: Timestamp,
}

/// Joins, and keeps the identity. A directory that has a node's id already, such as that of a node without a certificate or of one whose
/// certificate has expired, keeps it.
///
/// # Errors
/// [`JoinError`]; nothing is written then.
pub async fn join(with: Join<'_>) -> Result<Identity, JoinError> {
    let uri: Uri = with.url.parse().map_err(|_| JoinError::Url(with.url.to_owned()))?;
    if uri.scheme_str() != Some("https") || uri.host().is_none() {
        return Err(JoinError::Url(with.url.to_owned()));
    }
    private_file::private_dir(with.directory)?;
    let known = known_node(&with)?;
    let NewKey { key, request } = NewKey::generate()?;
    let endpoint = Endpoint::from(uri).connect_timeout(CONNECT).timeout(CALL);
    let tls = mutual::client(with.authority, None, None).map_err(IdentityError::Tls)?;
    let channel = endpoint.connect_with_connector(mutual::connector(tls)).await;
    let channel = channel.map_err(|error| JoinError::Connect { url: with.url.to_owned(), cause: innermost(&error) })?;
    let token = Zeroizing::new(with.token.expose_str().ok_or(JoinError::Token)?.trim().to_owned());
    let request = proto::JoinRequest {
        token: token.to_string(),
        signing_request: request,
        node_id: known.map_or_else(Vec::new, |node| node.as_bytes().to_vec()),
    };
    let answer = EnrollmentServiceClient::new(channel).join(request).await;
    let answer = answer.map_err(|status| JoinError::Refused(status.message().to_owned()))?.into_inner();
    let authority = CertificateDer::from(answer.authority);
    let identity = Identity::new(key, CertificateDer::from(answer.certificate), authority).ok_or(JoinError::Answer)?;
    let as_asked = known.is_none_or(|known| known == identity.node());
    if identity.fingerprint() != with.authority || !as_asked {
        return Err(JoinError::Answer);
    }
    identity.client().map_err(IdentityError::Tls)?;
    identity.save(with.directory)?;
    NodeIdentity::keep(with.directory, identity.node())?;
    Ok(identity)
}

/// The node that the directory belongs to, if it does.
fn known_node(with: &Join<'_>) -> Result<Option<NodeId>, JoinError> {
    let path = with.directory.join(IDENTITY_FILE);
    if path.exists() {
        let found = Identity::load(with.directory)?;
        if found.not_after() > with.now {
            return Err(JoinError::Joined(path, found.node()));
        }
        return Ok(Some(found.node()));
    }
    Ok(NodeIdentity::load(with.directory)?)
}

//! Why a caller is no node, what it is told, and what is recorded.
//!
//! Callers are told what they can mend, and nothing that they did not know: not whose certificate would do, nor which ids and tokens exist.
//! The administrators' chain and the log hold the rest.

use keyforge_shared::id::{BootId, NodeId};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::store::StoreError;

/// Metadata of the refusal of a node that was removed: it is not to try again.
pub const REMOVED_KEY: &str = "keyforge-node";
/// Its value.
pub const REMOVED: &str = "removed";

/// Why a caller is not admitted. The texts are for the chain and the log.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// On a connection in the clear, without the fleet token.
    #[error("no fleet token, or a wrong one")]
    NoToken,
    /// Over TLS, without a certificate of a node of this deployment.
    #[error("no certificate of a node")]
    NoCertificate,
    /// The certificate has expired on the connection that it was shown on.
    #[error("the certificate of {0} has expired")]
    Expired(NodeId),
    /// No such node has joined.
    #[error("the certificate names {0}, which never joined")]
    Unknown(NodeId),
    /// The node was removed.
    #[error("{0} was removed")]
    Removed(NodeId),
    /// A certificate is to be renewed that was renewed before, by somebody who uses the new one.
    #[error("{0} has a newer certificate, which is in use: whoever asked holds a copy of its identity, or it does")]
    Copied(NodeId),
    /// The message names another node than the certificate.
    #[error("the certificate of {node} was used to speak for {claimed}")]
    OtherNode {
        /// Whose certificate it is.
        node: NodeId,
        /// Whom the message names.
        claimed: NodeId,
    },
    /// The fleet token was used to speak for a node that has a certificate.
    #[error("the fleet token was used to speak for {0}, which has joined and has a certificate of its own")]
    HasJoined(NodeId),
    /// The message names a boot of another node.
    #[error("{boot} is a life of {owner}, not of the caller")]
    OtherBoot {
        /// Which boot.
        boot: BootId,
        /// Whose it is.
        owner: NodeId,
    },
    /// It cannot be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Refusal {
    /// The word that metrics count it under.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::NoCertificate => "no_certificate",
            Self::Expired(_) => "expired",
            Self::Unknown(_) => "unknown",
            Self::Removed(_) => "removed",
            Self::Copied(_) => "copied",
            Self::OtherNode { .. } => "other_node",
            Self::HasJoined(_) => "has_joined",
            Self::OtherBoot { .. } => "other_boot",
            Self::Store(_) => "store",
        }
    }

    /// Which node it is about, for the entry.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Expired(node) | Self::Unknown(node) | Self::Removed(node) | Self::Copied(node) => node.to_string(),
            Self::OtherNode { node, .. } | Self::HasJoined(node) | Self::OtherBoot { owner: node, .. } => {
                node.to_string()
            }
            Self::NoToken | Self::NoCertificate | Self::Store(_) => String::new(),
        }
    }

    /// What the caller is told.
    #[must_use]
    pub fn status(&self) -> Status {
        let (code, text) = match self {
            Self::NoToken => (
                Code::Unauthenticated,
                "not a node of this fleet: send the metadata `authorization: Bearer kff_...` with the token in fleet.token of the control \
                 plane's data directory, or join and connect over TLS",
            ),
            Self::NoCertificate => (
                Code::Unauthenticated,
                "not a node of this fleet: over TLS nodes present the certificate that `keyforge node join` got for them",
            ),
            Self::Expired(_) => {
                (Code::Unauthenticated, "the certificate has expired: connect again with a new one, or join again")
            }
            Self::Unknown(_) => (Code::Unauthenticated, "no node that this control plane knows: join again"),
            Self::Removed(_) => (
                Code::PermissionDenied,
                "this node was removed: it can join again, as a new node, with a new join token",
            ),
            Self::Copied(_) => (
                Code::PermissionDenied,
                "this certificate was renewed before, and the new one is in use elsewhere: identity.pem was copied. Remove this node and let the \
                 machine join as a new one",
            ),
            Self::OtherNode { .. } | Self::HasJoined(_) | Self::OtherBoot { .. } => {
                (Code::PermissionDenied, "the message speaks for another node than its sender is known to be")
            }
            Self::Store(error) if error.is_passing() => (
                Code::Unavailable,
                "it cannot be found out now whether this is a node: the database is away; try again",
            ),
            Self::Store(error) => {
                tracing::error!(%error, "it cannot be found out whether a caller is a node");
                (Code::Internal, "it cannot be found out whether this is a node; the control plane's log says why")
            }
        };
        let mut status = Status::new(code, text);
        if matches!(self, Self::Removed(_)) {
            status.metadata_mut().insert(REMOVED_KEY, MetadataValue::from_static(REMOVED));
        }
        status
    }
}

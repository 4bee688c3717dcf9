//! What every record begins with that is about a node's life as a whole: where it stands and which life it means.

use crate::audit::canonical::{DecodeError, Reader, Writer};
use crate::id::{BootId, ChainId, DeploymentId, NodeId};

/// A node's life, and the chain that tells something of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The installation.
    pub deployment: DeploymentId,
    /// The chain that the record stands in.
    pub chain: ChainId,
    /// Whose life.
    pub node: NodeId,
    /// Which life.
    pub boot: BootId,
}

impl Subject {
    /// Appends the four ids.
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.raw(self.deployment.as_bytes()).raw(self.chain.as_bytes());
        writer.raw(self.node.as_bytes()).raw(self.boot.as_bytes());
    }

    /// Takes the four ids off the front.
    ///
    /// # Errors
    /// [`DecodeError::Short`] when fewer bytes are left.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            deployment: DeploymentId::from_bytes(reader.array()?),
            chain: ChainId::from_bytes(reader.array()?),
            node: NodeId::from_bytes(reader.array()?),
            boot: BootId::from_bytes(reader.array()?),
        })
    }
}

//! The record of something missing: a node's life ended without all of its records, and this says which: `KFG1`.

use crate::audit::canonical::{DecodeError, Reader, Writer};
use crate::clock::Timestamp;
use crate::id::{BootId, ChainId, DeploymentId, NodeId, RequestId};
use crate::money::NanoUsd;

/// First four bytes of every encoded gap record.
pub const MAGIC: [u8; 4] = *b"KFG1";

/// The record of records that never came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRecord {
    /// The installation.
    pub deployment: DeploymentId,
    /// The chain that has the gap.
    pub chain: ChainId,
    /// Whose records are missing.
    pub node: NodeId,
    /// Of which life.
    pub boot: BootId,
    /// The last record of that life that arrived; 0 when none did.
    pub last_seq: u64,
    /// When the gap was declared.
    pub at: Timestamp,
    /// What stays charged to this chain's key because of it.
    pub charged: NanoUsd,
    /// The requests that are known to be missing; may be empty when not even they are known.
    pub requests: Vec<RequestId>,
}

impl GapRecord {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_magic(&MAGIC);
        writer.raw(self.deployment.as_bytes()).raw(self.chain.as_bytes());
        writer.raw(self.node.as_bytes()).raw(self.boot.as_bytes()).u64(self.last_seq);
        writer.i64(self.at.nanos()).u64(self.charged.nanos());
        let count = u32::try_from(self.requests.len()).unwrap_or(u32::MAX);
        writer.u32(count);
        for request in self.requests.iter().take(count as usize) {
            writer.raw(request.as_bytes());
        }
        writer.finish()
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`DecodeError`] for every other sequence of bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::after_magic(bytes, &MAGIC)?;
        let mut record = Self {
            deployment: DeploymentId::from_bytes(reader.array()?),
            chain: ChainId::from_bytes(reader.array()?),
            node: NodeId::from_bytes(reader.array()?),
            boot: BootId::from_bytes(reader.array()?),
            last_seq: reader.u64()?,
            at: Timestamp::from_nanos(reader.i64()?),
            charged: NanoUsd::new(reader.u64()?),
            requests: Vec::new(),
        };
        for _ in 0..reader.u32()? {
            record.requests.push(RequestId::from_bytes(reader.array()?));
        }
        reader.finish()?;
        Ok(record)
    }
}

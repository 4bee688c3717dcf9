//! The record of one act of administration, allowed or denied: `KFA1`.

use crate::audit::canonical::{DecodeError, Reader, Writer};
use crate::clock::Timestamp;
use crate::id::{ChainId, DeploymentId, OperatorId, RequestId};

/// First four bytes of every encoded administration record.
pub const MAGIC: [u8; 4] = *b"KFA1";

/// How an act of administration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdminOutcome {
    /// It was carried out.
    Done,
    /// The caller could not prove who they are, or may not do this.
    Denied,
    /// It was refused for what it said, or failed.
    Failed,
    /// Whether it was carried out was not learned: the database went away while it was committed. If it was, an entry before this one says so.
    Unknown,
}

impl AdminOutcome {
    const fn code(self) -> u8 {
        match self {
            Self::Done => 1,
            Self::Denied => 2,
            Self::Failed => 3,
            Self::Unknown => 4,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        [Self::Done, Self::Denied, Self::Failed, Self::Unknown]
            .into_iter()
            .find(|outcome| outcome.code() == code)
            .ok_or(DecodeError::Value("outcome"))
    }

    /// The word used in the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// The record of one act of administration. It never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminRecord {
    /// The installation.
    pub deployment: DeploymentId,
    /// The administrators' chain.
    pub chain: ChainId,
    /// This call.
    pub request: RequestId,
    /// Who called; all zero when unknown.
    pub operator: OperatorId,
    /// When.
    pub at: Timestamp,
    /// Where from: the peer's network address.
    pub peer: String,
    /// What was called: service and method, such as `keys/Revoke`.
    pub method: String,
    /// What it was about: an id or a name; empty for lists.
    pub target: String,
    /// How it ended.
    pub outcome: AdminOutcome,
    /// What changed, before and after, or why it failed; without secrets.
    pub detail: String,
}

impl AdminRecord {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_magic(&MAGIC);
        writer.raw(self.deployment.as_bytes()).raw(self.chain.as_bytes());
        writer.raw(self.request.as_bytes()).raw(self.operator.as_bytes()).i64(self.at.nanos());
        writer.str(&self.peer).str(&self.method).str(&self.target).u8(self.outcome.code()).str(&self.detail);
        writer.finish()
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`DecodeError`] for every other sequence of bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::after_magic(bytes, &MAGIC)?;
        let record = Self {
            deployment: DeploymentId::from_bytes(reader.array()?),
            chain: ChainId::from_bytes(reader.array()?),
            request: RequestId::from_bytes(reader.array()?),
            operator: OperatorId::from_bytes(reader.array()?),
            at: Timestamp::from_nanos(reader.i64()?),
            peer: reader.str("peer")?,
            method: reader.str("method")?,
            target: reader.str("target")?,
            outcome: AdminOutcome::from_code(reader.u8()?)?,
            detail: reader.str("detail")?,
        };
        reader.finish()?;
        Ok(record)
    }
}

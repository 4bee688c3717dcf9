//! One record of any kind, told apart by its first four bytes. Old kinds stay readable for ever.

use crate::audit::admin::{self, AdminRecord};
use crate::audit::canonical::DecodeError;
use crate::audit::gap::{self, GapRecord};
use crate::audit::request::{self, RequestRecord};
use crate::audit::unchained::{self, UnchainedRecord};
use crate::id::ChainId;

/// What an entry can record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An attempt at a request.
    Request(Box<RequestRecord>),
    /// An act of administration.
    Admin(AdminRecord),
    /// Something missing.
    Gap(GapRecord),
    /// What is in no virtual key's chain.
    Unchained(UnchainedRecord),
}

impl Record {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Request(record) => record.encode(),
            Self::Admin(record) => record.encode(),
            Self::Gap(record) => record.encode(),
            Self::Unchained(record) => record.encode(),
        }
    }

    /// Reads the canonical bytes of any kind.
    ///
    /// # Errors
    /// [`DecodeError`] for every other sequence of bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.first_chunk::<4>() {
            Some(&request::MAGIC) => RequestRecord::decode(bytes).map(|record| Self::Request(Box::new(record))),
            Some(&admin::MAGIC) => AdminRecord::decode(bytes).map(Self::Admin),
            Some(&gap::MAGIC) => GapRecord::decode(bytes).map(Self::Gap),
            Some(&unchained::MAGIC) => UnchainedRecord::decode(bytes).map(Self::Unchained),
            _ => Err(DecodeError::Magic),
        }
    }

    /// The chain it belongs to.
    #[must_use]
    pub const fn chain(&self) -> ChainId {
        match self {
            Self::Request(record) => record.chain,
            Self::Admin(record) => record.chain,
            Self::Gap(record) => record.subject.chain,
            Self::Unchained(record) => record.subject.chain,
        }
    }
}

//! The record of numbers of a node's life that are in no virtual key's chain, and of what came or did not come under them: `KFU1`.
//!
//! It stands in the administrators' chain. Nothing that a node ships is passed over without one.

use crate::audit::canonical::{DecodeError, Reader, Writer};
use crate::audit::subject::Subject;
use crate::clock::Timestamp;
use crate::id::{ChainId, RequestId};
use crate::money::NanoUsd;

/// First four bytes of every encoded unchained record.
pub const MAGIC: [u8; 4] = *b"KFU1";

/// One request record that no virtual key's chain can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unchained {
    /// Its number in its life.
    pub node_seq: u64,
    /// The chain that it names.
    pub chain: ChainId,
    /// The request.
    pub request: RequestId,
    /// What it cost.
    pub cost: NanoUsd,
    /// SHA-256 of its canonical bytes.
    pub digest: [u8; 32],
}

impl Unchained {
    fn write(&self, writer: &mut Writer) {
        writer.u64(self.node_seq).raw(self.chain.as_bytes()).raw(self.request.as_bytes());
        writer.u64(self.cost.nanos()).raw(&self.digest);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node_seq: reader.u64()?,
            chain: ChainId::from_bytes(reader.array()?),
            request: RequestId::from_bytes(reader.array()?),
            cost: NanoUsd::new(reader.u64()?),
            digest: reader.array()?,
        })
    }
}

/// The record of what is in no virtual key's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnchainedRecord {
    /// Whose records they are, and the administrators' chain.
    pub subject: Subject,
    /// When they were passed over.
    pub at: Timestamp,
    /// The first number whose record came before, was acknowledged, and is at neither side any more; 0 when there is none.
    pub lost_from: u64,
    /// The last of these numbers; 0 when there is none.
    pub lost_through: u64,
    /// The records that name no virtual key's chain, by rising number.
    pub records: Vec<Unchained>,
}

impl UnchainedRecord {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_magic(&MAGIC);
        self.subject.write(&mut writer);
        writer.i64(self.at.nanos()).u64(self.lost_from).u64(self.lost_through);
        writer.list(&self.records, |writer, one| one.write(writer));
        writer.finish()
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`DecodeError`] for every other sequence of bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::after_magic(bytes, &MAGIC)?;
        let record = Self {
            subject: Subject::read(&mut reader)?,
            at: Timestamp::from_nanos(reader.i64()?),
            lost_from: reader.u64()?,
            lost_through: reader.u64()?,
            records: reader.list(Unchained::read)?,
        };
        reader.finish()?;
        Ok(record)
    }
}

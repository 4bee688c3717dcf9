//! The record of something missing: a node's life ended without all of its records, and this says which: `KFG1`.

use crate::audit::canonical::{DecodeError, Reader, Writer};
use crate::audit::subject::Subject;
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::money::NanoUsd;

/// First four bytes of every encoded gap record.
pub const MAGIC: [u8; 4] = *b"KFG1";

/// The record of records that never came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRecord {
    /// Whose records are missing, and the chain that has the gap.
    pub subject: Subject,
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
        self.subject.write(&mut writer);
        writer.u64(self.last_seq).i64(self.at.nanos()).u64(self.charged.nanos());
        writer.list(&self.requests, |writer, request| {
            writer.raw(request.as_bytes());
        });
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
            last_seq: reader.u64()?,
            at: Timestamp::from_nanos(reader.i64()?),
            charged: NanoUsd::new(reader.u64()?),
            requests: reader.list(|reader| reader.array().map(RequestId::from_bytes))?,
        };
        reader.finish()?;
        Ok(record)
    }
}

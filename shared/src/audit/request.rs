//! The record of one attempt at a request, as the node that served or refused it writes it: `KFN1`.

use crate::audit::canonical::{DecodeError, Reader, Writer};
use crate::clock::Timestamp;
use crate::id::{BootId, ChainId, CredentialId, DeploymentId, NodeId, RequestId};
use crate::limit::{CounterId, Dimension, Scope};
use crate::money::NanoUsd;
use crate::period::Window;

/// First four bytes of every encoded request record.
pub const MAGIC: [u8; 4] = *b"KFN1";

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was admitted and its cost is settled.
    Completed,
    /// It was refused before anything was dispatched; it cost nothing.
    Refused,
    /// It was admitted and its node stopped before the cost was known; it is charged at its bound.
    Unresolved,
}

impl Outcome {
    const fn code(self) -> u8 {
        match self {
            Self::Completed => 1,
            Self::Refused => 2,
            Self::Unresolved => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        [Self::Completed, Self::Refused, Self::Unresolved]
            .into_iter()
            .find(|outcome| outcome.code() == code)
            .ok_or(DecodeError::Value("type"))
    }

    /// The word used in the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::Unresolved => "unresolved",
        }
    }
}

/// Facts about an attempt that are true or false, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// The answer was streamed.
    pub const STREAMED: Self = Self(1);
    /// Token counts are the provider's own; otherwise the cost is the bound.
    pub const USAGE_KNOWN: Self = Self(1 << 1);
    /// The client hung up before the end.
    pub const CLIENT_GONE: Self = Self(1 << 2);
    /// The provider's answer broke off, never came, or could not be read.
    pub const UPSTREAM_BROKEN: Self = Self(1 << 3);
    /// The output limit was lowered to what the key could pay for.
    pub const CLAMPED: Self = Self(1 << 4);
    /// The cost exceeded the bound; the key was paused.
    pub const BOUND_EXCEEDED: Self = Self(1 << 5);
    /// The key was revoked while the answer was streaming, and the stream was cut.
    pub const REVOKED: Self = Self(1 << 6);
    /// The digests are those of the bodies; otherwise they are zero.
    pub const DIGESTS: Self = Self(1 << 7);
    /// The provider refused or failed and nothing was billed.
    pub const NOT_BILLED: Self = Self(1 << 8);

    /// It took nothing from request quotas, because nothing was dispatched, or because another attempt at the same request counts.
    pub const NOT_COUNTED: Self = Self(1 << 9);
    /// The bits from 16 on say which limits held the attempt back.
    pub const LIMITS_TOLD: Self = Self(1 << 15);
    /// That, and all bits from 16 on.
    const LIMITS: Self = Self(u32::MAX << 15);

    /// Both sets of facts.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Says under which limits the attempt was admitted: those of these counters, whatever their periods are.
    #[must_use]
    pub fn under<'a>(self, counters: impl IntoIterator<Item = &'a CounterId>) -> Self {
        counters.into_iter().fold(self.with(Self::LIMITS_TOLD), |flags, counter| flags.with(Self::limit_of(counter)))
    }

    /// Whether the attempt is in the counter in which it was reserved, as far as the record tells: older ones do not.
    #[must_use]
    pub const fn is_under(self, counter: &CounterId) -> bool {
        !self.has(Self::LIMITS_TOLD) || self.has(Self::limit_of(counter))
    }

    /// What they say of limits, and nothing else.
    #[must_use]
    pub const fn limits(self) -> Self {
        Self(self.0 & Self::LIMITS.0)
    }

    /// Bit 16 for the key's own requests per day; days, weeks, months, totals follow each other, then spend follows requests, then the workspace the key.
    const fn limit_of(counter: &CounterId) -> Self {
        let scope = match counter.scope {
            Scope::Key => 0,
            Scope::Workspace => 8,
        };
        let dimension = match counter.dimension {
            Dimension::Requests => 0,
            Dimension::Spend => 4,
        };
        let window = match counter.window {
            Window::Day => 0,
            Window::Week => 1,
            Window::Month => 2,
            Window::Total => 3,
        };
        Self(1 << (16 + scope + dimension + window))
    }

    /// Whether all facts of `other` hold.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a private value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateTag(pub u16);

impl PrivateTag {
    /// The code of the rejection that the client got, as text.
    pub const REJECTION: Self = Self(1);
    /// Reasoning tokens, contained in the output tokens; 8 bytes, big-endian.
    pub const REASONING_TOKENS: Self = Self(2);
    /// Audio tokens contained in the input tokens; 8 bytes, big-endian.
    pub const INPUT_AUDIO_TOKENS: Self = Self(3);
    /// Audio tokens contained in the output tokens; 8 bytes, big-endian.
    pub const OUTPUT_AUDIO_TOKENS: Self = Self(4);
    /// How many refusals of this key before this one were not recorded; 8 bytes, big-endian.
    pub const REFUSALS_LEFT_OUT: Self = Self(6);
    /// The model that the provider says answered, as text.
    pub const ANSWERED_MODEL: Self = Self(5);
}

/// A value that public views show only as a commitment, which is why it carries a salt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateValue {
    /// What it is.
    pub tag: PrivateTag,
    /// Random, so that the commitment to a guessable value cannot be guessed.
    pub salt: [u8; 16],
    /// The value itself.
    pub value: Vec<u8>,
}

/// The record of one attempt. See `docs/audit-format.md` for the meaning of each byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// The installation.
    pub deployment: DeploymentId,
    /// The virtual key's chain.
    pub chain: ChainId,
    /// How it ended.
    pub outcome: Outcome,
    /// Which node wrote this.
    pub node: NodeId,
    /// In which life.
    pub boot: BootId,
    /// Number of this record in that life, from 1 without gaps.
    pub node_seq: u64,
    /// The request.
    pub request: RequestId,
    /// Which attempt at it, from 1; 0 when it was refused before any.
    pub attempt: u16,
    /// Date of the reservation in the calendar of its key, in days since 1970-01-01; every limit's period is a run of such days.
    pub period: u32,
    /// The ledger epoch of the reservation; 0 when no limited counter was touched.
    pub quota_epoch: u32,
    /// When the record was written, by the node's wall clock.
    pub t_node: Timestamp,
    /// When it was written, in nanoseconds of the node's monotonic clock.
    pub t_mono_ns: u64,
    /// The catalogue model asked for; empty when none could be read.
    pub model: String,
    /// The credential used; all zero when none was.
    pub credential: CredentialId,
    /// The HTTP status that the client got.
    pub status: u16,
    /// Fresh input tokens.
    pub input_tokens: u64,
    /// Output tokens, reasoning included.
    pub output_tokens: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to the provider's cache.
    pub cache_write_tokens: u64,
    /// What was charged.
    pub cost: NanoUsd,
    /// What was reserved.
    pub bound: NanoUsd,
    /// Further facts.
    pub flags: Flags,
    /// SHA-256 of the client's request body, or zero.
    pub request_digest: [u8; 32],
    /// SHA-256 of the response body as the provider sent it, or zero.
    pub response_digest: [u8; 32],
    /// Values that public views hide, at most 65,535.
    pub private: Vec<PrivateValue>,
}

impl RequestRecord {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_magic(&MAGIC);
        writer.raw(self.deployment.as_bytes()).raw(self.chain.as_bytes()).u8(self.outcome.code());
        writer.raw(self.node.as_bytes()).raw(self.boot.as_bytes()).u64(self.node_seq);
        writer.raw(self.request.as_bytes()).u16(self.attempt).u32(self.period).u32(self.quota_epoch);
        writer.i64(self.t_node.nanos()).u64(self.t_mono_ns).str(&self.model);
        writer.raw(self.credential.as_bytes()).u16(self.status);
        writer.u64(self.input_tokens).u64(self.output_tokens);
        writer.u64(self.cache_read_tokens).u64(self.cache_write_tokens);
        writer.u64(self.cost.nanos()).u64(self.bound.nanos()).u32(self.flags.0);
        writer.raw(&self.request_digest).raw(&self.response_digest);
        let count = u16::try_from(self.private.len()).unwrap_or(u16::MAX);
        writer.u16(count);
        for value in self.private.iter().take(usize::from(count)) {
            writer.u16(value.tag.0).raw(&value.salt).bytes(&value.value);
        }
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
            outcome: Outcome::from_code(reader.u8()?)?,
            node: NodeId::from_bytes(reader.array()?),
            boot: BootId::from_bytes(reader.array()?),
            node_seq: reader.u64()?,
            request: RequestId::from_bytes(reader.array()?),
            attempt: reader.u16()?,
            period: reader.u32()?,
            quota_epoch: reader.u32()?,
            t_node: Timestamp::from_nanos(reader.i64()?),
            t_mono_ns: reader.u64()?,
            model: reader.str("model")?,
            credential: CredentialId::from_bytes(reader.array()?),
            status: reader.u16()?,
            input_tokens: reader.u64()?,
            output_tokens: reader.u64()?,
            cache_read_tokens: reader.u64()?,
            cache_write_tokens: reader.u64()?,
            cost: NanoUsd::new(reader.u64()?),
            bound: NanoUsd::new(reader.u64()?),
            flags: Flags(reader.u32()?),
            request_digest: reader.array()?,
            response_digest: reader.array()?,
            private: read_private(&mut reader)?,
        };
        reader.finish()?;
        Ok(record)
    }

    /// Whether it took one unit from the request quotas of its key.
    #[must_use]
    pub fn takes_from_request_quota(&self) -> bool {
        self.outcome != Outcome::Refused && !self.flags.has(Flags::NOT_COUNTED)
    }

    /// The private value with `tag`, if there is one.
    #[must_use]
    pub fn private_value(&self, tag: PrivateTag) -> Option<&[u8]> {
        self.private.iter().find(|value| value.tag == tag).map(|value| value.value.as_slice())
    }

    /// The private value with `tag` as a number.
    #[must_use]
    pub fn private_u64(&self, tag: PrivateTag) -> Option<u64> {
        Some(u64::from_be_bytes(self.private_value(tag)?.try_into().ok()?))
    }
}

fn read_private(reader: &mut Reader<'_>) -> Result<Vec<PrivateValue>, DecodeError> {
    let count = reader.u16()?;
    (0..count)
        .map(|_| {
            let (tag, salt) = (PrivateTag(reader.u16()?), reader.array()?);
            Ok(PrivateValue { tag, salt, value: reader.bytes()?.to_vec() })
        })
        .collect()
}

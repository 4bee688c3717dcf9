//! An intent: what is written before an attempt is dispatched, enough to charge it at its bound should the process die, in the ledger and in the
//! counter store.
//!
//! Intents begin with `KFI2`. Those of earlier versions begin with `KFI1` and do not say whether a store outside of the process holds anything
//! for them: it is asked.

use keyforge_shared::audit::canonical::{DecodeError, Reader, Writer};
use keyforge_shared::audit::request::{Flags, Outcome, RequestRecord};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, CredentialId, KeyId, RequestId};
use keyforge_shared::money::NanoUsd;

use crate::audit::Identity;

const MAGIC: [u8; 4] = *b"KFI2";
const MAGIC_WITHOUT_HOLD: [u8; 4] = *b"KFI1";

/// An attempt that is about to be dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// The request.
    pub request: RequestId,
    /// Which attempt at it, from 1.
    pub attempt: u16,
    /// The virtual key's chain.
    pub chain: ChainId,
    /// The virtual key.
    pub key: KeyId,
    /// The catalogue model asked for.
    pub model: String,
    /// The credential that will be used.
    pub credential: CredentialId,
    /// Date of the reservation in the calendar of its key, in days since 1970-01-01.
    pub period: u32,
    /// The ledger epoch of the reservation; 0 when no limited counter was touched.
    pub quota_epoch: u32,
    /// What was reserved, in nano-dollars: the charge if the end of the attempt is never known.
    pub bound: NanoUsd,
    /// Facts known before dispatch.
    pub flags: Flags,
    /// When it was admitted, by the node's wall clock.
    pub t_node: Timestamp,
    /// Whether a counter store that outlives this process holds something for it, under the name that request and attempt make: amounts of the
    /// counters of `quota_epoch`, tokens of the minute, a place among the requests that run. The store knows which and how much.
    pub holds: bool,
}

impl Intent {
    /// Whose counters in a store outside of this process must hear how it ended.
    pub(super) fn owner(&self) -> Option<KeyId> {
        self.holds.then_some(self.key)
    }

    /// What tells attempts apart.
    pub(super) const fn attempt_key(&self) -> AttemptKey {
        (self.request, self.attempt)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_magic(&MAGIC);
        writer.raw(self.request.as_bytes()).u16(self.attempt).raw(self.chain.as_bytes());
        writer.str(self.key.as_str()).str(&self.model).raw(self.credential.as_bytes());
        writer.u32(self.period).u32(self.quota_epoch).u64(self.bound.nanos());
        writer.u32(self.flags.0).i64(self.t_node.nanos()).u8(u8::from(self.holds));
        writer.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let says_hold = !bytes.starts_with(&MAGIC_WITHOUT_HOLD);
        let mut reader = Reader::after_magic(bytes, if says_hold { &MAGIC } else { &MAGIC_WITHOUT_HOLD })?;
        let intent = Self {
            request: RequestId::from_bytes(reader.array()?),
            attempt: reader.u16()?,
            chain: ChainId::from_bytes(reader.array()?),
            key: KeyId::from_ascii(reader.bytes()?).map_err(|_| DecodeError::Value("key"))?,
            model: reader.str("model")?,
            credential: CredentialId::from_bytes(reader.array()?),
            period: reader.u32()?,
            quota_epoch: reader.u32()?,
            bound: NanoUsd::new(reader.u64()?),
            flags: Flags(reader.u32()?),
            t_node: Timestamp::from_nanos(reader.i64()?),
            holds: match if says_hold { reader.u8()? } else { 1 } {
                0 => false,
                1 => true,
                _ => return Err(DecodeError::Value("holds")),
            },
        };
        reader.finish()?;
        Ok(intent)
    }

    /// The record of an attempt whose end nobody saw: charged at its bound.
    ///
    /// `t_mono_ns` is 0, because the monotonic clock of that life is gone.
    pub(super) fn unresolved(self, identity: &Identity, node_seq: u64, now: Timestamp) -> RequestRecord {
        RequestRecord {
            deployment: identity.deployment,
            chain: self.chain,
            outcome: Outcome::Unresolved,
            node: identity.node,
            boot: identity.boot,
            node_seq,
            request: self.request,
            attempt: self.attempt,
            period: self.period,
            quota_epoch: self.quota_epoch,
            t_node: now.max(self.t_node),
            t_mono_ns: 0,
            model: self.model,
            credential: self.credential,
            status: 0,
            input_tokens: 0,
            output_tokens: 0,
            cache_read_tokens: 0,
            cache_write_tokens: 0,
            cost: self.bound,
            bound: self.bound,
            flags: self.flags,
            request_digest: [0; 32],
            response_digest: [0; 32],
            private: Vec::new(),
        }
    }
}

/// Request and attempt: an intent and the record that completes it share it.
pub(super) type AttemptKey = (RequestId, u16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fixture;

    #[test]
    fn intent_round_trips_and_every_other_length_is_refused() {
        let intent = fixture::intent(3);
        let mut bytes = intent.encode();
        assert_eq!(Intent::decode(&bytes).unwrap(), intent);
        for length in 0..bytes.len() {
            assert!(Intent::decode(&bytes[..length]).is_err(), "{length}");
        }
        bytes.push(0);
        assert_eq!(Intent::decode(&bytes), Err(DecodeError::Trailing));
    }

    #[test]
    fn intent_of_an_earlier_version_is_read_and_its_hold_is_asked_for() {
        let intent = Intent { holds: true, ..fixture::intent(3) };
        let bytes = fixture::without_hold(&intent);
        assert_eq!(Intent::decode(&bytes).unwrap(), intent);
        for length in 0..bytes.len() {
            assert!(Intent::decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn attempt_whose_end_nobody_saw_costs_its_bound() {
        let intent = fixture::intent(3);
        let record = intent.clone().unresolved(&fixture::identity(1), 9, Timestamp::from_millis(1));
        assert_eq!((record.outcome, record.cost, record.bound), (Outcome::Unresolved, intent.bound, intent.bound));
        assert_eq!((record.flags, record.status, record.node_seq), (intent.flags, 0, 9));
        assert_eq!(record.t_node, intent.t_node, "a clock that was set back must not make it older than its intent");
    }
}

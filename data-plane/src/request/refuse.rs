//! What is recorded of requests that were refused before anything was dispatched, or of which no attempt counts.
//!
//! Refusals cost nothing, so whoever holds a key, even a dead one, can cause as many as they like. They are therefore recorded best effort: at most a
//! burst and then one a second for each key, and each record says how many before it were left out.

use hashbrown::HashMap;
use keyforge_providers::redact;
use keyforge_shared::audit::request::{Flags, Outcome, PrivateTag, RequestRecord};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{CredentialId, KeyId};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::state::KeyRecord;
use parking_lot::Mutex;

use super::receive::Head;
use super::record::private_value;
use crate::plane::Plane;
use crate::rejection::Rejection;

/// Records that a key can have at once, and that come back at one a second.
const BURST: i64 = 256;
/// Keys remembered; beyond it those are forgotten that have their whole burst again.
const MOST_KEYS: usize = 10_000;
const SECOND: i64 = 1_000_000_000;

#[derive(Default)]
struct Allowance {
    /// The moment up to which records are used up, in nanoseconds: each takes a second from it.
    used_up_to: i64,
    left_out: u64,
}

/// Which refusals are recorded.
#[derive(Default)]
pub struct Refusals(Mutex<HashMap<KeyId, Allowance>>);

impl Refusals {
    /// Whether one more of `key` is recorded, and how many were left out before it.
    fn admit(&self, key: KeyId, now: Timestamp) -> Option<u64> {
        let mut keys = self.0.lock();
        let oldest = now.nanos().saturating_sub(BURST * SECOND);
        if keys.len() >= MOST_KEYS {
            keys.retain(|_, allowance| allowance.used_up_to > oldest || allowance.left_out > 0);
        }
        let allowance = keys.entry(key).or_default();
        allowance.used_up_to = allowance.used_up_to.max(oldest);
        if allowance.used_up_to + SECOND > now.nanos() {
            allowance.left_out = allowance.left_out.saturating_add(1);
            return None;
        }
        allowance.used_up_to += SECOND;
        Some(std::mem::take(&mut allowance.left_out))
    }
}

/// Records that a known key's request was refused. Best effort: refusals never crowd out what was charged.
pub fn refuse(plane: &Plane, key: &KeyRecord, head: &Head, model: String, rejection: &Rejection) {
    let now = plane.clock.now();
    let Some(left_out) = plane.refusals.admit(key.id, now) else {
        return plane.metrics.refusal_dropped();
    };
    let mut private: Vec<_> =
        private_value(PrivateTag::REJECTION, rejection.code().as_bytes().to_vec()).into_iter().collect();
    if left_out > 0 {
        private.extend(private_value(PrivateTag::REFUSALS_LEFT_OUT, left_out.to_be_bytes().to_vec()));
    }
    let record = RequestRecord {
        deployment: plane.identity.deployment,
        chain: key.chain,
        outcome: Outcome::Refused,
        node: plane.identity.node,
        boot: plane.identity.boot,
        node_seq: 0,
        request: head.id,
        attempt: 0,
        period: key.policy.calendar().day_at(now).number(),
        quota_epoch: 0,
        t_node: now,
        t_mono_ns: plane.clock.monotonic_nanos(),
        // Whatever a client writes there; a client that mixes up its settings writes a key.
        model: redact::message(&model.chars().take(128).collect::<String>()),
        credential: CredentialId::from_bytes([0; 16]),
        status: rejection.status().as_u16(),
        input_tokens: 0,
        output_tokens: 0,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        cost: NanoUsd::ZERO,
        bound: NanoUsd::ZERO,
        flags: Flags::NOT_BILLED.with(Flags::NOT_COUNTED),
        request_digest: [0; 32],
        response_digest: [0; 32],
        private,
    };
    if plane.spool.refusal(record).is_none() {
        plane.metrics.refusal_dropped();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_recorded_then_one_a_second_and_the_rest_is_counted() {
        let (refusals, key) = (Refusals::default(), KeyId::from_ascii(b"aaaaaaaaaaaa").unwrap());
        let start = Timestamp::from_millis(1_800_000_000_000);
        let admitted = (0..1_000).filter(|_| refusals.admit(key, start).is_some()).count();
        assert_eq!(admitted, 256);
        let later = start.saturating_add(Duration::from_secs(2));
        assert_eq!(refusals.admit(key, later), Some(744));
        assert_eq!(refusals.admit(key, later), Some(0));
        assert_eq!(refusals.admit(key, later), None);
        assert_eq!(refusals.admit(KeyId::from_ascii(b"bbbbbbbbbbbb").unwrap(), later), Some(0));
    }
}

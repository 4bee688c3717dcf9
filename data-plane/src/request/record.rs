//! The record of an attempt that ended.

use keyforge_shared::audit::request::{Flags, Outcome, PrivateTag, PrivateValue, RequestRecord};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::usage::Usage;

use super::settle::{Ending, Open};
use crate::plane::Plane;

/// The record of `open`, which ended like this. The spool gives it its number.
pub(super) fn record(
    plane: &Plane,
    open: &Open,
    ending: &Ending,
    usage: Usage,
    (cost, flags): (NanoUsd, Flags),
) -> RequestRecord {
    let mut private = Vec::new();
    let mut add = |tag, value: Vec<u8>| private.extend(private_value(tag, value));
    for (tag, tokens) in [
        (PrivateTag::REASONING_TOKENS, usage.reasoning),
        (PrivateTag::INPUT_AUDIO_TOKENS, usage.input_audio),
        (PrivateTag::OUTPUT_AUDIO_TOKENS, usage.output_audio),
    ] {
        if tokens > 0 {
            add(tag, tokens.to_be_bytes().to_vec());
        }
    }
    if let Some(answered) = &ending.answered_model {
        add(PrivateTag::ANSWERED_MODEL, answered.as_bytes().to_vec());
    }
    if let Some(code) = ending.rejection {
        add(PrivateTag::REJECTION, code.as_bytes().to_vec());
    }
    let digests = open.request_digest.zip(ending.response_digest.or(Some([0; 32])));
    RequestRecord {
        deployment: plane.identity.deployment,
        chain: open.permit.key().chain,
        outcome: Outcome::Completed,
        node: plane.identity.node,
        boot: plane.identity.boot,
        node_seq: 0,
        request: open.id.request,
        attempt: open.id.attempt,
        period: open.permit.day().number(),
        quota_epoch: open.hold.epoch(),
        t_node: plane.clock.now(),
        t_mono_ns: plane.clock.monotonic_nanos(),
        model: open.permit.model().name.clone(),
        credential: open.intent.credential,
        status: ending.status,
        input_tokens: usage.input.saturating_add(usage.input_audio),
        output_tokens: usage.output_total(),
        cache_read_tokens: usage.cache_read,
        cache_write_tokens: usage.cache_write_5m.saturating_add(usage.cache_write_1h),
        cost,
        bound: open.intent.bound,
        flags: if digests.is_some() { flags.with(Flags::DIGESTS) } else { flags },
        request_digest: digests.map_or([0; 32], |(request, _)| request),
        response_digest: digests.map_or([0; 32], |(_, response)| response),
        private,
    }
}

/// A private value with a fresh salt; left out when there is no randomness, since without a salt it would not be private.
pub(super) fn private_value(tag: PrivateTag, value: Vec<u8>) -> Option<PrivateValue> {
    Some(PrivateValue { tag, salt: keyforge_shared::random::bytes().ok()?, value })
}

//! What recorded requests cost, held against the most that they can cost: the counts as they are read, at prices that tell them apart.

use bytes::Bytes;
use keyforge_providers::bound::InputTokens;
use keyforge_providers::exchange::{self, Destination, Stamp};
use keyforge_providers::openai::request::ChatRequest;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_providers::sse::Splitter;
use keyforge_providers::translate::Target;
use keyforge_shared::catalog::{LongContext, Most, Prices, Rates};
use keyforge_shared::money::PicoUsdPerToken;
use keyforge_shared::provider::Api;
use keyforge_shared::usage::{ServiceTier, Usage};
use serde_json::Value;

use crate::recorded::Exchange;

/// Every kind of token has another price.
fn prices() -> Prices {
    let rates = |input: u64| {
        let times = |tenths: u64| PicoUsdPerToken(input * tenths / 10);
        Rates {
            input: times(10),
            output: times(50),
            cache_read: Some(times(1)),
            cache_write_5m: Some(times(12)),
            cache_write_1h: Some(times(20)),
            input_audio: Some(times(130)),
            output_audio: Some(times(260)),
            reasoning: Some(times(60)),
        }
    };
    let long_context = vec![LongContext { above_input_tokens: 2_000, rates: rates(4_000_000) }];
    Prices { standard: rates(2_000_000), priority: Some(rates(3_500_000)), flex: Some(rates(1_000_000)), long_context }
}

/// Asserts that a recorded request, read as the chat completion `chat`, cost no more than its bound of input allows, at every class of
/// service. Nothing is asserted of one whose counts are not known. Returns whether they are.
pub fn assert_paid_for(api: Api, recorded: &Exchange, request: &ChatRequest, chat: &Value, bound: InputTokens) -> bool {
    let target = Target { model: &request.model, limit: None, model_limit: None };
    let destination = Destination { api, target, limit_field: MaxTokensField::Current, usage_option: true };
    let sent = exchange::chat(request, Bytes::from(chat.to_string()), &destination, Stamp::default());
    let Some(usage) = sent.ok().and_then(|(_, reader)| usage(&reader, recorded)) else { return false };
    let most = Most {
        input: bound.text,
        input_audio: bound.audio,
        output: usage.output_total(),
        spoken: usage.output_audio > 0,
    };
    let prices = prices();
    for tier in [ServiceTier::Standard, ServiceTier::Priority, ServiceTier::Flex] {
        let (cost, most) = (prices.cost(&usage, tier), prices.bound(&most, &[tier]));
        assert!(cost <= most, "{}: {cost} > {most} at {tier:?}, {usage:?}", recorded.name);
    }
    true
}

fn usage(reader: &exchange::Exchange, recorded: &Exchange) -> Option<Usage> {
    let body = Bytes::from(recorded.response.clone());
    if !recorded.is_stream() {
        return reader.answer(body).ok()?.usage;
    }
    let (mut stream, mut splitter) = (reader.stream(), Splitter::new(1 << 24));
    splitter.feed(body);
    while let Some(Ok(event)) = splitter.next_event() {
        drop(stream.on_event(&event));
    }
    if let Some(event) = splitter.finish() {
        drop(stream.on_event(&event));
    }
    drop(stream.on_end());
    stream.usage()
}

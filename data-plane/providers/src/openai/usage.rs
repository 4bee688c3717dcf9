//! Reads a `usage` object into disjoint counts.
//!
//! What cannot be trusted in full is not read at all: a missing, negative, fractional or absurd count makes the whole usage
//! unknown, never zero, so that the request stays charged at its bound.

use keyforge_shared::usage::{ServiceTier, Usage};
use serde::{Deserialize, Serialize};

use crate::credible::MAX_COUNT;

/// The object as hosts of this dialect write it. A present member of the wrong type fails the whole.
#[derive(Deserialize)]
struct Wire {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name of cached tokens.
    prompt_cache_hit_tokens: Option<u64>,
    /// The name of cached tokens at hosts that give no details.
    cached_tokens: Option<u64>,
    /// Perplexity's thoughts, which it bills beside the completion and counts in no total.
    reasoning_tokens: Option<u64>,
    /// Only Perplexity says it.
    num_search_queries: Option<u64>,
}

#[derive(Default, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    cache_creation_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
    audio_tokens: Option<u64>,
}

/// Reads the JSON text of a `usage` object; `None` if it is not one or cannot be trusted.
///
/// `prompt_tokens` and `completion_tokens` are the totals; their details are parts of them. Details that exceed their total
/// are cut in this order of precedence, dearest first: audio, cache writes, cache reads; audio, reasoning. Rejected
/// prediction tokens are part of the completion and billed as output. Some hosts leave reasoning out of the completion: that
/// is recognised by a total that is larger than prompt and completion together, which are output as far as the total goes, or without a total
/// by reasoning that is more than the completion, and in Perplexity's by what only it says.
#[must_use]
pub fn read(json: &str) -> Option<Usage> {
    let wire: Wire = serde_json::from_str(json).ok()?;
    let prompt_details = wire.prompt_tokens_details.unwrap_or_default();
    let completion_details = wire.completion_tokens_details.unwrap_or_default();
    let cached = prompt_details.cached_tokens.or(wire.prompt_cache_hit_tokens).or(wire.cached_tokens).unwrap_or(0);
    let written = prompt_details.cache_write_tokens.or(prompt_details.cache_creation_tokens).unwrap_or(0);
    let (input_audio, output_audio) =
        (prompt_details.audio_tokens.unwrap_or(0), completion_details.audio_tokens.unwrap_or(0));
    let beside = wire.reasoning_tokens.filter(|_| completion_details.reasoning_tokens.is_none()).unwrap_or(0);
    let reasoning = completion_details.reasoning_tokens.unwrap_or(beside);
    let total = wire.total_tokens.unwrap_or(0);
    let counts =
        [wire.prompt_tokens, wire.completion_tokens, cached, written, input_audio, output_audio, reasoning, total];
    // No prompt has no tokens: a host that says so does not count.
    if wire.prompt_tokens == 0 || counts.into_iter().any(|count| count > MAX_COUNT) {
        return None;
    }

    // None of these sums can overflow: each count is at most 2^53.
    let inside = wire.prompt_tokens + wire.completion_tokens;
    let is_beside = beside > 0 && (wire.num_search_queries.is_some() || beside > wire.completion_tokens);
    let completion = if total > inside {
        total - wire.prompt_tokens
    } else if is_beside || (total == 0 && reasoning > wire.completion_tokens) {
        wire.completion_tokens + reasoning
    } else {
        wire.completion_tokens
    };

    let mut rest = wire.prompt_tokens;
    let input_audio = part_of(&mut rest, input_audio);
    let cache_write_5m = part_of(&mut rest, written);
    let cache_read = part_of(&mut rest, cached);
    let input = rest;
    let mut rest = completion;
    let output_audio = part_of(&mut rest, output_audio);
    let reasoning = part_of(&mut rest, reasoning);
    Some(Usage {
        input,
        input_audio,
        cache_read,
        cache_write_5m,
        cache_write_1h: 0,
        output: rest,
        output_audio,
        reasoning,
    })
}

/// Whether a count of input can be true: no input has no tokens.
pub(super) const fn plausible(input: u64) -> bool {
    input > 0 && input <= MAX_COUNT
}

/// Takes `wanted` out of `rest`, or as much as there is.
fn part_of(rest: &mut u64, wanted: u64) -> u64 {
    let taken = wanted.min(*rest);
    *rest -= taken;
    taken
}

/// Counts as OpenAI writes them: totals, and details that are parts of them.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Written {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: WrittenPrompt,
    completion_tokens_details: WrittenCompletion,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct WrittenPrompt {
    cached_tokens: u64,
    audio_tokens: u64,
    /// OpenRouter's name; OpenAI does not bill writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct WrittenCompletion {
    reasoning_tokens: u64,
    audio_tokens: u64,
}

impl From<&Usage> for Written {
    fn from(usage: &Usage) -> Self {
        let (prompt_tokens, completion_tokens) = (usage.input_total(), usage.output_total());
        let written = usage.cache_write_5m.saturating_add(usage.cache_write_1h);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: WrittenPrompt {
                cached_tokens: usage.cache_read,
                audio_tokens: usage.input_audio,
                cache_write_tokens: (written > 0).then_some(written),
            },
            completion_tokens_details: WrittenCompletion {
                reasoning_tokens: usage.reasoning,
                audio_tokens: usage.output_audio,
            },
        }
    }
}

/// What [`tier`] reads; `None` for what OpenAI does not name in answers.
pub(super) const fn tier_name(tier: ServiceTier) -> Option<&'static str> {
    match tier {
        ServiceTier::Standard => Some("default"),
        ServiceTier::Priority => Some("priority"),
        ServiceTier::Flex => Some("flex"),
        ServiceTier::Batch => None,
    }
}

/// The class of service that an answer says it was billed at; `None` for names that have no price.
#[must_use]
pub fn tier(name: &str) -> Option<ServiceTier> {
    match name {
        "default" | "standard" => Some(ServiceTier::Standard),
        "priority" => Some(ServiceTier::Priority),
        "flex" => Some(ServiceTier::Flex),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_are_disjoint_and_sum_up_to_the_totals() {
        let usage = read(
            r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,
            "prompt_tokens_details":{"cached_tokens":40,"audio_tokens":10,"cache_write_tokens":20},
            "completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":5,"rejected_prediction_tokens":9,"accepted_prediction_tokens":1}}"#,
        );
        let expected = Usage {
            input: 30,
            input_audio: 10,
            cache_read: 40,
            cache_write_5m: 20,
            cache_write_1h: 0,
            output: 15,
            output_audio: 5,
            reasoning: 30,
        };
        assert_eq!(usage, Some(expected));
    }

    #[test]
    fn details_larger_than_their_total_are_cut_dearest_first() {
        let usage = read(
            r#"{"prompt_tokens":20,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":30,"audio_tokens":2,"cache_creation_tokens":3},
            "completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":4}}"#,
        )
        .unwrap();
        assert_eq!((usage.input, usage.input_audio, usage.cache_write_5m, usage.cache_read), (0, 2, 3, 15));
        assert_eq!((usage.output, usage.output_audio, usage.reasoning), (0, 4, 0));
    }

    #[test]
    fn cached_tokens_are_read_under_every_name() {
        for cached in
            [r#""prompt_cache_hit_tokens":7"#, r#""cached_tokens":7"#, r#""prompt_tokens_details":{"cached_tokens":7}"#]
        {
            let usage = read(&format!("{{\"prompt_tokens\":10,\"completion_tokens\":1,{cached}}}")).unwrap();
            assert_eq!((usage.input, usage.cache_read), (3, 7), "{cached}");
        }
    }

    #[test]
    fn reasoning_outside_the_completion_is_added() {
        let outside = r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,"completion_tokens_details":{"reasoning_tokens":100}}"#;
        let usage = read(outside).unwrap();
        assert_eq!((usage.output, usage.reasoning, usage.output_total()), (5, 100, 105));
        let without_total =
            r#"{"prompt_tokens":10,"completion_tokens":5,"completion_tokens_details":{"reasoning_tokens":900}}"#;
        let usage = read(without_total).unwrap();
        assert_eq!((usage.output, usage.reasoning), (5, 900));
    }

    #[test]
    fn what_a_total_has_beyond_its_parts_is_output() {
        let usage = read(r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":1000}"#).unwrap();
        assert_eq!((usage.input, usage.output, usage.reasoning), (10, 990, 0));
        let usage = read(
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":120,"completion_tokens_details":{"reasoning_tokens":100}}"#,
        );
        assert_eq!(usage.map(|usage| (usage.output, usage.reasoning)), Some((10, 100)));
    }

    #[test]
    fn perplexitys_thoughts_are_billed_beside_the_completion() {
        let usage = read(
            r#"{"prompt_tokens":7,"completion_tokens":900,"total_tokens":907,"citation_tokens":50,"num_search_queries":3,
            "reasoning_tokens":400,"cost":{"total_cost":0.1}}"#,
        )
        .unwrap();
        assert_eq!((usage.input, usage.output, usage.reasoning), (7, 900, 400));
        let many =
            read(r#"{"prompt_tokens":7,"completion_tokens":90,"total_tokens":97,"reasoning_tokens":400}"#).unwrap();
        assert_eq!((many.output, many.reasoning), (90, 400), "more than all of it is no part of it");
        let within =
            read(r#"{"prompt_tokens":7,"completion_tokens":900,"total_tokens":907,"reasoning_tokens":400}"#).unwrap();
        assert_eq!((within.output, within.reasoning), (500, 400));
    }

    #[test]
    fn usage_that_cannot_be_trusted_is_unknown() {
        for unknown in [
            "null",
            "{}",
            "[]",
            "7",
            r#"{"prompt_tokens":1}"#,
            r#"{"completion_tokens":1}"#,
            r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#,
            r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":1}"#,
            r#"{"prompt_tokens":"1","completion_tokens":1}"#,
            r#"{"prompt_tokens":null,"completion_tokens":1}"#,
            r#"{"prompt_tokens":9007199254740993,"completion_tokens":1}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":-1}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":[]}"#,
        ] {
            assert_eq!(read(unknown), None, "{unknown}");
        }
        assert_eq!(
            read(r#"{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null,"cost":0.5}"#),
            Some(Usage { input: 1, output: 2, ..Usage::default() })
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same_counts(counts in any::<[u32; 7]>()) {
            let [input, input_audio, cache_read, cache_write_5m, output, output_audio, reasoning] = counts.map(u64::from);
            let usage =
                Usage { input: input + 1, input_audio, cache_read, cache_write_5m, cache_write_1h: 0, output, output_audio, reasoning };
            let json = serde_json::to_string(&Written::from(&usage)).unwrap();
            prop_assert_eq!(read(&json), Some(usage));
        }

        #[test]
        fn totals_are_what_the_provider_says(prompt in 1u64..1000, completion in 0u64..1000, details in any::<[u16; 5]>()) {
            let [cached, audio, written, reasoning, spoken] = details;
            let json = format!(
                "{{\"prompt_tokens\":{prompt},\"completion_tokens\":{completion},\"total_tokens\":{},\
                \"prompt_tokens_details\":{{\"cached_tokens\":{cached},\"audio_tokens\":{audio},\"cache_write_tokens\":{written}}},\
                \"completion_tokens_details\":{{\"reasoning_tokens\":{reasoning},\"audio_tokens\":{spoken}}}}}",
                prompt + completion
            );
            let usage = read(&json).unwrap();
            prop_assert_eq!((usage.input_total(), usage.output_total()), (prompt, completion));
        }
    }
}

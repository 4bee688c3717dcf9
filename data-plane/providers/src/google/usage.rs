//! Reads `usageMetadata` into disjoint counts.
//!
//! What cannot be trusted in full is not read at all, as for chat completions: the request then stays charged at its bound.

use keyforge_shared::usage::{ServiceTier, Usage};
use serde::Deserialize;

use crate::credible::MAX_COUNT;
use crate::openai::usage as chat;

/// The object. A present member of the wrong type fails the whole.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    prompt_token_count: u64,
    #[serde(default)]
    cached_content_token_count: u64,
    /// Absent when nothing but thoughts was made.
    #[serde(default)]
    candidates_token_count: u64,
    #[serde(default)]
    thoughts_token_count: u64,
    /// What the provider's own tools put before the model; not part of the prompt's count.
    #[serde(default)]
    tool_use_prompt_token_count: u64,
    #[serde(default)]
    total_token_count: u64,
    #[serde(default)]
    prompt_tokens_details: Vec<Detail>,
    #[serde(default)]
    cache_tokens_details: Vec<Detail>,
    #[serde(default)]
    candidates_tokens_details: Vec<Detail>,
    service_tier: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    modality: Modality,
    #[serde(default)]
    token_count: u64,
}

/// A word, or its number at hosts that were asked for such.
#[derive(Deserialize)]
#[serde(untagged)]
enum Modality {
    Word(String),
    Number(u64),
}

impl Modality {
    fn is_audio(&self) -> bool {
        match self {
            Self::Word(word) => word == "AUDIO",
            Self::Number(number) => *number == 4,
        }
    }
}

/// The counts and the class of service; `None` if the text is no such object or cannot be trusted.
///
/// * The prompt includes what came from the cache. Sound counts as sound even where the cache had it: there is no count for cached
///   sound, and the price of fresh sound is the only one that is not below its own.
/// * Tokens that the total has and no part does are output, the dearest.
pub(super) fn read(json: &str) -> Option<(Usage, Option<ServiceTier>)> {
    let wire: Wire = serde_json::from_str(json).ok()?;
    let sound = |details: &[Detail]| {
        let counts = details.iter().filter(|detail| detail.modality.is_audio()).map(|detail| detail.token_count);
        counts.fold(0, u64::saturating_add)
    };
    let (prompt_sound, cached_sound, output_sound) =
        (sound(&wire.prompt_tokens_details), sound(&wire.cache_tokens_details), sound(&wire.candidates_tokens_details));
    let parts = [
        wire.prompt_token_count,
        wire.tool_use_prompt_token_count,
        wire.candidates_token_count,
        wire.thoughts_token_count,
    ];
    let others = [wire.cached_content_token_count, wire.total_token_count, prompt_sound, cached_sound, output_sound];
    // No prompt has no tokens: a host that says so does not count.
    if wire.prompt_token_count == 0 || parts.iter().chain(&others).any(|count| *count > MAX_COUNT) {
        return None;
    }
    let counted: u64 = parts.iter().sum();
    let uncounted = wire.total_token_count.saturating_sub(counted);

    let mut prompt = wire.prompt_token_count;
    let input_audio = part_of(&mut prompt, prompt_sound);
    let cache_read = part_of(&mut prompt, wire.cached_content_token_count.saturating_sub(cached_sound));
    let mut output = wire.candidates_token_count;
    let output_audio = part_of(&mut output, output_sound);
    let usage = Usage {
        input: prompt.saturating_add(wire.tool_use_prompt_token_count),
        input_audio,
        cache_read,
        output: output.saturating_add(uncounted),
        output_audio,
        reasoning: wire.thoughts_token_count,
        ..Usage::default()
    };
    Some((usage, wire.service_tier.as_deref().and_then(tier)))
}

/// `flex`, or the name of the enumeration's value: `SERVICE_TIER_FLEX`.
fn tier(name: &str) -> Option<ServiceTier> {
    let name = name.to_ascii_lowercase();
    chat::tier(name.strip_prefix("service_tier_").unwrap_or(&name))
}

/// Takes `wanted` out of `rest`, or as much as there is.
fn part_of(rest: &mut u64, wanted: u64) -> u64 {
    let taken = wanted.min(*rest);
    *rest -= taken;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usage(json: &str) -> Option<Usage> {
        read(json).map(|(usage, _)| usage)
    }

    #[test]
    fn counts_are_disjoint_and_sum_up_to_the_totals() {
        let json = r#"{"promptTokenCount":100,"cachedContentTokenCount":40,"candidatesTokenCount":20,"thoughtsTokenCount":30,
            "toolUsePromptTokenCount":5,"totalTokenCount":155,"serviceTier":"flex"}"#;
        let expected = Usage { input: 65, cache_read: 40, output: 20, reasoning: 30, ..Usage::default() };
        assert_eq!(read(json), Some((expected, Some(ServiceTier::Flex))));
    }

    #[test]
    fn a_tier_is_known_by_either_of_its_names() {
        for (name, expected) in [
            ("flex", Some(ServiceTier::Flex)),
            ("SERVICE_TIER_FLEX", Some(ServiceTier::Flex)),
            ("SERVICE_TIER_PRIORITY", Some(ServiceTier::Priority)),
            ("STANDARD", Some(ServiceTier::Standard)),
            ("SERVICE_TIER_UNSPECIFIED", None),
            ("turbo", None),
        ] {
            let json = format!(r#"{{"promptTokenCount":1,"serviceTier":"{name}"}}"#);
            assert_eq!(read(&json).map(|(_, tier)| tier), Some(expected), "{name}");
        }
    }

    #[test]
    fn sound_counts_as_sound_even_from_the_cache() {
        let json = r#"{"promptTokenCount":100,"cachedContentTokenCount":60,"candidatesTokenCount":9,
            "promptTokensDetails":[{"modality":"TEXT","tokenCount":70},{"modality":"AUDIO","tokenCount":30}],
            "cacheTokensDetails":[{"modality":"AUDIO","tokenCount":20},{"modality":"TEXT","tokenCount":40}],
            "candidatesTokensDetails":[{"modality":"AUDIO","tokenCount":4}]}"#;
        let expected =
            Usage { input: 30, input_audio: 30, cache_read: 40, output: 5, output_audio: 4, ..Usage::default() };
        assert_eq!(usage(json), Some(expected));
        let unsaid = r#"{"promptTokenCount":10,"cachedContentTokenCount":9,"promptTokensDetails":[{"modality":4,"tokenCount":8}]}"#;
        assert_eq!(usage(unsaid), Some(Usage { input_audio: 8, cache_read: 2, ..Usage::default() }));
    }

    #[test]
    fn nothing_but_thoughts_and_nothing_at_all_are_counted() {
        let thoughts = r#"{"promptTokenCount":5,"totalTokenCount":9,"thoughtsTokenCount":4}"#;
        assert_eq!(usage(thoughts), Some(Usage { input: 5, reasoning: 4, ..Usage::default() }));
        assert_eq!(usage(r#"{"promptTokenCount":5}"#), Some(Usage { input: 5, ..Usage::default() }));
    }

    #[test]
    fn never_fewer_tokens_are_counted_than_the_total_says() {
        let more = r#"{"promptTokenCount":5,"candidatesTokenCount":1,"totalTokenCount":100}"#;
        assert_eq!(usage(more), Some(Usage { input: 5, output: 95, ..Usage::default() }));
        let fewer = r#"{"promptTokenCount":5,"candidatesTokenCount":10,"totalTokenCount":7}"#;
        assert_eq!(usage(fewer), Some(Usage { input: 5, output: 10, ..Usage::default() }));
    }

    #[test]
    fn usage_that_cannot_be_trusted_is_unknown() {
        for unknown in [
            "{}",
            "[]",
            "null",
            r#"{"candidatesTokenCount":18,"thoughtsTokenCount":58}"#,
            r#"{"promptTokenCount":0,"candidatesTokenCount":1}"#,
            r#"{"promptTokenCount":"1"}"#,
            r#"{"promptTokenCount":-1}"#,
            r#"{"promptTokenCount":1,"candidatesTokenCount":1.5}"#,
            r#"{"promptTokenCount":1,"totalTokenCount":9007199254740993}"#,
        ] {
            assert_eq!(usage(unknown), None, "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn totals_are_never_below_what_the_provider_says(prompt in 1u64..1000, counts: [u16; 7]) {
            let [cached, candidates, thoughts, tools, total, sound, cached_sound] = counts.map(u64::from);
            let json = format!(
                "{{\"promptTokenCount\":{prompt},\"cachedContentTokenCount\":{cached},\"candidatesTokenCount\":{candidates},\
                \"thoughtsTokenCount\":{thoughts},\"toolUsePromptTokenCount\":{tools},\"totalTokenCount\":{total},\
                \"promptTokensDetails\":[{{\"modality\":\"AUDIO\",\"tokenCount\":{sound}}}],\
                \"cacheTokensDetails\":[{{\"modality\":\"AUDIO\",\"tokenCount\":{cached_sound}}}]}}"
            );
            let usage = usage(&json).unwrap();
            prop_assert_eq!(usage.input_total(), prompt + tools);
            prop_assert!(usage.output_total() >= candidates + thoughts);
            prop_assert!(usage.input_total() + usage.output_total() >= total);
        }
    }
}

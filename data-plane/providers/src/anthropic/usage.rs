//! What an answer took, from the `usage` of a whole answer or the several of a stream.
//!
//! `input_tokens` leaves out what the cache gave and took, so the counts are disjoint as they come; thoughts are part of the output. A
//! count that is negative, fractional or absurd makes the whole unknown, never zero.

use keyforge_shared::usage::{ServiceTier, Usage};
use serde::Deserialize;

use crate::credible::MAX_COUNT;

/// A present member of the wrong type fails the whole.
#[derive(Deserialize)]
struct Wire {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_creation: Option<Written>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Deserialize)]
struct Written {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Service<'a> {
    #[serde(borrow)]
    service_tier: Option<std::borrow::Cow<'a, str>>,
    /// Where it was served: `global`, a region, or `not_available` for models that have no choice.
    #[serde(borrow)]
    inference_geo: Option<std::borrow::Cow<'a, str>>,
}

/// What has been said so far; of a count that comes again, the last counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    written: Option<u64>,
    written_5m: Option<u64>,
    written_1h: Option<u64>,
    thinking: Option<u64>,
    /// Whether something was said that cannot be believed.
    is_broken: bool,
    /// The class of service that is billed.
    pub(super) tier: Option<ServiceTier>,
    /// Whether it was served within one region, at the price of that.
    pub(super) in_region: bool,
}

impl Counts {
    /// Reads the JSON text of a `usage` object.
    pub(super) fn read(&mut self, json: &str) {
        let Ok(wire) = serde_json::from_str::<Wire>(json) else {
            self.is_broken |= json.trim() != "null";
            return;
        };
        let keep = |last: &mut Option<u64>, now: Option<u64>| *last = now.or(*last);
        keep(&mut self.input, wire.input_tokens);
        keep(&mut self.output, wire.output_tokens);
        keep(&mut self.cache_read, wire.cache_read_input_tokens);
        keep(&mut self.written, wire.cache_creation_input_tokens);
        keep(&mut self.written_5m, wire.cache_creation.and_then(|split| split.ephemeral_5m_input_tokens));
        keep(&mut self.written_1h, wire.cache_creation.and_then(|split| split.ephemeral_1h_input_tokens));
        keep(&mut self.thinking, wire.output_tokens_details.and_then(|details| details.thinking_tokens));
        let Ok(service) = serde_json::from_str::<Service<'_>>(json) else { return };
        self.tier = service.service_tier.as_deref().and_then(tier).or(self.tier);
        self.in_region = service.inference_geo.as_deref().map_or(self.in_region, is_region);
    }

    /// Forgets the output said so far: the start of a stream has some, which is not what the answer will have taken.
    pub(super) fn forget_output(&mut self) {
        self.output = None;
    }

    /// The usage, if it is whole and can be trusted: no answer that holds something took no output.
    pub(super) fn usage(&self, has_content: bool) -> Option<Usage> {
        let usage = Usage { output: self.output?, ..self.input()? };
        if usage.output > MAX_COUNT || (usage.output == 0 && has_content) {
            return None;
        }
        let reasoning = self.thinking.unwrap_or(0).min(usage.output);
        Some(Usage { output: usage.output - reasoning, reasoning, ..usage })
    }

    /// The input alone.
    pub(super) fn input(&self) -> Option<Usage> {
        let (split_5m, cache_write_1h) = (self.written_5m.unwrap_or(0), self.written_1h.unwrap_or(0));
        // Without a split all of it lives five minutes; so does what a split leaves over.
        let rest = self.written.unwrap_or(0).saturating_sub(cache_write_1h);
        let usage = Usage {
            input: self.input?,
            cache_read: self.cache_read.unwrap_or(0),
            cache_write_5m: split_5m.max(rest),
            cache_write_1h,
            ..Usage::default()
        };
        let counts = [usage.input, usage.cache_read, usage.cache_write_5m, usage.cache_write_1h];
        let is_sound = !self.is_broken && counts.iter().all(|count| *count <= MAX_COUNT);
        (is_sound && usage.input_total() > 0).then_some(usage)
    }
}

/// Any region that comes to be is dearer than everywhere.
fn is_region(geo: &str) -> bool {
    !matches!(geo, "" | "global" | "not_available")
}

fn tier(name: &str) -> Option<ServiceTier> {
    match name {
        "standard" => Some(ServiceTier::Standard),
        "priority" => Some(ServiceTier::Priority),
        "batch" => Some(ServiceTier::Batch),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str], has_content: bool) -> Option<Usage> {
        let mut counts = Counts::default();
        parts.iter().for_each(|part| counts.read(part));
        counts.usage(has_content)
    }

    #[test]
    fn counts_are_disjoint() {
        let whole = r#"{"input_tokens":3,"cache_creation_input_tokens":70,"cache_read_input_tokens":11,"output_tokens":50,
            "cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":50},
            "output_tokens_details":{"thinking_tokens":30},"service_tier":"priority","inference_geo":"global"}"#;
        let expected = Usage {
            input: 3,
            cache_read: 11,
            cache_write_5m: 20,
            cache_write_1h: 50,
            output: 20,
            reasoning: 30,
            ..Usage::default()
        };
        assert_eq!(read(&[whole], true), Some(expected));
        let mut counts = Counts::default();
        counts.read(whole);
        assert_eq!(counts.tier, Some(ServiceTier::Priority));
    }

    #[test]
    fn where_it_was_served_is_known_from_any_of_its_counts() {
        for (parts, expected) in [
            (&[r#"{"input_tokens":1,"inference_geo":"us"}"#, r#"{"output_tokens":4}"#][..], true),
            (&[r#"{"input_tokens":1,"output_tokens":4,"inference_geo":"global"}"#], false),
            (&[r#"{"input_tokens":1,"output_tokens":4,"inference_geo":"not_available"}"#], false),
            (&[r#"{"input_tokens":1,"output_tokens":4,"inference_geo":null}"#], false),
            (&[r#"{"input_tokens":1,"output_tokens":4}"#], false),
        ] {
            let mut counts = Counts::default();
            parts.iter().for_each(|part| counts.read(part));
            assert_eq!(counts.in_region, expected, "{parts:?}");
        }
    }

    #[test]
    fn writes_without_a_split_live_five_minutes() {
        let usage = read(&[r#"{"input_tokens":1,"output_tokens":1,"cache_creation_input_tokens":9}"#], true).unwrap();
        assert_eq!((usage.cache_write_5m, usage.cache_write_1h), (9, 0));
        let half = r#"{"input_tokens":1,"output_tokens":1,"cache_creation_input_tokens":9,"cache_creation":{"ephemeral_1h_input_tokens":4}}"#;
        let usage = read(&[half], true).unwrap();
        assert_eq!((usage.cache_write_5m, usage.cache_write_1h), (5, 4));
    }

    #[test]
    fn the_last_value_of_each_count_holds() {
        let start = r#"{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":3,"service_tier":"standard"}"#;
        let usage = read(&[start, r#"{"output_tokens":40}"#], true).unwrap();
        assert_eq!((usage.input, usage.cache_read, usage.output), (10, 5, 40));
        let usage =
            read(&[start, r#"{"input_tokens":900,"cache_read_input_tokens":0,"output_tokens":41}"#], true).unwrap();
        assert_eq!((usage.input, usage.cache_read, usage.output), (900, 0, 41));
    }

    #[test]
    fn what_cannot_be_believed_is_unknown() {
        for unknown in [
            "7",
            "[]",
            r#"{"input_tokens":1}"#,
            r#"{"output_tokens":1}"#,
            r#"{"input_tokens":-1,"output_tokens":1}"#,
            r#"{"input_tokens":1.5,"output_tokens":1}"#,
            r#"{"input_tokens":"1","output_tokens":1}"#,
            r#"{"input_tokens":0,"output_tokens":1}"#,
            r#"{"input_tokens":1,"output_tokens":9007199254740993}"#,
            r#"{"input_tokens":1,"output_tokens":1,"cache_creation":7}"#,
            r#"{"input_tokens":1,"output_tokens":0}"#,
        ] {
            assert_eq!(read(&[unknown], true), None, "{unknown}");
        }
        assert_eq!(read(&["null"], true), None);
        assert!(read(&[r#"{"input_tokens":1,"output_tokens":0}"#], false).is_some());
        let good = r#"{"input_tokens":1,"output_tokens":1}"#;
        assert_eq!(read(&[good, r#"{"output_tokens":-1}"#], true), None, "a broken end is no end");
        assert!(read(&[good, "null"], true).is_some());
    }
}

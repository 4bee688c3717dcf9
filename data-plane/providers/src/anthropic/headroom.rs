//! What is left of an account's limits, by the `anthropic-ratelimit-…` headers of each response.

use http::HeaderMap;
use keyforge_shared::clock::Timestamp;

use crate::headroom::{Dimension, Names, Window, windows};

/// The limits by their headers.
static NAMES: [Names; 4] = [
    Names::new(
        Dimension::Requests,
        [
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ],
    ),
    Names::new(
        Dimension::Tokens,
        [
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ],
    ),
    Names::new(
        Dimension::InputTokens,
        [
            "anthropic-ratelimit-input-tokens-limit",
            "anthropic-ratelimit-input-tokens-remaining",
            "anthropic-ratelimit-input-tokens-reset",
        ],
    ),
    Names::new(
        Dimension::OutputTokens,
        [
            "anthropic-ratelimit-output-tokens-limit",
            "anthropic-ratelimit-output-tokens-remaining",
            "anthropic-ratelimit-output-tokens-reset",
        ],
    ),
];

/// Reads the limits. One that is absurd is left out; so is a reset that is past, as the year 1970 that refusals give.
#[must_use]
pub fn read(headers: &HeaderMap, now: Timestamp) -> Vec<Window> {
    windows(headers, now, &NAMES, |time| {
        let reset: jiff::Timestamp = time.parse().ok()?;
        Some(Timestamp::from_millis(reset.as_millisecond()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_read_and_a_past_reset_is_none() {
        let headers: HeaderMap = [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-11-22T06:00:30Z"),
            ("anthropic-ratelimit-tokens-limit", "60000"),
            ("anthropic-ratelimit-tokens-remaining", "0"),
            ("anthropic-ratelimit-tokens-reset", "1970-01-01T00:00:00Z"),
            ("anthropic-ratelimit-input-tokens-limit", "-1"),
            ("anthropic-ratelimit-input-tokens-remaining", "1"),
            ("anthropic-ratelimit-output-tokens-limit", "10"),
        ]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
        // 2026-11-22T06:00:00Z
        let now = Timestamp::from_millis(1_795_327_200_000);
        let resets_at = Some(now.saturating_add(std::time::Duration::from_secs(30)));
        let requests = Window { dimension: Dimension::Requests, limit: 50, remaining: 49, resets_at };
        let tokens = Window { dimension: Dimension::Tokens, limit: 60_000, remaining: 0, resets_at: None };
        assert_eq!(read(&headers, now), [requests, tokens]);
        assert_eq!(read(&HeaderMap::new(), now), []);
    }
}

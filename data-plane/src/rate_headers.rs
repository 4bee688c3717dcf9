//! What is left of a key's rates, in the headers that SDKs know: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.
//!
//! The limits are in the key's policy. What is left of them only the counter store knows: it is told when the store was asked for this very request, and
//! left out when it was not, because what it said about another request may be wrong by now.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use keyforge_counters::{RateLeft, Rates, RatesLeft};
use keyforge_shared::policy::Policy;

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// The limits of a key's rates, each with what is left of it if that is known. A key without rates has nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateHeaders {
    requests: Option<(u64, Option<RateLeft>)>,
    tokens: Option<(u64, Option<RateLeft>)>,
}

impl RateHeaders {
    /// What `left` says of `rates`.
    #[must_use]
    pub fn new(rates: &Rates, left: &RatesLeft) -> Self {
        Self {
            requests: rates.requests_per_minute.map(|limit| (u64::from(limit), left.requests)),
            tokens: rates.tokens.map(|rate| (rate.per_minute, left.tokens)),
        }
    }

    /// The limits of `policy`, when nobody has said what is left of them.
    #[must_use]
    pub fn limits_of(policy: &Policy) -> Self {
        Self {
            requests: policy.requests_per_minute.map(|limit| (u64::from(limit), None)),
            tokens: policy.tokens_per_minute.map(|limit| (limit, None)),
        }
    }

    /// Writes the limits where nothing is told of these rates yet.
    pub fn write_unless_told(&self, headers: &mut HeaderMap) {
        if ![&REQUESTS[0], &TOKENS[0]].into_iter().any(|limit| headers.contains_key(limit)) {
            self.write(headers);
        }
    }

    /// Writes the headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        for ([limit, remaining, reset], rate) in [(REQUESTS, self.requests), (TOKENS, self.tokens)] {
            let Some((most, left)) = rate else { continue };
            headers.insert(limit, HeaderValue::from(most));
            let Some(left) = left else { continue };
            headers.insert(remaining, HeaderValue::from(left.remaining));
            if let Ok(text) = HeaderValue::try_from(span(left.reset)) {
                headers.insert(reset, text);
            }
        }
    }
}

/// A duration as OpenAI writes it, such as `12ms`, `1s`, `8.64s` or `6m0s`; whole milliseconds, rounded up.
fn span(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let mut seconds = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    while seconds.ends_with('0') {
        seconds.pop();
    }
    let seconds = seconds.trim_end_matches('.');
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests {
    use keyforge_counters::TokenRate;

    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (nanos, text) in [
            (0, "0ms"),
            (1, "1ms"),
            (12_000_000, "12ms"),
            (999_000_001, "1s"),
            (1_000_000_000, "1s"),
            (8_640_000_000, "8.64s"),
            (60_000_000_000, "1m0s"),
            (86_400_000_000, "1m26.4s"),
            (360_000_000_000, "6m0s"),
        ] {
            assert_eq!(span(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn only_rates_that_the_key_has_are_told() {
        let left = |remaining| Some(RateLeft { remaining, reset: Duration::from_millis(1_500) });
        let rates = Rates { tokens: Some(TokenRate { per_minute: 1_000, amount: 7 }), ..Rates::default() };
        let mut headers = HeaderMap::new();
        RateHeaders::new(&rates, &RatesLeft { requests: left(1), tokens: left(993) }).write(&mut headers);
        let told: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let expected = [
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "993"),
            ("x-ratelimit-reset-tokens", "1.5s"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_nobody_said_is_left_out_and_the_limits_are_told() {
        let policy = Policy { requests_per_minute: Some(7), tokens_per_minute: Some(900), ..Policy::default() };
        let mut headers = HeaderMap::new();
        RateHeaders::limits_of(&policy).write(&mut headers);
        let told: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(told, [("x-ratelimit-limit-requests", "7"), ("x-ratelimit-limit-tokens", "900")]);
    }
}

//! What is left of a key's rates, in the headers that SDKs know: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use keyforge_counters::{RateLeft, Rates, RatesLeft};

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

/// What is left of the rates of a key, each with its limit. A key without rates has nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateHeaders {
    requests: Option<(u64, RateLeft)>,
    tokens: Option<(u64, RateLeft)>,
}

impl RateHeaders {
    /// What `left` says of `rates`.
    #[must_use]
    pub fn new(rates: &Rates, left: &RatesLeft) -> Self {
        Self {
            requests: rates.requests_per_minute.map(u64::from).zip(left.requests),
            tokens: rates.tokens.map(|rate| rate.per_minute).zip(left.tokens),
        }
    }

    /// Writes the headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        for ([limit, remaining, reset], rate) in [(REQUESTS, self.requests), (TOKENS, self.tokens)] {
            let Some((most, left)) = rate else { continue };
            headers.insert(limit, HeaderValue::from(most));
            headers.insert(remaining, HeaderValue::from(left.remaining));
            if let Ok(text) = HeaderValue::try_from(span(left.reset)) {
                headers.insert(reset, text);
            }
        }
    }
}

/// A duration as OpenAI writes it, such as `12ms`, `1s`, `8.64s` or `6m0s`; whole milliseconds, rounded up.
fn span(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
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
}

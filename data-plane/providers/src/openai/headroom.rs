//! What is left of an account's limits, by the `x-ratelimit-…` headers of hosts that speak OpenAI's dialect.
//!
//! Seen in recordings: resets as durations ("12ms", "14m24s") or bare seconds (Azure); Mistral names the period of each limit and gives no
//! reset; Groq's requests are those of a day. A limit that a host names in another way is not read.

use http::HeaderMap;
use keyforge_shared::clock::Timestamp;

use super::retry;
use crate::headroom::{Dimension, Names, Window, windows};

/// The limits by their headers.
static NAMES: [Names; 4] = [
    Names::new(
        Dimension::Requests,
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
    ),
    Names::new(
        Dimension::Tokens,
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    ),
    Names::new(
        Dimension::Requests,
        ["x-ratelimit-limit-req-10-second", "x-ratelimit-remaining-req-10-second", "x-ratelimit-reset-req-10-second"],
    ),
    Names::new(
        Dimension::Tokens,
        ["x-ratelimit-limit-tokens-minute", "x-ratelimit-remaining-tokens-minute", "x-ratelimit-reset-tokens-minute"],
    ),
];

/// Reads the limits. One that is absurd is left out.
#[must_use]
pub fn read(headers: &HeaderMap, now: Timestamp) -> Vec<Window> {
    windows(headers, now, &NAMES, |wait| Some(now.saturating_add(retry::duration(wait)?)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read_one(headers: &[(&str, &str)]) -> Option<(Dimension, u64, u64, Option<Duration>)> {
        let now = Timestamp::from_millis(1_795_327_200_000);
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (format!("x-ratelimit-{name}").parse().unwrap(), value.parse().unwrap()))
            .collect();
        let windows = read(&headers, now);
        assert!(windows.len() < 2);
        windows.first().map(|window| {
            (window.dimension, window.limit, window.remaining, window.resets_at.map(|reset| reset.since(now)))
        })
    }

    #[test]
    fn each_hosts_form_is_read() {
        let of =
            |reset| read_one(&[("limit-requests", "100"), ("remaining-requests", "99"), ("reset-requests", reset)]);
        for (reset, expected) in [
            ("12ms", Some(Duration::from_millis(12))),
            ("14m24s", Some(Duration::from_secs(864))),
            ("6m0s", Some(Duration::from_secs(360))),
            ("7", Some(Duration::from_secs(7))),
            ("0s", None),
            ("soon", None),
        ] {
            assert_eq!(of(reset), Some((Dimension::Requests, 100, 99, expected)), "{reset}");
        }
        let mistral = read_one(&[("limit-tokens-minute", "20"), ("remaining-tokens-minute", "0")]);
        assert_eq!(mistral, Some((Dimension::Tokens, 20, 0, None)));
    }

    #[test]
    fn what_is_absurd_is_left_out() {
        for (limit, remaining) in
            [("0", "0"), ("5", "6"), ("-5", "1"), ("1.5", "1"), ("", "1"), ("18446744073709551615", "1")]
        {
            assert_eq!(
                read_one(&[("limit-tokens", limit), ("remaining-tokens", remaining)]),
                None,
                "{limit}/{remaining}"
            );
        }
        assert_eq!(read_one(&[("limit-tokens", "5")]), None);
    }
}

//! What a virtual key may do: models, quotas, spend, rates, expiry, from where and which endpoints.
//!
//! A policy is checked once, where it enters; whoever holds a [`Policy`] that came out of the control plane need not check it again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::endpoint::Endpoints;
use crate::limit::Dimension;
use crate::money::NanoUsd;
use crate::network::Networks;
use crate::period::{Calendar, Window, ZoneName};

/// A model name with `*` for any run of characters, such as `gpt-5*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelPattern(pub String);

impl ModelPattern {
    /// Whether `name` matches, case-sensitively. Runs in time proportional to pattern times name, whatever the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut star = None;
        while n < name.len() {
            if p < pattern.len() && pattern[p] == b'*' {
                star = Some((p, n));
                p += 1;
            } else if p < pattern.len() && pattern[p] == name[n] {
                (p, n) = (p + 1, n + 1);
            } else if let Some((at, from)) = star {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// At most `requests` admitted requests in each period of `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLimit {
    /// Most admitted requests.
    pub requests: u64,
    /// Counted over.
    pub window: Window,
}

/// At most `amount` spent in each period of `window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendLimit {
    /// Most nano-dollars.
    pub amount: NanoUsd,
    /// Counted over.
    pub window: Window,
}

/// So much more of a limit, until a moment. Nothing has to happen then: whoever asks for the limit asks for it at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raise {
    /// Of which limits.
    pub dimension: Dimension,
    /// Of the limit over this window.
    pub window: Window,
    /// How much more: requests, or nano-dollars.
    pub amount: u64,
    /// The first moment at which the limit is what it was.
    pub until: Timestamp,
}

/// What a virtual key may do. An absent limit does not limit.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Models that may be called, by pattern; empty allows every model of the catalogue.
    #[serde(default)]
    pub models: Vec<ModelPattern>,
    /// Request quotas, at most one per window.
    #[serde(default)]
    pub request_limits: Vec<RequestLimit>,
    /// Spend caps, at most one per window.
    #[serde(default)]
    pub spend_limits: Vec<SpendLimit>,
    /// Most admissions in any 60 seconds.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// Most tokens in any 60 seconds, input and output together. A running request counts with the most that it can take.
    #[serde(default)]
    pub tokens_per_minute: Option<u64>,
    /// Most requests that run at the same time.
    #[serde(default)]
    pub concurrent_requests: Option<u32>,
    /// Most output tokens of one request, all of its choices together.
    #[serde(default)]
    pub max_output_tokens: Option<u64>,
    /// First moment at which the key no longer works.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// The time zone in which the key's days, weeks and months begin; UTC without one. It is chosen when the key is made: periods in two
    /// calendars would overlap.
    #[serde(default)]
    pub time_zone: Option<ZoneName>,
    /// How long a node may serve the key without the control plane, in seconds; absent: the deployment's bound. A revoked key works no longer than
    /// this on a node that cannot hear of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_staleness_seconds: Option<u32>,
    /// Networks that it may be used from; none allows every address.
    #[serde(default)]
    pub networks: Networks,
    /// Endpoints that it may be used for; none allows all.
    #[serde(default)]
    pub endpoints: Endpoints,
    /// Limits that are higher for a while.
    #[serde(default)]
    pub raises: Box<[Raise]>,
}

/// Largest request quota: counters may live where integers are exact only up to 2^53.
pub const MAX_REQUEST_LIMIT: u64 = 9_000_000_000_000_000;
/// Largest requests-per-minute limit: an exact sliding log keeps one timestamp per admission.
pub const MAX_REQUESTS_PER_MINUTE: u32 = 1_000_000;
/// Largest tokens-per-minute limit: counters may live where integers are exact only up to 2^53.
pub const MAX_TOKENS_PER_MINUTE: u64 = 9_000_000_000_000_000;
/// Most raises of one policy.
pub const MAX_RAISES: usize = 16;
/// Most networks of one policy: each is tried on every request.
pub const MAX_NETWORKS: usize = 64;
/// Largest limit of requests at the same time: each is remembered until it ends.
pub const MAX_CONCURRENT_REQUESTS: u32 = 1_000_000;

/// The longest that a node may be allowed to serve a key without the control plane, in seconds: a day.
pub const MAX_STALENESS_SECONDS: u32 = 86_400;
/// How long a node may do so if neither policy nor deployment say otherwise, in seconds.
pub const DEFAULT_STALENESS_SECONDS: u32 = 30;

impl Policy {
    /// Whether the key may call `model`.
    #[must_use]
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(model))
    }

    /// Whether money is limited at all, so that every request needs a provable bound.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        !self.spend_limits.is_empty()
    }

    /// A total limit of 0 requests, which is how what a key has left is set to nothing.
    pub const NOTHING_LEFT: RequestLimit = RequestLimit { requests: 0, window: Window::Total };

    /// Whether a limit of nothing keeps the key from ever being admitted.
    #[must_use]
    pub fn has_nothing_left(&self) -> bool {
        self.request_limits.iter().any(|limit| limit.requests == 0 && limit.window == Window::Total)
    }

    /// How much more of a limit there is at `now` than its policy says: requests, or nano-dollars. Nothing of what was set to nothing.
    #[must_use]
    pub fn raised(&self, dimension: Dimension, window: Window, now: Timestamp) -> u64 {
        if self.has_nothing_left() {
            return 0;
        }
        let same = |raise: &&Raise| (raise.dimension, raise.window) == (dimension, window) && now < raise.until;
        self.raises.iter().filter(same).fold(0, |sum, raise| sum.saturating_add(raise.amount))
    }

    /// Drops the raises that are over at `now`. They change nothing any more.
    pub fn drop_ended_raises(&mut self, now: Timestamp) {
        if self.raises.iter().any(|raise| raise.until <= now) {
            self.raises = self.raises.iter().copied().filter(|raise| now < raise.until).collect();
        }
    }

    /// Problems of the raises: each must raise a limit, and not beyond what a limit can be.
    fn raise_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.raises.len() > MAX_RAISES {
            problems.push(format!("raises: at most {MAX_RAISES} at a time"));
        }
        for dimension in Dimension::ALL {
            for window in Window::ALL {
                let raised = self.raised(dimension, window, Timestamp::from_nanos(i64::MIN));
                let (limit, most) = match dimension {
                    Dimension::Requests => {
                        let limit = self.request_limits.iter().find(|limit| limit.window == window);
                        (limit.map(|limit| limit.requests), MAX_REQUEST_LIMIT)
                    }
                    Dimension::Spend => {
                        let limit = self.spend_limits.iter().find(|limit| limit.window == window);
                        (limit.map(|limit| limit.amount.nanos()), NanoUsd::MAX_LIMIT.nanos())
                    }
                };
                let dimension = dimension.as_str();
                match limit {
                    _ if raised == 0 => {}
                    None => problems.push(format!("raises: there is no limit of {dimension} per {window} to raise")),
                    Some(limit) if limit.saturating_add(raised) > most => {
                        problems
                            .push(format!("raises: with them, {dimension} per {window} are more than a limit can be"));
                    }
                    Some(_) => {}
                }
            }
        }
        if self.raises.iter().any(|raise| raise.amount == 0) {
            problems.push("raises: each by at least 1".to_owned());
        }
        problems
    }

    /// When the key's days begin.
    #[must_use]
    pub fn calendar(&self) -> Calendar {
        Calendar::of(self.time_zone.as_ref())
    }

    /// Every problem of this policy, each with the field it is in. Empty means valid.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for pattern in &self.models {
            let ok = !pattern.0.is_empty() && pattern.0.len() <= 128 && pattern.0.bytes().all(|b| b.is_ascii_graphic());
            if !ok {
                problems.push(format!("models: `{}` is not a model pattern such as gpt-5*", brief(&pattern.0)));
            }
        }
        problems.extend(limit_problems(&self.request_limits, &self.spend_limits));
        let rates = [
            ("requests_per_minute", self.requests_per_minute.map(u64::from), u64::from(MAX_REQUESTS_PER_MINUTE)),
            ("tokens_per_minute", self.tokens_per_minute, MAX_TOKENS_PER_MINUTE),
            ("concurrent_requests", self.concurrent_requests.map(u64::from), u64::from(MAX_CONCURRENT_REQUESTS)),
        ];
        for (field, value, most) in rates {
            if value.is_some_and(|value| !(1..=most).contains(&value)) {
                problems.push(format!("{field}: from 1 to {most}"));
            }
        }
        if self.max_staleness_seconds.is_some_and(|seconds| !(1..=MAX_STALENESS_SECONDS).contains(&seconds)) {
            problems.push(format!("max_staleness_seconds: from 1 to {MAX_STALENESS_SECONDS}"));
        }
        if self.max_output_tokens == Some(0) {
            problems.push("max_output_tokens: at least 1".to_owned());
        }
        if self.networks.as_slice().len() > MAX_NETWORKS {
            problems.push(format!("networks: at most {MAX_NETWORKS}"));
        }
        problems.extend(self.raise_problems());
        problems
    }
}

/// Every problem of the limits of a key or a workspace, each with the field it is in. Empty means valid.
#[must_use]
pub fn limit_problems(requests: &[RequestLimit], spend: &[SpendLimit]) -> Vec<String> {
    let mut problems = Vec::new();
    if requests.iter().any(|limit| limit.requests > MAX_REQUEST_LIMIT) {
        problems.push(format!("request_limits: at most {MAX_REQUEST_LIMIT} requests per period"));
    }
    if spend.iter().any(|limit| limit.amount > NanoUsd::MAX_LIMIT) {
        problems.push(format!("spend_limits: at most {} per period", NanoUsd::MAX_LIMIT));
    }
    let requests: Vec<_> = requests.iter().map(|limit| limit.window).collect();
    let spend: Vec<_> = spend.iter().map(|limit| limit.window).collect();
    for (field, windows) in [("request_limits", requests), ("spend_limits", spend)] {
        for window in Window::ALL {
            if windows.iter().filter(|other| **other == window).count() > 1 {
                problems.push(format!("{field}: more than one limit per {window}"));
            }
        }
    }
    problems
}

fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_and_stars_match_any_run() {
        let cases = [
            ("gpt-5*", "gpt-5-mini", true),
            ("gpt-5*", "gpt-5", true),
            ("gpt-5*", "xgpt-5", false),
            ("*mini", "gpt-5-mini", true),
            ("*-mini-*", "gpt-5-mini-2025", true),
            ("gpt-5", "gpt-5-mini", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "a", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(ModelPattern(pattern.to_owned()).matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_hostile_pattern_does_not_take_exponential_time() {
        let pattern = ModelPattern("*a".repeat(60));
        assert!(!pattern.matches(&"a".repeat(59).replace('a', "ab")));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let policy = Policy {
            models: vec![ModelPattern("has space".to_owned())],
            spend_limits: vec![SpendLimit { amount: NanoUsd::new(u64::MAX), window: Window::Day }; 2],
            requests_per_minute: Some(0),
            tokens_per_minute: Some(0),
            concurrent_requests: Some(MAX_CONCURRENT_REQUESTS + 1),
            ..Policy::default()
        };
        let problems = policy.problems().join("; ");
        for field in [
            "models",
            "spend_limits: at most",
            "spend_limits: more than one",
            "requests_per_minute",
            "tokens_per_minute",
            "concurrent_requests",
        ] {
            assert!(problems.contains(field), "{field} in {problems}");
        }
    }

    #[test]
    fn a_raise_raises_a_limit_that_is_there_and_within_what_a_limit_can_be() {
        let until = Timestamp::from_millis(1_000);
        let raise = |dimension, window, amount| Raise { dimension, window, amount, until };
        let policy = |raises: Vec<Raise>| Policy {
            request_limits: vec![RequestLimit { requests: 10, window: Window::Day }],
            raises: raises.into(),
            ..Policy::default()
        };
        let problems = |raises| policy(raises).problems().join("; ");
        assert_eq!(problems(vec![raise(Dimension::Requests, Window::Day, 5)]), "");
        for (dimension, window) in [(Dimension::Requests, Window::Month), (Dimension::Spend, Window::Day)] {
            assert!(problems(vec![raise(dimension, window, 5)]).starts_with("raises: there is no limit of"));
        }
        assert!(
            problems(vec![raise(Dimension::Requests, Window::Day, MAX_REQUEST_LIMIT)]).contains("more than a limit")
        );
        assert!(problems(vec![raise(Dimension::Requests, Window::Day, 0)]).contains("at least 1"));
        assert!(problems(vec![raise(Dimension::Requests, Window::Day, 1); 17]).contains("at most 16"));
        let mut ended = policy(vec![raise(Dimension::Requests, Window::Day, 5); 2]);
        ended.raises[0].until = Timestamp::from_millis(2_000);
        assert_eq!(ended.raised(Dimension::Requests, Window::Day, Timestamp::from_millis(999)), 10);
        assert_eq!(ended.raised(Dimension::Requests, Window::Day, until), 5, "the moment itself is after it");
        ended.drop_ended_raises(until);
        assert_eq!(ended.raises.len(), 1);
        ended.request_limits.push(Policy::NOTHING_LEFT);
        assert_eq!(ended.raised(Dimension::Requests, Window::Day, until), 0, "what is set to nothing is not raised");
    }

    #[test]
    fn more_networks_than_are_tried_on_a_request_are_refused() {
        let many = (0..=MAX_NETWORKS as u8).map(|number| format!("10.{number}.0.0/16").parse().unwrap()).collect();
        let problems = Policy { networks: Networks::new(many), ..Policy::default() }.problems();
        assert_eq!(problems, ["networks: at most 64"]);
    }

    #[test]
    fn an_unknown_policy_field_is_refused() {
        assert!(serde_json::from_str::<Policy>(r#"{"budget": 5}"#).is_err());
        assert!(serde_json::from_str::<Policy>(r#"{"time_zone": "Europe/Atlantis"}"#).is_err());
    }
}

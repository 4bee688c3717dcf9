//! Refusals because of a limit or a rate: what the answer says about it, so that an agent can tell how much is missing and when to come back.

use std::time::Duration;

use keyforge_counters::Rate;
use keyforge_shared::exhausted::Exhausted;
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::NanoUsd;
use serde_json::{Value, json};

use super::tenths;
use crate::rate_headers::RateHeaders;

/// A rate that is at its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Which.
    pub rate: Rate,
    /// The policy's limit.
    pub limit: u64,
    /// When the request would be admitted, or may be.
    pub retry_after: Duration,
    /// What is left of the key's rates.
    pub rate_headers: RateHeaders,
}

impl RateLimit {
    pub(super) fn message(&self) -> String {
        let wait = tenths(self.retry_after);
        let limit = self.limit;
        match self.rate {
            Rate::Requests => format!("Rate limit of {limit} requests per minute reached; try again in {wait}."),
            Rate::Tokens => format!("Rate limit of {limit} tokens per minute reached; try again in {wait}."),
            Rate::Concurrency => format!("Limit of {limit} requests at the same time reached; try again in {wait}."),
        }
    }
}

/// What an error about a limit has besides the usual. Amounts are dollars as decimal text, or whole requests.
pub(super) fn members(exhausted: &Exhausted) -> Vec<(&'static str, Value)> {
    let amount = |value: u64| match exhausted.dimension {
        Dimension::Spend => json!(NanoUsd::new(value).decimal()),
        Dimension::Requests => json!(value),
    };
    let plan = exhausted.plan.map(|plan| ("plan", json!(plan.as_str())));
    let members = vec![
        ("scope", json!(exhausted.scope.as_str())),
        ("dimension", json!(exhausted.dimension.as_str())),
        ("unit", json!(if exhausted.dimension == Dimension::Spend { "usd" } else { "requests" })),
        ("window", json!(exhausted.window.as_str())),
        ("limit", amount(exhausted.limit)),
        ("spent", amount(exhausted.spent)),
        ("held", amount(exhausted.held)),
        ("needed", amount(exhausted.needed)),
        ("reset_at", exhausted.resets_at.map_or(Value::Null, |at| json!(at.rfc3339()))),
    ];
    members.into_iter().chain(plan).collect()
}

//! Refusals because of a limit or a rate: what the answer says about it, so that an agent can tell how much is missing and when to come back.

use std::time::Duration;

use keyforge_counters::Rate;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;
use keyforge_shared::plan::Plan;
use serde_json::{Value, json};

use super::tenths;
use crate::rate_headers::RateHeaders;

/// A limit that does not cover a request: what the answer tells the agent about it, in requests or nano-dollars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// The workspace's plan, if the limit is the plan's.
    pub plan: Option<Plan>,
    /// Whose limit.
    pub scope: Scope,
    /// What ran out.
    pub dimension: Dimension,
    /// Counted over.
    pub window: Window,
    /// The limit.
    pub limit: u64,
    /// Charged: settled, or charged in full because nobody knows.
    pub spent: u64,
    /// Held by requests that are running, or granted to others and not settled.
    pub held: u64,
    /// The least that this request would have needed.
    pub needed: u64,
    /// When the period ends; `None` for a limit on the whole life.
    pub resets_at: Option<Timestamp>,
}

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

impl Exhausted {
    fn amount(&self, value: u64) -> String {
        match self.dimension {
            Dimension::Spend => NanoUsd::new(value).to_string(),
            Dimension::Requests => value.to_string(),
        }
    }

    pub(super) fn message(&self) -> String {
        let what = match self.dimension {
            Dimension::Spend => "spend limit",
            Dimension::Requests => "request quota",
        };
        let per = match self.window {
            Window::Total => "in total".to_owned(),
            window => format!("per {window}"),
        };
        let reset = self.resets_at.map_or_else(String::new, |at| format!(" It resets at {}.", at.rfc3339()));
        let whose = match self.scope {
            Scope::Key => "This virtual key's",
            Scope::Workspace => "The workspace's",
        };
        let plan = self.plan.map_or_else(String::new, |plan| format!(", which is that of the plan {plan},"));
        format!(
            "{whose} {what} of {} {per}{plan} does not cover this request: {} spent, {} held, {} needed.{reset}",
            self.amount(self.limit),
            self.amount(self.spent),
            self.amount(self.held),
            self.amount(self.needed),
        )
    }

    /// Amounts are dollars as decimal text, or whole requests.
    pub(super) fn members(&self) -> Vec<(&'static str, Value)> {
        let amount = |value: u64| match self.dimension {
            Dimension::Spend => json!(NanoUsd::new(value).decimal()),
            Dimension::Requests => json!(value),
        };
        let plan = self.plan.map(|plan| ("plan", json!(plan.as_str())));
        let members = vec![
            ("scope", json!(self.scope.as_str())),
            ("dimension", json!(self.dimension.as_str())),
            ("unit", json!(if self.dimension == Dimension::Spend { "usd" } else { "requests" })),
            ("window", json!(self.window.as_str())),
            ("limit", amount(self.limit)),
            ("spent", amount(self.spent)),
            ("held", amount(self.held)),
            ("needed", amount(self.needed)),
            ("reset_at", self.resets_at.map_or(Value::Null, |at| json!(at.rfc3339()))),
        ];
        members.into_iter().chain(plan).collect()
    }
}

//! Counters: which ones a request touches, and how they are named.
//!
//! Each limit of a policy is a counter of its own in each period. A request takes one unit from every request counter and its bound from every
//! spend counter of its key, all or nothing.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::KeyId;
use crate::period::{Period, Window};
use crate::policy::Policy;

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Admitted requests.
    Requests,
    /// Nano-dollars.
    Spend,
}

impl Dimension {
    /// The word used in the API, metrics and error bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Spend => "spend",
        }
    }
}

/// The name of one counter: a key's limit in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterId {
    /// Whose.
    pub key: KeyId,
    /// What it counts.
    pub dimension: Dimension,
    /// Length of its period.
    pub window: Window,
    /// Start of its period.
    pub period_start: Timestamp,
}

/// One counter that a request of a key touches now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Which.
    pub counter: CounterId,
    /// The period it counts.
    pub period: Period,
    /// The policy's limit: requests, or nano-dollars.
    pub limit: u64,
}

/// The counters that a request of `key` admitted at `now` touches, requests before spend and short windows before long ones, so that
/// every part of the system names the same counter when several are exhausted.
pub fn touched(key: KeyId, policy: &Policy, now: Timestamp) -> impl Iterator<Item = Touched> {
    let requests = policy.request_limits.iter().map(|limit| (Dimension::Requests, limit.window, limit.requests));
    let spend = policy.spend_limits.iter().map(|limit| (Dimension::Spend, limit.window, limit.amount.nanos()));
    requests.chain(spend).map(move |(dimension, window, limit)| {
        let period = window.period_at(now);
        Touched { counter: CounterId { key, dimension, window, period_start: period.start }, period, limit }
    })
}

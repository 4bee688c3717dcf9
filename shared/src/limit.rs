//! Counters: which ones a request touches, and how they are named.
//!
//! Each limit is a counter of its own in each period: those of the key, and those that the key shares with its workspace. A request takes one
//! unit from every request counter and its bound from every spend counter, all or nothing. What a key takes of its workspace's limit is counted
//! with the key, in a slice that was granted to it: so one decision needs to look at one key alone.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::KeyId;
use crate::period::{Calendar, CivilDay, Period, Window};
use crate::policy::{Policy, RequestLimit, SpendLimit};
use crate::state::{KeyRecord, WorkspaceRecord};

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
    /// Both.
    pub const ALL: [Self; 2] = [Self::Requests, Self::Spend];

    /// The word used in the API, metrics and error bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Spend => "spend",
        }
    }
}

/// Whose limit a counter counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The key's own.
    Key,
    /// Its workspace's.
    Workspace,
}

impl Scope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Key, Self::Workspace];

    /// The word used in the API, metrics and error bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Workspace => "workspace",
        }
    }
}

/// The name of one counter: what one key takes of a limit in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterId {
    /// Who takes.
    pub key: KeyId,
    /// Whose limit it is.
    pub scope: Scope,
    /// What it counts.
    pub dimension: Dimension,
    /// Length of its period.
    pub window: Window,
    /// First day of its period, in the calendar of the key.
    pub first_day: CivilDay,
}

/// One counter that a request of a key touches now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Which.
    pub counter: CounterId,
    /// The period it counts.
    pub period: Period,
    /// The limit: requests, or nano-dollars.
    pub limit: u64,
}

/// The counters that a request of `key` admitted at `now` touches: the key's before its workspace's, requests before spend and short windows
/// before long ones, so that every part of the system names the same counter when several are exhausted.
pub fn touched<'a>(
    key: &'a KeyRecord,
    workspace: &'a WorkspaceRecord,
    now: Timestamp,
) -> impl Iterator<Item = Touched> + use<'a> {
    let calendar = key.policy.calendar();
    let own = (Scope::Key, &key.policy.request_limits[..], &key.policy.spend_limits[..]);
    let own = counters(own, key.id, &calendar, now).map(move |counter| raised(counter, &key.policy, now));
    own.chain(shared(key.id, &calendar, workspace, now))
}

/// The key's own counter with the limit that holds at `now`: raises end by the clock alone.
fn raised(touched: Touched, policy: &Policy, now: Timestamp) -> Touched {
    let more = policy.raised(touched.counter.dimension, touched.counter.window, now);
    Touched { limit: touched.limit.saturating_add(more), ..touched }
}

/// Of these the counters of the workspace's limits, for a key with this id and this calendar.
pub fn shared(
    key: KeyId,
    calendar: &Calendar,
    workspace: &WorkspaceRecord,
    now: Timestamp,
) -> impl Iterator<Item = Touched> + use<> {
    let requests = workspace.request_limits_in_effect();
    counters((Scope::Workspace, &requests, &workspace.spend_limits), key, calendar, now)
}

fn counters(
    (scope, requests, spend): (Scope, &[RequestLimit], &[SpendLimit]),
    key: KeyId,
    calendar: &Calendar,
    now: Timestamp,
) -> impl Iterator<Item = Touched> + use<> {
    let requests = requests.iter().map(|limit| (Dimension::Requests, limit.window, limit.requests));
    let spend = spend.iter().map(|limit| (Dimension::Spend, limit.window, limit.amount.nanos()));
    let mut limits: Vec<_> = requests.chain(spend).collect();
    limits.sort_by_key(|(dimension, window, _)| (*dimension, *window));
    let (calendar, today) = (calendar.clone(), calendar.day_at(now));
    limits.into_iter().map(move |(dimension, window, limit)| {
        let counter = CounterId { key, scope, dimension, window, first_day: window.first_day(today) };
        Touched { counter, period: calendar.period(window, today), limit }
    })
}

//! Plans: what bounds a workspace as a whole, above the limits that its own operators choose.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limit::{CounterId, Dimension, Scope};
use crate::period::Window;
use crate::policy::RequestLimit;

/// A workspace's plan. It takes nothing from the audit chains: those are the same on every plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// Nothing is limited by the plan.
    #[default]
    Unlimited,
    /// 3 virtual keys that are not revoked, and 1,000 requests a month over all keys.
    Free,
}

impl Plan {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Unlimited, Self::Free];

    /// The word used in the store, the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlimited => "unlimited",
            Self::Free => "free",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.as_str() == word)
    }

    /// Most virtual keys that are not revoked.
    #[must_use]
    pub const fn max_keys(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Free => Some(3),
        }
    }

    /// Most requests of all keys together.
    #[must_use]
    pub const fn request_limit(self) -> Option<RequestLimit> {
        match self {
            Self::Unlimited => None,
            Self::Free => Some(RequestLimit { requests: 1_000, window: Window::Month }),
        }
    }

    /// This plan, if a limit of `limit` on this counter is the plan's and not the workspace's own.
    #[must_use]
    pub fn behind(self, counter: &CounterId, limit: u64) -> Option<Self> {
        let of_plan = |most: RequestLimit| most.window == counter.window && most.requests == limit;
        let of_requests = (counter.scope, counter.dimension) == (Scope::Workspace, Dimension::Requests);
        (of_requests && self.request_limit().is_some_and(of_plan)).then_some(self)
    }

    /// The request limits that hold on this plan, given those that a workspace has of its own: the lower one where both say something.
    #[must_use]
    pub fn bound(self, own: &[RequestLimit]) -> Cow<'_, [RequestLimit]> {
        let Some(most) = self.request_limit() else { return Cow::Borrowed(own) };
        let mut limits = own.to_vec();
        match limits.iter_mut().find(|limit| limit.window == most.window) {
            Some(limit) => limit.requests = limit.requests.min(most.requests),
            None => limits.push(most),
        }
        Cow::Owned(limits)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn per(window: Window, requests: u64) -> RequestLimit {
        RequestLimit { requests, window }
    }

    #[test]
    fn the_lower_of_plan_and_own_limit_holds_and_other_windows_stay() {
        let free = |own: &[RequestLimit]| Plan::Free.bound(own).into_owned();
        assert_eq!(free(&[]), [per(Window::Month, 1_000)]);
        assert_eq!(free(&[per(Window::Month, 7)]), [per(Window::Month, 7)]);
        assert_eq!(free(&[per(Window::Month, 20_000)]), [per(Window::Month, 1_000)]);
        assert_eq!(free(&[per(Window::Day, 20_000)]), [per(Window::Day, 20_000), per(Window::Month, 1_000)]);
        let own = [per(Window::Month, 20_000), per(Window::Total, 1)];
        assert_eq!(*Plan::Unlimited.bound(&own), own);
    }

    #[test]
    fn words_are_read_back() {
        for plan in Plan::ALL {
            assert_eq!(Plan::from_word(plan.as_str()), Some(plan));
            assert_eq!(serde_json::to_value(plan).unwrap(), plan.as_str());
        }
        assert_eq!(Plan::default(), Plan::Unlimited);
    }
}

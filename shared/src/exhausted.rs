//! A limit that does not cover a request, and what is said about it: by the node that refuses, and by whoever explains a key.

use crate::clock::Timestamp;
use crate::limit::{Dimension, Scope};
use crate::money::NanoUsd;
use crate::period::Window;
use crate::plan::Plan;
use crate::policy::Policy;

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
    /// The least that this request would have needed; 0 when nothing is left for any, and none was asked for.
    pub needed: u64,
    /// When the period ends; `None` for a limit on the whole life.
    pub resets_at: Option<Timestamp>,
}

impl Exhausted {
    /// What a key that was set to nothing is told.
    pub const NOTHING_LEFT: Self = Self {
        plan: None,
        scope: Scope::Key,
        dimension: Dimension::Requests,
        window: Policy::NOTHING_LEFT.window,
        limit: Policy::NOTHING_LEFT.requests,
        spent: 0,
        held: 0,
        needed: 1,
        resets_at: None,
    };

    /// An amount of what the limit counts, as people read it.
    #[must_use]
    pub fn amount(&self, value: u64) -> String {
        match self.dimension {
            Dimension::Spend => NanoUsd::new(value).to_string(),
            Dimension::Requests => value.to_string(),
        }
    }

    /// What the agent is told.
    #[must_use]
    pub fn message(&self) -> String {
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
        let [limit, spent, held] = [self.limit, self.spent, self.held].map(|value| self.amount(value));
        if self.needed == 0 {
            return format!(
                "{whose} {what} of {limit} {per}{plan} does not cover any request: {spent} spent, {held} held, nothing left, and every request \
                 needs something of it.{reset}"
            );
        }
        let needed = self.amount(self.needed);
        format!(
            "{whose} {what} of {limit} {per}{plan} does not cover this request: {spent} spent, {held} held, {needed} needed.{reset}"
        )
    }
}

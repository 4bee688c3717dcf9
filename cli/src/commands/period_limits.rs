//! Limits per period, which keys and workspaces both have: on a command line, and as they are shown.

use clap::Args;
use keyforge_proto::admin::v1 as proto;
use keyforge_proto::convert;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::policy::{RequestLimit, SpendLimit};
use serde::Serialize;

use crate::limit_syntax;

/// Limits per period; absent limits do not limit.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub(super) struct PeriodLimitArgs {
    /// Most requests in a period: day, week, month or total, such as 500/day or 20000/month; a bare number means per month; may be repeated for other
    /// periods
    #[arg(long, value_name = "N[/PERIOD]", value_parser = limit_syntax::requests)]
    requests: Vec<RequestLimit>,
    /// Most US dollars in a period, such as 50/month or 0.01/day; a bare number means per month; may be repeated for other periods
    #[arg(long, value_name = "USD[/PERIOD]", value_parser = limit_syntax::spend)]
    spend: Vec<SpendLimit>,
}

/// Limits per period that an update takes away.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Limits to remove")]
pub(super) struct NoPeriodLimitArgs {
    /// No limit on requests per period
    #[arg(long, conflicts_with = "requests")]
    pub(super) no_requests: bool,
    /// No limit on spend
    #[arg(long, conflicts_with = "spend")]
    pub(super) no_spend: bool,
}

impl PeriodLimitArgs {
    /// These, and where nothing was given those of `base`.
    pub(super) fn over(self, base: Self) -> Self {
        let requests = if self.requests.is_empty() { base.requests } else { self.requests };
        Self { requests, spend: if self.spend.is_empty() { base.spend } else { self.spend } }
    }

    /// Whether request limits were given, and whether spend limits were.
    pub(super) const fn given(&self) -> (bool, bool) {
        (!self.requests.is_empty(), !self.spend.is_empty())
    }

    /// The limits as a request holds them.
    pub(super) fn into_messages(self) -> (Vec<proto::RequestLimit>, Vec<proto::SpendLimit>) {
        (self.requests.into_iter().map(Into::into).collect(), self.spend.into_iter().map(Into::into).collect())
    }
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct RequestLimitView {
    requests: u64,
    window: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct SpendLimitView {
    usd: String,
    nano_usd: u64,
    window: &'static str,
}

impl From<proto::RequestLimit> for RequestLimitView {
    fn from(limit: proto::RequestLimit) -> Self {
        Self { requests: limit.requests, window: window(limit.window) }
    }
}

impl From<proto::SpendLimit> for SpendLimitView {
    fn from(limit: proto::SpendLimit) -> Self {
        let usd = NanoUsd::new(limit.nano_usd).decimal();
        Self { usd, nano_usd: limit.nano_usd, window: window(limit.window) }
    }
}

/// What a table shows of request limits and of spend limits: as they are written on a command line.
pub(super) fn cells(requests: &[RequestLimitView], spend: &[SpendLimitView]) -> [String; 2] {
    let join = |texts: Vec<String>| if texts.is_empty() { "-".to_owned() } else { texts.join(", ") };
    let requests = requests.iter().map(|limit| format!("{}/{}", limit.requests, limit.window));
    let spend = spend.iter().map(|limit| format!("${}/{}", limit.usd, limit.window));
    [join(requests.collect()), join(spend.collect())]
}

/// The word for a window, as limits are written.
pub(super) fn window(number: i32) -> &'static str {
    convert::window(number, "window").map_or("unknown", |window| window.as_str())
}

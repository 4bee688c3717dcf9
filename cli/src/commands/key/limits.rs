//! The limits of a key on a command line, and the policy and the paths of an update that come of them.

use clap::Args;
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::policy::{RequestLimit, SpendLimit};

use crate::errors::Failure;
use crate::limit_syntax::{self, Expiry};

/// What limits a key; absent limits do not limit.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Models it may call: patterns with commas between, such as 'gpt-5*,gpt-4o*'; '' allows every model [default: every model]
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// Most requests in a period, such as 20000/month, 500/day or 100/total; may be repeated for other periods; UTC
    #[arg(long, value_name = "N/PERIOD", value_parser = limit_syntax::requests)]
    requests: Vec<RequestLimit>,
    /// Most US dollars in a period, such as 50/month or 0.01/day; may be repeated for other periods; UTC
    #[arg(long, value_name = "USD/PERIOD", value_parser = limit_syntax::spend)]
    spend: Vec<SpendLimit>,
    /// Most requests in any 60 seconds
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rpm: Option<u32>,
    /// Most output tokens of one request
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_output_tokens: Option<u64>,
    /// When it ends: at the first moment of a date such as 2026-12-04 (UTC), at 2026-12-04T18:00:00Z, or after 12h or 30d
    #[arg(long, value_name = "WHEN", value_parser = limit_syntax::expiry)]
    expires: Option<Expiry>,
}

impl LimitArgs {
    /// The policy that holds the limits that were given, and their paths in an update.
    pub(super) fn policy(self, now: Timestamp) -> Result<(proto::Policy, Vec<&'static str>), Failure> {
        let given = [
            ("policy.models", self.models.is_some()),
            ("policy.request_limits", !self.requests.is_empty()),
            ("policy.spend_limits", !self.spend.is_empty()),
            ("policy.requests_per_minute", self.rpm.is_some()),
            ("policy.max_output_tokens", self.max_output_tokens.is_some()),
            ("policy.expires_at_ms", self.expires.is_some()),
        ];
        let in_the_past = |error: String| Failure::usage(error).hint("to end a key now, use `keyforge key revoke ID`");
        let trimmed = self.models.unwrap_or_default().into_iter().map(|pattern| pattern.trim().to_owned());
        let policy = proto::Policy {
            models: trimmed.filter(|pattern| !pattern.is_empty()).collect(),
            request_limits: self.requests.into_iter().map(Into::into).collect(),
            spend_limits: self.spend.into_iter().map(Into::into).collect(),
            requests_per_minute: self.rpm,
            max_output_tokens: self.max_output_tokens,
            expires_at_ms: self.expires.map(|expiry| expiry.millis(now).map_err(in_the_past)).transpose()?,
        };
        Ok((policy, given.into_iter().filter_map(|(path, given)| given.then_some(path)).collect()))
    }
}

/// Limits that an update takes away.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Limits to remove")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(super) struct NoLimitArgs {
    /// No limit on requests per period
    #[arg(long, conflicts_with = "requests")]
    no_requests: bool,
    /// No limit on spend
    #[arg(long, conflicts_with = "spend")]
    no_spend: bool,
    /// No limit on requests per minute
    #[arg(long, conflicts_with = "rpm")]
    no_rpm: bool,
    /// No limit on output tokens
    #[arg(long, conflicts_with = "max_output_tokens")]
    no_max_output_tokens: bool,
    /// No end
    #[arg(long, conflicts_with = "expires")]
    no_expires: bool,
}

impl NoLimitArgs {
    /// The paths of an update that takes them away.
    pub(super) fn paths(self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("policy.request_limits", self.no_requests),
            ("policy.spend_limits", self.no_spend),
            ("policy.requests_per_minute", self.no_rpm),
            ("policy.max_output_tokens", self.no_max_output_tokens),
            ("policy.expires_at_ms", self.no_expires),
        ];
        given.into_iter().filter_map(|(path, given)| given.then_some(path))
    }
}

//! The limits of a key on a command line, and the policy and the paths of an update that come of them.

use clap::Args;
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::endpoint::Endpoint;
use keyforge_shared::network::Network;

use crate::commands::period_limits::{NoPeriodLimitArgs, PeriodLimitArgs};
use crate::errors::Failure;
use crate::limit_syntax::{self, Expiry};

/// What limits a key; absent limits do not limit.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Models it may call: patterns with commas between, such as 'gpt-5*,gpt-4o*'; '' allows every model [default: every model]
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    models: Option<Vec<String>>,
    #[command(flatten)]
    periods: PeriodLimitArgs,
    /// Most requests in any 60 seconds
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    rpm: Option<u32>,
    /// Most tokens in any 60 seconds, input and output together
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    tpm: Option<u64>,
    /// Most requests that run at the same time
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    concurrency: Option<u32>,
    /// Most output tokens of one request, all of its choices together
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_output_tokens: Option<u64>,
    /// When it ends: at the first moment of a date such as 2026-12-04 (UTC), at 2026-12-04T18:00:00Z, or after 12h or 30d
    #[arg(long, value_name = "WHEN", value_parser = limit_syntax::expiry)]
    expires: Option<Expiry>,
    /// How long a node may serve it without the control plane, in seconds: a revocation holds everywhere after that [default: the deployment's, 30]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    max_staleness: Option<u32>,
    /// Networks that it may be used from, such as 10.0.0.0/8 or 2001:db8::/32; may be repeated [default: everywhere]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    network: Option<Vec<Network>>,
    /// Endpoints that it may be used for, of chat, embeddings and models, with commas between [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    endpoints: Option<Vec<Endpoint>>,
}

impl LimitArgs {
    /// These, and where nothing was given those of `base`.
    pub(super) fn over(self, base: Self) -> Self {
        Self {
            models: self.models.or(base.models),
            periods: self.periods.over(base.periods),
            rpm: self.rpm.or(base.rpm),
            tpm: self.tpm.or(base.tpm),
            concurrency: self.concurrency.or(base.concurrency),
            max_output_tokens: self.max_output_tokens.or(base.max_output_tokens),
            expires: self.expires.or(base.expires),
            max_staleness: self.max_staleness.or(base.max_staleness),
            network: self.network.or(base.network),
            endpoints: self.endpoints.or(base.endpoints),
        }
    }

    /// The policy that holds the limits that were given, and their paths in an update.
    pub(super) fn policy(self, now: Timestamp) -> Result<(proto::Policy, Vec<&'static str>), Failure> {
        let (requests, spend) = self.periods.given();
        let given = [
            ("policy.models", self.models.is_some()),
            ("policy.request_limits", requests),
            ("policy.spend_limits", spend),
            ("policy.requests_per_minute", self.rpm.is_some()),
            ("policy.tokens_per_minute", self.tpm.is_some()),
            ("policy.concurrent_requests", self.concurrency.is_some()),
            ("policy.max_output_tokens", self.max_output_tokens.is_some()),
            ("policy.expires_at_ms", self.expires.is_some()),
            ("policy.max_staleness_seconds", self.max_staleness.is_some()),
            ("policy.networks", self.network.is_some()),
            ("policy.endpoints", self.endpoints.is_some()),
        ];
        let not_an_end = |error: String| match error.ends_with("in the past") {
            true => Failure::usage(error).hint("to end a key now, use `keyforge key revoke ID`"),
            false => Failure::usage(error),
        };
        let models = model_patterns(self.models.unwrap_or_default())?;
        let networks = self.network.unwrap_or_default().into_iter().map(Into::into).collect();
        let endpoints = self.endpoints.unwrap_or_default().into_iter();
        let (request_limits, spend_limits) = self.periods.into_messages();
        let policy = proto::Policy {
            models,
            request_limits,
            spend_limits,
            requests_per_minute: self.rpm,
            tokens_per_minute: self.tpm,
            concurrent_requests: self.concurrency,
            max_output_tokens: self.max_output_tokens,
            expires_at_ms: self
                .expires
                .map(|expiry| expiry.millis(now, "--expires").map_err(not_an_end))
                .transpose()?,
            time_zone: None,
            max_staleness_seconds: self.max_staleness,
            networks,
            raises: Vec::new(),
            endpoints: endpoints.map(|endpoint| proto::Endpoint::from(endpoint).into()).collect(),
        };
        Ok((policy, given.into_iter().filter_map(|(path, given)| given.then_some(path)).collect()))
    }
}

/// The patterns of `--models`; none, which allows every model, only for `''` itself. A list with nothing between its commas is most likely made of
/// variables that are not set, and must not open a key to everything.
fn model_patterns(given: Vec<String>) -> Result<Vec<String>, Failure> {
    let patterns: Vec<_> = given.into_iter().map(|pattern| pattern.trim().to_owned()).collect();
    match patterns.as_slice() {
        [only] if only.is_empty() => Ok(Vec::new()),
        some if some.iter().any(String::is_empty) => Err(Failure::usage("--models: a pattern is empty")
            .hint("leave the comma out, or give '' alone to allow every model")),
        _ => Ok(patterns),
    }
}

/// Limits that an update takes away.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Limits to remove")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(super) struct NoLimitArgs {
    #[command(flatten)]
    periods: NoPeriodLimitArgs,
    /// No limit on requests per minute
    #[arg(long, conflicts_with = "rpm")]
    no_rpm: bool,
    /// No limit on tokens per minute
    #[arg(long, conflicts_with = "tpm")]
    no_tpm: bool,
    /// No limit on requests at the same time
    #[arg(long, conflicts_with = "concurrency")]
    no_concurrency: bool,
    /// No limit on output tokens
    #[arg(long, conflicts_with = "max_output_tokens")]
    no_max_output_tokens: bool,
    /// No end
    #[arg(long, conflicts_with = "expires")]
    no_expires: bool,
    /// As long without the control plane as the deployment allows
    #[arg(long, conflicts_with = "max_staleness")]
    no_max_staleness: bool,
    /// Use from everywhere
    #[arg(long, conflicts_with = "network")]
    no_network: bool,
    /// Use for every endpoint
    #[arg(long, conflicts_with = "endpoints")]
    no_endpoints: bool,
    /// End what `key raise` raised
    #[arg(long)]
    no_raises: bool,
}

impl NoLimitArgs {
    /// The paths of an update that takes them away.
    pub(super) fn paths(self) -> impl Iterator<Item = &'static str> {
        let given = [
            ("policy.request_limits", self.periods.no_requests),
            ("policy.spend_limits", self.periods.no_spend),
            ("policy.requests_per_minute", self.no_rpm),
            ("policy.tokens_per_minute", self.no_tpm),
            ("policy.concurrent_requests", self.no_concurrency),
            ("policy.max_output_tokens", self.no_max_output_tokens),
            ("policy.expires_at_ms", self.no_expires),
            ("policy.max_staleness_seconds", self.no_max_staleness),
            ("policy.networks", self.no_network),
            ("policy.endpoints", self.no_endpoints),
            ("policy.raises", self.no_raises),
        ];
        given.into_iter().filter_map(|(path, given)| given.then_some(path))
    }
}

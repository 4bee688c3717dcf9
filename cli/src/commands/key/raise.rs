//! `keyforge key raise`: limits of a key that are higher for a while.

use clap::Args;
use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::raise::Amount;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::policy::{RequestLimit, SpendLimit};

use crate::commands::key_id;
use crate::errors::Failure;
use crate::limit_syntax::{self, Expiry};

/// By how much which limits are raised, and until when.
#[derive(Args, Debug)]
pub(super) struct RaiseArgs {
    /// The key's id: vk_ and 12 characters
    id: String,
    /// So many more requests in a period that the key has a quota for, such as +500/day; may be repeated for other periods
    #[arg(long, value_name = "+N[/PERIOD]", value_parser = more_requests, required_unless_present = "spend")]
    requests: Vec<RequestLimit>,
    /// So many more US dollars in a period that the key has a cap for, such as +20/month; may be repeated for other periods
    #[arg(long, value_name = "+USD[/PERIOD]", value_parser = more_spend)]
    spend: Vec<SpendLimit>,
    /// When it ends: at the first moment of a date such as 2026-12-01 (UTC), at 2026-12-01T18:00:00Z, or after 12h or 30d
    #[arg(long, value_name = "WHEN", value_parser = limit_syntax::expiry)]
    until: Expiry,
}

fn more_requests(text: &str) -> Result<RequestLimit, String> {
    limit_syntax::requests(text.strip_prefix('+').unwrap_or(text))
}

fn more_spend(text: &str) -> Result<SpendLimit, String> {
    limit_syntax::spend(text.strip_prefix('+').unwrap_or(text))
}

impl RaiseArgs {
    /// What to ask the server for.
    pub(super) fn request(self, now: Timestamp) -> Result<proto::RaiseKeyRequest, Failure> {
        let until_ms = self.until.millis(now, "--until").map_err(Failure::usage)?;
        let raise = |amount, window| proto::Raise {
            amount: Some(amount),
            window: proto::Window::from(window).into(),
            until_ms,
        };
        let requests = self.requests.iter().map(|more| raise(Amount::Requests(more.requests), more.window));
        let spend = self.spend.iter().map(|more| raise(Amount::NanoUsd(more.amount.nanos()), more.window));
        Ok(proto::RaiseKeyRequest { id: key_id(&self.id)?, raises: requests.chain(spend).collect() })
    }
}

//! `keyforge key explain`: what a key may do now, and why a request of it would be refused.

use std::net::IpAddr;

use clap::Args;
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::endpoint::Endpoint;
use serde::Serialize;

use super::view::KeyView;
use crate::commands::balance::BalanceView;
use crate::commands::key_id;
use crate::errors::Failure;
use crate::output::{self, Row, or_dash};

/// The request that is asked about.
#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// The key's id: vk_ and 12 characters
    id: String,
    /// The model, as an agent writes it
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Where the request goes: chat, embeddings or models
    #[arg(long, value_name = "NAME", default_value = "chat")]
    endpoint: Endpoint,
    /// Where it comes from
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// The output limit that it has
    #[arg(long, value_name = "N")]
    max_tokens: Option<u64>,
}

impl ExplainArgs {
    /// What to ask the server for.
    pub(super) fn request(self) -> Result<proto::ExplainKeyRequest, Failure> {
        Ok(proto::ExplainKeyRequest {
            id: key_id(&self.id)?,
            model: self.model.unwrap_or_default(),
            endpoint: proto::Endpoint::from(self.endpoint).into(),
            from_address: self.from.map(|address| address.to_string()).unwrap_or_default(),
            max_output_tokens: self.max_tokens,
        })
    }
}

/// A check, in the order in which a node makes it.
#[derive(Clone, Debug, Serialize)]
struct CheckView {
    check: String,
    result: &'static str,
    /// Of a refusal.
    status: Option<u32>,
    code: Option<String>,
    message: String,
}

impl CheckView {
    fn of(check: proto::Check) -> Self {
        let result = match check.finding() {
            proto::Finding::Passed => "passes",
            proto::Finding::Refused => "refused",
            proto::Finding::NotAsked => "not asked",
            proto::Finding::ByNodes => "by nodes",
            proto::Finding::Unspecified => "unknown",
        };
        let status = Some(check.status).filter(|status| *status != 0);
        let code = Some(check.code).filter(|code| !code.is_empty());
        Self { check: check.name, result, status, code, message: check.message }
    }

    fn is_refusal(&self) -> bool {
        self.status.is_some()
    }
}

impl Row for CheckView {
    const COLUMNS: &'static [&'static str] = &["check", "result", "status", "code", "what it says"];

    fn cells(&self) -> Vec<String> {
        let (status, code) = (or_dash(self.status), or_dash(self.code.as_ref()));
        vec![self.check.clone(), self.result.to_owned(), status, code, self.message.clone()]
    }
}

/// A key explained.
#[derive(Debug, Serialize)]
pub(super) struct ExplainView {
    key: KeyView,
    balances: Vec<BalanceView>,
    checks: Vec<CheckView>,
    /// What the agent would be told; none: nothing is known that refuses the request.
    refusal: Option<CheckView>,
}

impl ExplainView {
    pub(super) fn of(explained: proto::ExplainKeyResponse) -> Self {
        let checks: Vec<_> = explained.checks.into_iter().map(CheckView::of).collect();
        Self {
            key: KeyView::of(explained.key.unwrap_or_default()),
            balances: explained.balances.into_iter().map(BalanceView::of).collect(),
            refusal: checks.iter().find(|check| check.is_refusal()).cloned(),
            checks,
        }
    }

    pub(super) fn text(&self) -> String {
        let verdict = match &self.refusal {
            Some(refusal) => {
                format!("Refused: {} {}. {}", or_dash(refusal.status), or_dash(refusal.code.as_ref()), refusal.message)
            }
            None => "Nothing that is known here refuses this request.".to_owned(),
        };
        let balances = if self.balances.is_empty() { String::new() } else { output::table(&self.balances) + "\n\n" };
        format!("{}\n\n{balances}{}\n\n{verdict}\n", output::lines(&self.key), output::table(&self.checks))
    }
}

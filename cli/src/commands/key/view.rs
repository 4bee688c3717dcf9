//! What is shown of a key. The token is in one place only: the answer to making a key.

use std::collections::BTreeMap;

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::raise::Amount;
use keyforge_proto::convert;
use keyforge_shared::money::NanoUsd;
use serde::Serialize;

use crate::commands::period_limits::{self, RequestLimitView, SpendLimitView};
use crate::output::{self, Row, moment, or_dash};

/// A key and what it may do.
#[derive(Clone, Debug, Serialize)]
pub(super) struct KeyView {
    id: String,
    name: String,
    status: &'static str,
    /// The workspace's name.
    workspace: String,
    workspace_id: String,
    labels: BTreeMap<String, String>,
    policy: PolicyView,
    created_at: String,
    revoked_at: Option<String>,
    /// Until when the token before the last rotation works, or worked.
    former_token_until: Option<String>,
    revision: u64,
}

#[derive(Clone, Debug, Serialize)]
struct PolicyView {
    models: Vec<String>,
    request_limits: Vec<RequestLimitView>,
    spend_limits: Vec<SpendLimitView>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u64>,
    concurrent_requests: Option<u32>,
    max_output_tokens: Option<u64>,
    expires_at: Option<String>,
    /// What the key's periods follow; none: UTC.
    time_zone: Option<String>,
    /// How long nodes may serve it without the control plane; none: the deployment's.
    max_staleness_seconds: Option<u32>,
    /// Where it may be used from; none: everywhere.
    networks: Vec<String>,
    /// What it may be used for; none: everything.
    endpoints: Vec<&'static str>,
    /// What is on top of its limits for a while.
    raises: Vec<RaiseView>,
}

#[derive(Clone, Debug, Serialize)]
struct RaiseView {
    dimension: &'static str,
    window: &'static str,
    /// Requests or nano-dollars, by `dimension`.
    amount: u64,
    /// In dollars, when money is raised.
    amount_usd: Option<String>,
    until: String,
}

impl RaiseView {
    fn of(raise: proto::Raise) -> Self {
        let (dimension, amount, amount_usd) = match raise.amount {
            Some(Amount::Requests(requests)) => ("requests", requests, None),
            Some(Amount::NanoUsd(nanos)) => ("spend", nanos, Some(NanoUsd::new(nanos).decimal())),
            None => ("unknown", 0, None),
        };
        let window = period_limits::window(raise.window);
        Self { dimension, window, amount, amount_usd, until: moment(raise.until_ms) }
    }

    fn cell(&self) -> String {
        let amount = self.amount_usd.as_ref().map_or_else(|| self.amount.to_string(), |usd| format!("${usd}"));
        format!(", +{amount}/{} until {}", self.window, self.until)
    }
}

impl KeyView {
    pub(super) fn of(key: proto::Key) -> Self {
        let status = match key.status() {
            proto::KeyStatus::Active => "active",
            proto::KeyStatus::Paused => "paused",
            proto::KeyStatus::Revoked => "revoked",
            proto::KeyStatus::Unspecified => "unknown",
        };
        Self {
            id: key.id,
            name: key.name,
            status,
            workspace: key.workspace_name,
            workspace_id: key.workspace_id,
            labels: key.labels.into_iter().collect(),
            policy: PolicyView::of(key.policy.unwrap_or_default()),
            created_at: moment(key.created_at_ms),
            revoked_at: key.revoked_at_ms.map(moment),
            former_token_until: key.former_token_until_ms.map(moment),
            revision: key.revision,
        }
    }
}

impl PolicyView {
    fn of(policy: proto::Policy) -> Self {
        Self {
            models: policy.models,
            request_limits: policy.request_limits.into_iter().map(Into::into).collect(),
            spend_limits: policy.spend_limits.into_iter().map(Into::into).collect(),
            requests_per_minute: policy.requests_per_minute,
            tokens_per_minute: policy.tokens_per_minute,
            concurrent_requests: policy.concurrent_requests,
            max_output_tokens: policy.max_output_tokens,
            expires_at: policy.expires_at_ms.map(moment),
            time_zone: policy.time_zone,
            max_staleness_seconds: policy.max_staleness_seconds,
            networks: policy.networks,
            endpoints: policy.endpoints.into_iter().map(endpoint).collect(),
            raises: policy.raises.into_iter().map(RaiseView::of).collect(),
        }
    }
}

/// The word for an endpoint; a later server may know more of them.
fn endpoint(number: i32) -> &'static str {
    convert::endpoint(number, "endpoints").map_or("unknown", keyforge_shared::endpoint::Endpoint::as_str)
}

impl Row for KeyView {
    const COLUMNS: &'static [&'static str] = &[
        "id",
        "name",
        "status",
        "workspace",
        "labels",
        "models",
        "requests",
        "spend",
        "rpm",
        "tpm",
        "concurrent",
        "max output",
        "networks",
        "endpoints",
        "expires",
        "time zone",
        "created",
    ];

    fn cells(&self) -> Vec<String> {
        let policy = &self.policy;
        let [mut requests, mut spend] = period_limits::cells(&policy.request_limits, &policy.spend_limits);
        for raise in &policy.raises {
            let raised = if raise.amount_usd.is_some() { &mut spend } else { &mut requests };
            raised.push_str(&raise.cell());
        }
        vec![
            self.id.clone(),
            self.name.clone(),
            self.status_cell(),
            self.workspace.clone(),
            self.labels_cell(),
            all_or(policy.models.join(",")),
            requests,
            spend,
            or_dash(policy.requests_per_minute),
            or_dash(policy.tokens_per_minute),
            or_dash(policy.concurrent_requests),
            or_dash(policy.max_output_tokens),
            all_or(policy.networks.join(",")),
            all_or(policy.endpoints.join(",")),
            or_dash(policy.expires_at.as_ref()),
            policy.time_zone.clone().unwrap_or_else(|| "UTC".to_owned()),
            self.created_at.clone(),
        ]
    }
}

impl KeyView {
    fn status_cell(&self) -> String {
        match &self.former_token_until {
            Some(until) => format!("{} (old token until {until})", self.status),
            None => self.status.to_owned(),
        }
    }

    fn labels_cell(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        or_dash(Some(labels.join(",")).filter(|text| !text.is_empty()))
    }
}

/// A key in a list: what tells it from the others. As JSON it is whole.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct KeyRow(KeyView);

impl KeyRow {
    pub(super) fn of(key: proto::Key) -> Self {
        Self(KeyView::of(key))
    }
}

impl Row for KeyRow {
    const COLUMNS: &'static [&'static str] =
        &["id", "name", "status", "workspace", "labels", "models", "requests", "spend", "expires", "created"];

    fn cells(&self) -> Vec<String> {
        let mut all: BTreeMap<_, _> = KeyView::COLUMNS.iter().zip(self.0.cells()).collect();
        Self::COLUMNS.iter().map(|name| all.remove(name).unwrap_or_default()).collect()
    }
}

fn all_or(list: String) -> String {
    if list.is_empty() { "all".to_owned() } else { list }
}

/// A key that was just made or rotated, with its token.
#[derive(Serialize)]
pub(super) struct CreatedView {
    key: KeyView,
    token: String,
}

impl CreatedView {
    pub(super) fn of(created: proto::CreateKeyResponse) -> Self {
        Self { key: KeyView::of(created.key.unwrap_or_default()), token: created.token }
    }

    pub(super) fn of_rotated(rotated: proto::RotateKeyResponse) -> Self {
        Self { key: KeyView::of(rotated.key.unwrap_or_default()), token: rotated.token }
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{}\n\nThe token is shown this once and stored nowhere; hand it to the agent now:\n\n  {}\n",
            output::lines(&self.key),
            self.token
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> proto::Key {
        let policy = proto::Policy {
            models: vec!["gpt-5*".to_owned()],
            request_limits: vec![proto::RequestLimit { requests: 500, window: proto::Window::Day.into() }],
            spend_limits: vec![proto::SpendLimit { nano_usd: 10_500_000_000, window: proto::Window::Month.into() }],
            requests_per_minute: Some(60),
            max_output_tokens: None,
            expires_at_ms: Some(1_795_327_200_000),
            tokens_per_minute: Some(90_000),
            concurrent_requests: None,
            networks: vec!["10.0.0.0/8".to_owned()],
            endpoints: vec![proto::Endpoint::Chat.into(), 99],
            raises: vec![proto::Raise {
                amount: Some(Amount::NanoUsd(20_000_000_000)),
                window: proto::Window::Month.into(),
                until_ms: 1_795_327_200_000,
            }],
            ..Default::default()
        };
        let status = proto::KeyStatus::Paused.into();
        proto::Key {
            id: "vk_0123456789ab".to_owned(),
            name: "ci".to_owned(),
            workspace_name: "team".to_owned(),
            status,
            policy: Some(policy),
            former_token_until_ms: Some(1_795_327_200_000),
            labels: [("team", "research"), ("env", "ci")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Default::default()
        }
    }

    #[test]
    fn limits_are_shown_as_they_are_written() {
        let view = KeyView::of(key());
        let cells = view.cells();
        assert_eq!(cells.len(), KeyView::COLUMNS.len());
        assert_eq!(
            &cells[2..8],
            [
                "paused (old token until 2026-11-22T06:00:00Z)",
                "team",
                "env=ci,team=research",
                "gpt-5*",
                "500/day",
                "$10.50/month, +$20.00/month until 2026-11-22T06:00:00Z"
            ]
        );
        assert_eq!(&cells[8..14], ["60", "90000", "-", "-", "10.0.0.0/8", "chat,unknown"]);
        assert_eq!(&cells[14..16], ["2026-11-22T06:00:00Z", "UTC"]);
    }

    #[test]
    fn a_list_shows_a_part_of_what_a_key_shows() {
        let cells = KeyRow::of(key()).cells();
        assert_eq!(cells.len(), KeyRow::COLUMNS.len());
        assert_eq!(&cells[3..6], ["team", "env=ci,team=research", "gpt-5*"]);
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{cells:?}");
    }

    #[test]
    fn json_holds_amounts_as_exact_dollars_and_nano_dollars() {
        let json = serde_json::to_value(KeyView::of(key())).unwrap();
        let spend = &json["policy"]["spend_limits"][0];
        assert_eq!((spend["usd"].as_str(), spend["nano_usd"].as_u64()), (Some("10.50"), Some(10_500_000_000)));
        assert_eq!((json["status"].as_str(), json["policy"]["max_output_tokens"].is_null()), (Some("paused"), true));
    }

    #[test]
    fn the_token_of_a_new_key_is_printed_once() {
        let created = proto::CreateKeyResponse { key: Some(key()), token: "vk_0123456789ab_secret".to_owned() };
        let created = CreatedView::of(created);
        assert_eq!(created.text().matches("_secret").count(), 1);
        assert_eq!(serde_json::to_value(&created).unwrap()["token"], "vk_0123456789ab_secret");
    }
}

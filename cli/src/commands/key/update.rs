//! `keyforge key update`: changes of a key's name, labels and limits. What is not named stays as it is.

use std::borrow::Cow;

use clap::Args;
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::period::ZoneName;

use super::label::{self, Label};
use super::limits::{LimitArgs, NoLimitArgs};
use crate::commands::{key_id, workspace_name};
use crate::errors::Failure;

/// What is to change of which key.
#[derive(Args, Debug)]
pub(super) struct UpdateArgs {
    /// The key's id: vk_ and 12 characters
    id: String,
    /// A new name
    #[arg(long)]
    name: Option<String>,
    /// Cannot change: refused unless it is the key's own
    #[arg(long, value_name = "ID|NAME", hide = true)]
    workspace: Option<String>,
    /// Cannot change: refused unless it is the key's own
    #[arg(long, value_name = "ZONE", hide = true)]
    time_zone: Option<ZoneName>,
    /// Add or change a label, such as team=research; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<Label>,
    /// Take a label away; may be repeated
    #[arg(long, value_name = "NAME")]
    no_label: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    remove: NoLimitArgs,
}

impl UpdateArgs {
    /// What to ask the server for: only what is named changes.
    pub(super) fn request(self, now: Timestamp) -> Result<proto::UpdateKeyRequest, Failure> {
        let (limits, paths) = self.limits.policy(now)?;
        let mut paths: Vec<_> = paths.into_iter().map(Cow::Borrowed).collect();
        paths.extend(self.remove.paths().map(Cow::Borrowed));
        paths.extend(self.label.iter().map(Label::path));
        paths.extend(self.no_label.iter().map(|name| label::path_of(name)));
        paths.extend(self.name.is_some().then_some("name".into()));
        paths.extend(self.workspace.is_some().then_some("workspace".into()));
        paths.extend(self.time_zone.is_some().then_some("policy.time_zone".into()));
        if paths.is_empty() {
            return Err(Failure::usage("nothing to change")
                .hint("name what is to change, such as --spend 80/month or --no-rpm"));
        }
        Ok(proto::UpdateKeyRequest {
            id: key_id(&self.id)?,
            name: self.name.unwrap_or_default(),
            policy: Some(proto::Policy { time_zone: self.time_zone.map(Into::into), ..limits }),
            paused: false,
            update_mask: Some(mask(paths)),
            workspace: self.workspace.map(workspace_name).transpose()?.unwrap_or_default(),
            labels: label::all(self.label),
        })
    }
}

fn mask(paths: Vec<Cow<'static, str>>) -> prost_types::FieldMask {
    prost_types::FieldMask { paths: paths.into_iter().map(Cow::into_owned).collect() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, updated};
    use super::*;

    #[test]
    fn an_update_names_what_was_given_and_nothing_else() {
        let (paths, policy) = updated("--rpm 7");
        assert_eq!((paths, policy.requests_per_minute), (vec!["policy.requests_per_minute".to_owned()], Some(7)));
        let (paths, policy) = updated("--no-rpm --no-expires --spend 1/day --spend 9/month");
        assert_eq!(paths, ["policy.spend_limits", "policy.requests_per_minute", "policy.expires_at_ms"]);
        assert_eq!((policy.spend_limits.len(), policy.requests_per_minute), (2, None));
        let (paths, policy) = updated("--models  --name n");
        assert_eq!((paths, policy.models), (vec!["policy.models".to_owned(), "name".to_owned()], Vec::<String>::new()));
    }

    #[test]
    fn rates_are_changed_and_removed_by_their_own_options() {
        let (paths, policy) = updated("--tpm 90000 --concurrency 4");
        assert_eq!(paths, ["policy.tokens_per_minute", "policy.concurrent_requests"]);
        assert_eq!((policy.tokens_per_minute, policy.concurrent_requests), (Some(90_000), Some(4)));
        let (paths, policy) = updated("--no-tpm --no-concurrency");
        assert_eq!(paths, ["policy.tokens_per_minute", "policy.concurrent_requests"]);
        assert_eq!((policy.tokens_per_minute, policy.concurrent_requests), (None, None));
    }

    #[test]
    fn networks_and_endpoints_are_given_changed_and_removed() {
        let (paths, policy) = updated("--network 10.1.0.0/8 --network 2001:db8::/32,192.0.2.1 --endpoints chat,models");
        assert_eq!(paths, ["policy.networks", "policy.endpoints"]);
        assert_eq!(policy.networks, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]);
        assert_eq!(policy.endpoints, [proto::Endpoint::Chat, proto::Endpoint::Models].map(i32::from));
        let (paths, policy) = updated("--no-network --no-endpoints");
        assert_eq!((paths.len(), policy.networks.len(), policy.endpoints.len()), (2, 0, 0));
    }

    #[test]
    fn an_update_of_nothing_and_a_contradiction_are_refused() {
        assert!(call("update vk_0123456789ab").unwrap_err().to_string().contains("nothing to change"));
        for limit in ["rpm 5", "tpm 5", "concurrency 5", "requests 5", "spend 5"] {
            let (name, _) = limit.split_once(' ').unwrap();
            assert!(call(&format!("update vk_0123456789ab --{limit} --no-{name}")).is_err(), "{limit}");
        }
    }
}

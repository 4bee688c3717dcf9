//! Which parts of a virtual key a caller wants changed: the meaning of an update mask.

use std::collections::BTreeSet;

use keyforge_shared::policy::Policy;

use super::{AdminError, labels};
use crate::store::key_labels::Labels;

/// A part of a key that can be changed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Name,
    Paused,
    Workspace,
    Models,
    RequestLimits,
    SpendLimits,
    RequestsPerMinute,
    MaxOutputTokens,
    ExpiresAt,
    TokensPerMinute,
    ConcurrentRequests,
    TimeZone,
    MaxStaleness,
    Networks,
    Endpoints,
    Raises,
    Labels,
}

const POLICY: [(&str, Part); 13] = [
    ("policy.models", Part::Models),
    ("policy.request_limits", Part::RequestLimits),
    ("policy.spend_limits", Part::SpendLimits),
    ("policy.requests_per_minute", Part::RequestsPerMinute),
    ("policy.max_output_tokens", Part::MaxOutputTokens),
    ("policy.expires_at_ms", Part::ExpiresAt),
    ("policy.tokens_per_minute", Part::TokensPerMinute),
    ("policy.concurrent_requests", Part::ConcurrentRequests),
    ("policy.time_zone", Part::TimeZone),
    ("policy.max_staleness_seconds", Part::MaxStaleness),
    ("policy.networks", Part::Networks),
    ("policy.endpoints", Part::Endpoints),
    ("policy.raises", Part::Raises),
];

/// The parts that an update names. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMask {
    parts: BTreeSet<Part>,
    /// Single labels, by name.
    labels: BTreeSet<String>,
}

impl KeyMask {
    /// Reads `name`, `paused`, `workspace`, `labels`, `labels.<name>`, `policy` and `policy.<field>`.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] naming every path that a key does not have, or when there is no path at all: nothing is ever changed that was
    /// not named.
    pub fn parse<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self, AdminError> {
        let (mut parts, mut single, mut problems) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for path in paths {
            match path {
                "name" => drop(parts.insert(Part::Name)),
                "paused" => drop(parts.insert(Part::Paused)),
                "workspace" => drop(parts.insert(Part::Workspace)),
                "labels" => drop(parts.insert(Part::Labels)),
                "policy" => parts.extend(POLICY.map(|(_, part)| part)),
                _ => match POLICY.into_iter().find(|(name, _)| *name == path) {
                    Some((_, part)) => drop(parts.insert(part)),
                    None => match path.strip_prefix("labels.").filter(|name| labels::is_name(name)) {
                        Some(name) => drop(single.insert(name.to_owned())),
                        None => problems.push(unknown(path)),
                    },
                },
            }
        }
        if parts.is_empty() && single.is_empty() && problems.is_empty() {
            problems.push("update_mask: empty; name what is to change, such as policy.models".to_owned());
        }
        AdminError::unless_valid(&problems)?;
        Ok(Self { parts, labels: single })
    }

    /// Whether the name is to change.
    #[must_use]
    pub fn name(&self) -> bool {
        self.parts.contains(&Part::Name)
    }

    /// Whether the key is to be paused or resumed.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.parts.contains(&Part::Paused)
    }

    /// Whether the update names the key's workspace, which cannot change.
    #[must_use]
    pub fn workspace(&self) -> bool {
        self.parts.contains(&Part::Workspace)
    }

    /// Whether the update names the key's time zone, which cannot change.
    #[must_use]
    pub fn time_zone(&self) -> bool {
        self.parts.contains(&Part::TimeZone)
    }

    /// Whether the raises are to change.
    #[must_use]
    pub fn raises(&self) -> bool {
        self.parts.contains(&Part::Raises)
    }

    /// Whether any part of the policy is to change.
    #[must_use]
    pub fn policy(&self) -> bool {
        POLICY.iter().any(|(_, part)| self.parts.contains(part))
    }

    /// Takes the named labels of `new` over, all of them or single ones; a single one that `new` does not have is taken away.
    pub(super) fn change_labels(&self, labels: &mut Labels, mut new: Labels) {
        if self.parts.contains(&Part::Labels) {
            *labels = new;
            return;
        }
        for name in &self.labels {
            match new.remove(name) {
                Some(value) => drop(labels.insert(name.clone(), value)),
                None => drop(labels.remove(name)),
            }
        }
    }

    /// Takes the named parts of `new` over into `policy`, all but what cannot change.
    pub(super) fn change(&self, policy: &mut Policy, new: Policy) {
        for part in &self.parts {
            match part {
                Part::Name | Part::Paused | Part::Workspace | Part::TimeZone | Part::Labels => {}
                Part::Models => policy.models.clone_from(&new.models),
                Part::RequestLimits => policy.request_limits.clone_from(&new.request_limits),
                Part::SpendLimits => policy.spend_limits.clone_from(&new.spend_limits),
                Part::RequestsPerMinute => policy.requests_per_minute = new.requests_per_minute,
                Part::MaxOutputTokens => policy.max_output_tokens = new.max_output_tokens,
                Part::ExpiresAt => policy.expires_at = new.expires_at,
                Part::TokensPerMinute => policy.tokens_per_minute = new.tokens_per_minute,
                Part::ConcurrentRequests => policy.concurrent_requests = new.concurrent_requests,
                Part::MaxStaleness => policy.max_staleness_seconds = new.max_staleness_seconds,
                Part::Networks => policy.networks.clone_from(&new.networks),
                Part::Endpoints => policy.endpoints = new.endpoints,
                Part::Raises => policy.raises.clone_from(&new.raises),
            }
        }
    }
}

fn unknown(path: &str) -> String {
    let paths = POLICY.map(|(name, _)| name).join(", ");
    format!("update_mask: a key has no {}; use name, paused, labels, labels.NAME, policy, {paths}", shown(path))
}

/// A path that could be one. Anything else may be a secret in the wrong place, and what is said here is kept for good.
fn shown(path: &str) -> String {
    let like_a_field = |letter: char| letter.is_ascii_lowercase() || matches!(letter, '_' | '.');
    if path.len() <= 40 && path.chars().all(like_a_field) { format!("`{path}`") } else { "such field".to_owned() }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::Timestamp;
    use keyforge_shared::endpoint::Endpoint;
    use keyforge_shared::limit::Dimension;
    use keyforge_shared::money::NanoUsd;
    use keyforge_shared::network::Networks;
    use keyforge_shared::period::{Window, ZoneName};
    use keyforge_shared::policy::{ModelPattern, Raise, RequestLimit, SpendLimit};

    use super::*;

    fn full(number: u64) -> Policy {
        Policy {
            models: vec![ModelPattern(number.to_string())],
            request_limits: vec![RequestLimit { requests: number, window: Window::Day }],
            spend_limits: vec![SpendLimit { amount: NanoUsd::new(number), window: Window::Day }],
            requests_per_minute: u32::try_from(number).ok(),
            max_output_tokens: Some(number),
            expires_at: Some(Timestamp::from_nanos(i64::try_from(number).unwrap())),
            tokens_per_minute: Some(number),
            concurrent_requests: u32::try_from(number).ok(),
            time_zone: ZoneName::new(if number == 1 { "Europe/Berlin" } else { "Asia/Tokyo" }).ok(),
            max_staleness_seconds: u32::try_from(number).ok(),
            networks: Networks::new(vec![format!("10.0.0.{number}").parse().unwrap()]),
            raises: [Raise {
                dimension: Dimension::Requests,
                window: Window::Day,
                amount: number,
                until: Timestamp::MAX,
            }]
            .into(),
            endpoints: [if number == 1 { Endpoint::Chat } else { Endpoint::Models }].into_iter().collect(),
        }
    }

    #[test]
    fn each_path_changes_its_field_and_no_other_and_policy_changes_all_but_the_time_zone() {
        let merged = |paths: &[&str]| {
            let mut policy = full(1);
            KeyMask::parse(paths.iter().copied()).unwrap().change(&mut policy, full(2));
            policy
        };
        let changed = || Policy { time_zone: full(1).time_zone, ..full(2) };
        assert_eq!(merged(&["policy"]), changed());
        assert_eq!(merged(&["name", "paused", "workspace", "policy.time_zone"]), full(1));
        let every: Vec<&str> = POLICY.iter().map(|(path, _)| *path).collect();
        assert_eq!(merged(&every), changed());
        for path in every.into_iter().filter(|path| *path != "policy.time_zone") {
            let value = |policy: &Policy| serde_json::to_value(policy).unwrap();
            let (old, new, merged) = (value(&full(1)), value(&full(2)), value(&merged(&[path])));
            let field = path.trim_start_matches("policy.").trim_end_matches("_ms");
            for (name, value) in merged.as_object().unwrap() {
                assert_eq!(value, if name == field { &new[name] } else { &old[name] }, "{name} after {path}");
            }
        }
    }

    #[test]
    fn labels_are_replaced_together_or_set_and_taken_away_one_by_one() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let changed = |paths: &[&str]| {
            let mut kept = labels(&[("a", "1"), ("b", "2")]);
            let mask = KeyMask::parse(paths.iter().copied()).unwrap();
            mask.change_labels(&mut kept, labels(&[("a", "3"), ("c", "4")]));
            kept
        };
        assert_eq!(changed(&["labels"]), labels(&[("a", "3"), ("c", "4")]));
        assert_eq!(changed(&["labels.a", "labels.b"]), labels(&[("a", "3")]));
        assert_eq!(changed(&["name"]), labels(&[("a", "1"), ("b", "2")]));
        assert!(KeyMask::parse(["labels."]).is_err());
    }

    #[test]
    fn unknown_and_missing_paths_are_refused_by_name() {
        let error = KeyMask::parse(["name", "policy.budget", "status"]).unwrap_err().to_string();
        assert!(error.contains("`policy.budget`") && error.contains("`status`"), "{error}");
        assert!(KeyMask::parse([]).unwrap_err().to_string().starts_with("update_mask: empty"));
    }
}

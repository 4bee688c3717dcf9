//! The records of the replicated state, and the canonical bytes that their digests are made of.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::audit::canonical::Writer;
use crate::catalog::{Model, ProviderName};
use crate::clock::Timestamp;
use crate::id::{ChainId, CredentialId, KeyId, WorkspaceId};
use crate::period::ZoneName;
use crate::plan::Plan;
use crate::policy::{Policy, RequestLimit, SpendLimit};
use crate::token::TokenDigest;

/// Whether a virtual key works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyStatus {
    /// It works, within its policy.
    Active,
    /// It is switched off and can be switched on again; also the state of a key whose request cost more than its bound.
    Paused,
    /// It is dead for ever.
    Revoked,
}

impl KeyStatus {
    /// The word used in the API, on the command line and in entries.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Revoked => "revoked",
        }
    }

    /// The word in the store and under the set's hash, which both stay as they were begun: a paused key is `frozen` there.
    #[must_use]
    pub const fn stored(self) -> &'static str {
        match self {
            Self::Paused => "frozen",
            Self::Active | Self::Revoked => self.as_str(),
        }
    }

    /// Reads [`Self::stored`] back.
    #[must_use]
    pub fn from_stored(word: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Revoked].into_iter().find(|status| status.stored() == word)
    }
}

/// A token that a rotation replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerToken {
    /// Its digest.
    pub digest: TokenDigest,
    /// The first moment at which it no longer works; `None`: it works no more since it was replaced.
    pub until: Option<Timestamp>,
}

/// A virtual key as nodes know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Public id.
    pub id: KeyId,
    /// Digest of its token.
    pub digest: TokenDigest,
    /// The name its owner gave it.
    pub name: String,
    /// Whether it works.
    pub status: KeyStatus,
    /// The revision since which it has its status; 0 since it was made. Of two words about whether a key works, the one with the higher is right.
    pub status_revision: u64,
    /// What it may do. Many keys share one.
    pub policy: Arc<Policy>,
    /// Where its entries go.
    pub chain: ChainId,
    /// Whose limits it shares. It belongs to the same workspace all its life.
    pub workspace: WorkspaceId,
    /// The token before the last rotation, if there was one. It resolves to this key as well.
    pub former: Option<Box<FormerToken>>,
}

impl KeyRecord {
    /// Whether the key works.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing { status: self.status, spent: self.policy.has_nothing_left() }
    }
}

/// Whether a key works, as far as a running request must stop when it no longer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Its status.
    pub status: KeyStatus,
    /// Whether what it has left was set to nothing.
    pub spent: bool,
}

impl Standing {
    /// Whether requests may run.
    #[must_use]
    pub fn works(self) -> bool {
        self.status == KeyStatus::Active && !self.spent
    }
}

/// A workspace as nodes know it: the limits that its keys share. An absent limit does not limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceRecord {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name, unique in the deployment.
    pub name: String,
    /// Request quotas over all its keys, at most one per window.
    pub request_limits: Vec<RequestLimit>,
    /// Spend caps over all its keys, at most one per window.
    pub spend_limits: Vec<SpendLimit>,
    /// What bounds it whatever its own limits say.
    pub plan: Plan,
}

impl WorkspaceRecord {
    /// The request quotas that hold: its own, and its plan's where that is lower.
    #[must_use]
    pub fn request_limits_in_effect(&self) -> Cow<'_, [RequestLimit]> {
        self.plan.bound(&self.request_limits)
    }
}

/// A credential as nodes know it: everything but the secret, which travels sealed and apart from the replicated set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRecord {
    /// Its id.
    pub id: CredentialId,
    /// Whose key it is.
    pub provider: ProviderName,
    /// Which pool of that provider it belongs to.
    pub pool: String,
    /// Where that provider's API is, with its version path and without a trailing slash.
    pub base_url: String,
    /// Credentials with the same group share one limit at the provider.
    pub limit_group: String,
    /// Version of the secret, from 1; rises with each rotation.
    pub secret_version: u32,
    /// Whether requests may use it.
    pub enabled: bool,
    /// How often it is chosen compared with the others of its provider, from 1 to [`MAX_WEIGHT`].
    pub weight: u32,
}

/// The largest weight of a credential.
pub const MAX_WEIGHT: u32 = 1_000;

/// One record of the replicated set.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A workspace.
    Workspace(Arc<WorkspaceRecord>),
    /// A virtual key.
    Key(Arc<KeyRecord>),
    /// A catalogue entry.
    Model(Arc<Model>),
    /// A credential.
    Credential(Arc<CredentialRecord>),
}

/// The name of a record in the replicated set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceId {
    /// A workspace.
    Workspace(WorkspaceId),
    /// A virtual key.
    Key(KeyId),
    /// A catalogue entry, by name.
    Model(String),
    /// A credential.
    Credential(CredentialId),
}

impl Resource {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Workspace(workspace) => ResourceId::Workspace(workspace.id),
            Self::Key(key) => ResourceId::Key(key.id),
            Self::Model(model) => ResourceId::Model(model.name.clone()),
            Self::Credential(credential) => ResourceId::Credential(credential.id),
        }
    }

    /// SHA-256 over its canonical bytes, which name every field.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let bytes = match self {
            Self::Workspace(workspace) => workspace_bytes(workspace),
            Self::Key(key) => key_bytes(key, &policy_digest(&key.policy)),
            Self::Model(model) => model_bytes(model),
            Self::Credential(credential) => credential_bytes(credential),
        };
        Sha256::digest(bytes).into()
    }
}

/// The digest of a key's record, for who knows the digest of its policy already.
pub(super) fn key_digest(key: &KeyRecord, policy: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(key_bytes(key, policy)).into()
}

fn key_bytes(key: &KeyRecord, policy: &[u8; 32]) -> Vec<u8> {
    // A key that never changed its status has the bytes that it had before such changes were numbered, and one that was never rotated those that
    // it had before keys could be.
    let magic = match (&key.former, key.status_revision) {
        (None, 0) => b"KSK1",
        (None, _) => b"KSK2",
        (Some(_), _) => b"KSK3",
    };
    let mut writer = Writer::with_magic(magic);
    writer.str(key.id.as_str()).raw(&key.digest.0).str(&key.name).str(key.status.stored()).raw(key.chain.as_bytes());
    writer.raw(policy).raw(key.workspace.as_bytes());
    if magic != b"KSK1" {
        writer.u64(key.status_revision);
    }
    if let Some(former) = &key.former {
        writer.raw(&former.digest.0).option_u64(former.until.map(|until| until.nanos().cast_unsigned()));
    }
    writer.finish()
}

fn workspace_bytes(workspace: &WorkspaceRecord) -> Vec<u8> {
    // A workspace that no plan limits has the bytes that it had before there were plans.
    let is_plain = workspace.plan == Plan::Unlimited;
    let mut writer = Writer::with_magic(if is_plain { b"KSW1" } else { b"KSW2" });
    writer.raw(workspace.id.as_bytes()).str(&workspace.name);
    write_limits(&mut writer, &workspace.request_limits, &workspace.spend_limits);
    if !is_plain {
        writer.str(workspace.plan.as_str());
    }
    writer.finish()
}

fn write_limits(writer: &mut Writer, requests: &[RequestLimit], spend: &[SpendLimit]) {
    writer.u64(requests.len() as u64);
    for limit in requests {
        writer.u64(limit.requests).str(limit.window.as_str());
    }
    writer.u64(spend.len() as u64);
    for limit in spend {
        writer.u64(limit.amount.nanos()).str(limit.window.as_str());
    }
}

/// SHA-256 over a policy's canonical bytes: what a chain's genesis names its first policy by.
#[must_use]
pub fn policy_digest(policy: &Policy) -> [u8; 32] {
    // A policy that says nothing of what came later has the bytes that it had before there was that: first staleness, then places, then raises.
    let staleness = policy.max_staleness_seconds;
    let has_raises = !policy.raises.is_empty();
    let has_places = has_raises || !policy.networks.is_empty() || !policy.endpoints.is_empty();
    let mut writer = Writer::with_magic(match (has_raises, has_places, staleness) {
        (false, false, None) => b"KSP1",
        (false, false, Some(_)) => b"KSP2",
        (false, true, None) => b"KSP3",
        (false, true, Some(_)) => b"KSP4",
        (true, _, None) => b"KSP5",
        (true, _, Some(_)) => b"KSP6",
    });
    writer.u64(policy.models.len() as u64);
    for pattern in &policy.models {
        writer.str(&pattern.0);
    }
    write_limits(&mut writer, &policy.request_limits, &policy.spend_limits);
    writer.option_u64(policy.requests_per_minute.map(u64::from)).option_u64(policy.tokens_per_minute);
    writer.option_u64(policy.concurrent_requests.map(u64::from)).option_u64(policy.max_output_tokens);
    writer.option_u64(policy.expires_at.map(|at| at.nanos().cast_unsigned()));
    writer.str(policy.time_zone.as_ref().map_or("", ZoneName::as_str));
    if let Some(seconds) = staleness {
        writer.u32(seconds);
    }
    if has_places {
        write_places(&mut writer, policy);
    }
    if has_raises {
        writer.u64(policy.raises.len() as u64);
        for raise in &policy.raises {
            writer.str(raise.dimension.as_str()).str(raise.window.as_str()).u64(raise.amount);
            writer.i64(raise.until.nanos());
        }
    }
    Sha256::digest(writer.finish()).into()
}

/// From where and for what a key may be used.
fn write_places(writer: &mut Writer, policy: &Policy) {
    writer.u64(policy.networks.as_slice().len() as u64);
    for network in policy.networks.as_slice() {
        writer.str(&network.to_string());
    }
    writer.u64(policy.endpoints.iter().count() as u64);
    for endpoint in policy.endpoints.iter() {
        writer.str(endpoint.as_str());
    }
}

fn model_bytes(model: &Model) -> Vec<u8> {
    let mut writer = Writer::with_magic(b"KSM1");
    writer.str(&model.name).str(&model.provider.0).str(&model.upstream_name);
    writer.u8(model.operation as u8).option_u64(model.context_tokens).option_u64(model.max_output_tokens);
    // Prices are plain integers in fields of fixed order, so their JSON has one form.
    writer.bytes(&serde_json::to_vec(&model.prices).unwrap_or_default());
    writer.str(&model.source).str(&model.as_of);
    writer.finish()
}

fn credential_bytes(credential: &CredentialRecord) -> Vec<u8> {
    // A credential without a weight of its own has the bytes that it had before there were weights.
    let is_plain = credential.weight == 1;
    let mut writer = Writer::with_magic(if is_plain { b"KSC1" } else { b"KSC2" });
    writer.raw(credential.id.as_bytes()).str(&credential.provider.0).str(&credential.pool).str(&credential.base_url);
    writer.str(&credential.limit_group).u32(credential.secret_version).u8(u8::from(credential.enabled));
    if !is_plain {
        writer.u32(credential.weight);
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_store_are_those_that_its_databases_hold() {
        let statuses = [KeyStatus::Active, KeyStatus::Paused, KeyStatus::Revoked];
        assert_eq!(statuses.map(KeyStatus::stored), ["active", "frozen", "revoked"]);
        assert_eq!(statuses.map(|status| KeyStatus::from_stored(status.stored())), statuses.map(Some));
        assert_eq!(KeyStatus::from_stored("paused"), None);
    }
}

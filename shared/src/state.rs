//! The replicated state: what the control plane publishes and every node holds.
//!
//! Both planes run this same machine: `snapshot(v)` equals the fold of all deltas up to `v`. Revisions are dense; a delta that does not follow
//! on the held revision is refused, never skipped over. A hash over the whole set, kept incrementally, finds a missed or doubled change.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use crate::audit::canonical::Writer;
use crate::catalog::{Model, ProviderName};
use crate::id::{ChainId, CredentialId, KeyId, WorkspaceId};
use crate::period::ZoneName;
use crate::policy::{Policy, RequestLimit, SpendLimit};
use crate::token::TokenDigest;

/// Whether a virtual key works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyStatus {
    /// It works, within its policy.
    Active,
    /// It is switched off and can be switched on again; also the state of a key whose request cost more than its bound.
    Frozen,
    /// It is dead for ever.
    Revoked,
}

impl KeyStatus {
    /// The word used in the store, the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Frozen => "frozen",
            Self::Revoked => "revoked",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Active, Self::Frozen, Self::Revoked].into_iter().find(|status| status.as_str() == word)
    }
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
    /// What it may do.
    pub policy: Policy,
    /// Where its entries go.
    pub chain: ChainId,
    /// Whose limits it shares. It belongs to the same workspace all its life.
    pub workspace: WorkspaceId,
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
}

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
            Self::Key(key) => key_bytes(key),
            Self::Model(model) => model_bytes(model),
            Self::Credential(credential) => credential_bytes(credential),
        };
        Sha256::digest(bytes).into()
    }
}

fn key_bytes(key: &KeyRecord) -> Vec<u8> {
    let mut writer = Writer::with_magic(b"KSK1");
    writer.str(key.id.as_str()).raw(&key.digest.0).str(&key.name).str(key.status.as_str()).raw(key.chain.as_bytes());
    writer.raw(&policy_digest(&key.policy)).raw(key.workspace.as_bytes());
    writer.finish()
}

fn workspace_bytes(workspace: &WorkspaceRecord) -> Vec<u8> {
    let mut writer = Writer::with_magic(b"KSW1");
    writer.raw(workspace.id.as_bytes()).str(&workspace.name);
    write_limits(&mut writer, &workspace.request_limits, &workspace.spend_limits);
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
    let mut writer = Writer::with_magic(b"KSP1");
    writer.u64(policy.models.len() as u64);
    for pattern in &policy.models {
        writer.str(&pattern.0);
    }
    write_limits(&mut writer, &policy.request_limits, &policy.spend_limits);
    writer.option_u64(policy.requests_per_minute.map(u64::from)).option_u64(policy.tokens_per_minute);
    writer.option_u64(policy.concurrent_requests.map(u64::from)).option_u64(policy.max_output_tokens);
    writer.option_u64(policy.expires_at.map(|at| at.nanos().cast_unsigned()));
    writer.str(policy.time_zone.as_ref().map_or("", ZoneName::as_str));
    Sha256::digest(writer.finish()).into()
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
    let mut writer = Writer::with_magic(b"KSC1");
    writer.raw(credential.id.as_bytes()).str(&credential.provider.0).str(&credential.pool).str(&credential.base_url);
    writer.str(&credential.limit_group).u32(credential.secret_version).u8(u8::from(credential.enabled));
    writer.finish()
}

/// A sum modulo 2^256 of record digests: the same for the same set, in whatever order it was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetHash([u8; 32]);

impl SetHash {
    /// From its 32 bytes, if there are 32.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// Its 32 bytes, little-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn add(&mut self, digest: &[u8; 32]) {
        let mut carry = 0_u16;
        for (byte, other) in self.0.iter_mut().zip(digest) {
            let sum = u16::from(*byte) + u16::from(*other) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
    }

    pub(crate) fn remove(&mut self, digest: &[u8; 32]) {
        // Adding the two's complement subtracts.
        let mut complement = digest.map(|byte| !byte);
        let mut carry = 1_u16;
        for byte in &mut complement {
            let sum = u16::from(*byte) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        self.add(&complement);
    }
}

/// One change of the replicated set.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The record is now this.
    Upsert(Resource),
    /// The record is gone.
    Remove(ResourceId),
}

/// The changes from one revision to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The revision it applies to.
    pub from: u64,
    /// The revision it leads to.
    pub to: u64,
    /// What changes, in order.
    pub changes: Vec<Change>,
    /// Hash of the set afterwards.
    pub set_hash: SetHash,
}

/// Why a delta was not applied. The state is unchanged, or, after [`ApplyError::Diverged`], must be replaced by a snapshot.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApplyError {
    /// It does not follow on the held revision.
    #[error("delta is for revision {expected}, this state is at {held}")]
    OutOfOrder {
        /// Revision that the delta applies to.
        expected: u64,
        /// Revision held.
        held: u64,
    },
    /// After it, the set is not what the control plane has.
    #[error("state at revision {0} differs from the control plane's")]
    Diverged(u64),
}

/// The replicated set at one revision.
#[derive(Clone, Debug, Default)]
pub struct State {
    revision: u64,
    workspaces: BTreeMap<WorkspaceId, Arc<WorkspaceRecord>>,
    keys: HashMap<TokenDigest, Arc<KeyRecord>>,
    digests: HashMap<KeyId, TokenDigest>,
    models: BTreeMap<String, Arc<Model>>,
    credentials: BTreeMap<CredentialId, Arc<CredentialRecord>>,
    set_hash: SetHash,
}

impl State {
    /// The set of `resources` at `revision`.
    #[must_use]
    pub fn from_snapshot(revision: u64, resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut state = Self { revision, ..Self::default() };
        for resource in resources {
            state.change(Change::Upsert(resource));
        }
        state
    }

    /// Applies a delta.
    ///
    /// # Errors
    /// [`ApplyError`]; a delta that is already contained is ignored without error.
    pub fn apply(&mut self, delta: Delta) -> Result<(), ApplyError> {
        if delta.to <= self.revision {
            return Ok(());
        }
        if delta.from != self.revision {
            return Err(ApplyError::OutOfOrder { expected: delta.from, held: self.revision });
        }
        for change in delta.changes {
            self.change(change);
        }
        self.revision = delta.to;
        if self.set_hash == delta.set_hash { Ok(()) } else { Err(ApplyError::Diverged(self.revision)) }
    }

    /// Applies one change and moves to the next revision: what the control plane does when it commits. Returns the delta to publish.
    pub fn commit(&mut self, changes: Vec<Change>) -> Delta {
        let from = self.revision;
        for change in changes.iter().cloned() {
            self.change(change);
        }
        self.revision += 1;
        Delta { from, to: self.revision, changes, set_hash: self.set_hash }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Upsert(resource) => {
                self.remove(&resource.id());
                self.set_hash.add(&resource.digest());
                match resource {
                    Resource::Workspace(workspace) => {
                        self.workspaces.insert(workspace.id, workspace);
                    }
                    Resource::Key(key) => {
                        self.digests.insert(key.id, key.digest);
                        self.keys.insert(key.digest, key);
                    }
                    Resource::Model(model) => {
                        self.models.insert(model.name.clone(), model);
                    }
                    Resource::Credential(credential) => {
                        self.credentials.insert(credential.id, credential);
                    }
                }
            }
            Change::Remove(id) => self.remove(&id),
        }
    }

    fn remove(&mut self, id: &ResourceId) {
        let removed = match id {
            ResourceId::Workspace(id) => self.workspaces.remove(id).map(Resource::Workspace),
            ResourceId::Key(id) => {
                self.digests.remove(id).and_then(|digest| self.keys.remove(&digest)).map(Resource::Key)
            }
            ResourceId::Model(name) => self.models.remove(name).map(Resource::Model),
            ResourceId::Credential(id) => self.credentials.remove(id).map(Resource::Credential),
        };
        if let Some(resource) = removed {
            self.set_hash.remove(&resource.digest());
        }
    }

    /// The record with this name.
    #[must_use]
    pub fn get(&self, id: &ResourceId) -> Option<Resource> {
        match id {
            ResourceId::Workspace(id) => self.workspace(*id).cloned().map(Resource::Workspace),
            ResourceId::Key(id) => self.key(*id).cloned().map(Resource::Key),
            ResourceId::Model(name) => self.models.get(name).cloned().map(Resource::Model),
            ResourceId::Credential(id) => self.credentials.get(id).cloned().map(Resource::Credential),
        }
    }

    /// The revision held.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Hash of the set held.
    #[must_use]
    pub const fn set_hash(&self) -> SetHash {
        self.set_hash
    }

    /// The key whose token has this digest.
    #[must_use]
    pub fn key_by_digest(&self, digest: &TokenDigest) -> Option<&Arc<KeyRecord>> {
        self.keys.get(digest)
    }

    /// The key with this id.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&Arc<KeyRecord>> {
        self.keys.get(self.digests.get(&id)?)
    }

    /// The workspace with this id.
    #[must_use]
    pub fn workspace(&self, id: WorkspaceId) -> Option<&Arc<WorkspaceRecord>> {
        self.workspaces.get(&id)
    }

    /// All workspaces.
    pub fn workspaces(&self) -> impl Iterator<Item = &Arc<WorkspaceRecord>> {
        self.workspaces.values()
    }

    /// The catalogue entry with this name.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.get(name)
    }

    /// The whole catalogue, by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// All credentials.
    pub fn credentials(&self) -> impl Iterator<Item = &Arc<CredentialRecord>> {
        self.credentials.values()
    }

    /// Every record, for a snapshot. Workspaces come before the keys that name them.
    pub fn resources(&self) -> impl Iterator<Item = Resource> {
        let workspaces = self.workspaces.values().cloned().map(Resource::Workspace);
        let keys = self.keys.values().cloned().map(Resource::Key);
        let models = self.models.values().cloned().map(Resource::Model);
        workspaces.chain(keys).chain(models).chain(self.credentials.values().cloned().map(Resource::Credential))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u8, status: KeyStatus) -> Resource {
        let id = KeyId::from_ascii(format!("key{number:09}").as_bytes()).unwrap();
        let digest = TokenDigest([number; 32]);
        let (policy, chain) = (Policy::default(), ChainId::from_bytes([number; 16]));
        let workspace = WorkspaceId::from_bytes([0; 16]);
        Resource::Key(Arc::new(KeyRecord { id, digest, name: "k".to_owned(), status, policy, chain, workspace }))
    }

    fn change() -> impl Strategy<Value = Change> {
        (0u8..6, 0u8..3).prop_map(|(number, action)| match action {
            0 => Change::Upsert(key(number, KeyStatus::Active)),
            1 => Change::Upsert(key(number, KeyStatus::Revoked)),
            _ => Change::Remove(key(number, KeyStatus::Active).id()),
        })
    }

    proptest! {
        #[test]
        fn i_14_snapshot_equals_the_fold_of_deltas_and_so_do_their_hashes(changes in proptest::collection::vec(change(), 0..40)) {
            let (mut leader, mut follower) = (State::default(), State::default());
            for change in changes {
                let delta = leader.commit(vec![change]);
                prop_assert_eq!(follower.apply(delta.clone()), Ok(()));
                prop_assert_eq!(follower.apply(delta), Ok(()), "a repeated delta changes nothing");
            }
            let snapshot = State::from_snapshot(leader.revision(), leader.resources());
            prop_assert_eq!(snapshot.set_hash(), leader.set_hash());
            prop_assert_eq!(follower.set_hash(), leader.set_hash());
            prop_assert_eq!(follower.keys, leader.keys);
        }
    }

    #[test]
    fn i_14_a_gap_is_refused_and_a_divergence_is_noticed() {
        let (mut leader, mut follower) = (State::default(), State::default());
        let first = leader.commit(vec![Change::Upsert(key(1, KeyStatus::Active))]);
        let second = leader.commit(vec![Change::Upsert(key(2, KeyStatus::Active))]);
        assert_eq!(follower.apply(second.clone()), Err(ApplyError::OutOfOrder { expected: 1, held: 0 }));
        let tampered = Delta { changes: vec![Change::Upsert(key(1, KeyStatus::Revoked))], ..first };
        assert_eq!(follower.apply(tampered), Err(ApplyError::Diverged(1)));
    }

    #[test]
    fn an_emptied_set_has_the_hash_of_the_empty_set() {
        let mut state = State::default();
        state.commit(vec![Change::Upsert(key(1, KeyStatus::Active)), Change::Upsert(key(200, KeyStatus::Active))]);
        assert_ne!(state.set_hash(), SetHash::default());
        state.commit(vec![
            Change::Remove(key(1, KeyStatus::Active).id()),
            Change::Remove(key(200, KeyStatus::Active).id()),
        ]);
        assert_eq!(state.set_hash(), SetHash::default());
    }
}

//! The replicated state: what the control plane publishes and every node holds.
//!
//! Both planes run this same machine: `snapshot(v)` equals the fold of all deltas up to `v`. Revisions are dense; a delta that does not follow
//! on the held revision is refused, never skipped over. A hash over the whole set, kept incrementally, finds a missed or doubled change.
//!
//! * `record`: what the set consists of; `set_hash`: the hash over it; `key_table`: the keys, packed
//! * `contents`: the records at one revision, to be read while the set goes on

mod contents;
mod key_table;
mod record;
mod set_hash;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Model;
use crate::id::{CredentialId, KeyId, WorkspaceId};
use crate::token::TokenDigest;

pub use contents::Contents;
pub use record::{
    CredentialRecord, FormerToken, KeyRecord, KeyStatus, MAX_WEIGHT, Resource, ResourceId, Standing, WorkspaceRecord,
    policy_digest,
};
pub use set_hash::SetHash;

use key_table::KeyTable;

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
    keys: KeyTable,
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

    /// An empty set at `revision`, with room for `keys`, to be filled with [`Self::add`].
    #[must_use]
    pub fn with_room(revision: u64, keys: usize) -> Self {
        let mut state = Self { revision, ..Self::default() };
        state.keys.reserve(keys);
        state
    }

    /// Adds a record of a snapshot.
    pub fn add(&mut self, resource: Resource) {
        self.change(Change::Upsert(resource));
    }

    /// Takes over that the control plane's set has this hash: some of its records could not be read here, so that the hash of what is held says
    /// nothing.
    pub const fn assume_set_hash(&mut self, set_hash: SetHash) {
        self.set_hash = set_hash;
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

    /// Applies what could be read of a delta, and takes over the hash that the control plane's set has after it.
    ///
    /// # Errors
    /// [`ApplyError::OutOfOrder`]; a delta that is already contained is ignored without error.
    pub fn apply_partly(&mut self, delta: Delta) -> Result<(), ApplyError> {
        let set_hash = delta.set_hash;
        if delta.to > self.revision {
            match self.apply(delta) {
                Ok(()) | Err(ApplyError::Diverged(_)) => self.set_hash = set_hash,
                Err(out_of_order @ ApplyError::OutOfOrder { .. }) => return Err(out_of_order),
            }
        }
        Ok(())
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
                let digest = match resource {
                    Resource::Key(key) => self.keys.insert(&key),
                    Resource::Workspace(workspace) => {
                        let digest = Resource::Workspace(Arc::clone(&workspace)).digest();
                        self.workspaces.insert(workspace.id, workspace);
                        digest
                    }
                    Resource::Model(model) => {
                        let digest = Resource::Model(Arc::clone(&model)).digest();
                        self.models.insert(model.name.clone(), model);
                        digest
                    }
                    Resource::Credential(credential) => {
                        let digest = Resource::Credential(Arc::clone(&credential)).digest();
                        self.credentials.insert(credential.id, credential);
                        digest
                    }
                };
                self.set_hash.add(&digest);
            }
            Change::Remove(id) => self.remove(&id),
        }
    }

    fn remove(&mut self, id: &ResourceId) {
        let removed = match id {
            ResourceId::Workspace(id) => self.workspaces.remove(id).map(Resource::Workspace),
            ResourceId::Key(id) => self.keys.remove(*id).map(|key| Resource::Key(Arc::new(key))),
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
            ResourceId::Key(id) => self.key(*id).map(Resource::Key),
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

    /// The key whose token, or whose former token, has this digest.
    #[must_use]
    pub fn key_by_digest(&self, digest: &TokenDigest) -> Option<Arc<KeyRecord>> {
        self.keys.by_digest(digest).map(Arc::new)
    }

    /// The key with this id.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.keys.by_id(id).map(Arc::new)
    }

    /// All keys, each once, in no order that means anything.
    pub fn keys(&self) -> impl Iterator<Item = KeyRecord> {
        self.keys.records().iter()
    }

    /// How many keys there are.
    #[must_use]
    pub const fn key_count(&self) -> usize {
        self.keys.records().len()
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

    /// The catalogue entry that a client means: by its name, or by its provider, a slash, and its name or the one that the provider knows it by. Google
    /// calls its models `models/name` itself.
    #[must_use]
    pub fn called(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.get(name).or_else(|| {
            let (provider, rest) = match name.split_once('/')? {
                ("models", rest) => ("google", rest),
                ("google", rest) => ("google", rest.strip_prefix("models/").unwrap_or(rest)),
                other => other,
            };
            let own = self.models.get(rest).filter(|model| model.provider.0 == provider);
            let known_as = |model: &&Arc<Model>| model.provider.0 == provider && model.upstream_name == rest;
            own.or_else(|| self.models.values().find(known_as))
        })
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
        let keys = self.keys().map(|key| Resource::Key(Arc::new(key)));
        let models = self.models.values().cloned().map(Resource::Model);
        workspaces.chain(keys).chain(models).chain(self.credentials.values().cloned().map(Resource::Credential))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChainId;
    use crate::policy::Policy;
    use proptest::prelude::*;

    pub(super) fn key(number: u8, status: KeyStatus) -> Resource {
        let id = KeyId::from_ascii(format!("key{number:09}").as_bytes()).unwrap();
        let digest = TokenDigest([number; 32]);
        let (policy, chain) = (Arc::new(Policy::default()), ChainId::from_bytes([number; 16]));
        let (workspace, name) = (WorkspaceId::from_bytes([0; 16]), "k".to_owned());
        let status_revision = 0;
        Resource::Key(Arc::new(KeyRecord {
            id,
            digest,
            name,
            status,
            status_revision,
            policy,
            chain,
            workspace,
            former: None,
        }))
    }

    /// The key after `times` rotations.
    fn rotated(number: u8, times: u8) -> Resource {
        let Resource::Key(key) = key(number, KeyStatus::Active) else { unreachable!() };
        let digest = |times: u8| TokenDigest([number.wrapping_add(times.wrapping_mul(16)); 32]);
        let former = FormerToken { digest: digest(times - 1), until: None };
        Resource::Key(Arc::new(KeyRecord {
            digest: digest(times),
            former: Some(Box::new(former)),
            ..KeyRecord::clone(&key)
        }))
    }

    fn change() -> impl Strategy<Value = Change> {
        (0u8..6, 0u8..5).prop_map(|(number, action)| match action {
            0 => Change::Upsert(key(number, KeyStatus::Active)),
            1 => Change::Upsert(key(number, KeyStatus::Revoked)),
            2 => Change::Upsert(rotated(number, 1)),
            3 => Change::Upsert(rotated(number, 2)),
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
            let keys = |state: &State| {
                let mut keys: Vec<KeyRecord> = state.keys().collect();
                keys.sort_by_key(|key| key.id);
                keys
            };
            prop_assert_eq!(keys(&follower), keys(&leader));
            prop_assert_eq!(keys(&snapshot), keys(&leader));
            prop_assert_eq!(keys(&leader).len(), leader.key_count());
            for key in leader.keys() {
                let found = (follower.key_by_digest(&key.digest), follower.key(key.id));
                prop_assert_eq!(found, (Some(Arc::new(key.clone())), Some(Arc::new(key.clone()))));
                if let Some(former) = &key.former {
                    prop_assert_eq!(follower.key_by_digest(&former.digest), Some(Arc::new(key.clone())));
                }
            }
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
    fn a_rotated_key_is_found_by_both_tokens_and_counts_once() {
        let mut state = State::default();
        state.commit(vec![Change::Upsert(key(1, KeyStatus::Active))]);
        for times in 1..=2 {
            state.commit(vec![Change::Upsert(rotated(1, times))]);
            let found =
                [times - 1, times].map(|times| state.key_by_digest(&TokenDigest([1 + times * 16; 32])).is_some());
            assert_eq!((found, state.keys().count(), state.resources().count()), ([true, true], 1, 1));
        }
        assert!(state.key_by_digest(&TokenDigest([1; 32])).is_none(), "there are never more than two");
        state.commit(vec![Change::Remove(key(1, KeyStatus::Active).id())]);
        assert!(state.keys().next().is_none() && state.set_hash() == SetHash::default());
        assert_eq!(state.key_by_digest(&TokenDigest([17; 32])), None);
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

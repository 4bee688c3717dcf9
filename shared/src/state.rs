//! The replicated state: what the control plane publishes and every node holds.
//!
//! Both planes run this same machine: `snapshot(v)` equals the fold of all deltas up to `v`. Revisions are dense; a delta that does not follow
//! on the held revision is refused, never skipped over. A hash over the whole set, kept incrementally, finds a missed or doubled change.
//!
//! * `record`: what the set consists of; `set_hash`: the hash over it

mod record;
mod set_hash;

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::catalog::Model;
use crate::id::{CredentialId, KeyId, WorkspaceId};
use crate::token::TokenDigest;

pub use record::{
    CredentialRecord, KeyRecord, KeyStatus, MAX_WEIGHT, Resource, ResourceId, WorkspaceRecord, policy_digest,
};
pub use set_hash::SetHash;

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
    use crate::id::ChainId;
    use crate::policy::Policy;
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

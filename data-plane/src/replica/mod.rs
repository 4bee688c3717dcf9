//! The node's copy of the replicated state: what the request path reads, without waiting for anyone.
//!
//! * [`follow`]: keeps the copy at the control plane's revision
//! * [`key_followers`]: what follows when a key or a workspace changes
//! * [`secrets`]: the credentials' secrets, in memory only
//! * [`running`]: the streams that are running, by key, so that a revocation can cut them

pub mod follow;
pub mod key_followers;
pub mod running;
pub mod secrets;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hashbrown::HashSet;
use keyforge_shared::catalog::Model;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{DeploymentId, KeyId, WorkspaceId};
use keyforge_shared::state::{
    ApplyError, Change, CredentialRecord, Delta, KeyRecord, KeyStatus, Resource, ResourceId, SetHash, State,
    WorkspaceRecord,
};
use keyforge_shared::token::TokenDigest;
use parking_lot::RwLock;
use tokio::sync::watch;

use self::running::Running;
use self::secrets::Secrets;

/// What became of a key whose record changed.
pub struct KeyChange {
    /// Before; `None` for a new key.
    pub before: Option<Arc<KeyRecord>>,
    /// Now; `None` for a key that is gone.
    pub now: Option<Arc<KeyRecord>>,
}

/// What a snapshot or a delta changed, as far as others follow it.
#[derive(Default)]
pub struct Changes {
    /// Keys whose record changed.
    pub keys: Vec<KeyChange>,
    /// Workspaces whose limits changed.
    pub workspaces: Vec<WorkspaceId>,
}

/// The node's copy of the replicated state.
pub struct Replica {
    state: RwLock<State>,
    deployment: watch::Sender<Option<DeploymentId>>,
    heard: AtomicI64,
    /// Secrets of the credentials.
    pub secrets: Secrets,
    /// Streams that are running.
    pub running: Running,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            state: RwLock::default(),
            deployment: watch::Sender::new(None),
            heard: AtomicI64::new(0),
            secrets: Secrets::default(),
            running: Running::default(),
        }
    }
}

impl Replica {
    /// The key whose token has this digest.
    #[must_use]
    pub fn key_by_digest(&self, digest: &TokenDigest) -> Option<Arc<KeyRecord>> {
        self.state.read().key_by_digest(digest).cloned()
    }

    /// The key with this id.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.state.read().key(id).cloned()
    }

    /// The workspace with this id.
    #[must_use]
    pub fn workspace(&self, id: WorkspaceId) -> Option<Arc<WorkspaceRecord>> {
        self.state.read().workspace(id).cloned()
    }

    /// The catalogue entry with this name.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.state.read().model(name).cloned()
    }

    /// The catalogue entries that `wanted` accepts, by name.
    #[must_use]
    pub fn models(&self, wanted: impl Fn(&Model) -> bool) -> Vec<Arc<Model>> {
        self.state.read().models().filter(|model| wanted(model)).cloned().collect()
    }

    /// The credentials that `wanted` accepts, by id.
    #[must_use]
    pub fn credentials(&self, wanted: impl Fn(&CredentialRecord) -> bool) -> Vec<Arc<CredentialRecord>> {
        self.state.read().credentials().filter(|credential| wanted(credential)).cloned().collect()
    }

    /// Revision and hash of the state held.
    #[must_use]
    pub fn position(&self) -> (u64, SetHash) {
        let state = self.state.read();
        (state.revision(), state.set_hash())
    }

    /// The revision of the state alone: its hash costs some ten microseconds.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.state.read().revision()
    }

    /// The installation, once the first snapshot has come.
    pub fn deployment(&self) -> watch::Receiver<Option<DeploymentId>> {
        self.deployment.subscribe()
    }

    /// When the control plane was last heard of.
    #[must_use]
    pub fn last_heard(&self) -> Timestamp {
        Timestamp::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// Notes that the control plane was heard.
    pub fn heard_at(&self, now: Timestamp) {
        self.heard.store(now.nanos(), Ordering::Relaxed);
    }

    /// Replaces the state by a snapshot and says what changed.
    ///
    /// # Errors
    /// [`ApplyError::Diverged`] when the snapshot does not hash to what it should; the old state stays.
    pub fn replace(&self, deployment: DeploymentId, state: State, set_hash: SetHash) -> Result<Changes, ApplyError> {
        if state.set_hash() != set_hash {
            return Err(ApplyError::Diverged(state.revision()));
        }
        let changes = {
            let mut held = self.state.write();
            let changes = differences(&held, &state);
            *held = state;
            changes
        };
        self.cut_dead_keys(&changes);
        self.deployment.send_replace(Some(deployment));
        Ok(changes)
    }

    /// Applies a delta and says what changed, also when the result is not what it should be; the follower then asks for a snapshot.
    pub fn apply(&self, delta: Delta) -> (Changes, Result<(), ApplyError>) {
        let keys: Vec<KeyId> = delta.changes.iter().filter_map(changed_key).collect();
        let workspaces: Vec<WorkspaceId> = delta.changes.iter().filter_map(changed_workspace).collect();
        let (changes, applied) = {
            let mut held = self.state.write();
            let keys_before: Vec<_> = keys.iter().map(|id| held.key(*id).cloned()).collect();
            let workspaces_before: Vec<_> = workspaces.iter().map(|id| held.workspace(*id).cloned()).collect();
            let applied = held.apply(delta);
            let now = keys.iter().map(|id| held.key(*id).cloned());
            let keys = keys_before.into_iter().zip(now).map(|(before, now)| KeyChange { before, now }).collect();
            let same = |(id, before): &(WorkspaceId, Option<Arc<WorkspaceRecord>>)| {
                same_limits(before.as_deref(), held.workspace(*id).map(Arc::as_ref))
            };
            let workspaces = workspaces.into_iter().zip(workspaces_before).filter(|changed| !same(changed));
            (Changes { keys, workspaces: workspaces.map(|(id, _)| id).collect() }, applied)
        };
        self.cut_dead_keys(&changes);
        (changes, applied)
    }

    fn cut_dead_keys(&self, changes: &Changes) {
        for change in &changes.keys {
            let alive = change.now.as_ref().is_some_and(|key| key.status == KeyStatus::Active);
            if let (false, Some(before)) = (alive, &change.before) {
                self.running.cut(before.id);
            }
        }
    }
}

fn changed_key(change: &Change) -> Option<KeyId> {
    match change {
        Change::Upsert(Resource::Key(key)) => Some(key.id),
        Change::Remove(ResourceId::Key(id)) => Some(*id),
        Change::Upsert(_) | Change::Remove(_) => None,
    }
}

fn changed_workspace(change: &Change) -> Option<WorkspaceId> {
    match change {
        Change::Upsert(Resource::Workspace(workspace)) => Some(workspace.id),
        Change::Remove(ResourceId::Workspace(id)) => Some(*id),
        Change::Upsert(_) | Change::Remove(_) => None,
    }
}

fn same_limits(one: Option<&WorkspaceRecord>, other: Option<&WorkspaceRecord>) -> bool {
    let limits = |workspace: &'_ WorkspaceRecord| (workspace.request_limits.clone(), workspace.spend_limits.clone());
    one.map(limits) == other.map(limits)
}

fn differences(before: &State, now: &State) -> Changes {
    let differs = |id: &WorkspaceId| {
        let of = |state| State::workspace(state, *id).map(Arc::as_ref);
        !same_limits(of(before), of(now))
    };
    let ids: HashSet<WorkspaceId> = [before, now].into_iter().flat_map(State::workspaces).map(|it| it.id).collect();
    Changes { keys: key_differences(before, now), workspaces: ids.into_iter().filter(differs).collect() }
}

fn key_differences(before: &State, now: &State) -> Vec<KeyChange> {
    let keys = |state: &State| -> Vec<Arc<KeyRecord>> {
        let key = |resource| match resource {
            Resource::Key(key) => Some(key),
            Resource::Workspace(_) | Resource::Model(_) | Resource::Credential(_) => None,
        };
        state.resources().filter_map(key).collect()
    };
    let gone = keys(before).into_iter().filter(|key| now.key(key.id) != Some(key));
    let changed = gone.map(|key| KeyChange { now: now.key(key.id).cloned(), before: Some(key) });
    let new = keys(now).into_iter().filter(|key| before.key(key.id).is_none());
    changed.chain(new.map(|key| KeyChange { before: None, now: Some(key) })).collect()
}

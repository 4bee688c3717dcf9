//! The node's copy of the replicated state: what the request path reads, without waiting for anyone.
//!
//! * [`follow`]: keeps the copy at the control plane's revision
//! * [`key_followers`]: what follows when a key changes
//! * [`secrets`]: the credentials' secrets, in memory only
//! * [`running`]: the streams that are running, by key, so that a revocation can cut them

pub mod follow;
pub mod key_followers;
pub mod running;
pub mod secrets;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use keyforge_shared::catalog::Model;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{DeploymentId, KeyId};
use keyforge_shared::state::{
    ApplyError, Change, CredentialRecord, Delta, KeyRecord, KeyStatus, Resource, SetHash, State,
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

    /// Replaces the state by a snapshot and says which keys changed.
    ///
    /// # Errors
    /// [`ApplyError::Diverged`] when the snapshot does not hash to what it should; the old state stays.
    pub fn replace(
        &self,
        deployment: DeploymentId,
        state: State,
        set_hash: SetHash,
    ) -> Result<Vec<KeyChange>, ApplyError> {
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

    /// Applies a delta and says which keys changed, also when the result is not what it should be; the follower then asks for a snapshot.
    pub fn apply(&self, delta: Delta) -> (Vec<KeyChange>, Result<(), ApplyError>) {
        let touched: Vec<KeyId> = delta.changes.iter().filter_map(changed_key).collect();
        let (changes, applied) = {
            let mut held = self.state.write();
            let before: Vec<_> = touched.iter().map(|id| held.key(*id).cloned()).collect();
            let applied = held.apply(delta);
            let now = touched.iter().map(|id| held.key(*id).cloned());
            let changes: Vec<_> = before.into_iter().zip(now).map(|(before, now)| KeyChange { before, now }).collect();
            (changes, applied)
        };
        self.cut_dead_keys(&changes);
        (changes, applied)
    }

    fn cut_dead_keys(&self, changes: &[KeyChange]) {
        for change in changes {
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
        Change::Remove(keyforge_shared::state::ResourceId::Key(id)) => Some(*id),
        Change::Upsert(_) | Change::Remove(_) => None,
    }
}

fn differences(before: &State, now: &State) -> Vec<KeyChange> {
    let keys = |state: &State| -> Vec<Arc<KeyRecord>> {
        let key = |resource| match resource {
            Resource::Key(key) => Some(key),
            Resource::Model(_) | Resource::Credential(_) => None,
        };
        state.resources().filter_map(key).collect()
    };
    let gone = keys(before).into_iter().filter(|key| now.key(key.id) != Some(key));
    let changed = gone.map(|key| KeyChange { now: now.key(key.id).cloned(), before: Some(key) });
    let new = keys(now).into_iter().filter(|key| before.key(key.id).is_none());
    changed.chain(new.map(|key| KeyChange { before: None, now: Some(key) })).collect()
}

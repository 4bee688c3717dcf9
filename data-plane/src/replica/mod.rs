//! The node's copy of the replicated state: what the request path reads, without waiting for anyone.
//!
//! * [`follow`]: keeps the copy at the control plane's revision
//! * [`held`]: the state and the orders that are ahead of it
//! * [`orders`]: carries out ahead of that which keys stop or go on; [`freshness`]: how old what the node knows can be
//! * [`differences`]: what a snapshot or a delta changed, as far as others follow it
//! * [`last_good`]: the copy on disk, with which a node begins
//! * [`reading`]: records of it as they come, each by itself
//! * [`key_followers`]: what follows when a key or a workspace changes
//! * [`secrets`]: the credentials' secrets, in memory only
//! * [`running`]: the streams that are running, by key, so that a revocation can cut them

pub mod differences;
pub mod follow;
pub mod freshness;
pub mod held;
pub mod key_followers;
pub mod last_good;
pub mod orders;
pub mod reading;
pub mod running;
pub mod secrets;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use keyforge_shared::catalog::Model;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{DeploymentId, KeyId, WorkspaceId};
use keyforge_shared::state::{
    ApplyError, Contents, CredentialRecord, Delta, KeyRecord, Resource, ResourceId, SetHash, State, WorkspaceRecord,
};
use keyforge_shared::token::TokenDigest;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use self::differences::{Changes, KeyChange, changed_key, changed_workspace, differences, same_limits};
use self::freshness::Freshness;
use self::held::{Held, Order, SetNumber};
use self::running::Running;
use self::secrets::Secrets;

/// Waits before a stream is taken up again, from and to: each node draws its own, so that they do not all come back at once.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Revisions of which the number of cut streams is remembered, because whichever stream brings the change first cuts them.
const CUTS: usize = 64;

/// The node's copy of the replicated state.
pub struct Replica {
    held: RwLock<Held>,
    cuts: Mutex<VecDeque<(u64, u64)>>,
    /// How old what the node knows can be.
    pub freshness: Freshness,
    deployment: watch::Sender<Option<DeploymentId>>,
    attached: watch::Sender<bool>,
    heard: AtomicI64,
    /// Secrets of the credentials.
    pub secrets: Secrets,
    /// Streams that are running.
    pub running: Running,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            held: RwLock::default(),
            cuts: Mutex::default(),
            freshness: Freshness::default(),
            deployment: watch::Sender::new(None),
            attached: watch::Sender::new(false),
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
        let held = self.held.read();
        held.ordered(held.state.key_by_digest(digest))
    }

    /// The key with this id.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.held.read().key(id)
    }

    /// The workspace with this id.
    #[must_use]
    pub fn workspace(&self, id: WorkspaceId) -> Option<Arc<WorkspaceRecord>> {
        self.held.read().state.workspace(id).cloned()
    }

    /// The catalogue entry with this name.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<Arc<Model>> {
        self.held.read().state.model(name).cloned()
    }

    /// The catalogue entry that a client means by `name`.
    #[must_use]
    pub fn model_called(&self, name: &str) -> Option<Arc<Model>> {
        self.held.read().state.called(name).cloned()
    }

    /// The catalogue entries that `wanted` accepts, by name.
    #[must_use]
    pub fn models(&self, wanted: impl Fn(&Model) -> bool) -> Vec<Arc<Model>> {
        self.held.read().state.models().filter(|model| wanted(model)).cloned().collect()
    }

    /// The credentials that `wanted` accepts, by id.
    #[must_use]
    pub fn credentials(&self, wanted: impl Fn(&CredentialRecord) -> bool) -> Vec<Arc<CredentialRecord>> {
        self.held.read().state.credentials().filter(|credential| wanted(credential)).cloned().collect()
    }

    /// Revision and hash of the state held.
    #[must_use]
    pub fn position(&self) -> (u64, SetHash) {
        let held = self.held.read();
        (held.state.revision(), held.state.set_hash())
    }

    /// The revision of the state alone: its hash costs some ten microseconds.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.held.read().state.revision()
    }

    /// The same, and which set it is.
    #[must_use]
    pub fn numbered_position(&self) -> (u64, SetHash, SetNumber) {
        let held = self.held.read();
        (held.state.revision(), held.state.set_hash(), held.number())
    }

    /// Whether the state tells everything up to `floor`.
    #[must_use]
    pub fn stands_on(&self, floor: u64) -> bool {
        self.held.read().stands_on(floor)
    }

    /// The control plane never had the set of this number: from here on orders are carried out whatever its revision says, and it tells nothing
    /// until it is replaced. Says whether it is still held.
    pub fn disown(&self, number: SetNumber) -> bool {
        self.held.write().disown(number)
    }

    /// The installation, once the first snapshot has come.
    pub fn deployment(&self) -> watch::Receiver<Option<DeploymentId>> {
        self.deployment.subscribe()
    }

    /// Begins with a state that an earlier life kept. Nothing is served with it before the control plane has answered.
    pub fn restore(&self, deployment: DeploymentId, state: State) {
        self.held.write().state = state;
        self.deployment.send_replace(Some(deployment));
    }

    /// Whether the state stream has brought anything in this life; secrets come first on it.
    pub fn attached(&self) -> watch::Receiver<bool> {
        self.attached.subscribe()
    }

    /// The state stream has brought something.
    pub fn attach(&self) {
        self.attached.send_if_modified(|attached| !std::mem::replace(attached, true));
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
        self.replace_by(deployment, state, set_hash, differences)
    }

    fn replace_by(
        &self,
        deployment: DeploymentId,
        state: State,
        set_hash: SetHash,
        compare: impl FnOnce(&Contents, &State) -> Changes,
    ) -> Result<Changes, ApplyError> {
        if state.set_hash() != set_hash {
            return Err(ApplyError::Diverged(state.revision()));
        }
        // Comparing takes as long as there are keys, so it holds no lock: an order that waited for one would keep every request waiting behind it. Only
        // the follower changes the state, and orders that come in between are compared with it again.
        let mut changes = compare(&self.contents(), &state);
        // Taken before the state, as when a delta is applied.
        let mut cuts = self.cuts.lock();
        let old = {
            let mut held = self.held.write();
            for change in &mut changes.keys {
                change.before = held.ordered(change.before.take());
            }
            // A key whose record is the same in both sets may stand otherwise without its order.
            changes.keys.extend(held.ordered_but_in(&changes.keys));
            let old = held.replace(state);
            held.catch_up();
            for change in &mut changes.keys {
                change.now = held.ordered(change.now.take());
            }
            old
        };
        changes.keys.retain(|change| change.before != change.now);
        self.cut_dead_keys(&changes, self.revision(), &mut cuts);
        drop((cuts, old));
        self.deployment.send_replace(Some(deployment));
        Ok(changes)
    }

    /// Applies a delta and says what changed, also when the result is not what it should be; the follower then asks for a snapshot.
    pub fn apply(&self, delta: Delta) -> (Changes, Result<(), ApplyError>) {
        self.apply_by(delta, State::apply)
    }

    /// Applies what could be read of a delta. The hash of the set is taken over, because that of what is held says nothing.
    pub fn apply_partly(&self, delta: Delta) -> (Changes, Result<(), ApplyError>) {
        self.apply_by(delta, State::apply_partly)
    }

    fn apply_by(
        &self,
        delta: Delta,
        apply: impl FnOnce(&mut State, Delta) -> Result<(), ApplyError>,
    ) -> (Changes, Result<(), ApplyError>) {
        let keys: Vec<KeyId> = delta.changes.iter().filter_map(changed_key).collect();
        let workspaces: Vec<WorkspaceId> = delta.changes.iter().filter_map(changed_workspace).collect();
        let revision = delta.to;
        // Taken before the state, so that an order that finds the change made finds the streams counted.
        let mut cuts = self.cuts.lock();
        let (changes, applied) = {
            let mut held = self.held.write();
            let keys_before: Vec<_> = keys.iter().map(|id| held.key(*id)).collect();
            let workspaces_before: Vec<_> = workspaces.iter().map(|id| held.state.workspace(*id).cloned()).collect();
            let applied = apply(&mut held.state, delta);
            held.catch_up();
            let now = keys.iter().map(|id| held.key(*id));
            let keys = keys_before.into_iter().zip(now).map(|(before, now)| KeyChange { before, now }).collect();
            let same = |(id, before): &(WorkspaceId, Option<Arc<WorkspaceRecord>>)| {
                same_limits(before.as_deref(), held.state.workspace(*id).map(Arc::as_ref))
            };
            let workspaces = workspaces.into_iter().zip(workspaces_before).filter(|changed| !same(changed));
            (Changes { keys, workspaces: workspaces.map(|(id, _)| id).collect() }, applied)
        };
        self.cut_dead_keys(&changes, revision, &mut cuts);
        (changes, applied)
    }

    /// Carries an order out, ahead of the state if need be. Says what changed, and how many streams it has cut, whoever brought it first.
    pub fn carry_out(&self, order: Order) -> (Changes, u64) {
        let mut cuts = self.cuts.lock();
        let change = self.held.write().take(order);
        let changes = Changes { keys: change.into_iter().collect(), ..Changes::default() };
        self.cut_dead_keys(&changes, order.revision, &mut cuts);
        let streams_cut = cuts.iter().filter(|(revision, _)| *revision == order.revision).map(|(_, cut)| cut).sum();
        (changes, streams_cut)
    }

    /// A record as the state has it, without the orders that are ahead of it.
    #[must_use]
    pub fn resource(&self, id: &ResourceId) -> Option<Resource> {
        self.held.read().state.get(id)
    }

    /// The records held, to be read while they change.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.held.read().state.contents()
    }

    fn cut_dead_keys(&self, changes: &Changes, revision: u64, cuts: &mut VecDeque<(u64, u64)>) {
        for change in &changes.keys {
            let works = |key: &Option<Arc<KeyRecord>>| key.as_ref().is_some_and(|key| key.standing().works());
            let Some(before) = change.before.as_ref().filter(|_| works(&change.before) && !works(&change.now)) else {
                continue;
            };
            let streams = u64::try_from(self.running.cut(before.id)).unwrap_or(u64::MAX);
            if cuts.len() == CUTS {
                cuts.pop_front();
            }
            cuts.push_back((revision, streams));
        }
    }
}

#[cfg(test)]
mod tests;

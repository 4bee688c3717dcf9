//! The node's copy of the replicated state: what the request path reads, without waiting for anyone.
//!
//! * [`follow`]: keeps the copy at the control plane's revision
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

use hashbrown::HashMap;
use keyforge_shared::catalog::Model;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{DeploymentId, KeyId, WorkspaceId};
use keyforge_shared::policy::Policy;
use keyforge_shared::state::{
    ApplyError, Contents, CredentialRecord, Delta, KeyRecord, Resource, ResourceId, SetHash, Standing, State,
    WorkspaceRecord,
};
use keyforge_shared::token::TokenDigest;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use self::differences::{Changes, KeyChange, changed_key, changed_workspace, differences, same_limits};
use self::freshness::Freshness;
use self::running::Running;
use self::secrets::Secrets;

/// Waits before a stream is taken up again, from and to: each node draws its own, so that they do not all come back at once.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Revisions of which the number of cut streams is remembered, because whichever stream brings the change first cuts them.
const CUTS: usize = 64;

/// Whether a key works, from a revision on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The revision.
    pub revision: u64,
    /// Which key.
    pub key: KeyId,
    /// Whether it works.
    pub standing: Standing,
}

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

/// Which of the sets it is that were held one after the other. Changes make no other set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetNumber(u64);

/// The state, and the orders that are ahead of it.
#[derive(Default)]
struct Held {
    state: State,
    orders: HashMap<KeyId, Order>,
    number: SetNumber,
    /// Whether the control plane never had this set, so that its revision is of another past and every order is ahead of it.
    is_foreign: bool,
}

impl Held {
    fn key(&self, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.ordered(self.state.key(id))
    }

    /// The record as the orders have it that are ahead of the state.
    fn ordered(&self, key: Option<Arc<KeyRecord>>) -> Option<Arc<KeyRecord>> {
        let key = key?;
        if self.orders.is_empty() {
            return Some(key);
        }
        match self.orders.get(&key.id) {
            Some(order) => Some(under(order, key)),
            None => Some(key),
        }
    }

    /// The keys with an order, but those of `changes`: what becomes of each is what the other set says of it, which is what this one does.
    fn ordered_but_in(&self, changes: &[KeyChange]) -> Vec<KeyChange> {
        let is_new =
            |id: &&KeyId| !changes.iter().any(|change| change.before.as_ref().is_some_and(|key| key.id == **id));
        let change = |id: &KeyId| Some(KeyChange { before: Some(self.key(*id)?), now: self.state.key(*id) });
        self.orders.keys().filter(is_new).filter_map(change).collect()
    }

    /// Takes another set.
    fn replace(&mut self, state: State) -> State {
        // One that goes back undoes its past, and with it the orders of then; those after a disowning are of the new one.
        if state.revision() < self.state.revision() && !self.is_foreign {
            self.orders.clear();
        }
        self.is_foreign = false;
        self.number.0 += 1;
        std::mem::replace(&mut self.state, state)
    }

    /// Forgets the orders that the state has caught up with.
    fn catch_up(&mut self) {
        let revision = self.state.revision();
        self.orders.retain(|_, order| order.revision > revision);
    }
}

fn under(order: &Order, mut key: Arc<KeyRecord>) -> Arc<KeyRecord> {
    if key.standing() == order.standing {
        return key;
    }
    let record = Arc::make_mut(&mut key);
    if record.status != order.standing.status {
        (record.status, record.status_revision) = (order.standing.status, order.revision);
    }
    if record.policy.has_nothing_left() != order.standing.spent {
        let limits = &mut Arc::make_mut(&mut record.policy).request_limits;
        limits.retain(|limit| limit.window != Policy::NOTHING_LEFT.window);
        if order.standing.spent {
            limits.push(Policy::NOTHING_LEFT);
        }
    }
    key
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
        (held.state.revision(), held.state.set_hash(), held.number)
    }

    /// Whether the state tells everything up to `floor`.
    #[must_use]
    pub fn stands_on(&self, floor: u64) -> bool {
        let held = self.held.read();
        !held.is_foreign && floor <= held.state.revision()
    }

    /// The control plane never had the set of this number: from here on orders are carried out whatever its revision says, and it tells nothing
    /// until it is replaced. Says whether it is still held.
    pub fn disown(&self, number: SetNumber) -> bool {
        let mut held = self.held.write();
        let is_held = held.number == number;
        if is_held && !std::mem::replace(&mut held.is_foreign, true) {
            held.orders.clear();
        }
        is_held
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
        let mut changes = Changes::default();
        let mut cuts = self.cuts.lock();
        {
            let mut held = self.held.write();
            let newer = held.orders.get(&order.key).is_none_or(|known| known.revision < order.revision);
            if newer && (held.is_foreign || held.state.revision() < order.revision) {
                let before = held.key(order.key);
                held.orders.insert(order.key, order);
                let now = held.key(order.key);
                changes.keys.push(KeyChange { before, now });
            }
        }
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
mod tests {
    use std::sync::mpsc;

    use keyforge_shared::state::{FormerToken, KeyStatus};

    use super::*;
    use crate::fixture::{key, key_id, quota, workspace};

    const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 16]);

    fn state(revision: u64, keys: impl IntoIterator<Item = Resource>) -> State {
        let mut state = State::with_room(revision, 2);
        state.add(workspace(Vec::new(), Vec::new()));
        keys.into_iter().for_each(|key| state.add(key));
        state
    }

    fn at(replica: &Replica, state: State) {
        let hash = state.set_hash();
        replica.replace(DEPLOYMENT, state, hash).unwrap();
    }

    fn order(revision: u64, number: u8, status: KeyStatus, spent: bool) -> Order {
        Order { revision, key: key_id(number), standing: Standing { status, spent } }
    }

    fn status(replica: &Replica, number: u8) -> (KeyStatus, u64) {
        let key = replica.key(key_id(number)).unwrap();
        assert_eq!(replica.key_by_digest(&key.digest).as_ref(), Some(&key));
        (key.status, key.status_revision)
    }

    fn with_status(number: u8, status: KeyStatus, status_revision: u64) -> Resource {
        let Resource::Key(record) = key(number, quota(5)) else { panic!("not a key") };
        Resource::Key(Arc::new(KeyRecord { status, status_revision, ..(*record).clone() }))
    }

    #[test]
    fn an_order_holds_ahead_of_the_state_also_when_an_older_snapshot_comes_after_it() {
        let replica = Replica::default();
        at(&replica, state(5, [key(1, quota(5)), key(2, quota(5))]));
        let (changes, _) = replica.carry_out(order(9, 1, KeyStatus::Revoked, false));
        assert_eq!(changes.keys.len(), 1);
        assert_eq!((status(&replica, 1), status(&replica, 2)), ((KeyStatus::Revoked, 9), (KeyStatus::Active, 0)));
        // A snapshot that was taken before the order was given, and was long on its way.
        at(&replica, state(8, [key(1, quota(5)), key(2, quota(5))]));
        assert_eq!(status(&replica, 1), (KeyStatus::Revoked, 9));
        // The state has caught up, and is right from here on.
        at(&replica, state(10, [with_status(1, KeyStatus::Active, 10), key(2, quota(5))]));
        assert_eq!(status(&replica, 1), (KeyStatus::Active, 10));
        assert!(replica.held.read().orders.is_empty());
        let (changes, _) = replica.carry_out(order(9, 1, KeyStatus::Revoked, false));
        assert!(changes.keys.is_empty(), "an order that the state contains changes nothing");
        assert_eq!(status(&replica, 1), (KeyStatus::Active, 10));
    }

    #[test]
    fn a_key_whose_order_is_undone_changes_also_when_its_record_is_the_same_in_both_sets() {
        let paused = || [with_status(1, KeyStatus::Paused, 90), key(2, quota(5))];
        let replica = Replica::default();
        at(&replica, state(120, paused()));
        drop(replica.carry_out(order(121, 1, KeyStatus::Active, false)));
        assert_eq!(status(&replica, 1).0, KeyStatus::Active);
        let replace = |revision| {
            let state = state(revision, paused());
            let hash = state.set_hash();
            replica.replace(DEPLOYMENT, state, hash).unwrap().keys
        };
        assert!(replace(120).is_empty(), "the order is ahead of this set, too");
        let changes = replace(100);
        let statuses: Vec<_> = changes
            .iter()
            .map(|change| [&change.before, &change.now].map(|key| key.as_ref().unwrap().status))
            .collect();
        assert_eq!(statuses, [[KeyStatus::Active, KeyStatus::Paused]]);
    }

    #[test]
    fn i_13_orders_are_carried_out_over_a_set_of_a_past_that_was_undone_and_it_tells_nothing_until_it_is_replaced() {
        let replica = Replica::default();
        at(&replica, state(120, [key(1, quota(5)), key(2, quota(5))]));
        drop(replica.carry_out(order(121, 2, KeyStatus::Revoked, false)));
        let (_, _, told) = replica.numbered_position();
        assert!(replica.stands_on(100) && replica.disown(told) && !replica.stands_on(100));
        let (changes, _) = replica.carry_out(order(101, 1, KeyStatus::Revoked, false));
        assert_eq!((changes.keys.len(), status(&replica, 1)), (1, (KeyStatus::Revoked, 101)));
        // The order of the undone past does not outlive it.
        at(&replica, state(100, [key(1, quota(5)), key(2, quota(5))]));
        assert!(replica.stands_on(100));
        assert_eq!((status(&replica, 1).0, status(&replica, 2).0), (KeyStatus::Revoked, KeyStatus::Active));
        assert!(!replica.disown(told), "that set is gone already");
        let (changes, _) = replica.carry_out(order(100, 2, KeyStatus::Revoked, false));
        assert!(changes.keys.is_empty() && replica.stands_on(100));
    }

    #[test]
    fn i_13_a_set_that_goes_back_before_the_orders_stream_is_there_undoes_the_orders_of_then() {
        let replica = Replica::default();
        at(&replica, state(118, [key(1, quota(5))]));
        drop(replica.carry_out(order(119, 1, KeyStatus::Active, false)));
        at(&replica, state(100, [with_status(1, KeyStatus::Revoked, 100)]));
        assert_eq!(status(&replica, 1).0, KeyStatus::Revoked);
    }

    #[test]
    fn an_order_to_stop_a_key_ends_both_of_its_tokens() {
        let replica = Replica::default();
        let Resource::Key(record) = key(1, quota(5)) else { panic!("not a key") };
        let former = FormerToken { digest: TokenDigest([99; 32]), until: Some(Timestamp::MAX) };
        let rotated = KeyRecord { former: Some(Box::new(former)), ..(*record).clone() };
        at(&replica, state(5, [Resource::Key(Arc::new(rotated))]));
        drop(replica.carry_out(order(9, 1, KeyStatus::Revoked, false)));
        for digest in [record.digest, former.digest] {
            assert_eq!(replica.key_by_digest(&digest).unwrap().status, KeyStatus::Revoked);
        }
    }

    #[test]
    fn an_order_is_carried_out_and_seen_in_the_middle_of_a_snapshot_being_compared_with_what_is_held() {
        let replica = Arc::new(Replica::default());
        at(&replica, state(5, [key(1, quota(5))]));
        let next = state(8, [key(1, quota(6))]);
        let hash = next.set_hash();
        let compare = |held: &Contents, next: &State| {
            let ordered = Arc::clone(&replica);
            let (tell, told) = mpsc::channel();
            std::thread::spawn(move || {
                drop(ordered.carry_out(order(9, 1, KeyStatus::Revoked, false)));
                tell.send(status(&ordered, 1)).unwrap();
            });
            let seen = told.recv_timeout(Duration::from_secs(20)).expect("nobody waits for the comparison");
            assert_eq!(seen, (KeyStatus::Revoked, 9));
            differences(held, next)
        };
        let changes = replica.replace_by(DEPLOYMENT, next, hash, compare).unwrap();
        let told: Vec<_> =
            changes.keys.into_iter().map(|change| (change.before.unwrap(), change.now.unwrap())).collect();
        let [(before, now)] = told.as_slice() else { panic!("not one change") };
        assert_eq!((before.status, now.status), (KeyStatus::Revoked, KeyStatus::Revoked), "both are as it was ordered");
        assert_eq!(now.policy.request_limits, quota(6).request_limits);
    }

    #[test]
    fn of_two_orders_the_later_one_counts_whichever_comes_first() {
        let replica = Replica::default();
        at(&replica, state(5, [key(1, quota(5))]));
        drop(replica.carry_out(order(8, 1, KeyStatus::Active, false)));
        drop(replica.carry_out(order(7, 1, KeyStatus::Paused, false)));
        assert_eq!(status(&replica, 1).0, KeyStatus::Active);
        drop(replica.carry_out(order(9, 1, KeyStatus::Active, true)));
        let zeroed = replica.key(key_id(1)).unwrap();
        assert!(zeroed.policy.has_nothing_left() && zeroed.policy.request_limits.len() == 2, "{:?}", zeroed.policy);
        drop(replica.carry_out(order(10, 1, KeyStatus::Active, false)));
        assert_eq!(replica.key(key_id(1)).unwrap().policy.request_limits, quota(5).request_limits);
    }

    #[test]
    fn streams_are_cut_once_and_counted_whether_the_order_or_the_state_comes_first() {
        for order_first in [true, false] {
            let replica = Replica::default();
            at(&replica, state(5, [key(1, quota(5))]));
            let streams = [replica.running.enter(key_id(1)), replica.running.enter(key_id(1))];
            let stop = order(6, 1, KeyStatus::Revoked, false);
            let next = || state(6, [with_status(1, KeyStatus::Revoked, 6)]);
            if order_first {
                assert_eq!(replica.carry_out(stop).1, 2);
                at(&replica, next());
            } else {
                at(&replica, next());
            }
            assert_eq!(replica.carry_out(stop).1, 2, "asked again");
            assert!(streams.iter().all(|stream| stream.cut().is_cancelled()));
        }
    }
}

//! The hub holds the replicated state and hands each change to every subscriber, and each order, that a key stops or goes on, to every watcher.
//!
//! Each of them has a [queue](super::queues) of its own. Subscribing and committing exclude each other, so no subscriber misses a change or sees one
//! twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use keyforge_shared::id::KeyId;
use keyforge_shared::state::{Change, Delta, KeyStatus, Resource, ResourceId, SetHash, Standing, State};

use super::encoded::Encoded;
use super::queues::{FanOut, Overrun, QUEUE, Queue};

/// Deltas kept for nodes that come back.
const RING: usize = 10_000;
/// Orders kept for nodes that come back.
const ORDERS: usize = 10_000;

/// The replicated state and its subscribers. Clones share it.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    state: State,
    ring: VecDeque<Arc<Delta>>,
    subscribers: FanOut<Arc<Delta>>,
    /// All orders after `orders_since`.
    orders: VecDeque<Order>,
    orders_since: u64,
    /// Revision and hash of the set that it began with.
    base: (u64, SetHash),
    watchers: FanOut<Order>,
    /// The latest snapshot that was encoded.
    encoded: Weak<Encoded>,
}

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

/// What a subscriber needs in order to hold the state at some revision.
pub enum Start {
    /// The whole set, and the changes after it. Possibly none.
    Snapshot(Arc<Encoded>, Vec<Arc<Delta>>),
    /// It holds a set of ours; these changes lead on from it. Possibly none.
    Deltas(Vec<Arc<Delta>>),
}

/// What comes next in a subscription.
pub enum Next {
    /// The next change.
    Delta(Arc<Delta>),
    /// The subscriber fell behind: it continues from this snapshot and the changes after it.
    Resync(Arc<Encoded>, Vec<Arc<Delta>>),
}

/// A place in the fan-out of changes. Dropping it ends it.
pub struct Subscription {
    hub: Hub,
    queue: Arc<Queue<Arc<Delta>>>,
}

/// Where a node stands that joins the fan-out of orders.
pub struct Watching {
    /// Up to here its set must tell it what no order tells any more.
    pub floor: u64,
    /// Whether its set is none that was ever held here, so that its revision says nothing.
    pub is_foreign: bool,
    /// The orders after `floor`.
    pub missed: Vec<Order>,
    /// Those that come.
    pub orders: Watch,
}

/// A place in the fan-out of orders. Dropping it ends it.
pub struct Watch {
    queue: Arc<Queue<Order>>,
}

impl Hub {
    /// A hub that starts from a loaded state.
    #[must_use]
    pub fn new(state: State) -> Self {
        let orders_since = state.revision();
        let base = (orders_since, state.set_hash());
        let inner = Inner {
            state,
            ring: VecDeque::new(),
            subscribers: FanOut::default(),
            orders: VecDeque::new(),
            orders_since,
            base,
            watchers: FanOut::default(),
            encoded: Weak::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Applies committed changes as the next revision and hands them to every subscriber.
    pub fn commit(&self, changes: Vec<Change>) {
        let mut inner = lock(&self.inner);
        let orders = inner.orders_of(&changes);
        let delta = Arc::new(inner.state.commit(changes));
        // Orders first: nothing that a subscriber costs may come before them.
        orders.into_iter().for_each(|order| inner.give(order));
        if inner.ring.len() == RING {
            inner.ring.pop_front();
        }
        inner.ring.push_back(Arc::clone(&delta));
        inner.subscribers.give(&delta);
    }

    /// Joins the fan-out of orders, for a node that knows those up to `revision`, where its set has this hash if it tells.
    #[must_use]
    pub fn watch(&self, revision: u64, set_hash: Option<SetHash>) -> Watching {
        let mut inner = lock(&self.inner);
        let head = inner.state.revision();
        let ours = inner.hash_at(revision);
        let is_foreign = revision > head || ours.zip(set_hash).is_some_and(|(ours, its)| ours != its);
        let is_proven = set_hash.is_none() || ours == set_hash;
        let is_known = is_proven && (inner.orders_since..=head).contains(&revision);
        let floor = if is_known { revision } else { head };
        let missed = inner.orders.iter().filter(|order| order.revision > floor).copied().collect();
        Watching { floor, is_foreign, missed, orders: Watch { queue: inner.watchers.join() } }
    }

    /// Whether `revision` stopped a key or let it go on, as far as is remembered: so that nodes are given an order.
    #[must_use]
    pub fn may_have_ordered(&self, revision: u64) -> bool {
        let inner = lock(&self.inner);
        revision <= inner.orders_since || inner.orders.iter().rev().any(|order| order.revision == revision)
    }

    /// Reads the state. `read` must be quick: commits wait for it.
    pub fn with_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&lock(&self.inner).state)
    }

    /// The revision that the state is at.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.with_state(State::revision)
    }

    /// Subscribers that are connected.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        lock(&self.inner).subscribers.members()
    }

    /// Joins the fan-out, for a node that holds `revision` with `set_hash`; revision 0 holds nothing.
    #[must_use]
    pub fn subscribe(&self, revision: u64, set_hash: Option<SetHash>) -> (Start, Subscription) {
        let mut inner = lock(&self.inner);
        let start = match inner.deltas_after(revision, set_hash) {
            Some(deltas) => Start::Deltas(deltas),
            None => {
                let (snapshot, deltas) = inner.snapshot();
                Start::Snapshot(snapshot, deltas)
            }
        };
        (start, Subscription { hub: self.clone(), queue: inner.subscribers.join() })
    }
}

impl Inner {
    /// The hash of the set at `revision`, while it is known.
    fn hash_at(&self, revision: u64) -> Option<SetHash> {
        if revision == self.state.revision() {
            return Some(self.state.set_hash());
        }
        if revision == self.base.0 {
            return Some(self.base.1);
        }
        let at = usize::try_from(revision.checked_sub(self.ring.front()?.to)?).ok()?;
        self.ring.get(at).map(|delta| delta.set_hash)
    }

    /// The changes after `revision`, if the set there was the given one and they are all still known.
    fn deltas_after(&self, revision: u64, set_hash: Option<SetHash>) -> Option<Vec<Arc<Delta>>> {
        if revision == 0 || set_hash.is_none() {
            return None;
        }
        if revision == self.state.revision() {
            return (set_hash == Some(self.state.set_hash())).then(Vec::new);
        }
        // Revisions are dense, so the delta that led to `revision` is where counting says, and the next ones follow it.
        let first = self.ring.front()?.to;
        let at = usize::try_from(revision.checked_sub(first)?).ok()?;
        (set_hash == Some(self.ring.get(at)?.set_hash)).then(|| self.ring.iter().skip(at + 1).cloned().collect())
    }

    /// One that is being sent to others, with the changes since, or else a new one.
    fn snapshot(&mut self) -> (Arc<Encoded>, Vec<Arc<Delta>>) {
        let shared = self.encoded.upgrade();
        let usable = shared.and_then(|encoded| {
            let deltas = self.deltas_after(encoded.revision(), Some(encoded.set_hash()))?;
            (deltas.len() <= QUEUE).then_some((encoded, deltas))
        });
        usable.unwrap_or_else(|| {
            let encoded = Arc::new(Encoded::new(self.state.contents()));
            self.encoded = Arc::downgrade(&encoded);
            (encoded, Vec::new())
        })
    }

    /// What `changes` mean for keys that may be in use.
    fn orders_of(&self, changes: &[Change]) -> Vec<Order> {
        let revision = self.state.revision() + 1;
        let gone = Standing { status: KeyStatus::Revoked, spent: false };
        let changed = changes.iter().filter_map(|change| match change {
            Change::Upsert(Resource::Key(key)) => Some((key.id, key.standing())),
            Change::Remove(ResourceId::Key(id)) => Some((*id, gone)),
            Change::Upsert(_) | Change::Remove(_) => None,
        });
        let orders = changed.filter(|(key, now)| self.state.key(*key).is_some_and(|before| before.standing() != *now));
        orders.map(|(key, standing)| Order { revision, key, standing }).collect()
    }

    fn give(&mut self, order: Order) {
        if self.orders.len() == ORDERS
            && let Some(oldest) = self.orders.pop_front()
        {
            self.orders_since = oldest.revision;
        }
        self.orders.push_back(order);
        self.watchers.give(&order);
    }
}

impl Subscription {
    /// Waits for what comes next. Safe to drop while waiting: nothing is lost.
    pub async fn next(&self) -> Next {
        match self.queue.next().await {
            Ok(delta) => Next::Delta(delta),
            Err(Overrun) => {
                let (snapshot, deltas) = self.restart();
                Next::Resync(snapshot, deltas)
            }
        }
    }

    fn restart(&self) -> (Arc<Encoded>, Vec<Arc<Delta>>) {
        let mut inner = lock(&self.hub.inner);
        // No commit can come between the emptying of the queue and the snapshot: it would need the hub.
        self.queue.begin_anew();
        inner.snapshot()
    }
}

impl Watch {
    /// Waits for the next order. Safe to drop while waiting: nothing is lost.
    ///
    /// # Errors
    /// [`Overrun`], for good.
    pub async fn next(&self) -> Result<Order, Overrun> {
        self.queue.next().await
    }

    /// The next order that is there already.
    ///
    /// # Errors
    /// [`Overrun`], for good.
    pub fn ready(&self) -> Result<Option<Order>, Overrun> {
        self.queue.take()
    }
}

/// A panic while the lock was held cannot leave these values half changed, so that a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use keyforge_shared::state::ResourceId;

    use super::*;

    fn change(number: u64) -> Vec<Change> {
        vec![Change::Remove(ResourceId::Model(number.to_string()))]
    }

    fn hub_at(revision: u64) -> Hub {
        let hub = Hub::new(State::from_snapshot(1, []));
        for number in 1..revision {
            hub.commit(change(number));
        }
        hub
    }

    fn deltas(start: Start) -> Option<Vec<u64>> {
        match start {
            Start::Snapshot(..) => None,
            Start::Deltas(deltas) => Some(deltas.iter().map(|delta| delta.to).collect()),
        }
    }

    #[tokio::test]
    async fn i_14_every_change_after_the_start_comes_once_and_in_order() {
        let hub = hub_at(1);
        let (start, subscription) = hub.subscribe(0, None);
        assert!(matches!(start, Start::Snapshot(snapshot, _) if snapshot.revision() == 1));
        for number in 2..=5 {
            hub.commit(change(number));
        }
        for expected in 2..=5 {
            let Next::Delta(delta) = subscription.next().await else { panic!("resync") };
            assert_eq!(delta.to, expected);
        }
    }

    #[test]
    fn node_that_comes_back_gets_the_deltas_it_missed_if_it_holds_our_set() {
        let hub = hub_at(5);
        let hash = hub.with_state(State::set_hash);
        let start = |revision, hash| deltas(hub.subscribe(revision, hash).0);
        assert_eq!(start(2, Some(hash)), Some(vec![3, 4, 5]));
        assert_eq!(start(5, Some(hash)), Some(vec![]));
        let other = SetHash::from_slice(&[1; 32]);
        for (revision, hash) in [(0, Some(hash)), (1, Some(hash)), (6, Some(hash)), (2, other), (5, other), (2, None)] {
            assert_eq!(start(revision, hash), None, "{revision}");
        }
    }

    #[tokio::test]
    async fn i_15_slow_subscriber_is_restarted_from_a_snapshot_and_the_others_are_not() {
        let hub = hub_at(1);
        let (_, slow) = hub.subscribe(0, None);
        let (_, quick) = hub.subscribe(0, None);
        let last = u64::try_from(QUEUE).unwrap() + 2;
        for number in 2..=last {
            hub.commit(change(number));
            let Next::Delta(delta) = quick.next().await else { panic!("the quick one was restarted") };
            assert_eq!(delta.to, number);
        }
        let Next::Resync(snapshot, _) = slow.next().await else { panic!("the queue was not bounded") };
        assert_eq!(snapshot.revision(), last);
        hub.commit(change(last + 1));
        let Next::Delta(delta) = slow.next().await else { panic!("restarted twice") };
        assert_eq!(delta.from, snapshot.revision());
    }

    fn key(number: u8, status: KeyStatus) -> Resource {
        Resource::Key(Arc::new(keyforge_shared::state::KeyRecord {
            id: key_id(number),
            digest: keyforge_shared::token::TokenDigest([number; 32]),
            name: "k".to_owned(),
            status,
            status_revision: 0,
            policy: Arc::default(),
            chain: keyforge_shared::id::ChainId::from_bytes([number; 16]),
            workspace: keyforge_shared::id::WorkspaceId::from_bytes([0; 16]),
            former: None,
        }))
    }

    fn key_id(number: u8) -> KeyId {
        KeyId::from_ascii(format!("key{number:09}").as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_watcher_hears_of_keys_that_stop_and_go_on_and_of_nothing_else() {
        let hub = Hub::new(State::from_snapshot(1, [key(1, KeyStatus::Active), key(2, KeyStatus::Active)]));
        let Watching { floor, missed: orders, orders: watch, .. } = hub.watch(0, None);
        assert_eq!((floor, orders.len()), (1, 0), "who knows nothing needs the set");
        hub.commit(change(1));
        hub.commit(vec![Change::Upsert(key(3, KeyStatus::Active))]);
        hub.commit(vec![Change::Upsert(key(1, KeyStatus::Paused)), Change::Remove(key(2, KeyStatus::Active).id())]);
        hub.commit(vec![Change::Upsert(key(1, KeyStatus::Active))]);
        let order = |revision, number, status| {
            let standing = Standing { status, spent: false };
            Order { revision, key: key_id(number), standing }
        };
        let expected =
            [order(4, 1, KeyStatus::Paused), order(4, 2, KeyStatus::Revoked), order(5, 1, KeyStatus::Active)];
        for expected in expected {
            assert_eq!(watch.next().await, Ok(expected));
        }
        assert_eq!(hub.watch(4, None).missed, expected[2..], "who comes back hears what it missed");
        let floor = |revision| hub.watch(revision, None).floor;
        assert_eq!((floor(4), floor(6), floor(0)), (4, 5, 5));
    }

    #[tokio::test]
    async fn i_15_a_watcher_that_falls_behind_is_told_to_begin_anew_and_the_others_are_not() {
        let hub = Hub::new(State::from_snapshot(1, [key(1, KeyStatus::Active)]));
        let slow = hub.watch(1, None).orders;
        let quick = hub.watch(1, None).orders;
        for number in 0..=QUEUE {
            let status = if number % 2 == 0 { KeyStatus::Paused } else { KeyStatus::Active };
            hub.commit(vec![Change::Upsert(key(1, status))]);
            assert_eq!(quick.next().await.unwrap().standing.status, status);
        }
        assert_eq!(slow.next().await, Err(Overrun));
    }

    #[test]
    fn subscriber_that_left_is_forgotten() {
        let hub = hub_at(1);
        let (_, subscription) = hub.subscribe(0, None);
        assert_eq!(hub.subscribers(), 1);
        drop(subscription);
        hub.commit(change(2));
        assert_eq!(hub.subscribers(), 0);
    }

    #[test]
    fn i_13_a_set_that_was_never_held_here_is_told_from_one_that_was_whatever_its_revision() {
        let hash = |hub: &Hub| hub.with_state(State::set_hash);
        let (hub, base) = (Hub::new(State::from_snapshot(3, [])), State::from_snapshot(3, []).set_hash());
        for number in 0..4 {
            hub.commit(vec![Change::Upsert(key(number, KeyStatus::Active))]);
        }
        let (other, stands) = (SetHash::from_slice(&[7; 32]).unwrap(), |revision, hash| {
            let watching = hub.watch(revision, Some(hash));
            (watching.floor, watching.is_foreign)
        });
        assert_eq!((stands(3, base), stands(7, hash(&hub))), ((3, false), (7, false)));
        for revision in [3, 5, 7] {
            assert_eq!(stands(revision, other), (7, true), "a set of an undone past at revision {revision}");
        }
        assert_eq!((stands(9, other), stands(1, other)), ((7, true), (7, false)), "what is older is replaced anyway");
    }
}

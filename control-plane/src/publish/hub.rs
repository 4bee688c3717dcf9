//! The hub holds the replicated state and hands each change to every subscriber.
//!
//! Each subscriber has a queue of its own with a bound. One that falls behind loses its queue and is told to start over from a snapshot; it
//! costs the others nothing. Subscribing and committing exclude each other, so no subscriber misses a change or sees one twice.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use keyforge_shared::state::{Change, Delta, Resource, SetHash, State};
use tokio::sync::Notify;

/// Deltas kept for nodes that come back.
const RING: usize = 10_000;
/// Deltas that may wait for one subscriber.
const QUEUE: usize = 1_024;

/// The replicated state and its subscribers. Clones share it.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    state: State,
    ring: VecDeque<Arc<Delta>>,
    subscribers: Vec<Weak<Queue>>,
}

/// What a subscriber needs in order to hold the state at some revision.
pub enum Start {
    /// The whole set.
    Snapshot(Snapshot),
    /// It holds a set of ours; these changes lead on from it. Possibly none.
    Deltas(Vec<Arc<Delta>>),
}

/// The replicated set at one revision.
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    /// Hash of the set.
    pub set_hash: SetHash,
    /// Every record.
    pub resources: Vec<Resource>,
}

/// What comes next in a subscription.
pub enum Next {
    /// The next change.
    Delta(Arc<Delta>),
    /// The subscriber fell behind: it continues from this snapshot.
    Resync(Snapshot),
}

/// A place in the fan-out. Dropping it ends it.
pub struct Subscription {
    hub: Hub,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    deltas: VecDeque<Arc<Delta>>,
    overflowed: bool,
}

impl Hub {
    /// A hub that starts from a loaded state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { state, ring: VecDeque::new(), subscribers: Vec::new() })) }
    }

    /// Applies committed changes as the next revision and hands them to every subscriber.
    pub fn commit(&self, changes: Vec<Change>) {
        let mut inner = lock(&self.inner);
        let delta = Arc::new(inner.state.commit(changes));
        if inner.ring.len() == RING {
            inner.ring.pop_front();
        }
        inner.ring.push_back(Arc::clone(&delta));
        inner.subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(queue) => {
                queue.push(&delta);
                true
            }
            None => false,
        });
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
        lock(&self.inner).subscribers.iter().filter(|subscriber| subscriber.strong_count() > 0).count()
    }

    /// Joins the fan-out, for a node that holds `revision` with `set_hash`; revision 0 holds nothing.
    #[must_use]
    pub fn subscribe(&self, revision: u64, set_hash: Option<SetHash>) -> (Start, Subscription) {
        let queue = Arc::new(Queue::default());
        let mut inner = lock(&self.inner);
        let start = match inner.deltas_after(revision, set_hash) {
            Some(deltas) => Start::Deltas(deltas),
            None => Start::Snapshot(inner.snapshot()),
        };
        inner.subscribers.push(Arc::downgrade(&queue));
        (start, Subscription { hub: self.clone(), queue })
    }
}

impl Inner {
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

    fn snapshot(&self) -> Snapshot {
        let state = &self.state;
        Snapshot { revision: state.revision(), set_hash: state.set_hash(), resources: state.resources().collect() }
    }
}

impl Subscription {
    /// Waits for what comes next. Safe to drop while waiting: nothing is lost.
    pub async fn next(&self) -> Next {
        loop {
            let woken = self.queue.wake.notified();
            let taken = {
                let mut waiting = lock(&self.queue.waiting);
                if waiting.overflowed { Err(()) } else { Ok(waiting.deltas.pop_front()) }
            };
            match taken {
                Ok(Some(delta)) => return Next::Delta(delta),
                Ok(None) => woken.await,
                Err(()) => return Next::Resync(self.restart()),
            }
        }
    }

    fn restart(&self) -> Snapshot {
        let inner = lock(&self.hub.inner);
        // No commit can come between the emptying of the queue and the snapshot: it would need the hub.
        *lock(&self.queue.waiting) = Waiting::default();
        inner.snapshot()
    }
}

impl Queue {
    fn push(&self, delta: &Arc<Delta>) {
        let mut waiting = lock(&self.waiting);
        if waiting.overflowed {
            return;
        }
        if waiting.deltas.len() == QUEUE {
            *waiting = Waiting { deltas: VecDeque::new(), overflowed: true };
        } else {
            waiting.deltas.push_back(Arc::clone(delta));
        }
        self.wake.notify_one();
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
            Start::Snapshot(_) => None,
            Start::Deltas(deltas) => Some(deltas.iter().map(|delta| delta.to).collect()),
        }
    }

    #[tokio::test]
    async fn i_14_every_change_after_the_start_comes_once_and_in_order() {
        let hub = hub_at(1);
        let (start, subscription) = hub.subscribe(0, None);
        assert!(matches!(start, Start::Snapshot(Snapshot { revision: 1, .. })));
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
        let Next::Resync(snapshot) = slow.next().await else { panic!("the queue was not bounded") };
        assert_eq!(snapshot.revision, last);
        hub.commit(change(last + 1));
        let Next::Delta(delta) = slow.next().await else { panic!("restarted twice") };
        assert_eq!(delta.from, snapshot.revision);
    }

    #[test]
    fn subscriber_that_left_is_forgotten() {
        let hub = hub_at(1);
        let (_, subscription) = hub.subscribe(0, None);
        assert_eq!(hub.subscribers(), 1);
        drop(subscription);
        hub.commit(change(2));
        assert_eq!((hub.subscribers(), lock(&hub.inner).subscribers.len()), (0, 0));
    }
}

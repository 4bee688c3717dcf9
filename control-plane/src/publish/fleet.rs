//! Which nodes there are, which revision each has applied, and when each was last heard of. In memory: nodes report anew after a restart.
//!
//! Only the nodes of this control plane are known here. What those of others have done that share its database, these tell when they are asked
//! ([`super::responder`]).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyforge_shared::clock::{Clock, SteadyClock, Timestamp};
use keyforge_shared::id::{BootId, NodeId};

use super::lives::{Lives, NodeSeen};
use super::progress::{Collection, Collections, Progress, Word};
use super::told::ToldLife;
use crate::registry::LONGEST_STALENESS;
use crate::registry::connected::Connected;
use crate::store::node_lists::AgedLife;

/// Nodes remembered at most, but for connected ones, of which there are no more than connections; of the others the one goes that knows itself fresh
/// since longest ago.
const MAX_NODES: usize = 20_000;
/// Longest text a node may say about itself, in bytes.
const MAX_WORD: usize = 64;

/// Times between two looks at how far nodes are: the first, and the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// Every node that was heard of. Clones share it.
#[derive(Clone)]
pub struct Fleet {
    known: Arc<Mutex<Known>>,
    /// Nodes measure how old their state is by clocks that are not set, so this does, too.
    clock: Arc<SteadyClock>,
}

#[derive(Default)]
struct Known {
    nodes: HashMap<NodeId, Lives>,
    collections: Collections,
    /// One for all lives that were forgotten and may be serving: that which learned last that its state was fresh.
    forgotten: Option<ToldLife>,
}

impl Known {
    /// Makes room for one more.
    fn make_room(&mut self, now: Timestamp) {
        let away = self.nodes.iter().filter(|(_, lives)| !lives.is_connected());
        let oldest = away.filter_map(|(node, lives)| Some((lives.assured_at()?, *node))).min();
        if let Some((_, node)) = oldest {
            for life in self.nodes.remove(&node).iter().flat_map(Lives::iter) {
                self.forget(node, life, now);
            }
        }
    }

    fn forget(&mut self, node: NodeId, life: &NodeSeen, now: Timestamp) {
        let known = self.forgotten_within(LONGEST_STALENESS, now);
        if known.is_none() && now.since(life.assured_at) <= LONGEST_STALENESS {
            tracing::warn!(%node, "more nodes have come and gone than are remembered: receipts name one for all that may still serve");
        }
        // Of several nobody knows which follows which.
        let life = ToldLife { is_double: true, ..ToldLife::known(node, life) };
        self.forgotten = known.filter(|known| known.assured >= life.assured).or(Some(life));
    }

    fn forgotten_within(&self, max_age: Duration, now: Timestamp) -> Option<ToldLife> {
        self.forgotten.filter(|life| now.since(life.assured) <= max_age)
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    State,
    Orders,
}

/// A node's open stream. Dropping it closes it.
pub struct Presence {
    fleet: Fleet,
    node: NodeId,
    boot: BootId,
    kind: Kind,
}

impl Fleet {
    /// No nodes yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { known: Arc::default(), clock: Arc::new(SteadyClock::new(clock)) }
    }

    /// The clock that all that is known of nodes is told by.
    #[must_use]
    pub fn clock(&self) -> Arc<SteadyClock> {
        Arc::clone(&self.clock)
    }

    /// A node said hello on its state stream.
    #[must_use]
    pub fn join(&self, node: NodeId, boot: BootId, version: &str, region: &str) -> Presence {
        self.enter(node, boot, Kind::State, |seen| {
            let brief = |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect();
            (seen.version, seen.region) = (brief(version), brief(region));
            seen.streams += 1;
        })
    }

    /// A node said hello on its stream of orders.
    #[must_use]
    pub fn watch(&self, node: NodeId, boot: BootId) -> Presence {
        self.enter(node, boot, Kind::Orders, |seen| seen.watches += 1)
    }

    fn enter(&self, node: NodeId, boot: BootId, kind: Kind, note: impl FnOnce(&mut NodeSeen)) -> Presence {
        let now = self.clock.now();
        let mut known = self.lock();
        if known.nodes.len() >= MAX_NODES && !known.nodes.contains_key(&node) {
            known.make_room(now);
        }
        let Known { nodes, collections, .. } = &mut *known;
        let (life, over, lost) = nodes.entry(node).or_insert_with(Lives::new).enter(boot, now);
        note(life);
        life.assured_at = now;
        collections.succeeded(node, &over, life);
        if let Some(lost) = lost {
            known.forget(node, &lost, now);
        }
        drop(known);
        Presence { fleet: self.clone(), node, boot, kind }
    }

    /// Begins to collect who has done what `revision` says, by that word of theirs: of all nodes that may serve a key whose state may be `max_staleness`
    /// old.
    #[must_use]
    pub fn collect(&self, revision: u64, word: Word, max_staleness: Duration) -> Collection {
        let now = self.clock.now();
        let mut known = self.lock();
        let forgotten = known.forgotten_within(max_staleness, now);
        let Known { nodes, collections, .. } = &mut *known;
        let lives = nodes.iter().flat_map(|(node, lives)| lives.iter().map(move |life| (*node, life)));
        let serving = lives.filter(|(_, life)| life.may_serve(now, max_staleness));
        let (id, done) = collections.open((revision, word), (serving, forgotten), self.clock.monotonic_nanos());
        Collection::new(self.clone(), id, done)
    }

    /// Waits until every node with an open state stream has applied `revision`, but no longer than `most`.
    pub async fn applied_everywhere(&self, revision: u64, most: Duration) {
        let applied = async {
            let mut pause = LOOK_AGAIN.0;
            let is_behind = |life: &NodeSeen| life.streams > 0 && life.acked_revision < revision;
            while self.lock().nodes.values().flat_map(Lives::iter).any(is_behind) {
                tokio::time::sleep(pause).await;
                pause = LOOK_AGAIN.1.min(pause * 2);
            }
        };
        // Whoever has not by then has its state a moment later, or is away.
        drop(tokio::time::timeout(most, applied).await);
    }

    /// How far a collection is.
    pub(super) fn progress(&self, collection: u64) -> Progress {
        let now = self.clock.now();
        let known = self.lock();
        known.collections.progress(collection, &known.nodes, now)
    }

    pub(super) fn with_collections<T>(&self, act: impl FnOnce(&mut Collections) -> T) -> T {
        act(&mut self.lock().collections)
    }

    /// Every node with what is known of its lives together, by id. When it was last seen is of the wall clock.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeId, NodeSeen)> {
        let known = self.lock();
        let together = known.nodes.iter().filter_map(|(node, lives)| Some((*node, lives.together()?)));
        let mut nodes: Vec<_> = together.collect();
        drop(known);
        nodes.sort_by_key(|(node, _)| *node);
        for (_, seen) in &mut nodes {
            seen.last_seen = self.clock.as_wall(seen.last_seen);
        }
        nodes
    }

    /// The lives of nodes that learned within `max_age` that their state was fresh, by how long ago things were.
    #[must_use]
    pub fn assured_within(&self, max_age: Duration) -> Vec<AgedLife> {
        let now = self.clock.now();
        let known = self.lock();
        let lives = known.nodes.iter().flat_map(|(node, lives)| lives.iter().map(|life| ToldLife::known(*node, life)));
        let assured = lives.chain(known.forgotten).filter(|life| now.since(life.assured) <= max_age);
        let mut aged: Vec<_> = assured.map(|life| life.aged(now)).collect();
        aged.sort_unstable_by_key(|life| (life.node, life.boot));
        aged
    }

    /// The lives that have a state stream open, in the order of their nodes.
    #[must_use]
    pub fn connected(&self) -> Vec<Connected> {
        let now = self.clock.now();
        let known = self.lock();
        let lives = known.nodes.iter().flat_map(|(node, lives)| lives.iter().map(move |life| (*node, life)));
        let connected = lives.filter(|(_, life)| life.streams > 0).map(|(node, life)| Connected {
            node,
            boot: life.boot,
            acked_revision: life.acked_revision,
            heard: now.since(life.last_seen),
            version: life.version.clone(),
            region: life.region.clone(),
        });
        let mut connected: Vec<_> = connected.collect();
        connected.sort_unstable_by_key(|life| (life.node, life.boot));
        connected
    }

    /// The nodes of which two lives are connected for more than a moment.
    #[must_use]
    pub fn doubled(&self) -> BTreeSet<NodeId> {
        let known = self.lock();
        known.nodes.iter().filter(|(_, lives)| lives.is_doubled()).map(|(node, _)| *node).collect()
    }

    /// The boots that have a stream open.
    #[must_use]
    pub fn present(&self) -> Vec<BootId> {
        self.lock().nodes.values().flat_map(Lives::iter).filter(|life| life.streams > 0).map(|life| life.boot).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// The node applied everything up to `revision`.
    pub fn acked(&self, revision: u64) {
        self.change(|seen| seen.acked_revision = seen.acked_revision.max(revision));
        self.progressed(None);
    }

    /// The node carried out the orders up to `revision`, the last of which cut so many streams.
    pub fn applied(&self, revision: u64, streams_cut: u64) {
        self.change(|seen| seen.cut(revision, streams_cut));
        self.progressed(Some((revision, streams_cut)));
    }

    /// The node is about to learn that its state was fresh.
    pub fn assured(&self) {
        let now = self.fleet.clock.now();
        self.change(|seen| seen.assured_at = now);
    }

    /// The stream of orders that begins gives the node none up to `floor`.
    /// `held` is the revision that the node's set has been found to be of.
    pub fn begins_at(&self, floor: u64, held: u64) {
        self.change(|seen| (seen.floor, seen.acked_revision) = (floor, seen.acked_revision.max(held)));
        self.progressed(None);
    }

    /// It has carried out an order, or its state may tell what no order says.
    fn progressed(&self, order: Option<(u64, u64)>) {
        let now = self.fleet.clock.monotonic_nanos();
        let mut known = self.fleet.lock();
        let Known { nodes, collections, .. } = &mut *known;
        let Some(life) = nodes.get(&self.node).and_then(|lives| lives.get(self.boot)) else { return };
        collections.progressed(self.node, life, order, now);
    }

    /// The node refused a change.
    pub fn nacked(&self) {
        self.change(|seen| seen.nacks += 1);
    }

    /// Changes what is known, unless this life was forgotten.
    fn change(&self, change: impl FnOnce(&mut NodeSeen)) {
        let now = self.fleet.clock.now();
        let mut known = self.fleet.lock();
        let Some(lives) = known.nodes.get_mut(&self.node) else { return };
        lives.get_mut(self.boot).map(change);
        let double = lives.heard(self.boot, now);
        drop(known);
        if let Some((boot, other)) = double {
            let node = self.node;
            tracing::warn!(%node, %boot, %other, "one node is connected as two: does a copy of its data directory run somewhere else? Receipts wait for both");
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let now = self.fleet.clock.now();
        let mut known = self.fleet.lock();
        let Known { nodes, collections, .. } = &mut *known;
        let Some(lives) = nodes.get_mut(&self.node) else { return };
        if let Some(life) = lives.get_mut(self.boot) {
            let open = if self.kind == Kind::State { &mut life.streams } else { &mut life.watches };
            *open = open.saturating_sub(1);
            life.last_seen = now;
        }
        let over = lives.forget_gone();
        if let Some(latest) = lives.latest() {
            collections.succeeded(self.node, &over, latest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyforge_shared::clock::ManualClock;

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    fn fleet() -> (Arc<ManualClock>, Fleet) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        (clock.clone(), Fleet::new(clock))
    }

    fn boot(number: u8) -> BootId {
        BootId::from_bytes([number; 16])
    }

    #[test]
    fn acks_rise_and_the_end_of_a_former_life_changes_nothing() {
        let (clock, fleet) = fleet();
        let node = NodeId::from_bytes([1; 16]);
        let first = fleet.join(node, boot(1), "0.1.0", "eu");
        first.acked(7);
        first.acked(5);
        assert_eq!(fleet.nodes()[0].1.acked_revision, 7);
        clock.advance(Duration::from_secs(1));
        let second = fleet.join(node, boot(2), "0.1.1", "eu");
        let (_, seen) = fleet.nodes().remove(0);
        assert_eq!((seen.boot, seen.acked_revision, seen.streams), (boot(2), 0, 2));
        drop(first);
        let (_, seen) = fleet.nodes().remove(0);
        assert_eq!((seen.acked_revision, seen.streams, seen.last_seen), (0, 1, clock.now()));
        drop(second);
        assert_eq!(fleet.nodes()[0].1.streams, 0);
    }

    /// A machine whose time is set.
    #[derive(Default)]
    struct Machine {
        wall: ManualClock,
        steady: ManualClock,
    }

    impl Clock for Machine {
        fn now(&self) -> Timestamp {
            self.wall.now()
        }

        fn monotonic_nanos(&self) -> u64 {
            self.steady.monotonic_nanos()
        }
    }

    #[test]
    fn i_13_a_node_that_was_cut_off_counts_for_its_bound_whichever_way_the_machines_time_is_set() {
        let machine = Arc::new(Machine::default());
        let set = |seconds: i64| machine.wall.set(Timestamp::from_millis(seconds * 1_000));
        set(1_000);
        let fleet = Fleet::new(machine.clone());
        let node = NodeId::from_bytes([1; 16]);
        drop(fleet.join(node, boot(1), "", ""));
        for seconds in [1_060, 10] {
            set(seconds);
            assert_eq!(fleet.collect(1, Word::Order, BOUND).progress().pending_nodes().len(), 1);
            assert_eq!(fleet.nodes()[0].1.last_seen, machine.now(), "it was seen just now");
        }
        machine.steady.advance(BOUND + Duration::from_millis(1));
        assert!(fleet.collect(1, Word::Order, BOUND).progress().is_done());
    }

    #[test]
    fn i_13_every_connected_life_of_a_node_has_to_tell_and_one_that_was_cut_off_counts_as_long_as_it_may_serve() {
        let (clock, fleet) = fleet();
        let node = NodeId::from_bytes([1; 16]);
        let first = (fleet.join(node, boot(1), "", ""), fleet.watch(node, boot(1)));
        let second = (fleet.join(node, boot(2), "", ""), fleet.watch(node, boot(2)));
        let mut boots = fleet.present();
        boots.sort_unstable();
        assert_eq!(boots, [boot(1), boot(2)]);
        let revoked = fleet.collect(5, Word::Order, BOUND);
        second.1.applied(5, 1);
        let progress = revoked.progress();
        assert_eq!((progress.acked_nodes().len(), progress.pending_nodes()), (0, vec![(node, clock.now())]));
        assert!(!progress.is_settled);
        clock.advance(Duration::from_secs(1));
        first.1.applied(5, 2);
        let progress = revoked.progress();
        assert!(progress.is_done() && progress.acked_nodes() == [node] && progress.streams_cut == 3);
        // The copy of the data directory stops, and then the node is cut off.
        drop(second);
        assert_eq!(fleet.nodes()[0].1.streams, 1, "the first is connected");
        first.1.assured();
        let assured = clock.now();
        assert!(!fleet.collect(6, Word::Order, BOUND).progress().is_settled);
        drop(first);
        clock.advance(BOUND);
        assert_eq!(fleet.collect(6, Word::Order, BOUND).progress().pending_nodes(), [(node, assured)]);
        clock.advance(Duration::from_millis(1));
        assert!(fleet.collect(6, Word::Order, BOUND).progress().is_done());
    }

    #[test]
    fn a_restart_is_waited_for_in_place_of_the_life_before_it() {
        let (clock, fleet) = fleet();
        let node = NodeId::from_bytes([1; 16]);
        let crashed = fleet.watch(node, boot(1));
        let (fifth, sixth) = (fleet.collect(5, Word::Order, BOUND), fleet.collect(6, Word::Order, BOUND));
        clock.advance(Duration::from_secs(1));
        let restarted = fleet.join(node, boot(2), "", "");
        restarted.acked(5);
        assert!(!fifth.progress().is_done(), "its connection has not ended yet");
        drop(crashed);
        assert!(fifth.progress().is_done() && fifth.progress().acked_nodes() == [node]);
        assert!(fleet.collect(5, Word::Order, BOUND).progress().is_done());
        assert!(!sixth.progress().is_done());
        restarted.acked(6);
        assert!(sixth.progress().is_done());
        // This one has closed its connection.
        let seventh = fleet.collect(7, Word::Order, BOUND);
        drop(restarted);
        let restarted = fleet.join(node, boot(3), "", "");
        assert!(!seventh.progress().is_done());
        restarted.acked(7);
        assert!(seventh.progress().is_done() && seventh.progress().acked_nodes() == [node]);
    }

    #[test]
    fn a_node_that_is_given_no_order_any_more_tells_by_its_state_and_one_that_is_given_it_by_the_streams_it_cut() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        let fleet = Fleet::new(clock);
        let (node, boot) = (NodeId::from_bytes([1; 16]), BootId::from_bytes([1; 16]));
        let state = fleet.join(node, boot, "0.1.0", "eu");
        let orders = fleet.watch(node, boot);
        orders.begins_at(4, 0);
        let fifth = fleet.collect(5, Word::Order, Duration::from_secs(30));
        state.acked(5);
        let early = fifth.progress();
        assert_eq!((early.acked_nodes(), early.is_settled), (vec![node], false), "the streams are still to come");
        orders.applied(5, 2);
        assert!(fifth.progress().is_done() && fifth.progress().streams_cut == 2);
        drop(orders);
        // It comes back after the sixth and before the seventh.
        let orders = fleet.watch(node, boot);
        let (sixth, seventh) = (
            fleet.collect(6, Word::Order, Duration::from_secs(30)),
            fleet.collect(7, Word::Order, Duration::from_secs(30)),
        );
        state.acked(6);
        assert!(!sixth.progress().is_done());
        orders.begins_at(6, 0);
        assert!(
            sixth.progress().is_done() && fleet.collect(6, Word::Order, Duration::from_secs(30)).progress().is_done()
        );
        state.acked(7);
        assert!(!seventh.progress().is_done());
        orders.applied(7, 0);
        assert!(seventh.progress().is_done());
    }

    #[test]
    fn i_13_memory_is_bounded_nobody_connected_is_forgotten_and_one_that_was_counts_for_all_that_may_serve() {
        let (clock, fleet) = fleet();
        let node = |number: usize| NodeId::from_bytes(u128::try_from(number).unwrap().to_be_bytes());
        let connected = fleet.join(node(MAX_NODES + 9), boot(1), "", "");
        for number in 0..=MAX_NODES {
            clock.advance(Duration::from_millis(1));
            drop(fleet.join(node(number), boot(1), "", ""));
        }
        let nodes = fleet.nodes();
        assert_eq!((nodes.len(), nodes[0].0, nodes[MAX_NODES - 1].0), (MAX_NODES, node(2), node(MAX_NODES + 9)));
        assert_eq!(nodes[MAX_NODES - 1].1.streams, 1);
        // Two were forgotten. The second, which learned later that its state was fresh, counts for as long as it may serve.
        let assured = Timestamp::from_millis(3);
        let pending = |bound| fleet.collect(1, Word::Order, bound).progress().pending_nodes();
        assert_eq!(pending(BOUND)[0], (node(1), assured));
        let age = clock.now().since(assured);
        let told = |bound| fleet.assured_within(bound).into_iter().find(|life| life.node == node(1));
        assert!(told(BOUND).is_some_and(|life| life.assured == age && life.is_double));
        let shorter = age - Duration::from_millis(1);
        assert_eq!(pending(shorter)[0].0, node(2));
        assert_eq!(told(shorter), None);
        drop(connected);
    }
}

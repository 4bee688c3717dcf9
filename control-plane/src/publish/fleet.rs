//! Which nodes there are, which revision each has applied, and when each was last heard of. In memory: nodes report anew after a restart.
//!
//! Only the nodes of this control plane are known here. What those of others have done that share its database, these tell when they are asked
//! ([`super::parts`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{BootId, NodeId};

use super::progress::{Collection, Collections, Progress};

/// Nodes remembered at most; the one heard of longest ago is forgotten for a new one.
const MAX_NODES: usize = 20_000;
/// Longest text a node may say about itself, in bytes.
const MAX_WORD: usize = 64;
/// Orders of which each node's number of cut streams is remembered, for who asks a moment late.
const CUTS: usize = 16;

/// Times between two looks at how far nodes are: the first, and the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its current life.
    pub boot: BootId,
    /// The version that it runs.
    pub version: String,
    /// The region that it says it is in.
    pub region: String,
    /// The last revision that it applied; 0 for none.
    pub acked_revision: u64,
    /// Changes that it refused, since this control plane started.
    pub nacks: u64,
    /// Open state streams of this life.
    pub streams: u32,
    /// Open streams of orders of this life.
    pub watches: u32,
    /// Orders up to here the newest of these does not give: the node's state tells what they say.
    floor: u64,
    /// When the node can last have learned from us that its state was fresh.
    pub assured_at: Timestamp,
    /// Streams that the latest orders cut, by revision.
    cuts: VecDeque<(u64, u64)>,
    /// When it was last heard of.
    pub last_seen: Timestamp,
}

impl NodeSeen {
    /// Whether the node may serve a key whose state may be this old.
    fn may_serve(&self, now: Timestamp, max_staleness: Duration) -> bool {
        self.is_connected() || now.since(self.assured_at) <= max_staleness
    }

    /// The last revision that it has applied, orders that came ahead of their revision included.
    pub(super) fn applied_revision(&self) -> u64 {
        self.cuts.back().map_or(0, |(revision, _)| *revision).max(self.acked_revision)
    }

    /// Whether it has said all that there is to say of `revision`. One that is given an order says last how many streams it cut.
    pub(super) fn has_told(&self, revision: u64) -> bool {
        let has_cut = self.cuts.back().is_some_and(|(of, _)| *of >= revision);
        has_cut || self.told_by_state() >= revision
    }

    /// Up to where its state's acknowledgement is all that it has to say.
    fn told_by_state(&self) -> u64 {
        if self.watches == 0 { self.acked_revision } else { self.acked_revision.min(self.floor) }
    }

    /// Whether it has a stream open.
    pub(super) const fn is_connected(&self) -> bool {
        self.streams > 0 || self.watches > 0
    }

    pub(super) fn cut_at(&self, revision: u64) -> u64 {
        let cuts = self.cuts.iter().filter(|(of, _)| *of == revision);
        cuts.fold(0, |sum, (_, cut)| sum.saturating_add(*cut))
    }
}

/// Every node that was heard of. Clones share it.
#[derive(Clone)]
pub struct Fleet {
    known: Arc<Mutex<Known>>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Known {
    nodes: HashMap<NodeId, NodeSeen>,
    collections: Collections,
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
        Self { known: Arc::default(), clock }
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
        let nodes = &mut known.nodes;
        if nodes.len() >= MAX_NODES && !nodes.contains_key(&node) {
            let oldest = nodes.iter().min_by_key(|(_, seen)| seen.last_seen).map(|(node, _)| *node);
            oldest.map(|oldest| nodes.remove(&oldest));
        }
        let unseen = || NodeSeen {
            boot,
            version: String::new(),
            region: String::new(),
            acked_revision: 0,
            nacks: 0,
            streams: 0,
            watches: 0,
            floor: 0,
            assured_at: now,
            cuts: VecDeque::new(),
            last_seen: now,
        };
        let seen = nodes.entry(node).or_insert_with(unseen);
        if seen.boot != boot {
            *seen = NodeSeen { nacks: seen.nacks, ..unseen() };
        }
        note(seen);
        (seen.last_seen, seen.assured_at) = (now, now);
        Presence { fleet: self.clone(), node, boot, kind }
    }

    /// Begins to collect who has done what `revision` says: of all nodes that may serve a key whose state may be `max_staleness` old.
    #[must_use]
    pub fn collect(&self, revision: u64, max_staleness: Duration) -> Collection {
        let now = self.clock.now();
        let mut known = self.lock();
        let Known { nodes, collections } = &mut *known;
        let serving = nodes.iter().filter(|(_, seen)| seen.may_serve(now, max_staleness));
        let (id, done) = collections.open(revision, serving, self.clock.monotonic_nanos());
        Collection::new(self.clone(), id, done)
    }

    /// Waits until every node with an open state stream has applied `revision`, but no longer than `most`.
    pub async fn applied_everywhere(&self, revision: u64, most: Duration) {
        let applied = async {
            let mut pause = LOOK_AGAIN.0;
            while self.lock().nodes.values().any(|seen| seen.streams > 0 && seen.acked_revision < revision) {
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

    /// Every node with what is known of it, by id.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeId, NodeSeen)> {
        let mut nodes: Vec<_> = self.lock().nodes.iter().map(|(node, seen)| (*node, seen.clone())).collect();
        nodes.sort_by_key(|(node, _)| *node);
        nodes
    }

    /// The nodes that learned within `max_age` that their state was fresh, each with how long ago that was at least.
    #[must_use]
    pub fn assured_within(&self, max_age: Duration) -> Vec<(NodeId, Duration)> {
        let now = self.clock.now();
        let known = self.lock();
        let aged = known.nodes.iter().map(|(node, seen)| (*node, now.since(seen.assured_at)));
        let mut aged: Vec<_> = aged.filter(|(_, age)| *age <= max_age).collect();
        aged.sort_unstable();
        aged
    }

    /// The boots that have a stream open.
    #[must_use]
    pub fn present(&self) -> Vec<BootId> {
        self.lock().nodes.values().filter(|seen| seen.streams > 0).map(|seen| seen.boot).collect()
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
        self.change(|seen| {
            if seen.cuts.len() == CUTS {
                seen.cuts.pop_front();
            }
            seen.cuts.push_back((revision, streams_cut));
        });
        self.progressed(Some((revision, streams_cut)));
    }

    /// The node is about to learn that its state was fresh.
    pub fn assured(&self) {
        let now = self.fleet.clock.now();
        self.change(|seen| seen.assured_at = now);
    }

    /// The stream of orders that begins gives the node none up to `floor`.
    pub fn begins_at(&self, floor: u64) {
        self.change(|seen| seen.floor = floor);
        self.progressed(None);
    }

    /// It has carried out an order, or its state may tell what no order says.
    fn progressed(&self, order: Option<(u64, u64)>) {
        let now = self.fleet.clock.monotonic_nanos();
        let mut known = self.fleet.lock();
        let Some(seen) = known.nodes.get(&self.node).filter(|seen| seen.boot == self.boot) else { return };
        let (told, streams_cut) = order.unwrap_or((seen.told_by_state(), 0));
        known.collections.progressed(self.node, told, streams_cut, now);
    }

    /// The node refused a change.
    pub fn nacked(&self) {
        self.change(|seen| seen.nacks += 1);
    }

    /// Changes what is known, unless the node has begun another life since.
    fn change(&self, change: impl FnOnce(&mut NodeSeen)) {
        let now = self.fleet.clock.now();
        if let Some(seen) = self.fleet.lock().nodes.get_mut(&self.node).filter(|seen| seen.boot == self.boot) {
            seen.last_seen = now;
            change(seen);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let kind = self.kind;
        self.change(|seen| {
            let open = if kind == Kind::State { &mut seen.streams } else { &mut seen.watches };
            *open = open.saturating_sub(1);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyforge_shared::clock::ManualClock;

    use super::*;

    #[test]
    fn acks_rise_and_a_late_word_of_an_earlier_life_changes_nothing() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        let fleet = Fleet::new(clock.clone());
        let node = NodeId::from_bytes([1; 16]);
        let first = fleet.join(node, BootId::from_bytes([1; 16]), "0.1.0", "eu");
        first.acked(7);
        first.acked(5);
        assert_eq!(fleet.nodes()[0].1.acked_revision, 7);
        clock.advance(Duration::from_secs(1));
        let second = fleet.join(node, BootId::from_bytes([2; 16]), "0.1.0", "eu");
        first.acked(9);
        drop(first);
        let (_, seen) = fleet.nodes().remove(0);
        assert_eq!((seen.acked_revision, seen.streams, seen.last_seen), (0, 1, clock.now()));
        drop(second);
        assert_eq!(fleet.nodes()[0].1.streams, 0);
    }

    #[test]
    fn a_node_that_is_given_no_order_any_more_tells_by_its_state_and_one_that_is_given_it_by_the_streams_it_cut() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        let fleet = Fleet::new(clock);
        let (node, boot) = (NodeId::from_bytes([1; 16]), BootId::from_bytes([1; 16]));
        let state = fleet.join(node, boot, "0.1.0", "eu");
        let orders = fleet.watch(node, boot);
        orders.begins_at(4);
        let fifth = fleet.collect(5, Duration::from_secs(30));
        state.acked(5);
        let early = fifth.progress();
        assert_eq!((early.acked.as_slice(), early.is_settled), (&[node][..], false), "the streams are still to come");
        orders.applied(5, 2);
        assert!(fifth.progress().is_done() && fifth.progress().streams_cut == 2);
        drop(orders);
        // It comes back after the sixth and before the seventh.
        let orders = fleet.watch(node, boot);
        let (sixth, seventh) = (fleet.collect(6, Duration::from_secs(30)), fleet.collect(7, Duration::from_secs(30)));
        state.acked(6);
        assert!(!sixth.progress().is_done());
        orders.begins_at(6);
        assert!(sixth.progress().is_done() && fleet.collect(6, Duration::from_secs(30)).progress().is_done());
        state.acked(7);
        assert!(!seventh.progress().is_done());
        orders.applied(7, 0);
        assert!(seventh.progress().is_done());
    }

    #[test]
    fn memory_is_bounded_and_the_node_unheard_of_for_longest_goes_first() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        let fleet = Fleet::new(clock.clone());
        let boot = BootId::from_bytes([1; 16]);
        let node = |number: usize| NodeId::from_bytes(u128::try_from(number).unwrap().to_be_bytes());
        for number in 0..=MAX_NODES {
            clock.advance(Duration::from_millis(1));
            drop(fleet.join(node(number), boot, "", ""));
        }
        let nodes = fleet.nodes();
        assert_eq!((nodes.len(), nodes[0].0), (MAX_NODES, node(1)));
    }
}

//! Who has done what a revision says: counted as acknowledgements come, for whoever waits for all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};
use tokio::sync::Notify;

use super::fleet::Fleet;
use super::lives::{Lives, NodeSeen};

/// A life of a node.
type Life = (NodeId, BootId);

/// How far a revision has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Nodes that have done it, in their order.
    pub acked: Vec<NodeId>,
    /// Nodes that have not done it and may be serving, each with when it can last have learned that its state was fresh, in their order.
    pub pending: Vec<(NodeId, Timestamp)>,
    /// Streams that it cut.
    pub streams_cut: u64,
    /// The monotonic clock at the last acknowledgement, in nanoseconds; 0 without one.
    pub last_ack_nanos: u64,
    /// Whether no connected node has still to say something.
    pub is_settled: bool,
}

impl Default for Progress {
    /// That of no node.
    fn default() -> Self {
        Self { acked: Vec::new(), pending: Vec::new(), streams_cut: 0, last_ack_nanos: 0, is_settled: true }
    }
}

impl Progress {
    /// Whether there is nothing to wait for.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.is_settled && self.pending.is_empty()
    }

    /// What several control planes have seen of it. A node that went from one to another has done it if it told any of them, and is as fresh as the
    /// freshest word that it was given; but not while a control plane to which it is connected may be waiting for it.
    #[must_use]
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut merged = Self::default();
        let (mut acked, mut awaited) = (BTreeSet::new(), BTreeSet::new());
        let mut pending: BTreeMap<NodeId, Timestamp> = BTreeMap::new();
        for part in parts {
            merged.streams_cut = merged.streams_cut.saturating_add(part.streams_cut);
            merged.last_ack_nanos = merged.last_ack_nanos.max(part.last_ack_nanos);
            merged.is_settled &= part.is_settled;
            acked.extend(&part.acked);
            for (node, assured) in &part.pending {
                pending.entry(*node).and_modify(|known| *known = *assured.max(known)).or_insert(*assured);
                if !part.is_settled {
                    awaited.insert(*node);
                }
            }
        }
        pending.retain(|node, _| awaited.contains(node) || !acked.contains(node));
        merged.acked = acked.into_iter().filter(|node| !pending.contains_key(node)).collect();
        merged.pending = pending.into_iter().collect();
        merged
    }
}

/// The collections that are open.
#[derive(Default)]
pub(super) struct Collections {
    next: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    revision: u64,
    pending: HashSet<Life>,
    acked: HashSet<Life>,
    streams_cut: u64,
    last_ack_nanos: u64,
    done: Arc<Notify>,
}

impl Collections {
    pub(super) fn open<'a>(
        &mut self,
        revision: u64,
        lives: impl Iterator<Item = (NodeId, &'a NodeSeen)>,
        now_nanos: u64,
    ) -> (u64, Arc<Notify>) {
        let done = Arc::new(Notify::new());
        let (pending, acked) = (HashSet::new(), HashSet::new());
        let mut open = Open { revision, pending, acked, streams_cut: 0, last_ack_nanos: 0, done: Arc::clone(&done) };
        for (node, seen) in lives {
            open.streams_cut = open.streams_cut.saturating_add(seen.cut_at(revision));
            if seen.has_told(revision) {
                open.acked.insert((node, seen.boot));
                // It came before anybody asked; when, nobody knows any more.
                open.last_ack_nanos = now_nanos;
            } else {
                open.pending.insert((node, seen.boot));
            }
        }
        if open.pending.is_empty() {
            open.done.notify_one();
        }
        self.next += 1;
        self.open.insert(self.next, open);
        (self.next, done)
    }

    /// A life has done everything up to `revision`; that revision itself cut so many of its streams.
    pub(super) fn progressed(&mut self, life: Life, revision: u64, streams_cut: u64, now_nanos: u64) {
        for open in self.open.values_mut().filter(|open| open.revision <= revision) {
            if open.revision == revision {
                open.streams_cut = open.streams_cut.saturating_add(streams_cut);
            }
            if open.pending.remove(&life) {
                open.acked.insert(life);
                open.last_ack_nanos = now_nanos;
                if open.pending.is_empty() {
                    open.done.notify_one();
                }
            }
        }
    }

    /// Lives of a node are over, and what they had still to say the latest one tells.
    pub(super) fn succeeded(&mut self, node: NodeId, over: &[BootId], latest: &NodeSeen) {
        for open in self.open.values_mut() {
            if over.iter().filter(|boot| open.pending.remove(&(node, **boot))).count() == 0 {
                continue;
            }
            let lives = if latest.has_told(open.revision) { &mut open.acked } else { &mut open.pending };
            lives.insert((node, latest.boot));
            if open.pending.is_empty() {
                open.done.notify_one();
            }
        }
    }

    /// How far a collection is. A node has done it when every life has. A life that nothing is known of any more is taken to be as fresh as it can be.
    pub(super) fn progress(&self, id: u64, nodes: &HashMap<NodeId, Lives>, now: Timestamp) -> Progress {
        let Some(open) = self.open.get(&id) else { return Progress::default() };
        let mut progress =
            Progress { streams_cut: open.streams_cut, last_ack_nanos: open.last_ack_nanos, ..Progress::default() };
        let mut acked: BTreeSet<NodeId> = open.acked.iter().map(|(node, _)| *node).collect();
        let mut pending = BTreeMap::new();
        for (node, boot) in &open.pending {
            let seen = nodes.get(node).and_then(|lives| lives.get(*boot));
            progress.is_settled &= !seen.is_some_and(NodeSeen::is_connected);
            // It may have done it, and have still to say how many streams it cut.
            if seen.is_some_and(|seen| seen.applied_revision() >= open.revision) {
                acked.insert(*node);
            } else {
                let assured = seen.map_or(now, |seen| seen.assured_at);
                pending
                    .entry(*node)
                    .and_modify(|known: &mut Timestamp| *known = assured.max(*known))
                    .or_insert(assured);
            }
        }
        progress.acked = acked.into_iter().filter(|node| !pending.contains_key(node)).collect();
        progress.pending = pending.into_iter().collect();
        progress
    }
}

/// A collection that is open. Dropping it ends it.
pub struct Collection {
    fleet: Fleet,
    id: u64,
    done: Arc<Notify>,
}

impl Collection {
    pub(super) const fn new(fleet: Fleet, id: u64, done: Arc<Notify>) -> Self {
        Self { fleet, id, done }
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.fleet.progress(self.id)
    }

    /// Waits until every node has told that it has done it. Resolves once.
    pub async fn done(&self) {
        self.done.notified().await;
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.fleet.with_collections(|collections| drop(collections.open.remove(&self.id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn i_13_a_node_that_went_elsewhere_counts_once_as_having_done_it_or_as_fresh_as_it_was_anywhere() {
        let here = Progress {
            acked: vec![node(1), node(2)],
            pending: vec![(node(3), at(5)), (node(4), at(7))],
            streams_cut: 2,
            last_ack_nanos: 9,
            is_settled: true,
        };
        let there = Progress {
            acked: vec![node(3)],
            pending: vec![(node(1), at(8)), (node(4), at(6))],
            streams_cut: 1,
            last_ack_nanos: 4,
            is_settled: true,
        };
        for order in [[&here, &there], [&there, &here]] {
            let merged = Progress::merged(order);
            assert_eq!(merged.acked, [node(1), node(2), node(3)]);
            assert_eq!(merged.pending, [(node(4), at(7))]);
            assert_eq!((merged.streams_cut, merged.last_ack_nanos, merged.is_settled), (3, 9, true));
            assert!(!merged.is_done(), "one node has not done it");
        }
        let done = Progress::merged([&here, &Progress { acked: vec![node(3), node(4)], ..Progress::default() }]);
        assert!(done.is_done());
        let speaking = Progress { is_settled: false, ..Progress::default() };
        assert!(!Progress::merged([&done, &speaking]).is_done(), "one has still to say how many streams it cut");
        assert!(Progress::merged([]).is_done());
        // Two lives of the fourth are connected, one of them there.
        let waiting = Progress { is_settled: false, pending: vec![(node(4), at(6))], ..Progress::default() };
        assert_eq!(Progress::merged([&done, &waiting]).pending, [(node(4), at(6))]);
    }
}

//! Which nodes there are, which revision each has applied, and when each was last heard of. In memory: nodes report anew after a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{BootId, NodeId};

/// Nodes remembered at most; the one heard of longest ago is forgotten for a new one.
const MAX_NODES: usize = 10_000;
/// Longest text a node may say about itself, in bytes.
const MAX_WORD: usize = 64;

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
    /// Open streams of this life.
    pub streams: u32,
    /// When it was last heard of.
    pub last_seen: Timestamp,
}

/// Every node that was heard of. Clones share it.
#[derive(Clone)]
pub struct Fleet {
    nodes: Arc<Mutex<HashMap<NodeId, NodeSeen>>>,
    clock: Arc<dyn Clock>,
}

/// A node's open stream. Dropping it closes it.
pub struct Presence {
    fleet: Fleet,
    node: NodeId,
    boot: BootId,
}

impl Fleet {
    /// No nodes yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { nodes: Arc::default(), clock }
    }

    /// A node said hello.
    #[must_use]
    pub fn join(&self, node: NodeId, boot: BootId, version: &str, region: &str) -> Presence {
        let now = self.clock.now();
        let mut nodes = self.lock();
        if nodes.len() >= MAX_NODES && !nodes.contains_key(&node) {
            let oldest = nodes.iter().min_by_key(|(_, seen)| seen.last_seen).map(|(node, _)| *node);
            oldest.map(|oldest| nodes.remove(&oldest));
        }
        let brief = |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_WORD).collect();
        let unseen = || NodeSeen {
            boot,
            version: brief(version),
            region: brief(region),
            acked_revision: 0,
            nacks: 0,
            streams: 0,
            last_seen: now,
        };
        let seen = nodes.entry(node).or_insert_with(unseen);
        if seen.boot != boot {
            *seen = NodeSeen { nacks: seen.nacks, ..unseen() };
        }
        seen.streams += 1;
        seen.last_seen = now;
        Presence { fleet: self.clone(), node, boot }
    }

    /// Every node with what is known of it, by id.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeId, NodeSeen)> {
        let mut nodes: Vec<_> = self.lock().iter().map(|(node, seen)| (*node, seen.clone())).collect();
        nodes.sort_by_key(|(node, _)| *node);
        nodes
    }

    /// The boots that have a stream open.
    #[must_use]
    pub fn present(&self) -> Vec<BootId> {
        self.lock().values().filter(|seen| seen.streams > 0).map(|seen| seen.boot).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, NodeSeen>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// The node applied everything up to `revision`.
    pub fn acked(&self, revision: u64) {
        self.change(|seen| seen.acked_revision = seen.acked_revision.max(revision));
    }

    /// The node refused a change.
    pub fn nacked(&self) {
        self.change(|seen| seen.nacks += 1);
    }

    /// Changes what is known, unless the node has begun another life since.
    fn change(&self, change: impl FnOnce(&mut NodeSeen)) {
        let now = self.fleet.clock.now();
        if let Some(seen) = self.fleet.lock().get_mut(&self.node).filter(|seen| seen.boot == self.boot) {
            seen.last_seen = now;
            change(seen);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.change(|seen| seen.streams = seen.streams.saturating_sub(1));
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

//! Who has done what a revision says: counted as acknowledgements come, for whoever waits for all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};
use tokio::sync::Notify;

use super::fleet::Fleet;
use super::lives::{Lives, NodeSeen};
use super::told::ToldLife;

/// A life of a node.
type Life = (NodeId, BootId);

/// How far a revision has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Lives that have done it, in the order of their nodes.
    pub acked: Vec<ToldLife>,
    /// Lives that have not done it and may be serving, in the same order.
    pub pending: Vec<ToldLife>,
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

    /// Nodes that have done it: every life of theirs that may be serving.
    #[must_use]
    pub fn acked_nodes(&self) -> Vec<NodeId> {
        let pending: BTreeSet<NodeId> = self.pending.iter().map(|life| life.node).collect();
        let acked: BTreeSet<NodeId> = self.acked.iter().map(|life| life.node).collect();
        acked.difference(&pending).copied().collect()
    }

    /// Nodes that have not done it, each with when a life of theirs that has not can last have learned that its state was fresh.
    #[must_use]
    pub fn pending_nodes(&self) -> Vec<(NodeId, Timestamp)> {
        let mut nodes: BTreeMap<NodeId, Timestamp> = BTreeMap::new();
        for life in &self.pending {
            let assured = nodes.entry(life.node).or_insert(life.assured);
            *assured = life.assured.max(*assured);
        }
        nodes.into_iter().collect()
    }

    /// What several control planes have seen of it. A life that went from one to another has done it if it told any of them, and is as fresh as the
    /// freshest word that it was given; but not while a control plane to which it is connected waits for it. One that is connected nowhere and
    /// was followed by another is over, whichever control planes knew them.
    #[must_use]
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut merged = Self::default();
        let (mut acked, mut awaited, mut pending) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut known: BTreeMap<Life, ToldLife> = BTreeMap::new();
        for part in parts {
            merged.streams_cut = merged.streams_cut.saturating_add(part.streams_cut);
            merged.last_ack_nanos = merged.last_ack_nanos.max(part.last_ack_nanos);
            merged.is_settled &= part.is_settled;
            for told in part.acked.iter().chain(&part.pending) {
                known.entry((told.node, told.boot)).and_modify(|life| *life = life.joined(told)).or_insert(*told);
            }
            acked.extend(part.acked.iter().map(|life| (life.node, life.boot)));
            let connected = part.pending.iter().filter(|life| life.is_connected);
            awaited.extend(connected.map(|life| (life.node, life.boot)));
            pending.extend(part.pending.iter().map(|life| (life.node, life.boot)));
        }
        let known: Vec<ToldLife> = known.into_values().collect();
        for lives in known.chunk_by(|one, next| one.node == next.node) {
            for life in lives {
                let id = (life.node, life.boot);
                if pending.contains(&id) && (awaited.contains(&id) || !(acked.contains(&id) || life.is_over(lives))) {
                    merged.pending.push(*life);
                } else if acked.contains(&id) {
                    merged.acked.push(*life);
                }
            }
        }
        merged
    }
}

/// What tells that a revision is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The order of that revision, with the streams that it cut; where none was given, the state.
    Order,
    /// The state: no order says what that revision does.
    State,
}

impl Word {
    fn is_given(self, seen: &NodeSeen, revision: u64) -> bool {
        match self {
            Self::Order => seen.has_told(revision),
            Self::State => seen.applied_revision() >= revision,
        }
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
    word: Word,
    pending: HashSet<Life>,
    acked: HashSet<Life>,
    /// One that stands for those that were forgotten.
    forgotten: Option<ToldLife>,
    streams_cut: u64,
    last_ack_nanos: u64,
    done: Arc<Notify>,
}

impl Collections {
    pub(super) fn open<'a>(
        &mut self,
        (revision, word): (u64, Word),
        (lives, forgotten): (impl Iterator<Item = (NodeId, &'a NodeSeen)>, Option<ToldLife>),
        now_nanos: u64,
    ) -> (u64, Arc<Notify>) {
        let done = Arc::new(Notify::new());
        let (pending, acked) = (HashSet::new(), HashSet::new());
        let done_too = Arc::clone(&done);
        let mut open =
            Open { revision, word, pending, acked, forgotten, streams_cut: 0, last_ack_nanos: 0, done: done_too };
        for (node, seen) in lives {
            open.streams_cut = open.streams_cut.saturating_add(seen.cut_at(revision));
            if word.is_given(seen, revision) {
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

    /// A life says how far it is; the order that it has carried out, if it says that, cut so many of its streams.
    pub(super) fn progressed(&mut self, node: NodeId, seen: &NodeSeen, order: Option<(u64, u64)>, now_nanos: u64) {
        let life = (node, seen.boot);
        for open in self.open.values_mut() {
            if let Some((revision, streams_cut)) = order
                && open.revision == revision
            {
                open.streams_cut = open.streams_cut.saturating_add(streams_cut);
            }
            if open.word.is_given(seen, open.revision) && open.pending.remove(&life) {
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
            let lives = if open.word.is_given(latest, open.revision) { &mut open.acked } else { &mut open.pending };
            lives.insert((node, latest.boot));
            if open.pending.is_empty() {
                open.done.notify_one();
            }
        }
    }

    /// How far a collection is. A life that nothing is known of any more is taken to be as fresh as it can be.
    pub(super) fn progress(&self, id: u64, nodes: &HashMap<NodeId, Lives>, now: Timestamp) -> Progress {
        let Some(open) = self.open.get(&id) else { return Progress::default() };
        let mut progress =
            Progress { streams_cut: open.streams_cut, last_ack_nanos: open.last_ack_nanos, ..Progress::default() };
        let seen = |life: &Life| nodes.get(&life.0).and_then(|lives| lives.get(life.1));
        let told = |life: &Life| {
            seen(life).map_or_else(|| ToldLife::forgotten(*life, now), |seen| ToldLife::known(life.0, seen))
        };
        progress.acked = open.acked.iter().map(told).collect();
        for life in &open.pending {
            progress.is_settled &= !seen(life).is_some_and(NodeSeen::is_connected);
            // It may have done it, and have still to say how many streams it cut.
            let is_applied = seen(life).is_some_and(|seen| seen.applied_revision() >= open.revision);
            if is_applied { progress.acked.push(told(life)) } else { progress.pending.push(told(life)) }
        }
        progress.pending.extend(open.forgotten);
        for lives in [&mut progress.acked, &mut progress.pending] {
            lives.sort_unstable_by_key(|life| (life.node, life.boot));
        }
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

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// The life of a node whose boot has the node's number, that learned at `assured` that its state was fresh.
    fn life(node: u8, assured: i64) -> ToldLife {
        lived((node, node), (0, assured))
    }

    fn lived((node, boot): (u8, u8), (began, heard): (i64, i64)) -> ToldLife {
        let (node, boot) = (NodeId::from_bytes([node; 16]), BootId::from_bytes([boot; 16]));
        let (heard, began) = (at(heard), at(began));
        ToldLife { node, boot, began, heard, assured: heard, is_double: false, is_connected: false }
    }

    fn nodes(numbers: &[u8]) -> Vec<NodeId> {
        numbers.iter().map(|number| NodeId::from_bytes([*number; 16])).collect()
    }

    fn acked(lives: &[ToldLife]) -> Progress {
        Progress { acked: lives.to_vec(), ..Progress::default() }
    }

    fn pending(lives: &[ToldLife]) -> Progress {
        Progress { pending: lives.to_vec(), ..Progress::default() }
    }

    #[test]
    fn i_13_a_node_that_went_elsewhere_counts_once_as_having_done_it_or_as_fresh_as_it_was_anywhere() {
        let here = Progress {
            pending: vec![life(3, 5), life(4, 7)],
            streams_cut: 2,
            last_ack_nanos: 9,
            ..acked(&[life(1, 9), life(2, 9)])
        };
        let there = Progress {
            pending: vec![life(1, 8), life(4, 6)],
            streams_cut: 1,
            last_ack_nanos: 4,
            ..acked(&[life(3, 9)])
        };
        for order in [[&here, &there], [&there, &here]] {
            let merged = Progress::merged(order);
            assert_eq!(merged.acked_nodes(), nodes(&[1, 2, 3]));
            assert_eq!(merged.pending_nodes(), [(nodes(&[4])[0], at(7))]);
            assert_eq!((merged.streams_cut, merged.last_ack_nanos, merged.is_settled), (3, 9, true));
            assert!(!merged.is_done(), "one node has not done it");
        }
        let done = Progress::merged([&here, &acked(&[life(3, 9), life(4, 9)])]);
        assert!(done.is_done());
        let speaking = Progress { is_settled: false, ..Progress::default() };
        assert!(!Progress::merged([&done, &speaking]).is_done(), "one has still to say how many streams it cut");
        assert!(Progress::merged([]).is_done());
        // It came back there, where it is waited for.
        let back = ToldLife { is_connected: true, ..life(4, 6) };
        let waiting = Progress { is_settled: false, ..pending(&[back]) };
        assert_eq!(Progress::merged([&done, &waiting]).pending_nodes(), [(nodes(&[4])[0], at(9))]);
    }

    #[test]
    fn i_13_a_second_life_of_a_node_at_another_control_plane_does_not_answer_for_the_first() {
        // The first was heard of after the second began: a copy of the data directory runs somewhere else.
        let (first, second) = (lived((1, 1), (0, 50)), lived((1, 2), (40, 90)));
        let merged = Progress::merged([&pending(&[first]), &acked(&[second])]);
        assert_eq!((merged.acked_nodes(), merged.pending_nodes()), (vec![], vec![(first.node, at(50))]));
        // A restart that comes to another control plane: the first was not heard of since.
        let second = lived((1, 2), (51, 90));
        let merged = Progress::merged([&pending(&[first]), &acked(&[second])]);
        assert!(merged.is_done() && merged.acked_nodes() == nodes(&[1]), "{merged:?}");
        let merged = Progress::merged([&pending(&[first]), &pending(&[second])]);
        assert_eq!(merged.pending, [second]);
        // While its stream is open somewhere it is not over.
        let open = ToldLife { is_connected: true, ..first };
        let connected = Progress { is_settled: false, ..pending(&[open, lived((2, 3), (0, 50))]) };
        assert_eq!(Progress::merged([&connected, &acked(&[second, lived((2, 3), (60, 90))])]).pending, [open]);
        // Of two that were there together nobody knows which one the third follows.
        let beside = lived((1, 3), (45, 46));
        let third = lived((1, 2), (51, 90));
        let merged = Progress::merged([&pending(&[first]), &pending(&[beside]), &acked(&[third])]);
        assert_eq!(merged.pending, [first, beside]);
        let double = ToldLife { is_double: true, ..first };
        assert_eq!(Progress::merged([&pending(&[double]), &acked(&[third])]).pending, [double]);
    }

    #[test]
    fn what_another_control_plane_tells_is_taken_to_be_as_it_may_have_been() {
        let known = lived((1, 1), (1_000, 5_000));
        let aged = known.aged(at(6_000));
        let told = ToldLife::told(&aged, at(6_900), at(7_300));
        assert_eq!((told.began, told.heard, told.assured), (at(1_900), at(6_300), at(6_300)));
        let (earlier, joined) = (lived((1, 1), (500, 700)), lived((1, 1), (500, 5_000)));
        assert_eq!(known.joined(&earlier), joined);
    }
}

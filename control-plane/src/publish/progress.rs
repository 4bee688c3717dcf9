//! Who has done what a revision says: counted as acknowledgements come, for whoever waits for all of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::NodeId;
use tokio::sync::Notify;

use super::fleet::{Fleet, NodeSeen};

/// How far a revision has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nodes that have done it.
    pub acked: usize,
    /// Nodes that were to.
    pub total: usize,
    /// Streams that it cut.
    pub streams_cut: u64,
    /// The monotonic clock at the last acknowledgement, in nanoseconds; 0 without one.
    pub last_ack_nanos: u64,
    /// Nodes that have not done it, each with when it can last have learned that its state was fresh.
    pub pending: Vec<(NodeId, Timestamp)>,
}

/// The collections that are open.
#[derive(Default)]
pub(super) struct Collections {
    next: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    revision: u64,
    pending: HashSet<NodeId>,
    progress: Progress,
    done: Arc<Notify>,
}

impl Collections {
    pub(super) fn open<'a>(
        &mut self,
        revision: u64,
        nodes: impl Iterator<Item = (&'a NodeId, &'a NodeSeen)>,
        now_nanos: u64,
    ) -> (u64, Arc<Notify>) {
        let mut open =
            Open { revision, pending: HashSet::new(), progress: Progress::default(), done: Arc::new(Notify::new()) };
        for (node, seen) in nodes {
            open.progress.total += 1;
            let has_it = seen.has_told(revision);
            open.progress.streams_cut = open.progress.streams_cut.saturating_add(seen.cut_at(revision));
            if has_it {
                open.progress.acked += 1;
                // It came before anybody asked; when, nobody knows any more.
                open.progress.last_ack_nanos = now_nanos;
            } else {
                open.pending.insert(*node);
            }
        }
        if open.pending.is_empty() {
            open.done.notify_one();
        }
        self.next += 1;
        let done = Arc::clone(&open.done);
        self.open.insert(self.next, open);
        (self.next, done)
    }

    /// A node has done everything up to `revision`; that revision itself cut so many of its streams.
    pub(super) fn progressed(&mut self, node: NodeId, revision: u64, streams_cut: u64, now_nanos: u64) {
        for open in self.open.values_mut().filter(|open| open.revision <= revision) {
            if open.revision == revision {
                open.progress.streams_cut = open.progress.streams_cut.saturating_add(streams_cut);
            }
            if open.pending.remove(&node) {
                open.progress.acked += 1;
                open.progress.last_ack_nanos = now_nanos;
                if open.pending.is_empty() {
                    open.done.notify_one();
                }
            }
        }
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

    /// Waits until every node has done it, but no longer than `wait`, and says how far it has come.
    pub async fn wait(self, wait: Duration) -> Progress {
        // The time being over is not an error: the progress says who is missing.
        drop(tokio::time::timeout(wait, self.done.notified()).await);
        let found = self.fleet.with_collections(|collections| collections.open.remove(&self.id));
        let Some(Open { revision, mut pending, mut progress, .. }) = found else { return Progress::default() };
        // A node whose state has it already is sent no order, so that it has nothing to say of streams.
        for node in self.fleet.applied(&pending, revision) {
            pending.remove(&node);
            progress.acked += 1;
        }
        progress.pending = self.fleet.assured(&pending);
        progress
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.fleet.with_collections(|collections| drop(collections.open.remove(&self.id)));
    }
}

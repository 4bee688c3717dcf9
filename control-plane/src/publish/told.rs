//! A life of a node as a control plane tells of it: to itself, or to another one that makes a receipt.

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};

use super::lives::NodeSeen;
use crate::registry::before;
use crate::store::node_lists::AgedLife;

/// A life of a node. Of one that another control plane told of, each moment is the one on the safe side of what it may have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldLife {
    /// Whose life.
    pub node: NodeId,
    /// Which.
    pub boot: BootId,
    /// It began no earlier.
    pub began: Timestamp,
    /// It was heard of for the last time no later.
    pub heard: Timestamp,
    /// It learned for the last time that its state was fresh no later.
    pub assured: Timestamp,
    /// Whether another life of the node was there at the same time.
    pub is_double: bool,
    /// Whether it has a stream open where it is told of.
    pub is_connected: bool,
}

impl ToldLife {
    /// A life that is known here.
    #[must_use]
    pub fn known(node: NodeId, seen: &NodeSeen) -> Self {
        let NodeSeen { boot, began_at: began, last_seen: heard, assured_at: assured, is_double, .. } = *seen;
        Self { node, boot, began, heard, assured, is_double, is_connected: seen.is_connected() }
    }

    /// One of which nothing is known any more: it is as fresh as it can be, and may have been beside any other.
    #[must_use]
    pub const fn forgotten((node, boot): (NodeId, BootId), now: Timestamp) -> Self {
        Self {
            node,
            boot,
            began: Timestamp::from_nanos(0),
            heard: now,
            assured: now,
            is_double: true,
            is_connected: false,
        }
    }

    /// By how long ago it was at `now`.
    #[must_use]
    pub fn aged(&self, now: Timestamp) -> AgedLife {
        let Self { node, boot, is_double, is_connected, .. } = *self;
        let [began, heard, assured] = [self.began, self.heard, self.assured].map(|moment| now.since(moment));
        AgedLife { node, boot, began, heard, assured, is_double, is_connected }
    }

    /// One whose ages were as of some moment between `earliest` and `latest`.
    #[must_use]
    pub fn told(aged: &AgedLife, earliest: Timestamp, latest: Timestamp) -> Self {
        let AgedLife { node, boot, began, heard, assured, is_double, is_connected } = *aged;
        let [heard, assured] = [heard, assured].map(|age| before(latest, age));
        Self { node, boot, began: before(earliest, began), heard, assured, is_double, is_connected }
    }

    /// Of the same life, what both tell.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        Self {
            began: self.began.min(other.began),
            heard: self.heard.max(other.heard),
            assured: self.assured.max(other.assured),
            is_double: self.is_double || other.is_double,
            is_connected: self.is_connected || other.is_connected,
            ..*self
        }
    }

    /// Whether it is over, as far as anybody can know of one that is connected nowhere: another life of the node was followed by it or follows it, none
    /// was there at the same time, and one does follow.
    #[must_use]
    pub fn is_over(&self, others: &[Self]) -> bool {
        let mut is_followed = false;
        for other in others.iter().filter(|other| other.boot != self.boot) {
            let follows = other.began > self.heard;
            is_followed |= follows;
            if !follows && other.heard >= self.began {
                return false;
            }
        }
        is_followed && !self.is_double
    }
}

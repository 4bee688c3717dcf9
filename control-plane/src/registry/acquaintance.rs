//! What a control plane remembers of the others, so that it notices a row of the registry that somebody has taken away or put back to what it was: a seal
//! says who wrote a row, and not that it is the newest.

use std::collections::HashMap;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::row_seal::RowSealKey;

use super::{LONGEST_STALENESS, SLACK, seals};
use crate::store::control_planes::KnownPlane;

/// A control plane of which nobody can know what it told its nodes: its row is not what one of the control planes wrote last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubtful {
    pub(super) id: [u8; 16],
    pub(super) name: String,
    /// How long its nodes may serve keys that have no bound of their own, as far as is known.
    pub(super) max_staleness: Duration,
    /// Whether it was told of in the log already.
    pub(super) is_told: bool,
}

/// The memory. Moments are of the database server's clock.
#[derive(Default)]
pub(super) struct Acquaintance {
    /// Since when the registry is complete, as this control plane said last.
    pub(super) known_since: Option<Timestamp>,
    /// Rows as they were when their seals held.
    known: HashMap<[u8; 16], KnownPlane>,
    /// Those whose rows are to be mended.
    doubtful: HashMap<[u8; 16], Doubtful>,
    looked_at: Option<Timestamp>,
}

impl Acquaintance {
    /// Whether a row is what a control plane wrote last, as far as can be known. It is remembered then.
    pub(super) fn accepts(&mut self, key: &RowSealKey, plane: &KnownPlane, seal: &[u8]) -> bool {
        // A database server that takes over may have a clock that is behind.
        let is_older = |known: &KnownPlane| plane.seen_at.saturating_add(SLACK) < known.seen_at;
        let accepted = seals::plane_holds(key, plane, seal) && !self.known.get(&plane.id).is_some_and(is_older);
        if accepted {
            let seen_at = self.known.get(&plane.id).map_or(plane.seen_at, |known| known.seen_at.max(plane.seen_at));
            self.known.insert(plane.id, KnownPlane { seen_at, ..plane.clone() });
            self.doubtful.remove(&plane.id);
        }
        accepted
    }

    /// Notes that a row is not what was written last, with what the row says where nothing better is known.
    pub(super) fn doubts(&mut self, id: [u8; 16], row: Option<&KnownPlane>) -> Doubtful {
        let known = self.known.get(&id).or(row);
        let doubtful = self.doubtful.entry(id).or_insert_with(|| Doubtful {
            id,
            name: known.map_or_else(|| hex::encode(id), |known| known.name.clone()),
            max_staleness: known.map_or(Duration::ZERO, |known| known.max_staleness.min(LONGEST_STALENESS)),
            is_told: false,
        });
        let told = doubtful.clone();
        doubtful.is_told = true;
        told
    }

    /// Those of which it is remembered that they count, but for these.
    pub(super) fn besides(&self, found: &[[u8; 16]], counts: impl Fn(&KnownPlane) -> bool) -> Vec<[u8; 16]> {
        let counting = self.known.values().filter(|plane| counts(plane));
        counting.map(|plane| plane.id).filter(|id| !found.contains(id)).collect()
    }

    /// Those whose rows are to be mended, in their order.
    pub(super) fn doubtful(&self) -> Vec<Doubtful> {
        let mut doubtful: Vec<_> = self.doubtful.values().cloned().collect();
        doubtful.sort_by_key(|doubtful| doubtful.id);
        doubtful
    }

    /// Forgets who was gone so long ago that it counts for no key, and everybody after a sleep of that length.
    pub(super) fn forget_old(&mut self, now: Timestamp) {
        let kept = LONGEST_STALENESS.saturating_add(SLACK);
        if self.looked_at.is_some_and(|looked_at| now.since(looked_at) > kept) {
            self.known.clear();
            self.doubtful.clear();
        }
        self.looked_at = Some(now);
        self.known.retain(|_, plane| plane.gone.as_ref().is_none_or(|gone| now.since(gone.at) <= kept));
    }
}

//! Nodes that are connected here and to another control plane at the same time, as a copy of a node's data directory is.
//!
//! What is read of others is seconds old, and a node that moves is in two lists for a while: nothing follows from one look. But two lives that both were
//! heard of after a moment at which both were known already were there at the same time, however old the lists are.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};

use super::connected::{Connected, Elsewhere};

/// What clocks may be apart and still prove nothing.
const SLACK: Duration = Duration::from_secs(2);

/// A node, its life here and its life elsewhere.
type Pair = (NodeId, BootId, BootId);

/// How far the suspicion against a pair has come.
#[derive(Clone, Copy)]
enum Suspicion {
    /// Both lives were known at this moment.
    Since(Timestamp),
    /// Both were heard of after it.
    Founded,
}

/// The pairs that were in the lists at the last look.
#[derive(Default)]
pub(super) struct Doubles(HashMap<Pair, Suspicion>);

/// A node that turned out to be connected twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Double {
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    pub(super) other: BootId,
    /// Where the other life is, as operators know that control plane.
    pub(super) control_plane: String,
}

impl Doubles {
    /// Looks at the lists of here and elsewhere, and names who turned out to be there twice since the last look.
    pub(super) fn look(&mut self, now: Timestamp, here: &[Connected], elsewhere: &[Elsewhere]) -> Vec<Double> {
        let mut own: HashMap<NodeId, Vec<&Connected>> = HashMap::new();
        for life in here {
            own.entry(life.node).or_default().push(life);
        }
        let mut before = std::mem::take(&mut self.0);
        let mut found = Vec::new();
        for Elsewhere { control_plane, life: other } in elsewhere {
            for life in own.get(&other.node).into_iter().flatten().filter(|life| life.boot != other.boot) {
                let pair = (life.node, life.boot, other.boot);
                let suspicion = match before.remove(&pair) {
                    Some(Suspicion::Since(since)) => {
                        let known = since.saturating_add(SLACK);
                        let is_later = |life: &Connected| life.heard < now.since(known);
                        if is_later(life) && is_later(other) {
                            let control_plane = control_plane.clone();
                            found.push(Double { node: life.node, boot: life.boot, other: other.boot, control_plane });
                            Suspicion::Founded
                        } else {
                            Suspicion::Since(since)
                        }
                    }
                    Some(Suspicion::Founded) => Suspicion::Founded,
                    None => Suspicion::Since(now),
                };
                self.0.insert(pair, suspicion);
            }
        }
        found
    }

    /// The nodes that are there twice, as far as the last look told.
    pub(super) fn nodes(&self) -> BTreeSet<NodeId> {
        let founded = self.0.iter().filter(|(_, suspicion)| matches!(suspicion, Suspicion::Founded));
        founded.map(|((node, ..), _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 16]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).saturating_add(Duration::from_secs(seconds))
    }

    fn life(boot: u8, heard: u64) -> Connected {
        let (boot, heard) = (BootId::from_bytes([boot; 16]), Duration::from_secs(heard));
        Connected { node: NODE, boot, acked_revision: 7, heard, version: String::new(), region: String::new() }
    }

    fn there(boot: u8, heard: u64) -> [Elsewhere; 1] {
        [Elsewhere { control_plane: "there".to_owned(), life: life(boot, heard) }]
    }

    #[test]
    fn two_lives_that_are_both_heard_of_again_are_told_of_once_and_counted_until_one_is_gone() {
        let mut doubles = Doubles::default();
        assert!(doubles.look(at(0), &[life(1, 0)], &there(2, 1)).is_empty(), "it may have moved");
        assert!(doubles.look(at(4), &[life(1, 1)], &there(2, 5)).is_empty(), "nothing new of the other one");
        assert!(doubles.look(at(8), &[life(1, 1)], &there(2, 7)).is_empty(), "clocks may be apart");
        let found = doubles.look(at(12), &[life(1, 1)], &there(2, 3));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].boot, found[0].other), (BootId::from_bytes([1; 16]), BootId::from_bytes([2; 16])));
        assert!(doubles.look(at(30), &[life(1, 1)], &there(2, 1)).is_empty(), "it was told of");
        assert_eq!(doubles.nodes(), BTreeSet::from([NODE]));
        assert!(doubles.look(at(40), &[life(1, 1)], &[]).is_empty());
        assert!(doubles.nodes().is_empty());
    }

    #[test]
    fn a_node_that_moved_or_has_its_streams_at_two_control_planes_is_no_double() {
        let mut doubles = Doubles::default();
        for second in (0..120).step_by(10) {
            // Its former life is in the list of the other one until that one finds its connection dead.
            assert!(doubles.look(at(second), &[life(2, 1)], &there(1, 3 + second)).is_empty(), "{second}");
        }
        let mut doubles = Doubles::default();
        for second in (0..120).step_by(10) {
            assert!(doubles.look(at(second), &[life(1, 1)], &there(1, 1)).is_empty(), "{second}");
        }
    }
}
